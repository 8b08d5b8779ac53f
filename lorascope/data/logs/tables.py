"""Logs in columns: plain CSV, and the CSV that W&B exports from a chart, with a column for each run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from lorascope.data.logs.columns import Columns, counted
from lorascope.data.logs.curves import TrainingLog
from lorascope.data.logs.lines import encoding_of
from lorascope.data.logs.names import STEP_NAMES, plain, role_of
from lorascope.errors import DataError

_EXTREMES = ("__MIN", "__MAX")
_BETWEEN = " - "
_RUN_STEPS = ("train/global_step", "trainer/global_step", "_step")
_DELIMITERS = ",;\t"
_LONGEST_CELL = 1 << 24


def header_of(text: str) -> list[str] | None:
    """The cells of a first line that could head a log in columns; None where it is no such line."""
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    if "{" in first:
        return None
    cells = next(csv.reader([first], delimiter=_delimiter(first)), [])
    names = [name.rpartition(_BETWEEN)[2] for name in cells]
    return cells if len(cells) > 1 and any(_is_loss(name) for name in names) else None


def _delimiter(first: str) -> str:
    return max(_DELIMITERS, key=first.count)


def _is_loss(name: str) -> bool:
    role = role_of(name)
    return role is not None and role.kind in ("train", "eval")


def logs_of_table(path: Path) -> list[TrainingLog]:
    """The logs in a table: one, or one for each run of a W&B export, in the order of the columns.

    Rows fall or rise in step. Cells that are empty, ``None`` or ``No log`` are not logged.

    Raises:
        DataError: broken CSV, a cell that is no number, columns that stand for the same curve, no column of steps in
            an export.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        first = text.readline(_LONGEST_CELL)
        while first and not first.strip():
            first = text.readline(_LONGEST_CELL)
        table = _Table(path, first, text)
        try:
            return table.exported() if table.is_export() else [table.plain()]
        except csv.Error as error:
            raise DataError(f"broken CSV: {error}", where=f"{path}, line {table.line}") from error


class _Table:
    """Rows under a header, with what was passed over."""

    def __init__(self, path: Path, first: str, text: io.TextIOBase | io.TextIOWrapper) -> None:
        delimiter = _delimiter(first)
        self.path = path
        self.header = [name.strip() for name in next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter), [])]
        self._reader = csv.reader(text, delimiter=delimiter)
        self._uneven = 0
        self._cut = False
        doubled = sorted({name for name in self.header if self.header.count(name) > 1})
        if doubled:
            raise DataError(f"the header names a column twice: {', '.join(doubled)}", where=f"{path}, line 1")

    @property
    def line(self) -> int:
        """The line that is being read."""
        return self._reader.line_num + 1

    def is_export(self) -> bool:
        """Whether columns belong to runs, as W&B names them."""
        return any(name.endswith(_EXTREMES) for name in self.header) or any(
            _BETWEEN in name and _is_loss(name.rpartition(_BETWEEN)[2]) for name in self.header
        )

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Lines and their cells, as many as the header has; a header that a resumed run wrote again is no row."""
        for cells in self._reader:
            self._uneven, self._cut = self._uneven + self._cut, False
            if len(cells) == len(self.header) and [cell.strip() for cell in cells] != self.header:
                yield self.line, cells
            elif cells and len(cells) != len(self.header):
                self._cut = True

    def _rising(self, step: int | None) -> Iterator[tuple[int, list[str]]]:
        """The rows in order of logging: turned round where the first three fall in step."""
        rows = self._cells()
        head = list(islice(rows, 3))
        if step is not None and len(head) == 3 and _falls([cells[step] for _, cells in head]):
            yield from reversed([*head, *rows])
            return
        yield from head
        yield from rows

    def _notes(self) -> list[str]:
        notes = ["The last line is cut off and passed over."] if self._cut else []
        if self._uneven:
            notes.append(f"Passed over: {counted(self._uneven, 'row')} with another number of cells than the header.")
        return notes

    def plain(self) -> TrainingLog:
        """One run, its quantities named by the columns."""
        columns = Columns(exclusive=True)
        steps = [name for name in self.header if plain(name) in STEP_NAMES]
        names = [plain(name) if plain(name) in STEP_NAMES else name for name in self.header]
        at = min(range(len(names)), key=lambda index: _rank(names[index])) if steps else None
        for line, cells in self._rising(at):
            columns.add(dict(zip(names, cells, strict=True)), f"{self.path}, line {line}")
        columns.notes = self._notes()
        return columns.log(self.path, "CSV")

    def exported(self) -> list[TrainingLog]:
        """One log a run; the columns of extremes are left out."""
        kept = [(at, name) for at, name in enumerate(self.header) if not name.endswith(_EXTREMES)]
        runs: dict[str, dict[str, int]] = {}
        for at, name in kept:
            run, between, quantity = name.rpartition(_BETWEEN)
            if between:
                runs.setdefault(run, {})[quantity.strip()] = at
        runs = {run: names for run, names in runs.items() if any(_is_loss(name) for name in names)}
        steps = {run: self._step_column(run, names) for run, names in runs.items()}
        gathered = {run: Columns(exclusive=True) for run in runs}
        for line, cells in self._rising(next(iter(steps.values()), None)):
            place = f"{self.path}, line {line}"
            for run, names in runs.items():
                row = {
                    name: cells[at] for name, at in names.items() if cells[at].strip() and plain(name) not in STEP_NAMES
                }
                if row:
                    gathered[run].add({**row, "step": cells[steps[run]]}, place)
        for run, columns in gathered.items():
            columns.notes = [*self._notes(), *self._own_step_note(steps[run])]
        return [columns.log(self.path, "W&B export", run) for run, columns in gathered.items()]

    def _step_column(self, run: str, names: dict[str, int]) -> int:
        for name in _RUN_STEPS[:2]:
            if name in names:
                return names[name]
        if plain(self.header[0]) in STEP_NAMES:
            return 0
        if "_step" in names:
            return names["_step"]
        raise DataError(
            f"the export has no steps for the run '{run}': its x axis is '{self.header[0]}'",
            where=str(self.path),
            remedy="export the chart again with train/global_step or Step on its x axis",
        )

    def _own_step_note(self, at: int) -> list[str]:
        if plain(self.header[at]).rpartition("_-_")[2] not in ("step", "_step"):
            return []
        return [
            "The steps are W&B's own, which count calls of its log function and need not be optimizer steps; "
            "a chart over train/global_step has those."
        ]


def _rank(name: str) -> int:
    return STEP_NAMES.index(name) if name in STEP_NAMES else len(STEP_NAMES)


def _falls(cells: Sequence[str]) -> bool:
    try:
        steps = [float(cell) for cell in cells]
    except ValueError:
        return False
    return steps[0] > steps[1] > steps[2]
