"""Find a run's files below the path that the user gave, and say which tool a path belongs to when it is another's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorascope.data.imported.runs import Tool
from lorascope.data.readers import Row, read_rows, read_text
from lorascope.errors import DataError

_PATTERNS: dict[Tool, str] = {
    "lm-eval": "samples_*.jsonl",
    "inspect": "*.eval",
    "lighteval": "details_*.parquet",
    "llamafactory": "generated_predictions.jsonl",
}
_ADVICE: dict[Tool, str] = {
    "lm-eval": "run lm_eval with --log_samples --output_path DIR, and give DIR",
    "inspect": "give an .eval log, or the folder that holds one",
    "lighteval": "run lighteval with --save-details, and give its output folder",
    "llamafactory": "run with do_predict: true and predict_with_generate: true, and give the output folder",
    "files": "give a .jsonl, .json, .csv, .parquet or .txt file",
}
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
DATE = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)$")
"""The date that lm-eval and lighteval put at the end of a file's name."""


def run_files(path: Path, tool: Tool) -> list[Path]:
    """The file itself, or all files of ``tool`` below a folder, in the order of their names; at least one."""
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path), remedy=_ADVICE[tool])
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError("the file is empty", where=str(path), remedy="the run may have been interrupted")
        return [path]
    found = sorted(path.rglob(_PATTERNS[tool])) if tool in _PATTERNS else []
    if not found:
        raise DataError(f"the folder holds no file of {tool}", where=str(path), remedy=_other(path) or _ADVICE[tool])
    return found


def refuse_other_tool(path: Path, tool: Tool) -> DataError:
    """The error for a file that is none of ``tool``'s, with the command that reads it where its name tells."""
    return DataError(f"this is no file of {tool}", where=str(path), remedy=_other(path) or _ADVICE[tool])


def _other(path: Path) -> str | None:
    for tool, pattern in _PATTERNS.items():
        if path.match(pattern) or (path.is_dir() and next(path.rglob(pattern), None) is not None):
            return f"it looks like {tool}'s: lorascope import {tool} …"
    return None


def chosen(files: Sequence[tuple[str, Path]], wanted: Sequence[str], given: Path) -> list[tuple[str, Path]]:
    """The files of the ``wanted`` tasks, all of them where none is named; DataError for a name without a file."""
    known = list(dict.fromkeys(task for task, _ in files))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        problem = f"the run has no task named {unknown[0]!r}"
        raise DataError(problem, where=str(given), remedy=f"it has {', '.join(known[:20])}")
    return [(task, file) for task, file in files if not wanted or task in wanted]


def one_each(files: Sequence[tuple[str, Path]], tool: Tool) -> dict[str, Path]:
    """One file for each task; DataError where a folder holds several, since none of them is meant more than others."""
    found: dict[str, Path] = {}
    for task, path in files:
        if task in found:
            raise DataError(
                f"there are several runs of {task}",
                where=f"{found[task]} and {path}",
                remedy=f"give the file of one run, or a folder with one run of {tool} alone",
            )
        found[task] = path
    return found


def json_object(path: Path) -> dict[str, Any]:
    """A file of results as a document; DataError with the line where it is broken, or no JSON object."""
    return parse_object(read_text(path), str(path))


def parse_object(text: str, place: str) -> dict[str, Any]:
    """``text`` as a JSON object that can be written again.

    DataError for broken JSON (with its line), another value, one that is nested too deeply, a number of too many
    digits, and half a character (a lone surrogate), which no file can hold.
    """
    try:
        document = json.loads(text)
        if _HALF.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON: {error.msg}", where=f"{place}, line {error.lineno}") from error
    except UnicodeEncodeError as error:
        half = f"{error.object[error.start : error.end]!a}"
        remedy = "cut texts between characters, or drop the record"
        raise DataError(f"the text holds half a character ({half})", where=place, remedy=remedy) from error
    except (RecursionError, ValueError) as error:
        raise _unreadable(error, place) from error
    if not isinstance(document, dict):
        raise DataError("this is no JSON object", where=place)
    return document


def records(file: Path) -> list[Row]:
    """The rows of a data file; DataError also for what is nested too deeply, and for numbers of too many digits."""
    try:
        return read_rows(str(file), root=Path())
    except (RecursionError, ValueError) as error:
        raise _unreadable(error, str(file)) from error


def _unreadable(error: Exception, place: str) -> DataError:
    reason = str(error).split(";")[0]
    problem = (
        "the JSON is nested too deeply" if isinstance(error, RecursionError) else f"the JSON is not read: {reason}"
    )
    return DataError(problem, where=place, remedy="check where the file comes from")


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents, whatever they are called."""
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
