"""What a label score hides: sets that do not fit together, too many or too few labels, outputs that hardly vary.

All take decisions or probabilities (n, L) and true labels (n, L) over the fixed label set of
:mod:`lorascope.measures.labels`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from lorascope.measures.core import BoolArray, FloatArray, IntArray, Scored, defined, item_rows, mean_of_items, ratio
from lorascope.measures.label_sums import f1_from_totals, label_counts, macro_f1_from_counts, total_counts
from lorascope.measures.registry import define

MOST_PAIRS = 100
CURVE_POINTS = 24
JUDGED_SUPPORT = 10
# Single precision rounds a sigmoid to 0 or 1 here: what lies beyond is rounding and not certainty.
SMALLEST_PROBABILITY = 2.0**-24
_FOLLOWED = 5
_CLEAR_LEAD = 0.2
_NO_LENGTH = 1e-9


def score_label_sets(
    decided: BoolArray, truth: BoolArray, *, decision: str, known_sets: BoolArray | None = None
) -> dict[str, Scored]:
    """Measures of whole predicted label sets, multi-label.

    ``cooccurrence_gap`` (0–1, lower is better): Bray-Curtis dissimilarity (Bray and Curtis 1957) between how often
    pairs of labels are predicted together and how often they truly stand together, Σ|p − t| / Σ(p + t). 0: the same
    frequencies; 1: no pair in common. It says nothing about which items carry the pair. The 100 commonest true pairs
    count one by one and all others as one pair, so that what is kept of an item does not grow with the labels; with
    more than 100 pairs it is a lower bound. Undefined where no item has two labels, predicted or true.

    ``cardinality_error`` (labels per item, 0 is best): mean number of predicted minus true labels.

    ``empty_set_rate`` (0–1): share of items with no predicted label.

    ``unseen_set_rate`` (0–1), only with ``known_sets`` (m, L): share of predicted sets that are none of those.
    Items with no predicted label are excluded; undefined where that is all of them.

    ``decision`` names the rule behind ``decided`` in the signatures.
    """
    cardinality = item_rows(decided.sum(axis=1) - truth.sum(axis=1, dtype=np.float64))
    empty = item_rows(~decided.any(axis=1))
    pairs, kept = pair_counts(decided, truth)
    found = {
        "cooccurrence_gap": (define("cooccurrence_gap", _bray_curtis), pairs, f"bray-curtis|pairs:{kept}"),
        "cardinality_error": (define("cardinality_error", mean_of_items), cardinality, "predicted-true"),
        "empty_set_rate": (define("empty_set_rate", mean_of_items, proportion=True), empty, "no label predicted"),
    }
    if known_sets is not None:
        known = frozenset(_rows(known_sets))
        unseen = np.array([row not in known for row in _rows(decided)], dtype=np.bool_)
        rows = item_rows(unseen, decided.any(axis=1))
        measure = define("unseen_set_rate", mean_of_items, proportion=True)
        found["unseen_set_rate"] = (measure, rows, f"known-sets:{len(known)}|without empty sets")
    labels = truth.shape[1]
    return {
        name: Scored(measure, rows, f"{name}|{how}|labels:{labels}|decision:{decision}")
        for name, (measure, rows, how) in found.items()
    }


def _rows(decided: BoolArray) -> list[bytes]:
    packed = np.packbits(decided, axis=1)
    return [row.tobytes() for row in packed]


def unseen_share(sets: BoolArray, known_sets: BoolArray) -> float | None:
    """Share (0–1) of the non-empty sets (n, L) that are none of the known ones; None without a non-empty set."""
    known = frozenset(_rows(known_sets))
    rows = _rows(sets[sets.any(axis=1)])
    return sum(row not in known for row in rows) / len(rows) if rows else None


def pair_counts(decided: BoolArray, truth: BoolArray) -> tuple[FloatArray, str]:
    """(n, 2·(K + 1)): each item's predicted, then true, label pairs; and which pairs the columns are.

    K columns are the commonest true pairs (of equals the first labels), the last one is all the rest.
    """
    chosen = _commonest_pairs(truth)
    blocks = []
    for marked in (decided, truth):
        kept = (marked[:, chosen[:, 0]] & marked[:, chosen[:, 1]]).astype(np.float64)
        labels = marked.sum(axis=1, dtype=np.float64)
        rest = labels * (labels - 1) / 2 - kept.sum(axis=1)
        blocks.append(np.hstack([kept, rest[:, None]]))
    every = truth.shape[1] * (truth.shape[1] - 1) // 2
    return np.hstack(blocks), "all" if every <= MOST_PAIRS else f"{MOST_PAIRS} commonest true, the rest as one"


def _commonest_pairs(truth: BoolArray) -> IntArray:
    """The pairs that items truly carry, counted from the items' own labels; with others, by label, if too few."""
    counts: Counter[tuple[int, int]] = Counter()
    for row in truth:
        counts.update(combinations(np.flatnonzero(row).tolist(), 2))
    chosen = sorted(counts, key=lambda pair: (-counts[pair], pair))[:MOST_PAIRS]
    unused = (pair for pair in combinations(range(truth.shape[1]), 2) if pair not in counts)
    chosen += islice(unused, MOST_PAIRS - len(chosen))
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _together(marked: BoolArray) -> IntArray:
    """(L, L): number of items that carry both labels; exact, for single precision counts up to 2²⁴ items."""
    single = marked.astype(np.float32)
    counts: IntArray = np.rint(single.T @ single).astype(np.int64)
    return counts


