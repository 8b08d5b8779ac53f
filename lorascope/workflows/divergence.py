"""Forgetting without labels: how far each subject's next-token distributions moved from the base's."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.engines.base import Subject as Asker
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.measures.likelihood import score_kl
from lorascope.measures.registry import find_spec
from lorascope.measures.statistics import estimate
from lorascope.schema.comparison import Measurement, Missing
from lorascope.schema.items import DivergenceAnswer, Item
from lorascope.workflows.behaviour import Behaviour
from lorascope.workflows.estimates import OF_THE_PAIR, estimate_of, groups_of
from lorascope.workflows.measuring import TaskAnswers
from lorascope.workflows.watch import Watch

METRIC = "kl_to_base"
_READ = {
    "generate": "tokens of the first reference, given the prompt",
    "choice": "tokens of the right choice, given the context",
    "likelihood": "all predicted tokens of the text",
}


def measure_divergence(
    engine: TransformersEngine, known: Sequence[Asker], behaviour: Behaviour, *, seed: int, watch: Watch
) -> tuple[list[Measurement], list[Missing]]:
    """``kl_to_base`` of every subject on every task whose answers are text, with its interval over items.

    KL(adapted‖base) over the whole vocabulary at each token that the task's right answers consist of (teacher-forced),
    in nats a token. It needs no labels and no right or wrong, and predicted forgetting better than the size of the
    weight change did (arXiv 2509.04259). ``known`` holds the base first. A subject whose distributions cannot be laid
    beside the base's (another vocabulary) is reported as missing with the reason.
    """
    base, *subjects = known
    tasks = [each for each in behaviour.tasks.values() if each.task.kind in _READ and base.name in each.asked]
    found: list[Measurement] = []
    missing: list[Missing] = []
    for subject in subjects:
        for answers in tasks:
            if subject.name not in answers.asked:
                continue
            task = answers.task
            try:
                with watch.stage(f"{subject.name}: divergence on {task.spec.name}") as report:
                    moved = engine.diverge(base, subject, task.spec, task.items, report)
            except EvaluationError as error:
                reason = f"{METRIC} on {task.spec.name}: {error.problem}"
                missing.append(Missing(area=answers.area, subject=subject.name, reason=reason))
                continue
            found.append(_measurement(answers, base.name, subject.name, task.items, moved, seed))
    return found, missing


def _measurement(
    answers: TaskAnswers, base: str, subject: str, items: Sequence[Item], moved: Sequence[DivergenceAnswer], seed: int
) -> Measurement:
    spec = find_spec(METRIC)
    # An item without a token to predict (a reference that does not fit) says nothing about the change.
    read = [index for index, one in enumerate(moved) if one.tokens]
    adapted, signature = None, METRIC
    if read:
        kept = [moved[index] for index in read]
        scored = score_kl([one.kl / one.tokens for one in kept], [one.tokens for one in kept])
        groups = groups_of(answers.task, [items[index] for index in read])
        adapted = estimate_of(estimate(scored, seed=seed, groups=groups))
        signature = f"{scored.signature}|{_READ[answers.task.kind]}"
    return Measurement(
        subject=subject,
        reference=base,
        area=answers.area,
        task=answers.task.spec.name,
        metric=METRIC,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        adapted=adapted,
        signature=signature,
        missing_reason=OF_THE_PAIR if adapted else "no item has a token that could be predicted",
    )
