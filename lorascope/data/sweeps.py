"""``sweep.yaml`` read and spread out: one validated recipe a point, each with a short name of what makes it differ."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorascope.data.documents import Document, Setting, overlaid, read_document, validate
from lorascope.data.recipes import base_path, recipe_of
from lorascope.data.sweep_presets import PRESETS, Preset
from lorascope.errors import ConfigError
from lorascope.schema.recipe import LOW_RANK, PROMPTS, Method, Recipe
from lorascope.schema.sweep import Choose, Overrides, SweepPlan

_START = "give 'version: 1', 'out', a recipe, and 'grid', 'points' or 'preset'"
_STAGES = (
    "write each stage with a name and dotted keys: "
    "sequence: {first: {task.train: a.jsonl, task.validation: va.jsonl}, "
    "second: {task.train: b.jsonl, task.validation: vb.jsonl}}"
)
_NAME = re.compile(r"^[A-Za-z0-9][\w.+-]*$")
_PREFIX = {
    "method.rank": "r", "method.alpha": "a", "method.dropout": "drop", "method.virtual_tokens": "v",
    "optim.learning_rate": "lr", "optim.epochs": "ep", "optim.weight_decay": "wd", "optim.batch_size": "b",
    "optim.lora_plus_ratio": "plus", "optim.l2_sp": "l2sp", "optim.warmup": "warm", "replay.ratio": "replay",
    "structured_dropout.rate": "p", "structured_dropout.weight": "kl", "task.fraction": "data", "task.limit": "n",
    "model_dropout": "mdrop",
}  # fmt: skip
_BY_VALUE = frozenset({"method.name", "loss.name", "structured_dropout.preset", "optim.optimizer"})
"""Keys whose values say what they are."""


@dataclass(frozen=True)
class Point:
    """One point: its recipe, and ``settings``, the keys in which points differ with their values here."""

    name: str
    recipe: Recipe
    settings: dict[str, Any]
    document: Document

    def varied(self, settings: Mapping[str, Any], origin: str) -> Recipe:
        """Its recipe with more settings laid over it; ``origin`` says in messages where they are from."""
        return _recipe(_laid(self.document, settings, origin))


@dataclass(frozen=True)
class Sweep:
    """A whole sweep. ``root`` is the folder that the recipe's paths are relative to, ``out`` where everything goes."""

    plan: SweepPlan
    path: Path
    root: Path
    out: Path
    base: str
    points: tuple[Point, ...]
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    reference: str
    choose: Choose | None


def load_sweep(path: Path) -> Sweep:
    """Read ``path`` and make every point of it.

    Raises:
        ConfigError: the file, its recipe, or the recipe of a point is wrong; two points have one name; or the points
            start from different bases.
    """
    document = read_document(path, what="sweep", start=_START)
    own, inline = _parted(document)
    _check_sequence(own)
    plan = validate(own, SweepPlan)
    source, root = _source(plan, document, inline)
    base = _recipe(source)
    preset = PRESETS[plan.preset](base) if plan.preset is not None else Preset()
    points, keys = _points(plan, preset, document, source)
    bases = dict.fromkeys(point.recipe.base for point in points)
    if len(bases) > 1:
        raise ConfigError(
            f"the points start from different bases: {', '.join(bases)}",
            where=str(path),
            remedy="write one sweep for each base: what a run changed is measured against its own base",
        )
    _check_stages(plan, points, path)
    return Sweep(
        plan=plan,
        path=path,
        root=root,
        out=path.parent / plan.out,
        base=base_path(next(iter(bases)), root),
        points=tuple(points),
        seeds=tuple(plan.seeds) or (base.seed,),
        keys=tuple(keys),
        reference=_reference(plan, preset, points, path),
        choose=_choose(plan, preset, keys, path),
    )


