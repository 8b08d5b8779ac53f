"""Write a blind study: sheets for the raters, the key apart."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lorascope.blind.formats import FORMATS, write_sheet
from lorascope.blind.key import StudyKey, write_key
from lorascope.blind.plan import StudyPlan
from lorascope.blind.registration import read_plan
from lorascope.blind.request import StudyRequest
from lorascope.blind.rows import Language, Sheet
from lorascope.blind.study import Study, make_study
from lorascope.errors import DataError, OutputError, UsageError
from lorascope.workflows.output import SAMPLES, naming
from lorascope.workflows.publish import load_result, load_samples

_ITEMS, _RATERS = 120, 3


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What ``blind export`` was asked for; see :class:`StudyRequest`. None: the plan's, or the default."""

    result: Path
    formats: tuple[str, ...]
    items: int | None = None
    raters: int | None = None
    shared: int | None = None
    systems: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    plan: Path | None = None
    repeats: int | None = None
    checks: int = 3
    identical: int = 3
    flip_weight: float = 2.0
    languages: tuple[Language, ...] = ("en",)
    folder: Path | None = None
    key: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ExportedStudy:
    """What was written."""

    sheets: tuple[Path, ...]
    key: Path
    study: Study


def export_study(options: ExportOptions, console: Console) -> ExportedStudy:
    """Draw the items, write every rater's sheet in every format, and the key to a folder of its own.

    The sheets' folder appears whole or not at all. Errors: OutputError where there is a study already, UsageError for
    a key among the sheets or sheets within the result's folder, DataError without samples, and what
    :func:`make_study` refuses.
    """
    folder, key_path = _places(options)
    comparison = load_result(options.result)
    samples = load_samples(options.result)
    if samples is None:
        remedy = "run compare without --no-samples"
        where = str(options.result.parent / SAMPLES)
        raise DataError("the result has no samples beside it", where=where, remedy=remedy)
    plan = read_plan(options.plan) if options.plan else None
    study = make_study(samples, comparison, _request(options, plan))
    sheets = _write(study, options.formats, folder, key_path)
    _tell(study, sheets, key_path, console)
    return ExportedStudy(tuple(sheets), key_path, study)


def _places(options: ExportOptions) -> tuple[Path, Path]:
    """Folder and key, by default beside the result's folder. The key may lie in it, the sheets may not.

    What lies with the result (itself, its report, its samples) names the author of every answer.
    """
    beside = options.result.parent
    run = beside.resolve() if beside.name in ("", "..") else beside
    folder = options.folder or run.parent / f"{run.name}-sheets"
    key_path = options.key or run.parent / f"{run.name}-key" / "key.json"
    around = {folder.resolve(), *folder.resolve().parents}
    if beside.resolve() in around or options.result.resolve().parent in around:
        problem = "the sheets would lie in the result's own folder, whose files name the author of every answer"
        raise UsageError(problem, where=str(folder), remedy="put the sheets in a folder outside of it with --out")
    if folder.resolve() == key_path.resolve() or folder.resolve() in key_path.resolve().parents:
        problem = "the key would lie in the folder of the sheets, where every rater finds it"
        raise UsageError(problem, where=str(key_path), remedy="put the key in another folder with --key")
    if key_path.exists() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        where = str(key_path if key_path.exists() else folder)
        remedy = "choose other places with --out and --key; without its key an older study cannot be scored"
        raise OutputError("there is an older study, or something else, at this place", where=where, remedy=remedy)
    return folder, key_path


def _request(options: ExportOptions, plan: StudyPlan | None) -> StudyRequest:
    return StudyRequest(
        items=options.items or (plan.items if plan else _ITEMS),
        raters=options.raters or (plan.raters if plan else _RATERS),
        systems=options.systems,
        tasks=options.tasks,
        shared=_shared(options, plan),
        repeats=options.repeats,
        checks=options.checks,
        identical=options.identical,
        flip_weight=options.flip_weight,
        languages=options.languages,
        seed=options.seed,
        plan=plan,
    )


def _shared(options: ExportOptions, plan: StudyPlan | None) -> int | None:
    """Items for every rater; a plan of one vote an item divides them all."""
    divided = plan is not None and plan.votes_per_item == 1 < (options.raters or plan.raters)
    return 0 if options.shared is None and divided else options.shared


def _write(study: Study, formats: Sequence[str], folder: Path, key_path: Path) -> list[Path]:
    """The sheets are made beside their folder and renamed into place after the key is written."""
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        names = [_write_sheet(sheet, name, part) for sheet in study.sheets.values() for name in formats]
        _write_companions(formats, sorted({sheet.language for sheet in study.sheets.values()}), part)
        _settle(study.key, part, folder, key_path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [folder / name for name in names]


def _write_sheet(sheet: Sheet, format_name: str, folder: Path) -> str:
    path = folder / f"{sheet.rater}{FORMATS[format_name].suffix}"
    with naming(path):
        write_sheet(sheet, path, format_name)
    return path.name


def _write_companions(formats: Sequence[str], languages: Sequence[Language], folder: Path) -> None:
    """What belongs beside the sheets, once a language; the language is in the name where there are two."""
    with naming(folder):
        for name in formats:
            if (companion := FORMATS[name].companion) is None:
                continue
            for language in languages:
                part = f".{language}" if len(languages) > 1 else ""
                (folder / f"sheets{part}{companion[0]}").write_text(companion[1](language), encoding="utf-8")
        _blur(folder)


def _blur(folder: Path) -> None:
    """One mode and one time for all files: in which order they were made is nobody's business."""
    folder.chmod(0o755)
    moment = folder.stat().st_mtime_ns
    for path in folder.iterdir():
        path.chmod(0o644)
        os.utime(path, ns=(moment, moment))


def _settle(key: StudyKey, part: Path, folder: Path, key_path: Path) -> None:
    write_key(key, key_path)
    try:
        with naming(folder):
            part.replace(folder)
    except OutputError:
        key_path.unlink(missing_ok=True)
        raise


def _tell(study: Study, sheets: Sequence[Path], key_path: Path, console: Console) -> None:
    rated = sum(not item.identical for item in study.key.items)
    told = {sheet.rater: len(sheet.rows) for sheet in study.sheets.values()}
    rows = sorted(set(told.values()))
    each = str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"
    lines = [f"{len(told)} raters, {rated} items to rate, {each} rows a sheet with repeats and checks"]
    identical = len(study.key.items) - rated
    if identical:
        lines.append(f"{identical} items have two identical answers: they count as ties, unrated")
    lines += [f"note: {warning}" for warning in study.warnings]
    lines.append(f"sheets in {sheets[0].parent}: one file a rater is filled in and sent back")
    lines.append(f"key in {key_path} (readable by you alone)")
    lines.append("keep the key, the result, its report and its samples from the raters")
    lines.append(f"commitment {study.key.commitment}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
