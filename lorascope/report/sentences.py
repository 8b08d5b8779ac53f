"""The verdict in words: what each subject gained, what it lost, how it trained, what happened to its weights.

The sentences only restate measurements. An inconclusive verdict is always said as undecided, with the number of items
that would decide it; "kept" is said of an equivalent verdict alone, and what was not measured is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorascope.report import numbers
from lorascope.report.lookup import asks_tasks, measurements, primary, reason_of_gap, tasks_of_role, value_of
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.report.verdicts import SYMBOLS, TONES, Clause, Sentence, State, SubjectVerdict, Tone, Topic, neutral
from lorascope.report.weight_sentences import weight_clauses, weight_sentences
from lorascope.schema.comparison import Comparison, Measurement, Role, TaskInfo
from lorascope.schema.values import Delta, Estimate

_ROLES: tuple[Role, Role] = ("target", "retention")
_SPELT_OUT = 3
_UNIFORM_BYTE = 8.0


@dataclass(frozen=True, slots=True)
class _Reading:
    """A task (or one set of it) and its leading measurement; ``guessed`` where that shows no ability of the base."""

    label: str
    found: Measurement
    guessed: bool = False

    @property
    def verdict(self) -> State:
        if self.found.delta is not None:
            if self.guessed and self.found.delta.verdict != "regressed":
                return "guessing"
            return self.found.delta.verdict or "inconclusive"
        return "absolute" if self.found.adapted is not None else "unmeasured"


def subject_verdicts(comparison: Comparison, language: Language = "en") -> list[SubjectVerdict]:
    """Return the verdict of every subject against the base, in the order of the command line."""
    words = load_texts(language)
    return [_subject_verdict(comparison, checkpoint.name, words) for checkpoint in comparison.subjects]


def _subject_verdict(comparison: Comparison, subject: str, words: Texts) -> SubjectVerdict:
    target, retention = (_readings(comparison, subject, role) for role in _ROLES)
    lacking = {role: _lacking(comparison, subject, role) for role in _ROLES}
    margins = [found for found in _gold_margins(comparison, subject) if found.delta is not None]
    kept = _retention_state(retention, lacking["retention"], margins)
    asked = asks_tasks(comparison)
    behaviour = [
        *(_role_sentences(comparison, subject, "target", target, words) if asked else ()),
        *(_role_sentences(comparison, subject, "retention", retention, words) if asked else ()),
        *_forgetting_sentences(comparison, subject, margins, words),
    ]
    training = _training_sentences(comparison, subject, words)
    weights = weight_sentences(comparison, subject, words)
    return SubjectVerdict(
        subject,
        _clause("target", _target_state(target, lacking["target"]), len(lacking["target"]), target, words),
        _clause("retention", kept, 0, retention, words),
        (*behaviour, *training, *weights) if asked else (*weights, *behaviour, *training),
        () if asked else weight_clauses(comparison, subject, words),
        asked,
    )


def _readings(comparison: Comparison, subject: str, role: Role) -> list[_Reading]:
    """One reading per task; where only its sets were measured, one per set."""
    readings: list[_Reading] = []
    for task in tasks_of_role(comparison, role):
        whole = primary(comparison, task, subject, comparison.base.name)
        if whole is not None:
            readings.append(_Reading(task.name, whole, role == "retention" and _guesses(comparison, whole)))
        else:
            readings.extend(_set_readings(comparison, subject, task))
    return readings


def _guesses(comparison: Comparison, found: Measurement) -> bool:
    """Whether a retention task shows no ability of the base that could be kept: not above chance, or noise to it."""
    return _base_guesses(comparison, found) or _worse_than_uniform(found)


def _base_guesses(comparison: Comparison, found: Measurement) -> bool:
    shares = measurements(
        comparison,
        subject=found.subject,
        reference=found.reference,
        task=found.task,
        metric="retained_fraction",
        by=None,
    )
    return bool(shares) and all(share.adapted is None for share in shares)


def _worse_than_uniform(found: Measurement) -> bool:
    """Whether both checkpoints predict a text less well than equal odds for every byte would."""
    values = [estimate.value for estimate in (found.base, found.adapted) if estimate is not None]
    return found.metric == "bits_per_byte" and len(values) == 2 and min(values) > _UNIFORM_BYTE


def _set_readings(comparison: Comparison, subject: str, task: TaskInfo) -> list[_Reading]:
    base = comparison.base.name
    for metric in task.metrics:
        sets = measurements(
            comparison, subject=subject, reference=base, task=task.name, metric=metric, by="split", area="task"
        )
        if sets:
            return [_Reading(f"{task.name} ({found.slice.value})", found) for found in sets if found.slice]
    return []


def _gold_margins(comparison: Comparison, subject: str) -> list[Measurement]:
    retention = {task.name for task in tasks_of_role(comparison, "retention")}
    base = comparison.base.name
    found = measurements(comparison, subject=subject, reference=base, metric="gold_margin", by=None)
    return [each for each in found if each.task in retention]


def _lacking(comparison: Comparison, subject: str, role: Role) -> list[str]:
    """Names of the tasks of which nothing with a better or worse was measured."""
    base = comparison.base.name
    return [
        task.name
        for task in tasks_of_role(comparison, role)
        if primary(comparison, task, subject, base) is None and not _set_readings(comparison, subject, task)
    ]


def _target_state(readings: Sequence[_Reading], lacking: Sequence[str]) -> State:
    verdicts = {reading.verdict for reading in readings}
    if {"improved", "regressed"} <= verdicts:
        return "mixed"
    order: tuple[State, ...] = ("regressed", "improved", "inconclusive", "equivalent", "absolute")
    state: State = next((each for each in order if each in verdicts), "unmeasured")
    return "inconclusive" if state == "equivalent" and not _complete(verdicts, lacking) else state


def _retention_state(readings: Sequence[_Reading], lacking: Sequence[str], margins: Sequence[Measurement]) -> State:
    """One lost task is a loss; ability is kept only if every task was measured and every one is kept.

    Tasks that show no ability of the base count for neither; where there are no others, nothing is known.
    """
    verdicts = {reading.verdict for reading in readings} - {"guessing"}
    weaker = any(found.delta is not None and found.delta.verdict == "regressed" for found in margins)
    order: tuple[State, ...] = ("regressed", "inconclusive", "improved", "equivalent", "absolute")
    none: State = "guessing" if readings and not verdicts else "unmeasured"
    state: State = next((each for each in order if each in verdicts), none)
    if state in ("improved", "equivalent") and not _complete(verdicts, lacking):
        state = "inconclusive"
    return "weakened" if weaker and state in ("inconclusive", "equivalent", "improved") else state


def _complete(verdicts: set[State], lacking: Sequence[str]) -> bool:
    return not lacking and not verdicts & {"absolute", "unmeasured"}


def _clause(role: Role, state: State, lacking: int, readings: Sequence[_Reading], words: Texts) -> Clause:
    alike, count = sum(reading.verdict == state for reading in readings), len(readings) + lacking
    key = f"clause.{role}.{state}"
    counted = role == "target" and count > 1 and alike and state in ("improved", "regressed")
    guessed = sum(reading.verdict == "guessing" for reading in readings)
    if role == "retention" and guessed and state in ("improved", "equivalent"):
        counted, alike = True, count - guessed
    return Clause(state, SYMBOLS[state], words(f"{key}.some", some=alike, all=count) if counted else words(key))


def _role_sentences(
    comparison: Comparison, subject: str, role: Role, readings: Sequence[_Reading], words: Texts
) -> list[Sentence]:
    lacking = _lacking(comparison, subject, role) if readings else []
    reason = words.ended(words("reason.no_direction"))
    unsaid = [
        Sentence(role, "neutral", SYMBOLS["unmeasured"], words("said.nothing", task=name), reason) for name in lacking
    ]
    if not readings:
        return [neutral(role, _unmeasured(comparison, subject, role, words))]
    if len(readings) > _SPELT_OUT:
        return [*_counted(role, readings, words), *unsaid]
    return [*(_reading_sentence(role, each, words) for each in readings), *unsaid]


def _reading_sentence(role: Role, reading: _Reading, words: Texts) -> Sentence:
    found = reading.found
    if reading.verdict != "guessing" or found.base is None or found.delta is None:
        return measurement_sentence(role, reading.label, found, words)
    key = "said.uniform" if _worse_than_uniform(found) else "said.guessing"
    text = words.ended(_values(found, found.base, found.delta, words))
    return Sentence(role, TONES["guessing"], SYMBOLS["guessing"], words(key, task=reading.label), text)


def _counted(role: Role, readings: Sequence[_Reading], words: Texts) -> list[Sentence]:
    """With many tasks, one sentence per verdict that names them."""
    sentences = []
    for state in ("regressed", "improved", "inconclusive", "equivalent", "guessing", "absolute", "unmeasured"):
        names = [each.label for each in readings if each.verdict == state]
        if names:
            key = "said.counted_guessing" if state == "guessing" else f"counted.{state}"
            lead = words(key, some=len(names), all=len(readings))
            sentences.append(Sentence(role, TONES[state], SYMBOLS[state], lead, words.ended(words.joined(names))))
    return sentences


def _unmeasured(comparison: Comparison, subject: str, role: Role, words: Texts) -> str:
    areas = {"target": ("task",), "retention": ("forgetting",)}[role]
    reason = reason_of_gap(comparison, subject, areas, words)
    return words(f"unmeasured.{role}") + (f" {reason}" if reason else "")


def measurement_sentence(topic: Topic, label: str, found: Measurement, words: Texts) -> Sentence:
    """Say one measurement: its verdict in words, both values, the difference with its interval, and the items."""
    state = _Reading(label, found).verdict
    lead, text = _lead_and_text(label, found, words)
    return Sentence(topic, TONES[state], SYMBOLS[state], lead, text)


def _lead_and_text(label: str, found: Measurement, words: Texts) -> tuple[str, str]:
    if found.adapted is None:
        reason = found.missing_reason or words("reason.unknown")
        return words("said.nothing", task=label), words.ended(reason)
    if found.delta is None or found.base is None:
        return label, words.ended(_alone(found, words))
    state = found.delta.verdict or "inconclusive"
    lead = words(f"said.{state}", task=label, margin=numbers.margin(found.delta.margin))
    text = _values(found, found.base, found.delta, words)
    if state == "inconclusive":
        text = words("said.and_needed", values=text, needed=needed_items(found.delta, words))
    return lead, words.ended(text)


def _alone(found: Measurement, words: Texts) -> str:
    """A value that has no counterpart to be compared with, and the reason."""
    value = numbers.metric_value(found.adapted.value if found.adapted else None, found.unit, found.scale)
    bounds = numbers.interval(found.adapted, found.unit, found.scale)
    reason = found.missing_reason or words("reason.no_pair")
    return words("said.alone", metric=found.metric, adapted=f"{value} {bounds}".strip(), reason=reason)


def _values(found: Measurement, base: Estimate, delta: Delta, words: Texts) -> str:
    return words(
        "said.values",
        metric=found.metric,
        base=numbers.metric_value(base.value, found.unit, found.scale),
        adapted=numbers.metric_value(found.adapted.value if found.adapted else None, found.unit, found.scale),
        delta=numbers.signed(delta.value, found.unit, found.scale),
        interval=numbers.interval(delta, found.unit, found.scale, with_sign=True) or words("said.no_interval"),
        items=words.several("items", delta.n),
    )


def needed_items(delta: Delta, words: Texts) -> str:
    """Say how many items would decide an inconclusive verdict."""
    if delta.needed_n is None:
        return words("needed.unknown")
    return words.several("needed", delta.needed_n)


def _forgetting_sentences(
    comparison: Comparison, subject: str, margins: Sequence[Measurement], words: Texts
) -> list[Sentence]:
    led = {task.name for task in comparison.tasks if task.metrics[:1] == ["gold_margin"]}  # said already
    sentences = [
        measurement_sentence("retention", words("said.gold_margin", task=found.task), found, words)
        for found in margins
        if found.delta is not None and found.task not in led
        if found.delta.verdict == "regressed"
        or (found.delta.verdict == "improved" and not _base_guesses(comparison, found))
    ]
    sentences += [neutral("retention", text) for text in _retention_rates(comparison, subject, words)]
    drift = _drift(comparison, subject, words)
    return [*sentences, neutral("retention", drift)] if drift else sentences


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return numbers.percent(estimate.value)
    return f"{numbers.percent(estimate.value)} [{numbers.percent(estimate.low)}, {numbers.percent(estimate.high)}]"


def _retention_rates(comparison: Comparison, subject: str, words: Texts) -> list[str]:
    """One text per task on the share of ability that is left and the answers that turned, in both directions."""
    by_task: dict[str, list[str]] = {}
    for metric in ("retained_fraction", "forgotten_rate", "gained_rate"):
        base = comparison.base.name
        for found in measurements(
            comparison, subject=subject, reference=base, area="forgetting", metric=metric, by=None
        ):
            if found.adapted is not None:
                text = words(f"said.{metric}", share=_with_interval(found.adapted))
                by_task.setdefault(found.task or "", []).append(text)
    several = len(by_task) > 1
    return [(f"{task}: " if several and task else "") + " ".join(parts) for task, parts in by_task.items()]


def _drift(comparison: Comparison, subject: str, words: Texts) -> str:
    base = comparison.base.name
    layers = measurements(comparison, subject=subject, reference=base, area="drift", metric="cka", by="layer")
    measured = [(found.adapted.value, found.slice.value) for found in layers if found.adapted and found.slice]
    if not measured:
        return ""
    value, layer = min(measured)
    return words("said.drift", value=numbers.plain(value), layer=layer)


def _training_sentences(comparison: Comparison, subject: str, words: Texts) -> list[Sentence]:
    sentences = [*_curve_sentences(comparison, subject, words), *_gap_sentences(comparison, subject, words)]
    if sentences:
        return sentences
    reason = reason_of_gap(comparison, subject, ("curves", "gap"), words)
    text = words("unmeasured.training") + (f" {reason}" if reason else "")
    return [neutral("training", text)]


def _curve_sentences(comparison: Comparison, subject: str, words: Texts) -> list[Sentence]:
    """One sentence per validation set, or one in all where readings are not per set."""
    readings: dict[str, dict[str, float]] = {}
    for found in measurements(comparison, subject=subject, reference=comparison.base.name, area="curves"):
        value = value_of(found)
        if value is not None:
            readings.setdefault(found.slice.value if found.slice else "", {})[found.metric] = value
    sentences = [_curve_sentence(set_name, values, words) for set_name, values in readings.items()]
    return [sentence for sentence in sentences if sentence is not None]


def _curve_sentence(set_name: str, values: dict[str, float], words: Texts) -> Sentence | None:
    best, overfit, gap = (values.get(metric) for metric in ("best_step", "overfit_step", "final_gap"))
    parts = []
    if overfit is not None:
        parts.append(words("said.overfit_from", step=numbers.count(overfit)))
    elif best is not None:
        parts.append(words("said.no_overfit"))
    if best is not None:
        parts.append(words("said.best", step=numbers.count(best)))
    if gap is not None:
        parts.append(words("said.final_gap", gap=numbers.signed(gap, "nats", "nats")))
    if not parts:
        return None
    tone: Tone = "bad" if overfit is not None else "neutral"
    lead = words("said.overfit") if overfit is not None else ""
    lead = " · ".join(part for part in (set_name, lead) if part)
    return Sentence("training", tone, SYMBOLS[tone], lead, " ".join(parts))


def _gap_sentences(comparison: Comparison, subject: str, words: Texts) -> list[Sentence]:
    """Tasks whose leading metric is surely, and by its margin, better on the training data than on validation."""
    sentences = []
    base = comparison.base.name
    for task in comparison.tasks:
        metric = task.metrics[0] if task.metrics else ""
        gaps = measurements(
            comparison, subject=subject, reference=base, area="gap", task=task.name, metric=f"{metric}_gap", by=None
        )
        own = measurements(comparison, subject=subject, reference=base, task=task.name, metric=metric, by=None)
        for found in gaps:
            gap = found.adapted
            if gap is None or not _overfitted(found, task, own):
                continue
            bounds = numbers.interval(gap, found.unit, found.scale, with_sign=True)
            value = f"{numbers.signed(gap.value, found.unit, found.scale)} {bounds}"
            text = words("said.metric_gap", metric=metric, gap=value)
            sentences.append(Sentence("training", "bad", SYMBOLS["bad"], found.task or "", text))
    return sentences


def _overfitted(found: Measurement, task: TaskInfo, own: Sequence[Measurement]) -> bool:
    """A gap towards the training data of at least the margin, at a task that was learned or beyond the base's gap."""
    gap, deltas = found.adapted, [each.delta for each in own if each.delta is not None]
    sign = -1.0 if any(each.direction == "lower" for each in own) else 1.0
    margin = next((delta.margin for delta in deltas if delta.margin is not None), task.margin or 0.0)
    if gap is None or gap.low is None or gap.high is None or min(sign * gap.low, sign * gap.high) <= 0:
        return False
    if sign * gap.value < margin:
        return False
    if found.base is None:
        return True
    more = sign * (gap.value - found.base.value)
    return more > 0 and (more >= margin or any(delta.verdict == "improved" for delta in deltas))