def _parted(document: Document) -> tuple[Document, dict[str, Any]]:
    """The sweep's own keys as a document, and the others, which are a recipe's."""
    raw = document.raw
    if not isinstance(raw, dict):
        raise ConfigError("a sweep is a mapping", where=document.where(()), remedy=_START)
    known = SweepPlan.model_fields
    foreign = {key: value for key, value in raw.items() if key not in known}
    for key in foreign:
        if key not in Recipe.model_fields:
            near = difflib.get_close_matches(str(key), [*known, *Recipe.model_fields], n=1)
            listed = f"known keys: {', '.join([*known, *Recipe.model_fields])}"
            remedy = f"did you mean '{near[0]}'?" if near else listed
            raise ConfigError(f"unknown key '{key}'", where=document.where((key,)), remedy=remedy)
    return replace(document, raw={key: value for key, value in raw.items() if key in known}), foreign


def _check_sequence(document: Document) -> None:
    """A list of stages, a stage that is no mapping, or a single stage: said with what to write."""
    stages = document.raw.get("sequence", {})
    if not isinstance(stages, dict):
        raise ConfigError("'sequence' is no mapping", where=document.where(("sequence",)), remedy=_STAGES)
    for name, settings in stages.items():
        if not isinstance(settings, dict):
            where = document.where(("sequence", name))
            raise ConfigError(f"'sequence.{name}' is no mapping", where=where, remedy=_STAGES)
    if len(stages) == 1:
        problem = "'sequence' needs two stages at least"
        raise ConfigError(problem, where=document.where(("sequence",)), remedy=_STAGES)


def _source(plan: SweepPlan, document: Document, inline: dict[str, Any]) -> tuple[Document, Path]:
    """The recipe as a document, without what each run sets, and the folder of its paths."""
    if plan.recipe is None:
        if "base" not in inline or "task" not in inline:
            missing = "base" if "base" not in inline else "task"
            raise ConfigError(f"the key '{missing}' is missing", where=document.where(()), remedy=_START)
        raw = {"version": 1, "out": plan.out, **inline}
        return replace(document, raw=raw), document.path.parent
    path = document.path.parent / plan.recipe
    source = read_document(path, what="recipe")
    settings = [Setting(key, value, document.where((key,))) for key, value in inline.items()]
    return overlaid(source, settings), path.parent


def _recipe(document: Document) -> Recipe:
    return _effective(recipe_of(document).recipe)


def _effective(recipe: Recipe) -> Recipe:
    """The recipe without settings that its method does not look at, so that equal runs are equal recipes."""
    name = recipe.method.name
    given = recipe.method.model_dump(exclude_unset=True)
    kept = {key: value for key, value in given.items() if _matters(f"method.{key}", name)}
    return recipe.model_copy(update={"method": Method.model_validate(kept)})


def _matters(key: str, method: str) -> bool:
    """Whether a run of a method looks at a dotted key."""
    part = key.removeprefix("method.")
    if part == key or part in {"name", "modules_to_save"}:
        return True
    if part == "virtual_tokens":
        return method in PROMPTS
    if method in LOW_RANK or method == "bottleneck":
        return True
    return part == "target_modules" and method == "ia3"


@dataclass(frozen=True)
class _Draft:
    """A point on the way: the name that it was given, what it was given by grid and zip, and all of its settings."""

    given: str
    varied: dict[str, Any]
    recipe: Recipe
    document: Document


def _points(plan: SweepPlan, preset: Preset, file: Document, source: Document) -> tuple[list[Point], list[str]]:
    drafts: list[_Draft] = []
    for draft in _drafts(plan, preset, file, source):
        if all(_content(draft.recipe) != _content(other.recipe) for other in drafts):
            drafts.append(draft)
    if not drafts:
        raise ConfigError("every point is left out", where=str(file.path), remedy=_START)
    leaders = [*preset.grid, *plan.grid, *(next(iter(block)) for block in plan.zipped)]
    names = _names(drafts, leaders)
    doubled = [name for name in names if [each.lower() for each in names].count(name.lower()) > 1]
    if doubled:
        raise ConfigError(
            f"two points have the name {doubled[0]}",
            where=str(file.path),
            remedy="name them under 'points', each with a name of its own",
        )
    keys = _differing(drafts)
    shown = [
        {key: _value(draft.recipe, key) for key in keys if _matters(key, draft.recipe.method.name)} for draft in drafts
    ]
    made = zip(names, drafts, shown, strict=True)
    return [Point(name, draft.recipe, own, draft.document) for name, draft, own in made], keys


