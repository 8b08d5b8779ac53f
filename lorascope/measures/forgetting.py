"""What the base could do and the adapted checkpoint no longer can: retention above chance, and both kinds of flip.

Equal accuracy hides changes in both directions (Dutta et al., arXiv 2407.09141), and accuracy below the level of
guessing cannot be lost; so flips are counted both ways and retention is measured above chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lorascope.errors import DataError
from lorascope.measures.core import FloatArray, Scored, ratio, same_length
from lorascope.measures.intervals import wilson
from lorascope.measures.label_sums import precision_from_totals
from lorascope.measures.registry import define

Flip = Literal["fixed", "broken", "both_right", "both_wrong"]
_FLIPS: dict[tuple[bool, bool], Flip] = {
    (False, True): "fixed", (True, False): "broken", (True, True): "both_right", (False, False): "both_wrong",
}  # fmt: skip


def score_forgetting(
    base_right: Sequence[bool], adapted_right: Sequence[bool], *, chance: float | Sequence[float]
) -> dict[str, Scored]:
    """Forgetting of one adapted checkpoint; both sides are in the statistics, so ``estimate`` gives paired intervals.

    - ``retained_fraction`` = (adapted accuracy − chance) / (base accuracy − chance); 1: nothing lost, 0: down to
      guessing, above 1: gained. Left out of the result unless :func:`above_chance` holds for the base.
    - ``forgotten_rate`` (0–1, lower is better): wrong now, among what the base had right; undefined if that is nothing.
    - ``gained_rate`` (0–1, higher is better): right now, among what the base had wrong; undefined if that is nothing.

    ``chance`` is the accuracy of guessing: 1 divided by the number of choices, 0 for free answers.
    """
    same_length(base_right=base_right, adapted_right=adapted_right)
    base, adapted = _flags(base_right), _flags(adapted_right)
    levels = _levels(chance, len(base))
    forgotten = np.stack([base * (1 - adapted), base], axis=1)
    gained = np.stack([(1 - base) * adapted, 1 - base], axis=1)
    rate = precision_from_totals
    scored = {
        "forgotten_rate": Scored(define("forgotten_rate", rate, proportion=True), forgotten, "forgotten_rate"),
        "gained_rate": Scored(define("gained_rate", rate, proportion=True), gained, "gained_rate"),
    }
    if above_chance(base_right, chance=chance):
        retained = np.stack([adapted - levels, base - levels], axis=1)
        signature = f"retained_fraction|chance:{levels.mean():.6g}"
        scored["retained_fraction"] = Scored(define("retained_fraction", _retained_from_sums), retained, signature)
    return scored


def _retained_from_sums(sums: FloatArray) -> FloatArray:
    """NaN where the base is not above chance: dividing by a difference at or below 0 would invent a number."""
    return np.where(sums[..., 1] > 0, ratio(sums[..., 0], sums[..., 1]), np.nan)


def _flags(values: Sequence[bool]) -> FloatArray:
    flags = np.asarray(values)
    if not np.isin(flags, (0, 1)).all():
        raise DataError("right and wrong must be given as true and false", remedy="give one truth value per item")
    return flags.astype(np.float64)


def _levels(chance: float | Sequence[float] | FloatArray, items: int) -> FloatArray:
    levels = np.broadcast_to(np.asarray(chance, dtype=np.float64), (items,))
    if not ((levels >= 0) & (levels < 1)).all():
        raise DataError("chance levels must lie in 0–1, below 1", remedy="give 1 divided by the number of choices")
    return levels


def above_chance(right: Sequence[bool], *, chance: float | Sequence[float]) -> bool:
    """Whether the one-sided 95 % lower bound (Wilson) of the accuracy lies above the mean chance level."""
    flags = _flags(right)
    low, _ = wilson(float(flags.sum()), float(len(flags)), confidence=0.90)
    return bool(low > _levels(chance, len(flags)).mean())


def flips(base_right: Sequence[bool], adapted_right: Sequence[bool]) -> list[Flip]:
    """Per item: ``fixed`` (wrong → right), ``broken`` (right → wrong), ``both_right`` or ``both_wrong``."""
    same_length(base_right=base_right, adapted_right=adapted_right)
    return [_FLIPS[bool(before), bool(after)] for before, after in zip(base_right, adapted_right, strict=True)]
