"""The numbers that another tool gave its items: held against ours where both exist, measured as its own elsewhere.

Where the tool's own right and wrong is not what our comparison of texts makes of the same answers, the tool's holds: it
knows what part of a reference counts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorascope.data.imported.pairing import PairedTask
from lorascope.data.imported.runs import Score, Tool, ToolMetric
from lorascope.measures.core import FloatArray, Measure, Scored, mean_of_items
from lorascope.measures.registry import MEASURES, MeasureSpec, names_of, register
from lorascope.measures.statistics import Interval, PairedResult, estimate_many, paired_many
from lorascope.schema.comparison import Finding, Measurement
from lorascope.workflows.estimates import delta_of, estimate_of
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import same_outputs, score

_TOLERANCE = 1e-6
_SHARE_MARGIN = 0.02
"""The public default margin of metrics from 0 to 1."""
_RIGHT = {"generate": "exact_match", "choice": "accuracy"}
"""Our metric that says which items are right, by kind of task."""
_ALONE = "it is the only metric of the tool that calls answers right or wrong; ours compares whole texts"
_RESERVED = "gold_logprob"
"""How columns of samples begin that are no metrics."""


@dataclass(frozen=True)
class Agreement:
    """A metric of the tool against ours, item by item, over all runs of a task.

    ``total`` are all answers, ``items`` those for which ours is defined too, and which are compared. ``decides``: what
    is right on this task is what the tool's metric says.
    """

    task: str
    metric: str
    ours: str
    items: int
    total: int
    differing: int
    largest: float
    example: str
    why: str | None
    decides: bool = False

    @property
    def equal(self) -> bool:
        """Whether the two have the same value for every answer."""
        return self.items == self.total and not self.differing


def compare_scores(answers: TaskAnswers, paired: PairedTask) -> list[Agreement]:
    """Each metric of the tool that has a counterpart of ours here, on all items of all runs."""
    known = {name: (metric, metric.ours) for name, metric in _matched(paired).items() if metric.ours is not None}
    if not known:
        return []
    wanted = list(dict.fromkeys(ours for _, ours in known.values()))
    task = replace(answers.task, spec=answers.task.spec.model_copy(update={"metrics": wanted}))
    scored = {run: score(task, answers.asked[run]) for run in paired.runs}
    return [
        _agreement(name, metric, answers, paired, {run: own[ours].item_values() for run, own in scored.items()})
        for name, (metric, ours) in known.items()
        if all(ours in own for own in scored.values())
    ]


def follow_verdicts(
    answers: TaskAnswers, paired: PairedTask, agreements: Sequence[Agreement], tool: Tool
) -> list[Agreement]:
    """Let the tool say what is right where ours disagrees; the agreements, with the one that decides marked.

    Then ``answers`` carry the tool's verdicts, its metric is the primary one, and ours is not reported.
    """
    kind = answers.task.kind
    matched = _matched(paired)
    telling = [
        one for one in agreements
        if one.ours == _RIGHT.get(kind) and _verdicts(paired, one.metric, matched[one.metric]) is not None
    ]  # fmt: skip
    if not telling or any(not one.differing for one in telling):
        return list(agreements)
    first = telling[0]
    verdicts = _verdicts(paired, first.metric, matched[first.metric]) or {}
    name = own_names(matched, tool)[first.metric]
    description = f"Right or wrong as {tool} recorded it."
    register(MeasureSpec(name, (), "fraction", "0-1", "higher", _SHARE_MARGIN, description))
    answers.asked = {run: replace(asked, verdicts=verdicts[run]) for run, asked in answers.asked.items()}
    changed = {"metrics": _without(answers, first.ours), "primary": name}
    answers.task = replace(answers.task, spec=answers.task.spec.model_copy(update=changed))
    return [replace(one, decides=one is first) for one in agreements]


def _without(answers: TaskAnswers, ours: str) -> list[str]:
    """Our metrics that stay when what is right is the tool's: none where we compare short answers alone."""
    spec, kind = answers.task.spec, answers.task.kind
    if spec.metrics is not None:
        return []
    known = names_of("text" if kind == "generate" else "choice")
    if kind == "generate" and spec.role == "retention":
        known = ["token_f1"]
    return [name for name in known if name != ours]


def _verdicts(paired: PairedTask, name: str, metric: ToolMetric) -> dict[str, tuple[bool, ...]] | None:
    """By run and item, what the metric called right; None where it does not say it of every item."""
    found: dict[str, tuple[bool, ...]] = {}
    for run, items in paired.runs.items():
        said = [one.verdict(name, metric) for one in items]
        known = tuple(one for one in said if one is not None)
        if len(known) < len(said):
            return None
        found[run] = known
    return found