def _drafts(plan: SweepPlan, preset: Preset, file: Document, source: Document) -> Iterator[_Draft]:
    named: dict[str, Overrides | None] = {**preset.points}
    for name, settings in plan.points.items():
        if not _NAME.match(name):
            remedy = "use letters, digits, '_', '.', '+' and '-'"
            raise ConfigError(f"'{name}' is no name for a point", where=file.where(("points", name)), remedy=remedy)
        earlier = named.get(name) or {}
        named[name] = None if settings is None else {**earlier, **settings}
    named = named or {"": {}}
    combinations = list(_combinations(plan, preset))
    shared = _laid(source, preset.every, f"preset {plan.preset}")
    for name, settings in named.items():
        for varied in combinations if settings is not None else ():
            own = settings or {}
            free = {key: value for key, value in varied.items() if key not in own}
            document = _laid(_varied(shared, free, file), own, file.where(("points", name)))
            yield _Draft(name, free, _recipe(document), document)


def _varied(document: Document, settings: Mapping[str, Any], file: Document) -> Document:
    """With what grid and zip give it; in messages each key has the line of its list."""
    for key, value in settings.items():
        block = "grid" if key in (file.raw.get("grid") or {}) else "zip"
        document = _laid(document, {key: value}, file.where((block, key)))
    return document


def _laid(document: Document, settings: Mapping[str, Any], origin: str) -> Document:
    places = [Setting(key, value, f"{origin}, {key}") for key, value in settings.items()]
    return overlaid(document, places) if places else document


def _combinations(plan: SweepPlan, preset: Preset) -> Iterator[dict[str, Any]]:
    """Every combination of grid and zip; the file's grid takes the place of the preset's where it names a key."""
    zipped = {key for block in plan.zipped for key in block}
    grid = {key: values for key, values in preset.grid.items() if key not in zipped} | plan.grid
    axes: list[list[dict[str, Any]]] = [[{key: value} for value in values] for key, values in grid.items()]
    axes += [
        [dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True)] for block in plan.zipped
    ]
    for parts in itertools.product(*axes):
        yield {key: value for part in parts for key, value in part.items()}


def _content(recipe: Recipe) -> dict[str, Any]:
    """What a run depends on, with defaults written out, so that saying a default changes nothing."""
    full = recipe.model_dump(exclude={"out", "seed"})
    if not recipe.method.rank_pattern:  # with one, an alpha that is left out is each module's own
        full["method"]["alpha"] = recipe.method.scaling_alpha if recipe.method.name in LOW_RANK else None
    return full


