"""What thresholds tuned for each label are worth beside 0.5, in numbers and as advice by those numbers."""

from __future__ import annotations

from lorascope.measures.core import BoolArray
from lorascope.measures.label_diagnosis import DecisionScores, decision_scores

_SAME_SCORE = 0.005


def weigh_thresholds(
    usual: BoolArray, tuned: BoolArray, truth: BoolArray, *, too_few: bool, tuned_on: bool
) -> tuple[list[str], str]:
    """Evidence and advice from decisions at 0.5 and at tuned thresholds, and the true labels, each (n, L).

    ``too_few``: 0.5 gives fewer labels than are true; ``tuned_on``: the thresholds were tuned on the task's own tuning
    items and can be kept. Scores that move by no more than 0.005 count as the same.
    """
    given = "the thresholds tuned on tune_on" if tuned_on else "thresholds tuned on validation items (tune_on)"
    before, after = decision_scores(usual, truth), decision_scores(tuned, truth)
    error, tuned_error = (float(sets.sum(axis=1).mean() - truth.sum(axis=1).mean()) for sets in (usual, tuned))
    evidence = [f"at tuned thresholds: cardinality_error {tuned_error:+.2f}; {_changes(before, after)}"]
    gained, lost = _moved(before, after, 1), _moved(before, after, -1)
    closer, way = abs(tuned_error) < abs(error), "lower" if too_few else "higher"
    if gained and not lost and closer:
        return evidence, f"Use {given} in place of 0.5, and keep them with the model."
    if not gained:
        return evidence, (
            f"Thresholds tuned for each label do not help here. Try one {way} threshold for all labels, and train "
            "longer or on more items."
        )
    costs = [f"{name} falls" for name in lost] + ([] if closer else ["the number of labels is no nearer to the truth"])
    return evidence, (
        f"Thresholds tuned for each label are a trade here: {', '.join(f'{name} rises' for name in gained)}, but "
        f"{', '.join(costs)}. Where whole sets count, keep 0.5 or try one {way} threshold for all labels; where rare "
        f"labels count, use {given}."
    )


def _named(scores: DecisionScores) -> dict[str, float | None]:
    return {"micro F1": scores.micro, "macro F1": scores.macro, "subset accuracy": scores.whole}


def _changes(before: DecisionScores, after: DecisionScores) -> str:
    both = zip(_named(before).items(), _named(after).values(), strict=True)
    return ", ".join(f"{name} {old:.3f} to {new:.3f}" for (name, old), new in both if None not in (old, new))


def _moved(before: DecisionScores, after: DecisionScores, sign: int) -> list[str]:
    """Scores that rise (1) or fall (-1) by more than what the third digit hides."""
    both = zip(_named(before).items(), _named(after).values(), strict=True)
    return [
        name for (name, old), new in both if old is not None and new is not None and sign * (new - old) > _SAME_SCORE
    ]
