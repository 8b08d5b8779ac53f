"""A rater's sheet as files: HTML, XLSX, CSV and Label Studio's tasks, written and read back."""

from __future__ import annotations

from lorascope.blind.formats.reading import read_sheet
from lorascope.blind.formats.writing import FORMATS, SheetFormat, write_sheet

__all__ = ["FORMATS", "SheetFormat", "read_sheet", "write_sheet"]
