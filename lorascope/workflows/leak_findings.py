"""Findings about leaked evaluation items, and about gains that rest on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorascope.data.tasks import LoadedTask
from lorascope.measures.overlap import MOST_COMPARED, OVERLAP_KINDS, Overlap
from lorascope.measures.statistics import PairedResult
from lorascope.schema.comparison import Finding
from lorascope.schema.model import Direction

_NOTABLE = 0.01
_PART_OF_GAIN = 0.1
_SOURCE = "Brown et al. 2020, appendix C (13-grams); Chowdhery et al. 2022, section 8 (8-grams)"
_KINDS = {
    "exact": ("exact copy", "exact copies"),
    "near_duplicate": ("near-duplicate", "near-duplicates"),
    "13-gram": ("with a shared 13-gram", "with a shared 13-gram"),
    "8-gram": ("with most 8-grams shared", "with most 8-grams shared"),
}


@dataclass(frozen=True)
class Groups:
    """Evaluation groups that stand in the training file too, and all evaluation groups."""

    shared: int
    all: int


@dataclass(frozen=True)
class Gain:
    """Subject minus reference of one metric on all and on the ``clean_items`` clean items, in the metric's own sign.

    ``difference`` is the first minus the second with its interval, ``margin`` what counts as no difference.
    """

    subject: str
    reference: str
    metric: str
    direction: Direction
    margin: float | None
    on_all: float
    on_clean: float
    clean_items: int
    difference: PairedResult

    @property
    def rests_on_leaks(self) -> float | None:
        """Share of the gain that the leaked items make, where the interval of the difference excludes 0; else None."""
        low, high = self.difference.low, self.difference.high
        sign = -1.0 if self.direction == "lower" else 1.0
        if self.direction == "none" or sign * self.on_all <= 0 or low is None or high is None:
            return None
        return (self.on_all - self.on_clean) / self.on_all if min(sign * low, sign * high) > 0 else None

    @property
    def holds_without(self) -> bool:
        """Whether the whole interval of the difference lies within the margin."""
        low, high = self.difference.low, self.difference.high
        known = self.margin is not None and low is not None and high is not None
        return known and max(abs(low or 0.0), abs(high or 0.0)) < (self.margin or 0.0)


def find_leaks(
    task: LoadedTask, flags: Sequence[Overlap], groups: Groups | None, gains: Sequence[Gain]
) -> list[Finding]:
    """One finding about the data, and one for each subject whose gain was measured with and without leaked items."""
    return [_of_the_data(task, flags, groups), *_of_gains(task.spec.name, gains)]


def _of_the_data(task: LoadedTask, flags: Sequence[Overlap], groups: Groups | None) -> Finding:
    name, items, leaked = task.spec.name, len(flags), sum(flag.leaked for flag in flags)
    kinds = Counter(kind for flag in flags for kind in flag.kinds)
    evidence = [f"{leaked} of {items} items overlap with {len(task.train_items)} training items"]
    if leaked:
        evidence.append(
            ", ".join(f"{kinds[kind]} {_KINDS[kind][kinds[kind] != 1]}" for kind in OVERLAP_KINDS if kinds[kind])
        )
        evidence.append(_example(task, flags))
    if groups is not None:
        evidence.append(f"{groups.shared} of {groups.all} groups ({groups.shared / groups.all:.0%}) stand in both")
    capped = sum(flag.uncompared > 0 and not flag.leaked for flag in flags)
    if capped:
        evidence.append(
            f"{capped} of {items} items resemble more than {MOST_COMPARED} training texts each; the {MOST_COMPARED} "
            "most similar by estimate were compared, and no near-duplicate is among them"
        )
    notable = leaked >= _NOTABLE * items
    return Finding(
        id=f"leak:{name}",
        severity="good" if not leaked else "warning" if notable else "info",
        area="leak",
        title=f"{leaked / items:.1%} of the items of {name} stand in the training data too"
        if leaked
        else f"No item of {name} was found in the training data",
        evidence=evidence,
        advice=_advice(items - leaked) if leaked and notable else None,
        reference=_SOURCE if leaked else None,
    )


def _advice(clean: int) -> str:
    if clean:
        return "Quote the metrics on clean items, and split by source and not by item."
    return "Evaluate on other items: none is clean. Split by source and not by item."


def _example(task: LoadedTask, flags: Sequence[Overlap]) -> str:
    places = ((item.item_id, flag.nearest) for item, flag in zip(task.items, flags, strict=True) if flag.leaked)
    item_id, nearest = next(place for place in places if place[1] is not None)  # every overlap is with some text
    return f"for example item {item_id} and training record {(nearest or 0) + 1}"


def _of_gains(task: str, gains: Sequence[Gain]) -> Iterator[Finding]:
    for gain in gains:
        share = gain.rests_on_leaks
        notable = share is not None and share >= _PART_OF_GAIN
        yield Finding(
            id=f"leaked_gain:{task}:{gain.subject}:{gain.reference}",
            severity="warning" if notable else "info",
            area="leak",
            subject=gain.subject,
            title=_gain_title(task, gain, share),
            evidence=[_numbers(gain)],
            advice="Quote the gain on the clean items." if notable else None,
        )


def _gain_title(task: str, gain: Gain, share: float | None) -> str:
    change = f"{gain.subject} against {gain.reference} on {task}"
    if share is not None:
        return f"{_fraction(share)} of the gain of {change} rests on leaked items"
    if gain.holds_without:
        return f"The change of {change} is the same without the leaked items, within ±{gain.margin:g}"
    return f"What the leaked items add to the change of {change} cannot be told from {gain.difference.n} items"


def _numbers(gain: Gain) -> str:
    low, high = gain.difference.low, gain.difference.high
    interval = " (no interval)" if low is None or high is None else f" [{low:+.3g}, {high:+.3g}]"
    return (
        f"{gain.metric} changed by {gain.on_all:+.3g} on all {gain.difference.n} items and by {gain.on_clean:+.3g} on "
        f"the {gain.clean_items} clean ones: a difference of {gain.on_all - gain.on_clean:+.3g}{interval}"
    )


def _fraction(share: float) -> str:
    """A share in words where there is a usual one close by, else in per cent."""
    if share >= 0.95:
        return "All"
    named = {1 / 4: "A quarter", 1 / 3: "A third", 1 / 2: "Half", 2 / 3: "Two thirds", 3 / 4: "Three quarters"}
    return next((word for value, word in named.items() if abs(share - value) <= 0.03), f"{share:.0%}")
