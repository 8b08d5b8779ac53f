"""Metrics that come from outside: installed packages, and modules of the ``evaluate`` library.

A suite names them among a generate task's ``metrics``:

- the name of an entry point of group ``lorascope.metrics``: a :class:`PluginMetric`, or a plain function
  ``(predictions: list[str], references: list[list[str]]) -> list[float]`` with one value an item;
- ``evaluate:NAME_OR_PATH``, ``evaluate:NAME_OR_PATH#KEY``, either followed by ``|higher`` or ``|lower``.

Both run code of others. An entry point was installed by the user; of ``evaluate`` modules only the path or the hub name
that the suite names is loaded, nothing is looked up or guessed. The reported value is the mean over items, which is
what intervals and paired tests resample.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from lorascope.errors import ConfigError, DataError, LorascopeError
from lorascope.measures.core import Measure, Scale, Scored, item_rows, mean_of_items
from lorascope.measures.registry import MEASURES, MeasureSpec, register
from lorascope.schema.model import Direction

GROUP = "lorascope.metrics"
EVALUATE = "evaluate:"

ItemScores = Callable[[list[str], list[list[str]]], Sequence[float]]
"""One value an item from predictions and, for each, its accepted answers."""

_EVALUATE = re.compile(r"evaluate:(?P<module>[^#|]+)(?:#(?P<key>[^#|]+))?(?:\|(?P<direction>higher|lower))?")
_FORM = "evaluate:NAME_OR_PATH[#KEY][|higher or |lower]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginMetric:
    """A metric from outside, and how to read it.

    ``score`` gives one finite number an item. Without a ``direction`` of higher or lower there is no verdict; ``scale``
    sets the default margin (0.02 on 0–1, 2 points on 0–100, none on others). ``version`` goes into the signature.
    """

    score: ItemScores
    direction: Direction = "none"
    scale: Scale = "unbounded"
    unit: str = "value"
    description: str = "A plugged-in metric; the mean over items."
    version: str = "not stated"


def is_plugged_in(name: str) -> bool:
    """Whether a metric's name asks for one from outside; a built-in name never does."""
    return name.startswith(EVALUATE) or (name not in MEASURES and name in _installed())


def plugin_names() -> list[str]:
    """Names of the metrics that installed packages register."""
    return sorted(name for name in _installed() if name not in MEASURES)


def module_of(name: str) -> str | None:
    """What an ``evaluate:`` name wants loaded, a path or a name on the hub; None for an entry point's name.

    Raises:
        ConfigError: the name is not of the form above.
    """
    if not name.startswith(EVALUATE):
        return None
    return _parsed(name)["module"]


def load_metric(name: str, *, path: str | None = None) -> PluginMetric:
    """Load a metric and give it a row in the registry under ``name``; loading the same name again replaces it.

    ``path`` is where the module of an ``evaluate:`` name lies; without one it is a name on the hub, and the caller has
    to know that the current folder holds no NAME/NAME.py, which evaluate would run instead. Raises ConfigError for a
    name that is none, a module that cannot be loaded (broken, no network) and an entry point that is no metric.
    """
    metric = _evaluate_metric(name, path) if name.startswith(EVALUATE) else _entry_point_metric(name)
    register(_spec(name, metric))
    _LOADED[name] = metric
    return metric