def _agreement(
    name: str, metric: ToolMetric, answers: TaskAnswers, paired: PairedTask, ours: Mapping[str, FloatArray]
) -> Agreement:
    rows = [
        (abs(_value(one.scores[name]) - float(own)), one.place)
        for run, items in paired.runs.items()
        for one, own in zip(items, ours[run], strict=True)
        if np.isfinite(own)
    ]
    largest, place = max(rows, default=(0.0, ""))
    differing = sum(distance > _TOLERANCE for distance, _ in rows)
    assert metric.ours is not None
    total = sum(len(items) for items in paired.runs.values())
    return Agreement(
        answers.task.spec.name, name, metric.ours, len(rows), total, differing, largest, place, metric.why
    )  # fmt: skip


def _value(given: Score) -> float:
    total, weight = given
    return total / weight


def _shared(paired: PairedTask) -> dict[str, ToolMetric]:
    """The tool's metrics that every run has for every item."""
    first, *rest = paired.tasks.values()
    return {name: metric for name, metric in first.metrics.items() if all(name in task.metrics for task in rest)}


def _matched(paired: PairedTask) -> dict[str, ToolMetric]:
    """The same; where no metric is known to be our exact match, the only one that calls answers right or wrong is."""
    found = _shared(paired)
    first = next(iter(paired.tasks.values()))
    if first.kind != "generate" or first.usable is None:
        return found
    if any(metric.ours == _RIGHT["generate"] for metric in found.values()):
        return found
    judging = [
        name
        for name, metric in found.items()
        if metric.direction == "higher" and metric.ours is None and _verdicts(paired, name, metric) is not None
    ]
    if len(judging) == 1:
        found[judging[0]] = replace(found[judging[0]], ours=_RIGHT["generate"], why=_ALONE)
    return found


def agreement_findings(tool: Tool, agreements: Sequence[Agreement]) -> Iterator[Finding]:
    """One finding for all metrics that agree, one for each that does not."""
    same = [one for one in agreements if one.items and not one.differing]
    if same:
        yield Finding(
            id="import:agreement",
            severity="good",
            area="task",
            title=f"{tool}'s own values equal ours on every item"
            + ("" if all(one.equal for one in same) else " that both have a value for"),
            evidence=[f"{one.task}: {one.metric} is our {one.ours} on {_counted(one)}" for one in same],
        )
    for one in agreements:
        if one.differing:
            yield _disagreement(tool, one)


def _counted(one: Agreement) -> str:
    if one.equal:
        return f"all {one.items} answers"
    return f"{one.items} of {one.total} answers; ours is undefined on the others"


def _disagreement(tool: Tool, one: Agreement) -> Finding:
    title = f"{tool}'s {one.metric} is not our {one.ours} on {one.task}: both are reported"
    evidence = [
        f"{one.differing} of {one.items} answers differ, by {one.largest:.4g} at most ({one.example})",
        *([one.why] if one.why else []),
    ]
    if one.decides:
        title = f"What is right on {one.task} is what {tool}'s {one.metric} says: our {one.ours} differs"
        evidence.append(f"verdict and flips follow {one.metric}; our {one.ours} is not reported")
    return Finding(
        id=f"import:agreement:{one.task}:{one.metric}", severity="info", area="task", title=title, evidence=evidence
    )


@dataclass(frozen=True)
class OwnMetrics:
    """The tool's metrics under its names: measurements, and values by name and run, one an item."""

    measurements: list[Measurement]
    values: dict[str, dict[str, list[float]]]


