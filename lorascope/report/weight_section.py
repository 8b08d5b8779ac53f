"""The section on weights as plain records: totals, maps of the layers, one module's numbers, pairs of subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lorascope.report import numbers
from lorascope.report.modules import Grid, Scale, grid_scale, grids, shown_modules, shown_values, spectra
from lorascope.report.tables import metric_meaning
from lorascope.report.texts import Texts
from lorascope.report.weight_charts import (
    PAIR_LIMIT,
    SPECTRUM_MARKS,
    interval_spec,
    other_of,
    random_level,
    similarity_pairs,
    spectrum_spec,
)
from lorascope.schema.comparison import Comparison, IntruderReport, ModuleWeights, Series, WeightReport

_TOTALS = (
    "relative_change", "intruder_count", "intruder_new", "intruder_rotations", "null_intruder_count",
    "shrink_intruder_count", "intruder_count_right",
    "undecided", "intruder_energy", "null_intruder_energy", "amplification", "effective_rank",
    "stable_rank", "rank_90", "rank_95", "rank_99", "saturated_modules",
)  # fmt: skip
_SHARES = frozenset({"relative_change", "intruder_energy", "null_intruder_energy", "spectral_change"})
_REALS = frozenset(
    {"frobenius", "effective_rank", "stable_rank", "rank_90", "rank_95", "rank_99", "amplification"}
)  # fmt: skip
_COMPARED_DIMENSIONS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class WeightMap:
    """The grids of one subject, and how many of its modules they leave out."""

    subject: str
    grids: tuple[Grid, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """A row of printed values with its name."""

    name: str
    values: tuple[str, ...]
    notes: tuple[str, ...] = ()
    hint: str = ""

    @property
    def label(self) -> str:
        """The name as the row's heading."""
        return self.name