def score_plugin(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scored:
    """Score with a metric that :func:`load_metric` has loaded under this name.

    Raises:
        ConfigError: :func:`load_metric` was not called for this name.
        DataError: the metric fails on these texts, or gives other than one finite number an item.
    """
    metric = _LOADED.get(name)
    if metric is None:
        raise ConfigError(f"the metric {name!r} has not been loaded", remedy="load_metric has to be called first")
    spec = _spec(name, metric)
    values = _values(name, metric, [str(text) for text in predictions], [list(texts) for texts in references])
    measure = Measure(name, spec.unit, spec.scale, spec.direction, additive=True, aggregate=mean_of_items)
    return Scored(measure, item_rows(values), f"{name}|plug-in:{metric.version}|mean:items")


def prove_metric(name: str, references: Sequence[Sequence[str]]) -> None:
    """Score a few right answers against themselves, so that a metric that cannot work is known before a model runs.

    Raises:
        ConfigError: the metric fails on them.
    """
    few = [list(texts) for texts in references[:2]]
    try:
        score_plugin(name, [texts[0] for texts in few], few)
    except DataError as error:
        raise ConfigError(error.problem, where=error.where, remedy=error.remedy) from error


_LOADED: dict[str, PluginMetric] = {}
# What a foreign function may raise; the user has to hear which metric it was.
_FOREIGN_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


def _spec(name: str, metric: PluginMetric) -> MeasureSpec:
    margins: dict[str, float] = {"0-1": 0.02, "-1-1": 0.02, "0-100": 2.0}
    margin = None if metric.direction == "none" else margins.get(metric.scale)
    return MeasureSpec(name, ("text",), metric.unit, metric.scale, metric.direction, margin, metric.description)


def _values(name: str, metric: PluginMetric, predictions: list[str], references: list[list[str]]) -> list[float]:
    where = f"metric {name!r}"
    try:
        found = [float(value) for value in metric.score(predictions, references)]
    except LorascopeError as error:
        raise error.at(where) from error.__cause__
    except _FOREIGN_FAILURES as error:
        raise DataError(f"the metric failed: {type(error).__name__}: {error}", where=where) from error
    if len(found) != len(predictions):
        remedy = "it has to return one number an item"
        raise DataError(f"the metric gave {len(found)} values for {len(predictions)} items", where=where, remedy=remedy)
    if not np.isfinite(found).all():
        place = next(index for index, value in enumerate(found) if not math.isfinite(value))
        raise DataError(f"the metric gave {found[place]} for item {place}", where=where, remedy="mend the metric")
    return found


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _entry_point_metric(name: str) -> PluginMetric:
    point = _installed().get(name)
    if point is None:
        raise ConfigError(f"no installed package registers a metric {name!r}", remedy=f"or write {_FORM}")
    where = f"entry point {point.value} of group {GROUP}"
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the metric {name!r} cannot be imported: {error}", where=where) from error
    version = f"{point.dist.name} {point.dist.version}" if point.dist else "not stated"
    if isinstance(found, PluginMetric):
        return replace(found, version=version) if found.version == "not stated" else found
    if callable(found):
        return PluginMetric(score=found, version=version)
    raise ConfigError(f"{name!r} is neither a PluginMetric nor a function", where=where)


def _parsed(name: str) -> re.Match[str]:
    match = _EVALUATE.fullmatch(name)
    if match is None:
        raise ConfigError(f"{name!r} is not of the form {_FORM}", remedy="mend the suite's metrics")
    return match


def _evaluate_metric(name: str, path: str | None) -> PluginMetric:
    match = _parsed(name)
    module = _load_module(match["module"], path)
    direction: Direction = match["direction"] or "none"  # type: ignore[assignment]
    scorer = _ModuleScorer(module, match["key"], direction)
    return PluginMetric(
        score=scorer,
        direction=direction,
        description=f"Mean over items of {match['key'] or module.name} of the evaluate module {module.name}.",
        version=f"evaluate {module.name} {_source_hash(module)}",
    )


def _load_module(given: str, path: str | None) -> Any:
    import evaluate

    try:
        return evaluate.load(path or given, keep_in_memory=True)
    except (ImportError, OSError, ValueError, TypeError, AttributeError, SyntaxError) as error:
        reason = str(error).split("\n")[0]
        remedy = (
            "mend the module, or install what it imports"
            if path
            else "check the name; without a network, copy the module into a folder and give its path"
        )
        raise ConfigError(
            f"the evaluate module {given!r} cannot be loaded: {reason}", where="metrics", remedy=remedy
        ) from error


def _source_hash(module: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the module's code: a path says nothing about its content."""
    source = inspect.getsource(sys.modules[type(module).__module__])
    return hashlib.sha256(source.encode("utf-8")).hexdigest()[:12]


class _ModuleScorer:
    """Per-item values of an ``evaluate`` module.

    A module that answers one item with a list of one value is given all items at once. Any other is asked item by item,
    so a corpus measure becomes the mean of its values on single items, which is not its value on the corpus. A module
    that takes one reference an item gets each accepted answer in turn: the best value counts by the stated direction,
    the mean where none is stated.
    """

    def __init__(self, module: Any, key: str | None, direction: Direction) -> None:
        self._module = module
        self._key = key
        self._direction = direction
        forms = module.features if isinstance(module.features, list) else [module.features]
        self._several = any(_is_list(form.get("references")) for form in forms)

    def __call__(self, predictions: list[str], references: list[list[str]]) -> list[float]:
        """One value an item."""
        if not (self._several or all(len(texts) == 1 for texts in references)):
            return [self._best(*pair) for pair in zip(predictions, references, strict=True)]
        given: list[Any] = references if self._several else [texts[0] for texts in references]
        if _is_row(self._compute(predictions[:1], given[:1])):
            return [float(value) for value in self._compute(predictions, given)]
        return [self._single(*pair) for pair in zip(predictions, given, strict=True)]

    def _best(self, prediction: str, texts: list[str]) -> float:
        values = [self._single(prediction, text) for text in texts]
        choose = {"higher": max, "lower": min}.get(self._direction, np.mean)
        return float(choose(values))

    def _single(self, prediction: str, reference: Any) -> float:
        value = self._compute([prediction], [reference])
        return float(value[0] if _is_row(value) else value)

    def _compute(self, predictions: list[str], references: list[Any]) -> Any:
        found = self._module.compute(predictions=predictions, references=references)
        if self._key is not None:
            if self._key not in found:
                raise ConfigError(f"the module gives no {self._key!r}", remedy=f"choose from {', '.join(found)}")
            return found[self._key]
        if len(found) != 1:
            raise ConfigError("the module gives several values", remedy=f"add #KEY, one of {', '.join(found)}")
        return next(iter(found.values()))


def _is_list(feature: Any) -> bool:
    """Whether a column of the module holds several texts an item, as any version of ``datasets`` writes it."""
    return isinstance(feature, list) or type(feature).__name__ in ("List", "LargeList", "Sequence")


def _is_row(value: Any) -> bool:
    """Whether one item was answered with a list of one value."""
    return isinstance(value, list | tuple | np.ndarray) and len(value) == 1