def _bray_curtis(sums: FloatArray) -> FloatArray:
    predicted, actual = np.split(sums, 2, axis=-1)
    return ratio(np.abs(predicted - actual).sum(axis=-1), (predicted + actual).sum(axis=-1))


def score_label_outputs(probabilities: FloatArray, truth: BoolArray, *, multi: bool) -> dict[str, Scored]:
    """How much the probabilities say beyond the frequencies of the labels; multi-label and single-label.

    ``frequency_skill`` (at most 1, higher is better): 1 − loss / loss of giving every item the frequencies of the
    labels in these items. The loss is the mean negative log-likelihood: binary cross-entropy over all label decisions
    for multi-label, cross-entropy for single-label (the logarithmic skill score of forecasting, with climatology as
    reference; Benedetti 2010). 0: on the base-rate plateau; below 0: worse than knowing nothing of the item.
    Probabilities under 2⁻²⁴ count as that. Undefined where all items have the same labels.

    ``output_spread`` (0 up): variance over items of the probabilities divided by that of the true labels, both summed
    over labels. 0: the same output for every item; 1: as varied as the truth. Undefined where the truth does not vary.
    """
    said = np.where(truth, probabilities, 1 - probabilities) if multi else (probabilities * truth).sum(axis=1)[:, None]
    losses = -np.log(np.maximum(said, SMALLEST_PROBABILITY)).mean(axis=1)
    ones, marks = np.ones(len(truth)), truth.astype(np.float64)
    skill = define("frequency_skill", _multi_skill if multi else _single_skill)
    spread = define("output_spread", _spread)
    squares = np.stack([ones, (probabilities**2).sum(axis=1), marks.sum(axis=1)], axis=1)
    signature = f"labels:{truth.shape[1]}|{'sigmoid' if multi else 'softmax'}"
    return {
        skill.name: Scored(skill, np.hstack([ones[:, None], losses[:, None], marks]), f"{skill.name}|{signature}"),
        spread.name: Scored(spread, np.hstack([squares, probabilities, marks]), f"{spread.name}|{signature}"),
    }


def _multi_skill(sums: FloatArray) -> FloatArray:
    frequency = ratio(sums[..., 2:], sums[..., :1])
    plateau = (_surprise(frequency) + _surprise(1 - frequency)).mean(axis=-1)
    return 1 - ratio(ratio(sums[..., 1], sums[..., 0]), plateau)


def _single_skill(sums: FloatArray) -> FloatArray:
    plateau = _surprise(ratio(sums[..., 2:], sums[..., :1])).sum(axis=-1)
    return 1 - ratio(ratio(sums[..., 1], sums[..., 0]), plateau)


def _surprise(share: FloatArray) -> FloatArray:
    """−p · log p in nats, 0 at p = 0."""
    return -share * np.log(np.where(share > 0, share, 1.0))


def _spread(sums: FloatArray) -> FloatArray:
    items = sums[..., :1]
    given, marks = np.split(ratio(sums[..., 3:], items), 2, axis=-1)
    squares = ratio(sums[..., 1:3], items)
    # Rounding can leave a constant output with a variance just below 0.
    output = np.maximum(squares[..., 0] - (given**2).sum(axis=-1), 0.0)
    actual = squares[..., 1] - (marks**2).sum(axis=-1)
    return ratio(output, np.where(actual > 1e-12, actual, 0.0))


