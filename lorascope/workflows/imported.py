"""``lorascope import``: paired statistics, flips and a report on runs that other tools made. No model is run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorascope.checkpoints.opening import split_name, unique_names
from lorascope.data.imported.files import read_files
from lorascope.data.imported.inspect_log import read_inspect
from lorascope.data.imported.lighteval import read_lighteval
from lorascope.data.imported.llamafactory import read_llamafactory
from lorascope.data.imported.lm_eval import read_lm_eval
from lorascope.data.imported.pairing import PairedTask, Pairing, pair_runs
from lorascope.data.imported.places import content_hash
from lorascope.data.imported.runs import ImportedRun, Tool
from lorascope.data.tasks import LoadedTask, task_fingerprint
from lorascope.errors import DataError, UsageError
from lorascope.schema.comparison import (
    CheckpointInfo,
    Comparison,
    Finding,
    Measurement,
    Missing,
    ParameterCounts,
    Role,
    Severity,
)
from lorascope.schema.items import content_id
from lorascope.schema.suite import SuiteTask
from lorascope.version import __version__
from lorascope.workflows.assembling import assemble, write_assembled
from lorascope.workflows.gate import prove_policy
from lorascope.workflows.imported_scores import (
    Agreement,
    agreement_findings,
    compare_scores,
    follow_verdicts,
    own_metrics,
)
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.output import OutputFolder, short_name
from lorascope.workflows.scoring import Asked
from lorascope.workflows.watch import Silent, Watch

_NOT_RECORDED = "not recorded"
_SHOWN = 5
"""Bytes of a folder's name that is made of others."""
_LONGEST_PART, _LONGEST_PATH = 255, 4000
_Columns = dict[tuple[str, str], dict[str, list[float | None]]]
_Found = TypeVar("_Found")
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import. ``base`` and ``adapted`` are files or folders of ``tool``, ``NAME=PATH`` names one.

    ``tasks`` chooses tasks by the tool's names, ``retention`` those that stand for general ability rather than for
    what was trained. ``filter_name`` belongs to lm-eval, ``references`` to plain files. ``allow_unpaired`` compares the
    items that all runs have however few, ``allow_different`` runs that were not evaluated alike.
    """

    tool: Tool
    base: str
    adapted: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    retention: tuple[str, ...] = ()
    filter_name: str | None = None
    references: Path | None = None
    allow_unpaired: bool = False
    allow_different: bool = False
    out: Path | None = None
    overwrite: bool = False
    keep_samples: bool = True
    gates: Path | None = None
    seed: int = 0
    command: tuple[str, ...] = ()


def import_runs(options: ImportOptions, watch: Watch | None = None) -> Path:
    """Read, pair, measure and write; returns the path of ``result.json``.

    Raises errors of exit code 2 for files that cannot be read or do not belong together, and InvalidComparison (3)
    for runs that were asked other items, scored by other answers, or evaluated with other settings.
    """
    watch = watch or Silent()
    policy = prove_policy(options.gates)
    started = time.perf_counter()
    runs = _read(options, watch)
    base, *subjects = runs
    pairing = pair_runs(
        base, runs, tool=options.tool, allow_unpaired=options.allow_unpaired, allow_different=options.allow_different
    )
    _check_names(options, pairing)
    compared = [_compared(options, paired) for paired in pairing.tasks]
    policy.check_tasks(one.answers.task.spec.name for one in compared)
    place = _folder(options, base, subjects)
    policy.check_folder(place)
    folder = OutputFolder.claim(place, _fingerprint(options, runs), overwrite=options.overwrite)
    timings = {"reading": time.perf_counter() - started}
    infos = [_info(name, given, runs[name], is_base=name == base) for name, given in _given(options)]
    comparison, columns = _measure(options, watch, runs, pairing, compared, infos, timings)
    answers = [one.answers for one in compared]
    return write_assembled(
        comparison, answers, folder, keep_samples=options.keep_samples, columns=columns, gates=options.gates
    )


def _given(options: ImportOptions) -> list[tuple[str, str]]:
    """(name, path) of each run: as said, else the folder's name, or the file's; files that are all called alike go by
    their folders.
    """
    texts = [options.base, *options.adapted]
    for text in texts:
        if max(len(os.fsencode(part)) for part in text.split("/")) > _LONGEST_PART or len(text) > _LONGEST_PATH:
            problem = f"a name or path is longer than file systems take: {text[:60]} …"
            raise UsageError(problem, remedy="give shorter names: NAME=PATH")
    split = [split_name(text) for text in texts]
    files = [Path(path) for said, path in split if said is None and Path(path).is_file()]
    alike = len({file.stem for file in files}) < len(files)
    named = [
        (file.resolve().parent.name if alike else file.stem) if said is None and (file := Path(path)) in files else said
        for said, path in split
    ]
    said_names = [name for name in named if name is not None]
    if len(set(said_names)) < len(said_names):
        return unique_names(texts)
    return unique_names(
        [path if name is None else f"{name}={path}" for name, (_, path) in zip(named, split, strict=True)]
    )


def _read(options: ImportOptions, watch: Watch) -> dict[str, ImportedRun]:
    named = _given(options)
    if len(named) < 2:
        raise UsageError("only one run was given", remedy=f"lorascope import {options.tool} BASE ADAPTED [ADAPTED ...]")
    found = {}
    with watch.stage(f"Reading runs of {options.tool}") as report:
        for done, (name, path) in enumerate(named, 1):
            try:
                found[name] = _read_one(options, Path(path))
            except RecursionError as error:
                raise DataError("the run's files are nested too deeply", where=path) from error
            report(done, len(named))
    return found


def _read_one(options: ImportOptions, path: Path) -> ImportedRun:
    match options.tool:
        case "lm-eval":
            return read_lm_eval(path, filter_name=options.filter_name, tasks=options.tasks)
        case "inspect":
            return read_inspect(path, tasks=options.tasks)
        case "lighteval":
            return read_lighteval(path, tasks=options.tasks)
        case "llamafactory":
            return read_llamafactory(path)
        case "files":
            return read_files(path, references=options.references)


def _check_names(options: ImportOptions, pairing: Pairing) -> None:
    known = [task.name for task in pairing.tasks]
    if len({_task_name(name) for name in known}) < len(known):
        raise UsageError(f"two of the tasks have names that are alike: {', '.join(known)}", remedy="choose with --task")
    for name in options.retention:
        if name not in known:
            raise UsageError(
                f"--retention names {name}, which is no task here", remedy=f"use one of {', '.join(known)}"
            )


def _folder(options: ImportOptions, base: str, subjects: Sequence[str]) -> Path:
    """``reports/SUBJECT[-SUBJECT ...]-vs-BASE-TOOL`` below the current folder."""
    if options.out is not None:
        return options.out
    shown = "-".join(subjects[:3]) + (f"-and-{len(subjects) - 3}-more" if len(subjects) > 3 else "")
    return Path("reports") / short_name(f"{shown}-vs-{base}-{options.tool}")


def _fingerprint(options: ImportOptions, runs: Mapping[str, ImportedRun]) -> dict[str, Any]:
    """What makes two commands the same: the files' contents, and what is asked of them."""
    return {
        "lorascope": __version__,
        "import": options.tool,
        "runs": [[name, content_hash(run.files)] for name, run in runs.items()],
        "tasks": list(options.tasks),
        "retention": list(options.retention),
        "filter": options.filter_name,
        "allowed": [options.allow_unpaired, options.allow_different],
        "samples": options.keep_samples,
        "seed": options.seed,
    }


