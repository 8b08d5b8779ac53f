"""The formats that a sheet can be written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorascope.blind.formats.csv_sheet import csv_bytes
from lorascope.blind.formats.html_sheet import html_page
from lorascope.blind.formats.label_studio import label_config, label_studio_tasks
from lorascope.blind.formats.table import instructions
from lorascope.blind.formats.xlsx_sheet import xlsx_bytes
from lorascope.blind.rows import Language, Sheet


@dataclass(frozen=True, slots=True)
class SheetFormat:
    """One format: the end of its files' names and what writes a sheet.

    ``companion`` is what belongs beside the sheet, the same for every rater of a study and of no rater's content: the
    end of its file's name and what writes it in a language.
    """

    suffix: str
    content: Callable[[Sheet], bytes]
    companion: tuple[str, Callable[[Language], str]] | None = None


FORMATS: Mapping[str, SheetFormat] = {
    "html": SheetFormat(".html", lambda sheet: html_page(sheet).encode("utf-8")),
    "xlsx": SheetFormat(".xlsx", xlsx_bytes),
    "csv": SheetFormat(".csv", csv_bytes, (".instructions.txt", instructions)),
    "label-studio": SheetFormat(".label-studio.json", label_studio_tasks, (".label-studio.xml", label_config)),
}
"""The formats by the names that ``--format`` takes."""


def write_sheet(sheet: Sheet, path: Path, name: str) -> None:
    """Write one rater's sheet in the format ``name`` (a key of ``FORMATS``) over ``path``.

    DataError for a text that the format cannot hold, before anything is written; OSError as the system gives it.
    """
    path.write_bytes(FORMATS[name].content(sheet))