def ranking_skill(probabilities: FloatArray, truth: BoolArray) -> float | None:
    """How far probabilities (n, L) rank the items that carry a label first: 0 as chance does, 1 perfectly, or below 0.

    Average precision over the items, mean over labels weighted by their items, put on the scale from its expectation
    under a random order (Bestgen 2015) to 1. It does not depend on the probabilities' size, nor on how frequent labels
    are. Excluded: labels that all items or none carry; None where that is all of them.
    """
    from sklearn.metrics import average_precision_score

    items, support = len(truth), truth.sum(axis=0)
    chosen = np.flatnonzero((support > 0) & (support < items))
    if not len(chosen):
        return None
    found = [float(average_precision_score(truth[:, label], probabilities[:, label])) for label in chosen]
    harmonic = float((1 / np.arange(1, items + 1)).sum()) / items
    expected = (support[chosen] - 1) / (items - 1) * (1 - harmonic) + harmonic
    weights = support[chosen]
    return float(((found - expected) * weights).sum() / ((1 - expected) * weights).sum())


@dataclass(frozen=True, slots=True)
class SetVariety:
    """How varied label sets are: distinct ones, the share (0–1) of items with the commonest, its labels."""

    distinct: int
    commonest_share: float
    commonest: tuple[int, ...]


def set_variety(sets: BoolArray) -> SetVariety:
    """The variety of the label sets (n, L), at least one item; empty sets count as sets."""
    rows = _rows(sets)
    counts = Counter(rows)
    key, most = counts.most_common(1)[0]
    labels = np.flatnonzero(sets[rows.index(key)])
    return SetVariety(len(counts), most / len(rows), tuple(int(label) for label in labels))


def plateau_loss(truth: BoolArray) -> float:
    """Mean binary cross-entropy (nats, 0–0.693) of giving every item the label frequencies of these items."""
    frequency = truth.mean(axis=0)
    return float((_surprise(frequency) + _surprise(1 - frequency)).mean())


@dataclass(frozen=True, slots=True)
class DecisionScores:
    """What one rule of decision comes to, each 0–1, higher is better.

    ``macro`` is over labels that truly occur. ``micro`` is None where nothing is given and nothing true, ``macro``
    where no label occurs. ``whole`` is the share of items whose set is exactly right.
    """

    micro: float | None
    macro: float | None
    whole: float


def decision_scores(decided: BoolArray, truth: BoolArray) -> DecisionScores:
    """Micro F1, macro F1 and subset accuracy of decisions (n, L), at least one item."""
    micro = f1_from_totals(total_counts(decided, truth).sum(axis=0))
    macro = macro_f1_from_counts(label_counts(decided, truth).sum(axis=0))
    return DecisionScores(defined(float(micro)), defined(float(macro)), float((decided == truth).all(axis=1).mean()))


@dataclass(frozen=True, slots=True)
class LabelTally:
    """One label (by index): items that truly have it (support), that were given it, and that were given it rightly."""

    label: int
    support: int
    given: int
    right: int

    @property
    def f1(self) -> float:
        """F1 in 0–1; the support is never 0 here."""
        return 2 * self.right / (self.given + self.support)


def worst_labels(decided: BoolArray, truth: BoolArray, most: int) -> list[LabelTally]:
    """At most ``most`` labels with the lowest F1, lowest first, of equal ones the more frequent.

    Only labels of at least 10 items: the F1 of fewer says little. Empty where no label has as many.
    """
    right, given, support = (decided & truth).sum(axis=0), decided.sum(axis=0), truth.sum(axis=0)
    judged = np.flatnonzero(support >= JUDGED_SUPPORT)
    tallies = [LabelTally(int(i), int(support[i]), int(given[i]), int(right[i])) for i in judged]
    return sorted(tallies, key=lambda tally: (tally.f1, -tally.support, tally.label))[:most]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """A label (by index) that another label's output follows better: correlations (−1 to 1) of that and its own."""

    label: int
    output: int
    correlation: float
    own: float


