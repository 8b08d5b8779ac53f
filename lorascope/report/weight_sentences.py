"""What is said of a subject's weights: how far they moved, and intruders beside what a random update has."""

from __future__ import annotations

from collections.abc import Iterator

from lorascope.report import numbers
from lorascope.report.lookup import reason_of_gap, single, value_of
from lorascope.report.texts import Texts
from lorascope.report.verdicts import SYMBOLS, Clause, Sentence, neutral
from lorascope.schema.comparison import Comparison, WeightReport

_AT = "intruder_count@"


def weight_sentences(comparison: Comparison, subject: str, words: Texts) -> list[Sentence]:
    """Return what the subject's weights say, or that they were not analysed and why."""
    report = comparison.weights.get(subject)
    totals = _totals(comparison, subject)
    parts = [*_moved(totals, words), *_intruders(totals, report, words), *_other_thresholds(report, words)]
    if not parts and comparison.repair is not None:
        # A scan judges weights for its own sake and does not report them.
        return []
    if not parts:
        parts = [words("unmeasured.weights"), reason_of_gap(comparison, subject, ("weights",), words)]
    return [neutral("weights", " ".join(part for part in parts if part))]


def weight_clauses(comparison: Comparison, subject: str, words: Texts) -> tuple[Clause, ...]:
    """Return the headline of a subject of whom only the weights are known; empty where they are not."""
    totals = _totals(comparison, subject)
    texts = []
    if totals["relative_change"] is not None:
        texts.append(words("clause.weights.moved", share=numbers.percent(totals["relative_change"])))
    count, level = totals["intruder_count"], totals["null_intruder_count"]
    if count is not None:
        form = "alone" if level is None or (count == 0 and level == 0) else "above" if count > level else "ordinary"
        texts.append(words.several(f"clause.weights.{form}", int(count), random=numbers.count(level)))
    return tuple(Clause("absolute", SYMBOLS["absolute"], text) for text in texts)


def thresholds(totals: dict[str, float | None]) -> Iterator[tuple[str, float | None]]:
    """Yield the further thresholds ε at which intruders were counted, as printed, each with its count."""
    for name, count in totals.items():
        if name.startswith(_AT):
            yield name.removeprefix(_AT), count


def _totals(comparison: Comparison, subject: str) -> dict[str, float | None]:
    report = comparison.weights.get(subject)
    names = ("relative_change", "intruder_count", "intruder_energy")
    measured = {name: value_of(single(comparison, subject, "weights", name)) for name in names}
    reported = report.totals if report is not None else {}
    known = {name: reported.get(name) if value is None else value for name, value in measured.items()}
    return {**known, "null_intruder_count": reported.get("null_intruder_count")}


def _moved(totals: dict[str, float | None], words: Texts) -> list[str]:
    share = totals["relative_change"]
    return [] if share is None else [words("said.relative_change", share=numbers.percent(share))]


def _intruders(totals: dict[str, float | None], report: WeightReport | None, words: Texts) -> list[str]:
    """The count beside the level of a random update, which keeps it from being read as more than it is."""
    count, level, energy = (totals[name] for name in ("intruder_count", "null_intruder_count", "intruder_energy"))
    if count is None:
        return []
    judged = sum(module.intruders is not None for module in report.modules) if report else 0
    modules = numbers.count(judged)
    if count == 0:
        return [words("said.no_intruders", modules=modules)]
    form = "" if level is None else "_above" if count > level else "_ordinary"
    parts = [words.several(f"said.intruders{form}", int(count), modules=modules, random=numbers.count(level))]
    if energy is not None:
        parts.append(words("said.intruder_energy", share=numbers.percent(energy)))
    rotations = report.totals.get("intruder_rotations") if report else None
    if rotations:
        parts.append(words.several("said.rotations", int(rotations)))
    return parts


def _other_thresholds(report: WeightReport | None, words: Texts) -> list[str]:
    counts = [
        words("said.at_threshold", epsilon=epsilon, count=numbers.count(count))
        for epsilon, count in (thresholds(report.totals) if report else ())
    ]
    return [words("said.other_thresholds", counts=words.joined(counts))] if counts else []
