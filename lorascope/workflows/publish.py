"""Write a comparison where people and programs find it, and read it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from lorascope.errors import DataError, EvaluationError
from lorascope.schema.comparison import SCHEMA_VERSION, Comparison
from lorascope.workflows.output import REPORT, RESULT, SAMPLES, OutputFolder, write_whole

if TYPE_CHECKING:
    import pyarrow


def publish(comparison: Comparison, folder: OutputFolder) -> None:
    """``result.json`` first, then the report that is made from it alone (and the samples beside it)."""
    folder.write_text(RESULT, document(comparison))
    render(folder.path / RESULT)


def document(comparison: Comparison) -> str:
    """The text of ``result.json``."""
    return comparison.model_dump_json(indent=1) + "\n"


def render(result: Path, *, language: Literal["en", "zh"] = "en", out: Path | None = None) -> Path:
    """Make ``report.html`` from a result file and the samples beside it."""
    from lorascope.report.html import render_html

    page = render_html(load_result(result), load_samples(result), language=language)
    return write_whole(out or result.parent / REPORT, lambda part: part.write_text(page, encoding="utf-8"))


def load_result(path: Path) -> Comparison:
    """Read and validate a ``result.json``.

    Raises :class:`DataError` (exit 2) for what is no result, :class:`EvaluationError` (exit 3) for another schema
    version.
    """
    remedy = "give the result.json that lorascope compare, weights or repair --scan wrote"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        inside = f": {path / RESULT}" if (path / RESULT).is_file() else ""
        raise DataError("a result is a file, this is a folder", where=str(path), remedy=remedy + inside) from error
    except OSError as error:
        raise DataError(f"the result cannot be read: {error.strerror}", where=str(path), remedy=remedy) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a whole JSON document: {error}", where=str(path), remedy=remedy) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION and isinstance(version, int):
        raise EvaluationError(
            f"the result has schema version {version}, this lorascope reads {SCHEMA_VERSION}",
            where=str(path),
            remedy="make it again with this release, or read it with the release that made it",
        )
    reason = _why_none(raw)
    if reason is not None:
        raise DataError(f"this is no lorascope result: {reason}", where=str(path), remedy=remedy)
    try:
        comparison = Comparison.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = f"the result is damaged: {first['msg']}"
        raise DataError(problem, where=f"{path}, {place}", remedy=remedy) from error
    if [info.role for info in comparison.checkpoints].count("base") != 1 or not comparison.subjects:
        raise DataError("the result does not hold one base and its adapted checkpoints", where=str(path), remedy=remedy)
    return comparison


def _why_none(raw: object) -> str | None:
    """Why a document is no result at all: it is no object, or lacks what every result has. None for a result."""
    if not isinstance(raw, dict):
        return "the document is no JSON object"
    lacking = [name for name, field in Comparison.model_fields.items() if field.is_required() and name not in raw]
    return f"it lacks {', '.join(lacking[:3])}" if lacking else None


def load_samples(result: Path) -> pyarrow.Table | None:
    """The samples beside a result; None where there are none."""
    import pyarrow
    import pyarrow.parquet

    path = result.parent / SAMPLES
    if not path.is_file():
        return None
    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            f"the samples cannot be read: {error}", where=str(path), remedy="run the comparison again"
        ) from error