def misplaced_outputs(probabilities: FloatArray, truth: BoolArray) -> list[Misplaced]:
    """Labels with another label's output nearer to them than their own, the clearest first: signs of a wrong order.

    Nearness is the correlation over items of an output and a label (phi with a number on one side). The other output
    has to lead by 0.2 and by four standard errors of a correlation of 0, 4/√n. Excluded: labels on fewer than 5 items
    or on all; constant outputs follow nothing.
    """
    items, support = len(truth), truth.sum(axis=0)
    chosen = np.flatnonzero((support >= _FOLLOWED) & (support < items))
    if not len(chosen):
        return []
    near = _standard(probabilities).T @ _standard(truth[:, chosen].astype(np.float64))
    best, places = near.argmax(axis=0), np.arange(len(chosen))
    lead = near[best, places] - near[chosen, places]
    ranked = [int(i) for i in np.argsort(-lead, kind="stable") if lead[i] > max(_CLEAR_LEAD, 4 / items**0.5)]
    return [Misplaced(int(chosen[i]), int(best[i]), float(near[best[i], i]), float(near[chosen[i], i])) for i in ranked]


def _standard(columns: FloatArray) -> FloatArray:
    """Columns of mean 0 and length 1, so that their products are correlations; constant ones are 0."""
    centred: FloatArray = columns - columns.mean(axis=0)
    lengths = np.sqrt((centred**2).sum(axis=0))
    scaled: FloatArray = np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > _NO_LENGTH)
    return scaled


@dataclass(frozen=True, slots=True)
class PairGap:
    """Two labels (by index) and the shares (0–1) of items that have both, predicted and true."""

    labels: tuple[int, int]
    predicted: float
    actual: float


def largest_pair_gaps(decided: BoolArray, truth: BoolArray, most: int) -> list[PairGap]:
    """The label pairs whose predicted and true frequencies differ most, largest first, over all pairs."""
    predicted, actual = _together(decided), _together(truth)
    first, second = np.triu_indices(len(actual), k=1)
    gaps = np.abs(predicted - actual)[first, second]
    ranked = [place for place in np.argsort(-gaps, kind="stable")[:most] if gaps[place]]
    pairs = [(int(first[place]), int(second[place])) for place in ranked]
    return [PairGap(pair, float(predicted[pair] / len(truth)), float(actual[pair] / len(truth))) for pair in pairs]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Items of class ``actual`` that were taken for ``predicted`` (indices), and their share (0–1) of the class."""

    actual: int
    predicted: int
    items: int
    share: float


def largest_confusions(decided: BoolArray, truth: BoolArray, most: int) -> list[Confusion]:
    """The most frequent mistakes of a single-label task, most items first; both arguments have one label an item."""
    table = np.zeros((truth.shape[1], truth.shape[1]), dtype=np.int64)
    np.add.at(table, (truth.argmax(axis=1), decided.argmax(axis=1)), 1)
    sizes = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    ranked = np.argsort(-table, axis=None, kind="stable")[:most]
    places = [(int(place) // len(table), int(place) % len(table)) for place in ranked]
    return [
        Confusion(actual, predicted, int(table[actual, predicted]), float(table[actual, predicted] / sizes[actual]))
        for actual, predicted in places
        if table[actual, predicted]
    ]


def precision_recall_points(probability: FloatArray, truth: BoolArray, most: int = CURVE_POINTS) -> FloatArray:
    """(k, 2): recall and precision (0–1) of one label at up to ``most`` thresholds, recall rising.

    Real operating points, no interpolation: for each of ``most`` equal steps of recall the first threshold that
    reaches it. Empty where no item has the label.
    """
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return np.empty((0, 2))
    precision, recall, _ = precision_recall_curve(truth, probability)
    rising = np.stack([recall, precision], axis=1)[:-1][::-1]  # without the point (0, 1), which no threshold gives
    steps = np.linspace(0, 1, most + 1)[1:]
    places = np.unique(np.searchsorted(rising[:, 0], steps - 1e-12))
    points: FloatArray = rising[places]
    return points


def shown_labels(truth: BoolArray, most: int, chosen: Sequence[int] = ()) -> IntArray:
    """At most ``most`` labels that truly occur, from the most to the least frequent.

    ``chosen`` labels are among them; the others are evenly spaced by frequency.
    """
    support = truth.sum(axis=0)
    ranked: IntArray = np.argsort(-support, kind="stable")
    ranked = ranked[support[ranked] > 0]
    named = np.isin(ranked, chosen)
    free = np.flatnonzero(~named)
    count = min(max(most - int(named.sum()), 0), len(free))
    spaced = free[np.unique(np.linspace(0, len(free) - 1, count).round().astype(np.int64))]
    shown: IntArray = ranked[np.sort(np.concatenate([np.flatnonzero(named)[:most], spaced]))]
    return shown
