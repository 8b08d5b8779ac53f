"""What answering costs: latency and memory of the base, of each adapter on it, and of the adapter merged into it."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.engines.base import Progress
from lorascope.engines.base import Subject as Asker
from lorascope.engines.batching import is_out_of_memory
from lorascope.engines.cost import Cost
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.measures.registry import find_spec
from lorascope.schema.comparison import Measurement, Missing, Slice
from lorascope.schema.values import Estimate
from lorascope.workflows.behaviour import Behaviour
from lorascope.workflows.measuring import TaskAnswers

_METRICS = ("latency_ms_per_item", "inference_memory_bytes")
# A generated token costs what a whole choice does: fewer items and short answers give as steady a median.
_MOST_ITEMS = {"generate": 4}
_USUAL_ITEMS = 16
_MOST_NEW_TOKENS = 32
_LENGTH = {"generate": f"; at most {_MOST_NEW_TOKENS} new tokens"}


def measure_costs(
    engine: TransformersEngine, known: Sequence[Asker], behaviour: Behaviour, on_progress: Progress
) -> tuple[list[Measurement], list[Missing]]:
    """Cost on the first task that every subject can do. Latencies are of this machine, this run, one item at a time."""
    base, *subjects = known
    answers = _common_task(behaviour, subjects)
    if answers is None:
        return [], [Missing(area="cost", reason="there is no task that all subjects can do")]
    plan = [(asker, False) for asker in known] + [(asker, True) for asker in subjects if asker.kind == "adapter"]
    items = answers.task.items[: _MOST_ITEMS.get(answers.task.kind, _USUAL_ITEMS)]
    shortened = min(answers.task.spec.max_new_tokens, _MOST_NEW_TOKENS)
    spec = answers.task.spec.model_copy(update={"max_new_tokens": shortened})
    found: dict[tuple[str, bool], Cost] = {}
    missing = []
    for done, (asker, merged) in enumerate(plan, 1):
        if asker.name not in answers.absent:
            try:
                found[asker.name, merged] = engine.measure_cost(asker, spec, items, merged=merged)
            except EvaluationError as error:
                missing.append(Missing(area="cost", subject=asker.name, reason=error.problem))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                missing.append(Missing(area="cost", subject=asker.name, reason="out of memory"))
        on_progress(done, len(plan))
    plain = found.get((base.name, False))
    rows = [
        measurement
        for (name, merged), cost in found.items()
        if name != base.name
        for measurement in _measurements(answers, base.name, name, merged, plain, cost)
    ]
    return rows, missing


def _common_task(behaviour: Behaviour, subjects: Sequence[Asker]) -> TaskAnswers | None:
    tasks = sorted(behaviour.tasks.values(), key=lambda answers: answers.task.spec.role != "target")
    return next((answers for answers in tasks if all(asker.name in answers.asked for asker in subjects)), None)


def _measurements(
    answers: TaskAnswers, base: str, subject: str, merged: bool, plain: Cost | None, cost: Cost
) -> list[Measurement]:
    found = []
    for place, metric in enumerate(_METRICS):
        spec = find_spec(metric)
        before = None if plain is None else Estimate(value=float(plain[place]), n=1, method="none")
        found.append(
            Measurement(
                subject=subject,
                reference=base,
                area="cost",
                task=answers.task.spec.name,
                slice=Slice(by="group", value="merged") if merged else None,
                metric=metric,
                unit=spec.unit,
                scale=spec.scale,
                direction=spec.direction,
                base=before,
                adapted=Estimate(value=float(cost[place]), n=1, method="none"),
                signature=f"{metric}|{cost.method}{_LENGTH.get(answers.task.kind, '')}",
                missing_reason=None if before else answers.absent.get(base),
            )
        )
    return found
