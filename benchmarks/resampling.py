"""Resampling side by side with scipy, in one run on the same work: 10,000 resamples over 10,000 items.

    python benchmarks/resampling.py >> benchmarks/results/resampling.tsv

Prints one row a case: date, case, ours and scipy in seconds (medians of five), their ratio, and the largest difference
between both intervals' ends in standard errors.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.registry import define
from lorascope.measures.statistics import estimate, paired

ITEMS = RESAMPLES = 10_000
ROUNDS = 5


def median_seconds(work: Callable[[], object]) -> float:
    """Median wall time of a few rounds, after one that is not counted."""
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def row(case: str, ours: Callable[[], object], theirs: Callable[[], object], gap: float) -> str:
    """One line of the results."""
    mine, other = median_seconds(ours), median_seconds(theirs)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    cells = (
        datetime.date.today().isoformat(),
        case,
        f"{mine:.3f}",
        f"{other:.3f}",
        f"{other / mine:.2f}",
        f"{gap:.3f}",
    )
    return "\t".join([*cells, machine])


def main() -> None:
    """An estimate and a paired difference of a mean metric."""
    random = np.random.default_rng(0)
    base, adapted = random.beta(2, 3, ITEMS), random.beta(2.1, 3, ITEMS)
    before, after = (
        Scored(define("rougeL", mean_of_items), item_rows(values), "rougeL|benchmark") for values in (base, adapted)
    )

    def scipy_interval(values: np.ndarray) -> tuple[float, float]:
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=1, batch=500, vectorized=True
        )
        return found.confidence_interval.low, found.confidence_interval.high

    print("date\tcase\tours_s\tscipy_s\tratio\tinterval_gap_se\tmachine")
    for case, values, ours in (
        ("estimate of a mean", base, lambda: estimate(before, seed=1, resamples=RESAMPLES)),
        ("paired difference of a mean, with test", adapted - base, lambda: paired(before, after, margin=0.02, seed=1)),
    ):
        mine, other = ours(), scipy_interval(values)
        error = values.std(ddof=1) / np.sqrt(ITEMS)
        gap = max(abs(mine.low - other[0]), abs(mine.high - other[1])) / error
        print(row(case, ours, lambda values=values: scipy_interval(values), gap))


if __name__ == "__main__":
    main()