def own_metrics(
    answers: TaskAnswers,
    paired: PairedTask,
    pairs: Sequence[Pair],
    tool: Tool,
    *,
    agreements: Sequence[Agreement],
    seed: int,
) -> OwnMetrics:
    """Measure the tool's per-item numbers, but for those that ``agreements`` found equal to one of ours.

    Shares of items whose better direction the tool knows, and the metric that decides, are judged by the default
    margin of such shares; other numbers have a difference and no verdict. Names: see :func:`own_names`.
    """
    same: Container[str] = {one.metric for one in agreements if one.equal}
    decisive: Container[str] = {one.metric for one in agreements if one.decides}
    shared = _shared(paired)
    names = own_names(shared, tool)
    wanted = {
        name: replace(metric, direction="higher") if name in decisive else metric
        for name, metric in shared.items()
        if name not in same
    }
    if not wanted:
        return OwnMetrics([], {})
    scored = {
        run: {names[name]: _scored(name, names[name], metric, paired, run, tool) for name, metric in wanted.items()}
        for run in paired.runs
    }
    named = [one.item.group for one in next(iter(paired.runs.values()))]
    groups = named if any(named) else None
    estimates = {run: estimate_many(own, seed=seed, groups=groups) for run, own in scored.items()}
    found: list[Measurement] = []
    for pair in pairs:
        if pair.subject not in scored:
            continue
        base, adapted = scored[pair.reference], scored[pair.subject]
        alike = same_outputs(answers.asked[pair.reference], answers.asked[pair.subject])
        margins = {name: _margin(one.measure) for name, one in adapted.items()}
        results = paired_many(
            base,
            adapted,
            margins=margins,
            seed=seed,
            groups=groups,
            same_outputs=[name for name in base if alike and _same_rows(base[name], adapted[name])],
        )
        before, after = estimates[pair.reference], estimates[pair.subject]
        found += [
            _measurement(answers, pair, one, before[name], after[name], results[name]) for name, one in adapted.items()
        ]
    values = {
        names[name]: {run: [_value(one.scores[name]) for one in own] for run, own in paired.runs.items()}
        for name, metric in wanted.items()
        if metric.form == "mean"
    }
    return OwnMetrics(found, values)


def _measurement(
    answers: TaskAnswers, pair: Pair, scored: Scored, base: Interval, adapted: Interval, result: PairedResult
) -> Measurement:
    undefined = [run for run, found in ((pair.reference, base), (pair.subject, adapted)) if found.value is None]
    return Measurement(
        subject=pair.subject,
        reference=pair.reference,
        area=answers.area,
        task=answers.task.spec.name,
        metric=scored.measure.name,
        unit=scored.measure.unit,
        scale=scored.measure.scale,
        direction=scored.measure.direction,
        base=estimate_of(base),
        adapted=estimate_of(adapted),
        delta=delta_of(result),
        signature=scored.signature,
        missing_reason=f"{' and '.join(undefined)}: undefined on these items" if undefined else None,
    )


def _margin(measure: Measure) -> float | None:
    return _SHARE_MARGIN if measure.scale == "0-1" and measure.direction != "none" else None


def _same_rows(one: Scored, other: Scored) -> bool:
    return bool(np.array_equal(one.statistics, other.statistics))


def own_names(names: Iterable[str], tool: Tool) -> dict[str, str]:
    """What the tool's metrics are called in the result: by their names, without the signs of a gate's address.

    What we call ``exact_match`` is another's only by that name, so a name of ours gets the tool's behind it; one that
    begins like a column of ``samples.parquet`` that is no metric gets it in front. Names that are alike without their
    signs are numbered, so that none takes another's place.
    """
    said = tool.replace("-", "_")
    plain = {name: re.sub(r"[@:*\s]+", "-", name) or "unnamed" for name in names}
    found: dict[str, str] = {}
    for name in sorted(plain, key=lambda one: plain[one] != one):
        called = plain[name]
        if called.startswith(_RESERVED):
            called = f"{said}_{called}"
        elif called in MEASURES:
            called = f"{called}_{said}"
        alike = (called, *(f"{called}_{number}" for number in range(2, len(plain) + 2)))
        found[name] = next(one for one in alike if one not in found.values())
    return found


def _scored(original: str, name: str, metric: ToolMetric, paired: PairedTask, run: str, tool: Tool) -> Scored:
    """One run's statistics under ``name``. What is 0 or 1 for every item of every run is a share of items."""
    rows = np.array([one.scores[original] for one in paired.runs[run]], dtype=np.float64)
    every = np.array([one.scores[original] for items in paired.runs.values() for one in items], dtype=np.float64)
    binary = bool(np.isin(every[:, 0], (0.0, 1.0)).all() and (every[:, 1] == 1.0).all())
    share = binary or metric.share
    perplexity = metric.form == "exp"
    if perplexity:
        rows[:, 0] *= -1
    measure = Measure(
        name=name,
        unit="fraction" if share else "perplexity" if perplexity else "points",
        scale="0-1" if share else "0-inf" if perplexity else "unbounded",
        direction=metric.direction,
        additive=True,
        aggregate=_perplexity if perplexity else mean_of_items,
        proportion=binary,
    )
    return Scored(measure, rows, f"{name}|as recorded by {tool}|{'exp of mean' if perplexity else 'mean'}")


def _perplexity(sums: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # infinite here, undefined outside
        return np.asarray(np.exp(mean_of_items(sums)), dtype=np.float64)