def _info(name: str, path: str, run: ImportedRun, *, is_base: bool) -> CheckpointInfo:
    """A checkpoint of which only the answers are known."""
    return CheckpointInfo(
        name=name,
        path=path,
        role="base" if is_base else "adapted",
        kind="model",
        architecture=_NOT_RECORDED,
        dtype=run.dtype or _NOT_RECORDED,
        content_hash=content_hash(run.files),
        parameters=ParameterCounts(total=run.parameters),
        generation_ready=True,
    )


@dataclass(frozen=True)
class _Compared:
    """One task with the tool's numbers held against ours: all that can be wrong with the answers is said by then."""

    answers: TaskAnswers
    paired: PairedTask
    agreements: list[Agreement]


def _compared(options: ImportOptions, paired: PairedTask) -> _Compared:
    answers = _answers(options, paired)
    found = compare_scores(answers, paired)
    return _Compared(answers, paired, follow_verdicts(answers, paired, found, options.tool))


def _measure(
    options: ImportOptions,
    watch: Watch,
    runs: Mapping[str, ImportedRun],
    pairing: Pairing,
    compared: Sequence[_Compared],
    infos: Sequence[CheckpointInfo],
    timings: dict[str, float],
) -> tuple[Comparison, _Columns]:
    base, *subjects = infos
    pairs = [Pair(subject.name, base.name) for subject in subjects]
    measured: list[Measurement] = []
    agreements: list[Agreement] = []
    columns: _Columns = {}
    for one in compared:
        own = own_metrics(
            one.answers, one.paired, pairs, options.tool, agreements=one.agreements, seed=options.seed
        )  # fmt: skip
        agreements += one.agreements
        measured += own.measurements
        columns |= _columns(one.answers.task.spec.name, own.values, base.name, subjects)
    comparison = assemble(
        base,
        subjects,
        [one.answers for one in compared],
        seed=options.seed,
        command=options.command,
        device="none",
        dtype=_NOT_RECORDED,
        engine=f"import:{options.tool}",
        timings=timings,
        findings=[*_pairing_findings(pairing, base.name), *agreement_findings(options.tool, agreements)],
        missing=_missing(pairing),
        notes=list(dict.fromkeys(note for run in runs.values() for note in run.notes)),
        measurements=measured,
        watch=watch,
    )
    return comparison, columns


