"""Linear modules as a grid of layers and kinds, and their spectra in compact form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorascope.report import numbers
from lorascope.report.numbers import rounded
from lorascope.schema.comparison import Comparison, IntruderVector, ModuleWeights, WeightReport
from lorascope.schema.names import Position, position

MODULE_LIMIT = 1200


@dataclass(frozen=True, slots=True)
class Shown:
    """One value of one module as its cell shows it.

    ``share`` is the strength of its colour, −1 to 1: the square root of its part of the largest size, negative below
    zero. The square root keeps small values apart where one module is far above the rest.
    """

    text: str
    share: float


@dataclass(frozen=True, slots=True)
class GridCell:
    """One module in the grid, with everything that the map can show of it by name of the measure."""

    module: str
    shown: dict[str, Shown]


@dataclass(frozen=True, slots=True)
class GridRow:
    """One kind of module across the layers of a stack."""

    kind: str
    label: str
    cells: tuple[GridCell | None, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One stack of one subject: columns are layers."""

    stack: str
    layers: tuple[str, ...]
    rows: tuple[GridRow, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """What the map can show, and the largest size of each among all subjects: equal colours mean equal values."""

    largest: dict[str, float]
    below_zero: frozenset[str]

    def ends(self, measure: str) -> tuple[str, str]:
        """Return the printed values at both ends of a measure's colours."""
        largest = self.largest[measure]
        if measure in self.below_zero:
            return numbers.signed(-largest, "count", ""), numbers.signed(largest, "count", "")
        printed = numbers.percent(largest) if measure in ("change", "energy") else _printed(measure, largest)
        return "0", printed


def _count(module: ModuleWeights) -> int | None:
    return module.intruders.count if module.intruders else None


def _right(module: ModuleWeights) -> int | None:
    return module.intruders.right.count if module.intruders and module.intruders.right else None


def _corrected(module: ModuleWeights) -> int | None:
    found = _count(module)
    return None if found is None or module.null_count is None else found - module.null_count


_READINGS: dict[str, Callable[[ModuleWeights], float | None]] = {
    "change": lambda module: module.relative_change,
    "left": _count,
    "corrected": _corrected,
    "energy": lambda module: module.intruders.energy if module.intruders else None,
    "right": _right,
    "amplification": lambda module: module.amplification,
}


def shown_modules(report: WeightReport) -> list[ModuleWeights]:
    """Return the modules that the page shows: all, or the most changed where there are very many."""
    if len(report.modules) <= MODULE_LIMIT:
        return list(report.modules)
    ranked = sorted(report.modules, key=lambda module: (-(_count(module) or 0), -(module.relative_change or 0.0)))
    kept = {id(module) for module in ranked[:MODULE_LIMIT]}
    return [module for module in report.modules if id(module) in kept]


def grid_scale(comparison: Comparison) -> Scale:
    """Return the common scale of all subjects' grids: the measures that any module has, the relative change first."""
    modules = [module for report in comparison.weights.values() for module in report.modules]
    values = {
        name: [value for module in modules if (value := reading(module)) is not None]
        for name, reading in _READINGS.items()
    }
    largest = {
        name: float(max(map(abs, found), default=0.0)) for name, found in values.items() if found or name == "change"
    }
    return Scale(largest, frozenset(name for name, found in values.items() if any(value < 0 for value in found)))


def grids(report: WeightReport, scale: Scale) -> list[Grid]:
    """Return one grid per stack, modules outside the layers last."""
    placed = [(position(module.name), module) for module in shown_modules(report)]
    stacks = dict.fromkeys((where.stack, where.layer is None) for where, _ in placed)
    ordered = sorted(stacks, key=lambda stack: stack[1])
    return [_grid(stack, [each for each in placed if _stack_of(each[0]) == (stack, loose)], scale)
            for stack, loose in ordered]  # fmt: skip


def _stack_of(where: Position) -> tuple[str, bool]:
    return where.stack, where.layer is None


def _grid(stack: str, placed: Sequence[tuple[Position, ModuleWeights]], scale: Scale) -> Grid:
    layers = sorted({where.layer for where, _ in placed}, key=lambda layer: -1 if layer is None else layer)
    kinds = list(dict.fromkeys(where.kind for where, _ in placed))
    loose = all(layer is None for layer in layers)
    labels = {kind: kind for kind in kinds} if loose else short_names(kinds)
    at = {(where.kind, where.layer): module for where, module in placed}
    rows = []
    for kind in kinds:
        found = [at.get((kind, layer)) for layer in layers]
        cells = tuple(_grid_cell(module, scale) if module else None for module in found)
        rows.append(GridRow(kind, labels[kind], cells))
    return Grid(stack, tuple("" if layer is None else str(layer) for layer in layers), tuple(rows))


def short_names(kinds: Sequence[str]) -> dict[str, str]:
    """Shorten dotted kinds to as few last parts as keep them apart."""
    names: dict[str, str] = {}
    for kind in kinds:
        parts = kind.split(".")
        for length in range(1, len(parts) + 1):
            short = ".".join(parts[-length:])
            if sum(other == short or other.endswith(f".{short}") for other in kinds) == 1:
                break
        names[kind] = short
    return names


def _grid_cell(module: ModuleWeights, scale: Scale) -> GridCell:
    return GridCell(module.name, shown_values(module, scale))


def shown_values(module: ModuleWeights, scale: Scale) -> dict[str, Shown]:
    """Return what the map shows of a module, by measure."""
    undecided = bool(module.intruders and module.intruders.undecided)
    shown = {}
    for name, largest in scale.largest.items():
        value = _READINGS[name](module)
        text = _printed(name, value) + ("?" if undecided and name in ("left", "corrected") else "")
        shown[name] = Shown(text, _colour_share(value, largest))
    return shown


def _colour_share(value: float | None, largest: float) -> float:
    if not value or largest <= 0:
        return 0.0
    return round(math.copysign(math.sqrt(abs(value) / largest), value), 3)


def _printed(measure: str, value: float | None) -> str:
    if value is None:
        return numbers.ABSENT
    if measure in ("change", "energy"):
        return numbers.plain(100 * value, 1 if value < 0.0995 and value else 0)
    if measure == "amplification":
        return numbers.plain(value, 1 if value < 9.95 else 0)
    return numbers.signed(value, "count", "") if measure == "corrected" else numbers.count(value)


def mark_of(vector: IntruderVector) -> str:
    """Return how a judged vector is marked: its verdict, with intruders that are rotations told apart.

    A rotation has at least half of its squared length inside the base's leading directions: it mixes them anew.
    """
    rotated = vector.verdict == "intruder" and vector.leading_share >= 0.5
    return "rotation" if rotated else vector.verdict


def base_spectrum(comparison: Comparison, module: str) -> list[float]:
    """Return the base's leading singular values: the base's own series ``spectrum:<module>``, empty without one."""
    for series in comparison.series:
        if series.name == f"spectrum:{module}" and series.subject == comparison.base.name:
            return [value for value in series.y if value is not None]
    return []


def spectrum_rows(comparison: Comparison, module: ModuleWeights) -> list[dict[str, Any]]:
    """Return a module's spectrum as chart rows: ``line`` (base, adapted, delta), ``mark``, ``index`` from 1, ``value``.

    ``mark`` is the line's name, for the adapted matrix that of each vector. Later rows are drawn over earlier ones:
    the judged vectors come last. Zeros have no place on a log scale.
    """
    vectors = module.intruders.vectors if module.intruders else []
    base = enumerate(base_spectrum(comparison, module.name), start=1)
    delta = enumerate(module.singular_values, start=1)
    rows: list[dict[str, Any]] = [
        *({"line": "base", "mark": "base", "index": index, "value": value} for index, value in base),
        *({"line": "delta", "mark": "delta", "index": index, "value": value} for index, value in delta),
        *(
            {"line": "adapted", "mark": mark_of(each), "index": each.index + 1, "value": each.singular_value}
            for each in vectors
        ),
    ]
    return [{**row, "value": rounded(row["value"])} for row in rows if row["value"] > 0]


def interval_rows(module: ModuleWeights) -> list[dict[str, Any]]:
    """Return the judged left vectors as chart rows: ``index`` from 1, ``low`` and ``high`` of max |cos|, ``mark``.

    ``decides`` is the bound that the verdict rests on: the upper one of an intruder, else the lower one.
    """
    found = module.intruders
    if found is None:
        return []
    return [
        {
            "index": each.index + 1,
            "low": rounded(each.low, 3),
            "high": rounded(each.high, 3),
            "decides": rounded(each.high if each.verdict == "intruder" else each.low, 3),
            "mark": mark_of(each),
            "share": rounded(each.leading_share, 3),
            "epsilon": found.epsilon,
        }
        for each in found.vectors
    ]


def spectra(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Return, by subject and module, what the page needs to draw a spectrum when its cell is chosen."""
    return {
        subject: {module.name: _compact(comparison, module) for module in shown_modules(report)}
        for subject, report in comparison.weights.items()
    }


def _compact(comparison: Comparison, module: ModuleWeights) -> dict[str, Any]:
    vectors = module.intruders.vectors if module.intruders else []
    return {
        "delta": [rounded(value) for value in module.singular_values],
        "base": [rounded(value) for value in base_spectrum(comparison, module.name)],
        "vectors": [
            [each.index, rounded(each.singular_value), mark_of(each), rounded(each.low, 3), rounded(each.high, 3),
             rounded(each.leading_share, 3)]
            for each in vectors
        ],
        "epsilon": module.intruders.epsilon if module.intruders else None,
    }  # fmt: skip
