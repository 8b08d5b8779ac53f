"""Linear modules as a grid of layers and kinds, and their spectra in compact form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorascope.report.numbers import rounded
from lorascope.schema.comparison import Comparison, ModuleWeights, WeightReport
from lorascope.schema.names import Position, position

MODULE_LIMIT = 1200


@dataclass(frozen=True, slots=True)
class GridCell:
    """One module in the grid. Fractions are of the largest value among all subjects; None where not measured."""

    module: str
    change: float | None
    left: int | None
    right: int | None
    undecided: int
    change_share: float
    left_share: float
    right_share: float


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
    """The largest values over all subjects, so that equal colours mean equal values."""

    change: float
    left: int
    right: int
    has_left: bool
    has_right: bool


def shown_modules(report: WeightReport) -> list[ModuleWeights]:
    """Return the modules that the page shows: all, or the most changed where there are very many."""
    if len(report.modules) <= MODULE_LIMIT:
        return list(report.modules)
    ranked = sorted(report.modules, key=lambda module: (-_left(module), -(module.relative_change or 0.0)))
    kept = {id(module) for module in ranked[:MODULE_LIMIT]}
    return [module for module in report.modules if id(module) in kept]


def _left(module: ModuleWeights) -> int:
    return module.intruders.count if module.intruders else 0


def _right(module: ModuleWeights) -> int | None:
    return module.intruders.right.count if module.intruders and module.intruders.right else None


def grid_scale(comparison: Comparison) -> Scale:
    """Return the common scale of all subjects' grids."""
    modules = [module for report in comparison.weights.values() for module in report.modules]
    right = [count for module in modules if (count := _right(module)) is not None]
    return Scale(
        change=max((module.relative_change or 0.0 for module in modules), default=0.0),
        left=max((_left(module) for module in modules), default=0),
        right=max(right, default=0),
        has_left=any(module.intruders is not None for module in modules),
        has_right=bool(right),
    )


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
    labels = short_names(kinds)
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
    left = module.intruders.count if module.intruders else None
    right = _right(module)
    return GridCell(
        module=module.name,
        change=module.relative_change,
        left=left,
        right=right,
        undecided=module.intruders.undecided if module.intruders else 0,
        change_share=_share(module.relative_change, scale.change),
        left_share=_share(left, scale.left),
        right_share=_share(right, scale.right),
    )


def _share(value: float | None, largest: float) -> float:
    return round((value or 0.0) / largest, 3) if largest > 0 else 0.0


def base_spectrum(comparison: Comparison, module: str) -> list[float]:
    """Return the base's leading singular values: the base's own series ``spectrum:<module>``, empty without one."""
    for series in comparison.series:
        if series.name == f"spectrum:{module}" and series.subject == comparison.base.name:
            return [value for value in series.y if value is not None]
    return []


def spectrum_rows(comparison: Comparison, module: ModuleWeights) -> list[dict[str, Any]]:
    """Return a module's spectrum as chart rows: ``line`` (base, adapted, delta), ``mark``, ``index`` from 1, ``value``.

    ``mark`` is the line's name, for the adapted matrix each vector's verdict. Zeros have no place on a log scale.
    """
    vectors = module.intruders.vectors if module.intruders else []
    base = enumerate(base_spectrum(comparison, module.name), start=1)
    delta = enumerate(module.singular_values, start=1)
    rows: list[dict[str, Any]] = [
        *({"line": "base", "mark": "base", "index": index, "value": value} for index, value in base),
        *(
            {"line": "adapted", "mark": each.verdict, "index": each.index + 1, "value": each.singular_value}
            for each in vectors
        ),
        *({"line": "delta", "mark": "delta", "index": index, "value": value} for index, value in delta),
    ]
    return [{**row, "value": rounded(row["value"])} for row in rows if row["value"] > 0]


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
            [each.index, rounded(each.singular_value), each.verdict, rounded(each.low, 3), rounded(each.high, 3),
             rounded(each.leading_share, 3)]
            for each in vectors
        ],
    }  # fmt: skip
