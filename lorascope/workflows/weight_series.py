"""Curves over all modules: intruders by ε and by k, their growth along a run, directions that subjects share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lorascope.schema.comparison import IntruderReport, Series, WeightReport
from lorascope.weights.subspaces import random_similarity
from lorascope.workflows.weight_modules import ModuleOutcome

_EPSILONS = [round(0.05 * step, 2) for step in range(1, 20)]
_Reports = Mapping[str, WeightReport]


def weight_series(
    base: str,
    reports: _Reports,
    outcomes: Sequence[ModuleOutcome],
    runs: Mapping[str, Mapping[str, int]],
    sequence: Sequence[str],
) -> list[Series]:
    """All curves. ``runs`` gives each run's subjects with their steps, ``sequence`` subjects that follow each other."""
    found = [_base_spectrum(base, outcome) for outcome in outcomes if outcome.base_values]
    for subject, report in reports.items():
        found += _sweeps(subject, report)
        found += _null_curve(subject, outcomes)
    for run, steps in runs.items():
        found += _growth(run, "growth", "step", steps, reports, _born(f"run:{run}", outcomes))
    if sequence:
        stages = {subject: stage for stage, subject in enumerate(sequence, 1)}
        found += _growth(sequence[-1], "sequence", "stage", stages, reports, _born("sequence", outcomes))
    return [*found, *_similarity(outcomes)]


def _base_spectrum(base: str, outcome: ModuleOutcome) -> Series:
    ranks = [float(rank) for rank in range(1, len(outcome.base_values) + 1)]
    return Series(subject=base, name=f"spectrum:{outcome.module}", x_name="index", x=ranks, y=list(outcome.base_values))


def _sweeps(subject: str, report: WeightReport) -> Iterator[Series]:
    left = [module.intruders for module in report.modules if module.intruders is not None]
    right = [side.right for side in left if side.right is not None]
    for name, sides in (("epsilon_curve", left), ("epsilon_curve:right", right)):
        if sides:
            yield _by_epsilon(subject, name, sides)
    if left:
        yield _by_k(subject, left)


def _by_epsilon(subject: str, name: str, sides: Sequence[IntruderReport]) -> Series:
    """At each ε the certain intruders (high < ε), and with them those that the intervals leave open (low < ε)."""
    lows = np.array([vector.low for side in sides for vector in side.vectors])
    highs = np.array([vector.high for side in sides for vector in side.vectors])
    certain = [float((highs < epsilon).sum()) for epsilon in _EPSILONS]
    possible = [float((lows < epsilon).sum()) for epsilon in _EPSILONS]
    return Series(
        subject=subject, name=name, x_name="epsilon", x=_EPSILONS, y=[*certain], low=[*certain], high=[*possible]
    )


def _by_k(subject: str, sides: Sequence[IntruderReport]) -> Series:
    ks = range(1, max(side.k for side in sides) + 1)
    kept = [[vector for side in sides for vector in side.vectors if vector.index < k] for k in ks]
    certain = [float(sum(vector.verdict == "intruder" for vector in first)) for first in kept]
    possible = [float(sum(vector.verdict != "kept" for vector in first)) for first in kept]
    return Series(
        subject=subject,
        name="k_curve",
        x_name="k",
        x=[float(k) for k in ks],
        y=[*certain],
        low=[*certain],
        high=[*possible],
    )


def _null_curve(subject: str, outcomes: Sequence[ModuleOutcome]) -> Iterator[Series]:
    highs = np.array([high for outcome in outcomes for high in outcome.null_highs.get(subject, [])])
    if len(highs):
        counts = [float((highs < epsilon).sum()) for epsilon in _EPSILONS]
        yield Series(subject=subject, name="null_epsilon_curve", x_name="epsilon", x=_EPSILONS, y=[*counts])


def _growth(
    run: str,
    name: str,
    x_name: str,
    places: Mapping[str, int],
    reports: _Reports,
    births: Mapping[str, int],
) -> Iterator[Series]:
    """Totals along the checkpoints of a run or the stages of a sequence, and the births of intruders at each."""
    subjects = sorted(places, key=lambda subject: places[subject])
    x = [float(places[subject]) for subject in subjects]

    def total(key: str) -> Callable[[str], float | None]:
        return lambda subject: reports[subject].totals.get(key)

    curves: dict[str, Callable[[str], float | None]] = {
        name: total("intruder_count"),
        f"{name}:births": lambda subject: float(births.get(subject, 0)),
        f"{name}:energy": total("intruder_energy"),
        f"{name}:relative_change": total("relative_change"),
    }
    for label, value in curves.items():
        yield Series(subject=run, name=label, x_name=x_name, x=x, y=[value(subject) for subject in subjects])


def _born(chain: str, outcomes: Sequence[ModuleOutcome]) -> dict[str, int]:
    """Births of each subject of a chain over all modules."""
    total: dict[str, int] = {}
    for outcome in outcomes:
        for subject, born in outcome.births.get(chain, {}).items():
            total[subject] = total.get(subject, 0) + born
    return total


def _similarity(outcomes: Sequence[ModuleOutcome]) -> Iterator[Series]:
    """Mean φ(i, i) over the modules that both subjects change, with its 10th and 90th percentile."""
    pairs: dict[tuple[str, str], list[tuple[int, list[float]]]] = {}
    for outcome in outcomes:
        for first, second, curve in outcome.similarity:
            rows = outcome.reports[first].shape[0]
            pairs.setdefault((first, second), []).append((rows, curve))
    for (first, second), curves in pairs.items():
        longest = max(len(curve) for _, curve in curves)
        columns = [[curve[i] for _, curve in curves if len(curve) > i] for i in range(longest)]
        levels = [
            [random_similarity(i + 1, i + 1, rows) for rows, curve in curves if len(curve) > i] for i in range(longest)
        ]
        x = [float(i + 1) for i in range(longest)]
        yield Series(
            subject=first,
            name=f"subspace_similarity:{second}",
            x_name="dimensions",
            x=x,
            y=[float(np.mean(column)) for column in columns],
            low=[float(np.quantile(column, 0.1)) for column in columns],
            high=[float(np.quantile(column, 0.9)) for column in columns],
        )
        random = [float(np.mean(level)) for level in levels]
        yield Series(subject=first, name=f"subspace_random:{second}", x_name="dimensions", x=x, y=[*random])
