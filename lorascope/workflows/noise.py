"""The noise floor: which answers flip when the same checkpoint is asked the same again, only computed another way.

A second pass asks with another batch size, and adapters unmerged. Neither changes what a model is; what changes the
answer between the two passes is rounding. A flip between base and adapted checkpoint on such an item is no evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lorascope.engines.base import Engine
from lorascope.engines.base import Subject as Asker
from lorascope.errors import EvaluationError, ServerGone
from lorascope.measures.core import Scored, item_rows, mean_of_items
from lorascope.measures.registry import define, find_spec
from lorascope.measures.statistics import estimate
from lorascope.schema.comparison import Measurement, Missing
from lorascope.schema.flips import FlipLedger
from lorascope.schema.items import content_id
from lorascope.workflows.behaviour import Behaviour, ask_task
from lorascope.workflows.estimates import OF_THE_PAIR, estimate_of, groups_of
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import right
from lorascope.workflows.watch import Watch

METRIC = "noise_flip_rate"


@dataclass
class Noise:
    """Per task and checkpoint, whether each item is right once and wrong once; and what could not be repeated."""

    unstable: dict[tuple[str, str], list[bool]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    def of_subject(self, task: str, subject: str) -> list[bool] | None:
        """Items that flip by noise in one checkpoint; None where it was not repeated."""
        return self.unstable.get((task, subject))

    def of_pair(self, task: str, subject: str, reference: str) -> list[bool] | None:
        """Items that flip by noise in either checkpoint of a pair; None where one of them was not repeated."""
        one, other = self.unstable.get((task, subject)), self.unstable.get((task, reference))
        return None if one is None or other is None else [a or b for a, b in zip(one, other, strict=True)]


def other_batch_size(batch_size: int | None) -> int:
    """A batch size that is not the run's own: half of it, 2 where it was 1, and 3 where it was automatic."""
    if batch_size is None:
        return 3
    return batch_size // 2 if batch_size > 1 else 2


def repeat_all(engine: Engine, known: Sequence[Asker], behaviour: Behaviour, how: str, *, watch: Watch) -> Noise:
    """Ask every checkpoint once more with ``engine``, which computes ``how`` says, and see which answers flip.

    Only tasks whose answers are right or wrong are repeated. The repeated answers are cached under names of their own.
    """
    noise = Noise()
    for asker in known:
        again = replace(asker, content_hash=content_id({"of": asker.content_hash, "again": how}))
        for name, answers in behaviour.tasks.items():
            first = answers.asked.get(asker.name)
            before = right(answers.task, first) if first else None
            if first is None or before is None:
                continue
            try:
                with watch.stage(f"{asker.name}: {name}, asked again") as report:
                    repeated = ask_task(engine, again, answers, first.items, report)
            except ServerGone:
                raise
            except EvaluationError as error:
                reason = f"{name} could not be asked again: {error.problem}"
                noise.missing.append(Missing(area="noise", subject=asker.name, reason=reason))
                continue
            after = right(answers.task, repeated) or []
            noise.unstable[name, asker.name] = [a != b for a, b in zip(before, after, strict=True)]
    return noise


def noise_measurements(
    noise: Noise, answers: TaskAnswers, pairs: Sequence[Pair], how: str, *, seed: int
) -> Iterator[Measurement]:
    """``noise_flip_rate`` of a task for each pair: the share of items unstable in either of its two checkpoints.

    Of a reference that cannot do the task there is no noise: then it is the subject's alone, and the signature says so.
    """
    for pair in pairs:
        name = answers.task.spec.name
        alone = pair.reference not in answers.asked
        unstable = noise.of_subject(name, pair.subject) if alone else noise.of_pair(name, pair.subject, pair.reference)
        if unstable is not None:
            whose = f"{how}, the subject alone" if alone else how
            yield _measurement(answers, pair.subject, pair.reference, unstable, whose, seed)


def _measurement(
    answers: TaskAnswers, subject: str, reference: str, unstable: Sequence[bool], how: str, seed: int
) -> Measurement:
    spec = find_spec(METRIC)
    signature = f"{METRIC}|right in one pass, wrong in the other|{how}"
    scored = Scored(define(METRIC, mean_of_items, proportion=True), item_rows(unstable), signature)
    groups = groups_of(answers.task, answers.asked[subject].items)
    return Measurement(
        subject=subject,
        reference=reference,
        area="noise",
        task=answers.task.spec.name,
        metric=METRIC,
        unit=spec.unit,
        scale=spec.scale,
        direction=spec.direction,
        adapted=estimate_of(estimate(scored, seed=seed, groups=groups)),
        signature=signature,
        missing_reason=OF_THE_PAIR,
    )


def with_noise(ledgers: Sequence[FlipLedger], noise: Noise, tasks: Mapping[str, TaskAnswers]) -> list[FlipLedger]:
    """The ledgers with the number of flips, fixed or broken, that stand on items which flip by noise alone."""
    return [ledger.model_copy(update={"noise": _noisy(ledger, noise, tasks)}) for ledger in ledgers]


def _noisy(ledger: FlipLedger, noise: Noise, tasks: Mapping[str, TaskAnswers]) -> int | None:
    unstable = noise.of_pair(ledger.task, ledger.subject, ledger.reference)
    if unstable is None:
        return None
    answers = tasks[ledger.task]
    before, after = (right(answers.task, answers.asked[name]) for name in (ledger.reference, ledger.subject))
    flipped = np.asarray(before) != np.asarray(after)
    return int((flipped & np.asarray(unstable)).sum())
