"""Baselines of gates: pinning a result as one, and reading one back with what it is compared with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from lorascope.errors import DataError, EvaluationError, InputError, InvalidComparison, OutputError
from lorascope.gates.blessing import Blessing, comparison_of
from lorascope.gates.blessing import bless as make_baseline
from lorascope.gates.pairing import Baseline
from lorascope.gates.validity import check_suites
from lorascope.schema.baseline import BASELINE_VERSION, BaselineFile
from lorascope.schema.comparison import Comparison
from lorascope.workflows.output import SAMPLES, write_whole
from lorascope.workflows.publish import load_result, load_samples

_MOST_BYTES = 200_000_000
_REMEDY = "give what lorascope gate bless wrote, or an earlier result.json"
_AGAIN = "measure the baseline's checkpoint again with this release, and pin it with lorascope gate bless --overwrite"


def bless(
    result_path: Path,
    target: Path,
    console: Console,
    *,
    subjects: Sequence[str] | None = None,
    allow_failing: bool = False,
    overwrite: bool = False,
) -> Path:
    """Pin a finished result as the baseline ``target``, and print what later gates can pair with it.

    Nothing else writes a baseline, and one that is there is replaced only with ``overwrite``, which replaces nothing
    but baselines. ``allow_failing`` takes a result whose own gates failed.

    Raises OutputError for a target that exists, is the result itself or lies in no folder; see
    :func:`lorascope.gates.blessing.bless`.
    """
    _check_target(target, result_path, overwrite)
    made = make_baseline(load_result(result_path), load_samples(result_path), subjects, allow_failing=allow_failing)
    text = document(made.file)
    write_whole(target, lambda part: part.write_text(text, encoding="utf-8"))
    _tell(made, target, len(text.encode("utf-8")), console)
    return target


def document(file: BaselineFile) -> str:
    """The text of a baseline file: each checkpoint, task and measurement on a line of its own, so that a diff reads."""
    whole = file.model_dump(mode="json")
    # Nulls of these are what their absence means, and there are hundreds of them.
    whole["measurements"] = [each.model_dump(mode="json", exclude_none=True) for each in file.measurements]
    whole["items"] = [each.model_dump(mode="json", exclude_none=True) for each in file.items]
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in whole.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in value) + "\n]"


def _check_target(target: Path, result_path: Path, overwrite: bool) -> None:
    if target.exists() and result_path.exists() and target.samefile(result_path):
        raise OutputError("the baseline would replace the result", where=str(target), remedy="give another file")
    if target.is_dir():
        raise OutputError("a baseline is a file, this is a folder", where=str(target), remedy="name a file in it")
    if target.exists() and not overwrite:
        raise OutputError(
            "there is a baseline already, and none advances by itself",
            where=str(target),
            remedy="replace it with --overwrite, or name another file",
        )
    if target.exists() and not _holds_baseline(target):
        raise OutputError(
            "the file there is no baseline, and --overwrite replaces baselines alone",
            where=str(target),
            remedy="name another file with --to",
        )
    if not target.parent.is_dir():
        problem = f"the folder {target.parent} does not exist"
        raise OutputError(problem, where=str(target), remedy="make it, or name another file with --to")


def _holds_baseline(path: Path) -> bool:
    try:
        return _document(path) is not None
    except DataError:
        return False


def _tell(made: Blessing, target: Path, size: int, console: Console) -> None:
    names = ", ".join(each.name for each in made.file.checkpoints if each.role == "adapted")
    tasks = len({each.task for each in made.file.items})
    line = f"{target}: {names}, {tasks} tasks, {made.paired:,} measurements with item scores, {size / 1000:,.0f} kB"
    console.print(Text(line))
    if made.unpaired:
        ((reason, count),) = Counter(made.unpaired.values()).most_common(1)
        whole = len(made.unpaired)
        share = "" if count == whole else f" ({count:,} of them)"
        why = reason.removeprefix("cannot be paired: ")
        console.print(Text(f"  {whole:,} more cannot be paired item by item: {why}{share}", style="dim"))


def read_baseline(path: Path, result_path: Path, comparison: Comparison | None = None) -> Baseline:
    """Read a baseline, blessed or a plain ``result.json``, with the item scores of both sides.

    ``comparison`` is the judged result where it has been read.

    Raises DataError (exit 2) for what is not there, no JSON, or neither baseline nor result; EvaluationError (exit 3)
    for a baseline of another version or another suite, for a damaged one, and for the result itself.
    """
    if not path.exists():
        raise DataError("the baseline does not exist", where=str(path), remedy="correct its path, or leave it out")
    if result_path.exists() and path.samefile(result_path):
        raise EvaluationError(
            "the baseline is the result itself, which never drops against itself",
            where=str(path),
            remedy="keep the baseline in a file of its own, outside the output folder",
        )
    try:
        baseline = _blessed(path, result_path) or _plain(path, result_path)
        check_suites(comparison or load_result(result_path), baseline.comparison)
    except InvalidComparison as error:
        raise error if error.where else error.at(str(path)) from None
    return baseline


def _plain(path: Path, result_path: Path) -> Baseline:
    try:
        comparison, samples = load_result(path), load_samples(path)
    except InputError as error:
        raise DataError(f"the baseline: {error.problem}", where=error.where, remedy=_REMEDY) from error
    except EvaluationError as error:
        raise EvaluationError(f"the baseline: {error.problem}", where=error.where, remedy=_AGAIN) from error
    if samples is not None and _same_file(path.parent / SAMPLES, result_path.parent / SAMPLES):
        problem = "the baseline and the result share one samples.parquet, which can belong to only one of them"
        raise EvaluationError(
            problem, where=str(path.parent / SAMPLES), remedy="keep each result in a folder of its own"
        )
    return Baseline(comparison, samples, load_samples(result_path), name=path.name)


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _blessed(path: Path, result_path: Path) -> Baseline | None:
    """The baseline file at ``path``; None where the document is none, and may be a result."""
    document = _document(path)
    if document is None:
        return None
    version = document["baseline_version"]
    if version != BASELINE_VERSION:
        raise InvalidComparison(
            f"the baseline has version {version}, this lorascope reads {BASELINE_VERSION}",
            where=str(path),
            remedy=_AGAIN,
        )
    try:
        file = BaselineFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"the baseline is damaged: {first['msg']}"
        raise InvalidComparison(problem, where=f"{path}, {place}", remedy=_AGAIN) from error
    return Baseline(comparison_of(file), None, load_samples(result_path), name=path.name, blessed=file)


def _document(path: Path) -> dict[str, Any] | None:
    """The JSON document at ``path`` where it says that it is a baseline."""
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            problem = f"the baseline is larger than {_MOST_BYTES / 1e6:,.0f} MB"
            raise DataError(problem, where=str(path), remedy="bless fewer subjects: lorascope gate bless --subject")
        document = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise DataError("the baseline is nested too deeply", where=str(path), remedy=_REMEDY) from error
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "baseline_version" in document else None