def _value(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key; None below a block that is not there."""
    here: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def _differing(drafts: Sequence[_Draft]) -> list[str]:
    """Dotted keys with more than one value among the points, leaves only; those that were varied by name first."""
    flat = [dict(_leaves(draft.recipe.model_dump(mode="json", exclude_defaults=True))) for draft in drafts]
    said = list(dict.fromkeys(key for draft in drafts for key in draft.varied))
    every = list(dict.fromkeys(itertools.chain.from_iterable(flat)))
    values = {key: [repr(each.get(key)) for each in flat] for key in every}
    differing = [key for key in every if len(set(values[key])) > 1 and key not in {"out", "seed"}]
    differing = [key for key in differing if not any(other.startswith(f"{key}.") for other in differing)]
    return sorted(differing, key=lambda key: said.index(key) if key in said else len(said))


def _leaves(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{before}{key}.")
        else:
            yield f"{before}{key}", inner


def _names(drafts: Sequence[_Draft], leaders: Sequence[str]) -> list[str]:
    """Given names with every key of the grid and the first of each zip, and of the others those that are needed.

    A key that stands in the grid with a single value is in the names as well: another value that is added later does
    not rename the runs that are there.
    """
    keys = list(dict.fromkeys(key for draft in drafts for key in draft.varied))
    keys.sort(key=lambda key: key != "method.name")
    used = [key for key in keys if key in leaders]
    names = [_name(draft, used) for draft in drafts]
    for key in (key for key in keys if key not in leaders):
        longer = [_name(draft, [*used, key]) for draft in drafts]
        if len(set(longer)) > len(set(names)):
            used.append(key)
            names = longer
    return names


def _name(draft: _Draft, keys: Sequence[str]) -> str:
    method = draft.recipe.method.name
    own = [key for key in keys if key in draft.varied and _matters(key, method)]
    if "method.rank" in own and method == "lora":
        own = [key for key in own if key != "method.name"]
    parts = [draft.given, *(name_part(key, draft.varied[key]) for key in own)]
    if not draft.given and "method.name" not in own and "method.rank" not in own:
        parts.insert(0, method)
    return "-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts if part)


def name_part(key: str, value: Any) -> str:
    """A setting as it stands in names: ``r8``, ``lr3e-4``, ``zlpr``."""
    last = key.rpartition(".")[2]
    if isinstance(value, dict):
        named = value.get("preset") or value.get("name")
        if named is not None:
            return str(named)
        value = "-".join(f"{key}-{shown(inner)}" for key, inner in value.items())
    if value is None or value is False:
        return f"no-{last}"
    if key in _BY_VALUE:
        return str(value)
    if value is True:
        return last
    text = shown(value)
    return f"{_PREFIX.get(key, last)}{text}" if isinstance(value, int | float) else f"{last}-{text}"


def shown(value: Any) -> str:
    """A value as names show it: ``3e-4`` for small numbers, lists joined with ``+``."""
    if isinstance(value, float):
        text = f"{value:.6e}" if 0 < abs(value) < 0.01 else f"{value:g}"
        mantissa, mark, exponent = text.partition("e")
        return f"{float(mantissa):g}e{int(exponent)}" if mark else text
    if isinstance(value, list):
        return "+".join(shown(each) for each in value)
    return str(value)


def _reference(plan: SweepPlan, preset: Preset, points: Sequence[Point], path: Path) -> str:
    names = [point.name for point in points]
    if plan.reference is None:
        return preset.reference if preset.reference in names else names[0]
    if plan.reference in names:
        return plan.reference
    near = difflib.get_close_matches(plan.reference, names, n=1)
    remedy = f"did you mean '{near[0]}'?" if near else f"the points are {', '.join(names)}"
    raise ConfigError(f"'reference' names {plan.reference}, which is no point", where=str(path), remedy=remedy)


def _choose(plan: SweepPlan, preset: Preset, keys: Sequence[str], path: Path) -> Choose | None:
    """The first stage: the file's, else the preset's where the file does not vary its key itself."""
    if plan.choose is not None or preset.choose is None:
        return plan.choose
    varied = {*plan.grid, *(key for block in plan.zipped for key in block)}
    varied |= {key for settings in plan.points.values() for key in settings or {}}
    return None if preset.choose.key in varied else preset.choose


def _check_stages(plan: SweepPlan, points: Sequence[Point], path: Path) -> None:
    """Make the recipe of every stage once, so that what is wrong with one is said before the first is trained."""
    for name, settings in plan.sequence.items():
        if not _NAME.match(name):
            remedy = "use letters, digits, '_', '.', '+' and '-'"
            raise ConfigError(f"'{name}' is no name for a stage", where=str(path), remedy=remedy)
        if any(key == "base" for key in settings):
            raise ConfigError(
                "a stage starts from the last one and sets no base", where=f"{path}, sequence, {name}", remedy="drop it"
            )
        for point in points:
            try:
                point.varied(settings, f"{path}, sequence, {name}")
            except ConfigError as error:
                if any("." not in key for key in settings):
                    error.remedy = f"{error.remedy}; {_STAGES}" if error.remedy else _STAGES
                raise