def _missing(pairing: Pairing) -> list[Missing]:
    """What an import has not, and tasks that could not be taken in."""
    found = [Missing(area=area, reason="runs of other tools hold answers alone") for area in ("weights", "curves")]
    return found + [Missing(area="task", reason=f"{name}: {reason}") for name, reason in pairing.left_out.items()]


def _answers(options: ImportOptions, paired: PairedTask) -> TaskAnswers:
    first = next(iter(paired.tasks.values()))
    role: Role = "retention" if paired.name in options.retention else "target"
    spec = SuiteTask(
        name=_task_name(paired.name),
        kind=first.kind,
        role=role,
        data=f"imported:{options.tool}",
        metrics=list(first.usable) if first.usable is not None else None,
        primary=first.primary if role == "target" else None,
    )
    items = [one.item for one in next(iter(paired.runs.values()))]
    decisive = {name: setting.value for name, setting in first.settings.items() if setting.strictness == "refuse"}
    fingerprint = content_id({"asked": task_fingerprint(spec, items), "settings": decisive})
    task = LoadedTask(spec, first.kind, tuple(items), (), (), fingerprint)
    found = TaskAnswers(task, absent=dict(paired.absent))
    # All runs stand on the base's items: where a template changed, the shown prompt is the base's.
    found.asked = {run: Asked(items, [one.answer for one in own]) for run, own in paired.runs.items()}
    return found


def _task_name(name: str) -> str:
    """The tool's name without the signs that mean something in the address of a gate."""
    return re.sub(r"[@:*\s]+", "-", name)


def _columns(
    task: str, values: Mapping[str, Mapping[str, list[float]]], base: str, subjects: Sequence[CheckpointInfo]
) -> _Columns:
    """The tool's values as columns of ``samples.parquet``, beside ours."""
    return {
        (task, subject.name): {
            f"{name}_{side}": list(by_run[run])
            for name, by_run in values.items()
            for side, run in (("base", base), ("adapted", subject.name))
            if run in by_run
        }
        for subject in subjects
    }


def _pairing_findings(pairing: Pairing, base: str) -> Iterator[Finding]:
    yield from _different(pairing, base)
    for run, found in _by(pairing.reworded, lambda one: one.run).items():
        yield Finding(
            id=f"import:prompts:{run}",
            severity="warning",
            area="task",
            subject=run,
            title=f"{run} was not asked the same as {base} on {_listed(one.task for one in found)}: the prompts differ",
            evidence=[f"{one.task}: {one.count} of {one.total} prompts differ ({one.example})" for one in found],
            advice="What differs is the fine-tune and the template together; one template for both parts them.",
        )
    for alone in pairing.unpaired:
        yield Finding(
            id=f"import:unpaired:{alone.task}:{alone.run}",
            severity="warning",
            area="task",
            subject=None if alone.run == base else alone.run,
            title=f"{alone.count} of {alone.total} items of {alone.task} in {alone.run} are not in every run",
            evidence=list(alone.examples),
            advice="They are left out. Evaluate the same items in every run.",
        )


def _different(pairing: Pairing, base: str) -> Iterator[Finding]:
    """One finding for each setting and run; the tasks that it holds for are listed in it."""
    groups = _by(pairing.differences, lambda one: (one.run, one.setting, one.base, one.other, one.refused))
    for number, ((run, setting, said, other, refused), found) in enumerate(groups.items()):
        severity: Severity = "critical" if refused else "warning"
        advice = "Evaluate both with the same settings; what differs now is not the fine-tune alone."
        tasks = _listed(one.task for one in found)
        yield Finding(
            id=f"import:setting:{number}",
            severity=severity,
            area="task",
            subject=run,
            title=f"{run} and {base} were evaluated with different settings: {setting} of {tasks}",
            evidence=[f"{base}: {said[:300]}", f"{run}: {other[:300]}"],
            advice=advice if refused else None,
        )


def _by(found: Iterable[_Found], key: Callable[[_Found], _Key]) -> dict[_Key, list[_Found]]:
    groups: dict[_Key, list[_Found]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def _listed(names: Iterable[str]) -> str:
    every = list(dict.fromkeys(names))
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
