"""Which questions a run asks: those of a suite or of ``--data``, and the built-in probe."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorascope.data.general import load_general_text
from lorascope.data.probe import Language, load_probe
from lorascope.data.readers import is_dataset_name
from lorascope.data.tasks import LoadedTask, infer_task, load_suite, load_task
from lorascope.errors import ConfigError, DataError, UsageError
from lorascope.measures.plugins import is_plugged_in, load_metric, module_of, plugin_names, prove_metric
from lorascope.measures.registry import Kind, names_of
from lorascope.measures.tokens import score_entities
from lorascope.schema.comparison import TaskKind
from lorascope.schema.items import GenerateItem, TokensItem
from lorascope.schema.suite import SuiteTask


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What the user wants asked, and how much of it.

    ``data`` maps set names to files (a single file without a name has the key ""); ``probe`` lists the languages of the
    built-in probe, none to leave it out; ``limit`` and ``fraction`` sample each set with ``seed``, which is also the
    seed of all resampling.
    """

    suite: Path | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    train_data: str | None = None
    labels: tuple[str, ...] | None = None
    probe: tuple[Language, ...] = ("en", "zh")
    limit: int | None = None
    fraction: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Tasks:
    """Loaded tasks, and the hash of the suite file that named them."""

    tasks: list[LoadedTask]
    suite_hash: str | None


NOTHING = Tasks([], None)


def load_tasks(questions: Questions, generation_ready: bool) -> Tasks:
    """The user's tasks, then the probe and general text where the base has a language-model head."""
    if questions.suite is not None and questions.data:
        raise UsageError("--suite and --data were both given", remedy="name the data in the suite, or use --data alone")
    if not questions.data and (questions.train_data or questions.labels):
        raise UsageError(
            "--train-data and --labels belong to --data, which is missing",
            remedy="give --data, or write train_data and labels into the suite",
        )
    tasks: list[LoadedTask] = []
    suite_hash = None
    if questions.suite is not None:
        suite, suite_hash = load_suite(questions.suite)
        tasks += [_load(spec, questions.suite.parent, questions) for spec in suite.tasks]
    elif questions.data:
        tasks.append(_load(_task_of_data(questions), Path(), questions))
    root = questions.suite.parent if questions.suite is not None else Path()
    for task in tasks:
        _check(task, root)
    if generation_ready:
        tasks += [*load_probes(questions), *load_general(questions)]
    doubled = [name for name, count in Counter(task.spec.name for task in tasks).items() if count > 1]
    if doubled:
        raise ConfigError(f"a task may not be called {doubled[0]}: the built-in probe is", remedy="rename the task")
    return Tasks(tasks, suite_hash)


_MEASURED: dict[TaskKind, Kind] = {
    "generate": "text",
    "labels": "labels",
    "score": "score",
    "tokens": "tokens",
    "choice": "choice",
    "likelihood": "likelihood",
}


def _check(task: LoadedTask, root: Path) -> None:
    """Refuse, before any model runs, what a task asks for and its kind cannot give."""
    spec, where = task.spec, f"task '{task.spec.name}'"
    for name in dict.fromkeys([*(spec.metrics or []), *([spec.primary] if spec.primary else [])]):
        _check_metric(task, name, root)
    if spec.metrics is not None and (not spec.metrics or (spec.primary and spec.primary not in spec.metrics)):
        problem = "'metrics' is empty" if not spec.metrics else f"'primary' names {spec.primary}, not among 'metrics'"
        raise ConfigError(problem, where=where, remedy="list the metrics that are wanted, or leave 'metrics' out")
    if spec.labels is not None and (not spec.labels or len(set(spec.labels)) != len(spec.labels)):
        raise ConfigError("'labels' must name each label once, and at least one", where=where, remedy="mend the list")
    if spec.tune_on is not None and task.kind != "labels":
        raise ConfigError("'tune_on' belongs to tasks of kind labels", where=where, remedy="leave it out")
    tagged = [item.tags for item in task.items if isinstance(item, TokensItem)]
    if tagged:
        score_entities(tagged, tagged)  # refuses tags that are no IOB tags, before a model is asked


def _check_metric(task: LoadedTask, name: str, root: Path) -> None:
    """A metric of the task's kind; a plugged-in one is loaded, and tried on right answers."""
    known, where = names_of(_MEASURED[task.kind], on_request=True), f"task '{task.spec.name}'"
    if name in known:
        return
    if task.kind == "generate" and is_plugged_in(name):
        try:
            load_metric(name, path=_module_path(name, root))
            prove_metric(name, [item.references for item in task.items if isinstance(item, GenerateItem)])
        except ConfigError as error:
            raise error.at(where) from error.__cause__
        return
    listed = [*known, *plugin_names()] if task.kind == "generate" else known
    near = difflib.get_close_matches(name, listed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    remedy = f"{hint}metrics of kind {task.kind}: {', '.join(listed)}"
    raise ConfigError(f"no metric of kind {task.kind} is named {name!r}", where=where, remedy=remedy)


def _module_path(name: str, root: Path) -> str | None:
    """The file or folder that an ``evaluate:`` metric means, relative to the suite; None for a name on the hub."""
    given = module_of(name)
    if given is None:
        return None
    path = root / Path(given).expanduser()
    if path.exists():
        return str(path.absolute())  # a relative one that holds no module would be looked for on the hub
    if given.startswith((".", "/", "~")) or given.endswith(".py"):
        raise ConfigError(f"there is no evaluate module at {path}", remedy="paths are relative to the suite's folder")
    _refuse_current_folder(given)
    return None


def _refuse_current_folder(given: str) -> None:
    """evaluate runs ``./NAME/NAME.py`` where there is one, though a suite's NAME is one on the hub: not unsaid."""
    script = Path(given) / f"{Path(given).name}.py"
    if script.is_file():
        raise ConfigError(
            f"the evaluate module {given!r} is a name on the hub, and the current folder holds code of that name",
            where=f"metrics, {script}",
            remedy="run the command in another folder, or name that code by its path, relative to the suite's folder",
        )


def load_general(questions: Questions) -> list[LoadedTask]:
    """The built-in general text in the probe's languages, sampled like everything else."""
    return load_general_text(questions.probe, limit=questions.limit, fraction=questions.fraction, seed=questions.seed)


def load_probes(questions: Questions) -> list[LoadedTask]:
    """The built-in probe in the languages asked for, sampled like everything else."""
    return load_probe(questions.probe, limit=questions.limit, fraction=questions.fraction, seed=questions.seed)


def _load(spec: SuiteTask, root: Path, questions: Questions) -> LoadedTask:
    return load_task(spec, root=root, limit=questions.limit, fraction=questions.fraction, seed=questions.seed)


def _task_of_data(questions: Questions) -> SuiteTask:
    """The task that ``--data`` stands for: its kind from the first file's fields, its sets from the names given."""
    for source in questions.data.values():
        _must_exist("--data", source)
    if questions.train_data is not None:
        _must_exist("--train-data", questions.train_data)
    inferred = infer_task(next(iter(questions.data.values())))
    update: dict[str, Any] = {"train_data": questions.train_data}
    if questions.labels:
        update["labels"] = list(questions.labels)
    if list(questions.data) != [""]:
        update |= {"data": dict(questions.data), "name": "data"}
    return inferred.model_copy(update=update)


def _must_exist(option: str, source: str) -> None:
    if not is_dataset_name(source) and not Path(source).exists():
        raise DataError(
            "there is no such data file",
            where=f"{option} {source}",
            remedy="check the path; it is relative to the current folder",
        )