@dataclass(frozen=True, slots=True)
class ModuleTable:
    """All modules of one subject; ``columns`` name those quantities that any of them has."""

    subject: str
    columns: tuple[str, ...]
    rows: tuple[PrintedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TotalsTable:
    """The totals over all modules, subjects side by side."""

    subjects: tuple[str, ...]
    rows: tuple[PrintedRow, ...]


@dataclass(frozen=True, slots=True)
class PairRow:
    """How far two subjects share their leading directions, and what random subspaces would share.

    ``similarities`` holds φ and its interval at each number of directions in the table's head.
    """

    first: str
    second: str
    similarities: tuple[tuple[str, str], ...]
    random: str


def weight_context(comparison: Comparison, words: Texts) -> dict[str, Any]:
    """Return what the section's template needs besides charts."""
    scale = grid_scale(comparison)
    maps = [
        WeightMap(subject, tuple(grids(report, scale)), len(report.modules) - len(shown_modules(report)))
        for subject, report in comparison.weights.items()
        if report.modules
    ]
    return {
        "scale": scale,
        "weight_maps": maps,
        "module_tables": [_module_table(subject, report) for subject, report in comparison.weights.items()],
        "totals": _totals(comparison, words),
        "pair_rows": pair_rows(comparison),
        "pair_dimensions": _COMPARED_DIMENSIONS,
    }


def weight_data(comparison: Comparison, words: Texts) -> dict[str, Any]:
    """Return what the page's script needs to colour the maps and to show the chosen module."""
    scale = grid_scale(comparison)
    modules = spectra(comparison)
    for subject, report in comparison.weights.items():
        for module in shown_modules(report):
            shown = shown_values(module, scale)
            modules[subject][module.name] |= {
                "map": {name: [each.text, each.share] for name, each in shown.items()},
                "facts": [show(module) for show in _FACTS.values()],
            }
    return {
        "modules": modules,
        "scale": _legend(scale),
        "facts": [words(f"module.{name}") for name in _FACTS],
        "absent": numbers.ABSENT,
        "marks": {mark: words(f"spectrum.{mark}") for mark in SPECTRUM_MARKS},
        "spec": spectrum_spec([], "", words),
        "intervals": interval_spec([], words),
    }


def _legend(scale: Scale) -> dict[str, dict[str, Any]]:
    return {
        name: {"low": scale.ends(name)[0], "high": scale.ends(name)[1], "both": name in scale.below_zero}
        for name in scale.largest
    }


# One module


def _side(module: ModuleWeights, name: str) -> float | None:
    found = module.intruders
    return None if found is None else getattr(found, name)


def _new_directions(module: ModuleWeights) -> int | None:
    found = module.intruders
    return None if found is None or found.rotations is None else found.count - found.rotations


def _right_count(module: ModuleWeights) -> int | None:
    right: IntruderReport | None = module.intruders.right if module.intruders else None
    return right.count if right else None


_FACTS: dict[str, Callable[[ModuleWeights], str]] = {
    "shape": lambda module: f"{module.shape[0]:,} × {module.shape[1]:,}",
    "relative_change": lambda module: numbers.percent(module.relative_change),
    "left": lambda module: numbers.count(_side(module, "count")),
    "new": lambda module: numbers.count(_new_directions(module)),
    "rotations": lambda module: numbers.count(_side(module, "rotations")),
    "null_count": lambda module: numbers.count(module.null_count),
    "energy": lambda module: numbers.percent(_side(module, "energy")),
    "null_energy": lambda module: numbers.percent(module.null_energy),
    "right": lambda module: numbers.count(_right_count(module)),
    "undecided": lambda module: numbers.count(_side(module, "undecided")),
    "method": lambda module: module.method,
    "adapter_rank": lambda module: numbers.count(module.adapter_rank),
    "numerical_rank": lambda module: numbers.count(module.numerical_rank),
    "rank_90": lambda module: numbers.count(module.rank_90),
    "rank_95": lambda module: numbers.count(module.rank_95),
    "rank_99": lambda module: numbers.count(module.rank_99),
    "frobenius": lambda module: numbers.plain(module.frobenius),
    "spectral_change": lambda module: numbers.percent(module.spectral_change),
    "stable_rank": lambda module: numbers.plain(module.stable_rank, 1),
    "effective_rank": lambda module: numbers.plain(module.effective_rank, 1),
    "amplification": lambda module: numbers.plain(module.amplification, 1),
    "exact_zero_fraction": lambda module: numbers.percent(module.exact_zero_fraction),
    "rounding_floor": lambda module: numbers.plain(module.rounding_floor),
}


def _module_table(subject: str, report: WeightReport) -> ModuleTable:
    modules = shown_modules(report)
    printed = [[show(module) for show in _FACTS.values()] for module in modules]
    kept = [at for at in range(len(_FACTS)) if any(values[at] != numbers.ABSENT for values in printed)]
    columns = ("name", *(name for at, name in enumerate(_FACTS) if at in kept))
    rows = tuple(
        PrintedRow(module.name, tuple(values[at] for at in kept), tuple(module.notes))
        for module, values in zip(modules, printed, strict=True)
    )
    return ModuleTable(subject, columns, rows, tuple(report.notes))


# All modules


def _totals(comparison: Comparison, words: Texts) -> TotalsTable | None:
    names = dict.fromkeys(name for report in comparison.weights.values() for name in report.totals)
    wanted = sorted(names, key=_place_in_totals)  # what the order does not name stays last, as it came
    rows = tuple(
        PrintedRow(
            _total_label(name, words),
            tuple(_total(name, report.totals.get(name)) for report in comparison.weights.values()),
            hint=metric_meaning(name, words),
        )
        for name in wanted
    )
    return TotalsTable(tuple(comparison.weights), rows) if rows else None


def _place_in_totals(name: str) -> int:
    """Totals at a further threshold (``intruder_count@0.3``) stand with the one that they repeat."""
    quantity = name.partition("@")[0]
    return _TOTALS.index(quantity) if quantity in _TOTALS else len(_TOTALS)


def _total_label(name: str, words: Texts) -> str:
    quantity, at, epsilon = name.partition("@")
    if at and f"total.{quantity}@" in words.by_key:
        return words(f"total.{quantity}@", epsilon=epsilon)
    return words.known(f"total.{name}", name)


def _total(name: str, value: float | None) -> str:
    if name in _SHARES:
        return numbers.percent(value)
    return numbers.plain(value, 1) if name in _REALS else numbers.count(value)


# Pairs of subjects


def pair_rows(comparison: Comparison) -> list[PairRow]:
    """Return the pairs as a table where they are too many for charts: φ at 1, 2, 4 and 8 directions, most alike first.

    Alike is judged at eight; pairs whose curve ends before that come last.
    """
    pairs = similarity_pairs(comparison)
    if len(pairs) <= PAIR_LIMIT:
        return []
    return [_pair_row(comparison, series) for series in sorted(pairs, key=_dissimilarity)]


_Values = tuple[float, float | None, float | None]


def _dissimilarity(series: Series) -> tuple[bool, float]:
    """Sort by φ at the last number of directions of the table; pairs that end before it come last."""
    last = _at(series, _COMPARED_DIMENSIONS[-1])
    return (last is None, -last[0] if last else 0.0)


def _pair_row(comparison: Comparison, series: Series) -> PairRow:
    level = random_level(comparison, series)
    random = [found[0] for i in _COMPARED_DIMENSIONS if (found := _at(level, i) if level else None)]
    ends = dict.fromkeys(numbers.plain(value) for value in random[:1] + random[-1:])
    values = tuple(_similarity(_at(series, i)) for i in _COMPARED_DIMENSIONS)
    return PairRow(series.subject, other_of(series), values, "–".join(ends) or numbers.ABSENT)


def _similarity(values: _Values | None) -> tuple[str, str]:
    if values is None:
        return numbers.ABSENT, ""
    value, low, high = values
    bounds = f"{numbers.plain(low, 2)}–{numbers.plain(high, 2)}" if low is not None and high is not None else ""
    return numbers.plain(value, 2), bounds


def _at(series: Series, x: float) -> _Values | None:
    """The value at x with its bounds; None where the curve does not reach it."""
    if x not in series.x:
        return None
    place = series.x.index(x)
    y = series.y[place]
    bounds = (series.low[place] if series.low else None, series.high[place] if series.high else None)
    return None if y is None else (y, *bounds)
