"""One linear module: its base matrix once, every subject that changes it, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor

from lorascope.checkpoints.changes import Changes, ModuleChange
from lorascope.errors import EvaluationError
from lorascope.schema.comparison import ModuleWeights
from lorascope.schema.names import position
from lorascope.weights.analysis import AnalysisOptions, ModuleAnalysis, analyse_module
from lorascope.weights.bases import BaseMatrix
from lorascope.weights.deltas import DenseDelta, FactoredDelta
from lorascope.weights.intruders import Judgement, Question
from lorascope.weights.subspaces import similarity_curve
from lorascope.workflows.base_cache import BaseCache

_T = TypeVar("_T")
_SHOWN = 32
_ALL_PAIRED = 8


@dataclass(frozen=True)
class User:
    """A subject that changes the module, and its own name of it."""

    subject: str
    changes: Changes
    module: str


@dataclass(frozen=True)
class Arithmetic:
    """Where and in what precision matrices are decomposed, and what is kept of bases."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: Literal["float32", "float64"] = "float32"
    cache: BaseCache = field(default_factory=lambda: BaseCache(None))

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, in the precision."""
        return tensor.to(self.device, getattr(torch, self.dtype))


class ModuleOutcome(BaseModel):
    """What one module gave, for all subjects. It is written down as soon as it is found, so that a killed run resumes.

    ``rows`` are those of ``weights.parquet``; ``null_highs`` the random updates' largest cosines from above;
    ``similarity`` φ(i, i) by pair of subjects; ``births``, by chain and subject, those that the one before had not.
    """

    module: str
    base_norm: float
    base_values: list[float]
    reports: dict[str, ModuleWeights] = {}
    rows: list[dict[str, Any]] = []
    null_highs: dict[str, list[float]] = {}
    similarity: list[tuple[str, str, list[float]]] = []
    births: dict[str, dict[str, int]] = {}


def analyse_users(
    name: str,
    users: Sequence[User],
    loaded: Iterator[Any],
    options: AnalysisOptions,
    arithmetic: Arithmetic,
    chains: Mapping[str, Sequence[str]],
) -> ModuleOutcome:
    """Measure every subject's change of one module; ``loaded`` delivers the base weight, then the users' changes.

    ``chains`` are subjects that follow each other: the checkpoints of a run, the stages of a sequence. Raises
    :class:`EvaluationError` for weights that are not finite.
    """
    base = arithmetic.cache.recall(arithmetic.put(next(loaded)))
    outcome = ModuleOutcome(module=name, base_norm=base.norm, base_values=[])
    directions: dict[str, Tensor] = {}
    intruders: dict[str, Tensor] = {}
    judged = len(users) * (2 if options.null else 1)
    for user in users:
        found = _analyse(user.subject, name, base, next(loaded), options, arithmetic, judged)
        outcome.reports[user.subject] = found.report
        directions[user.subject] = found.directions
        if found.null is not None:
            outcome.null_highs[user.subject] = [vector.high for vector in found.null.report.vectors]
        if found.judgement is not None:
            outcome.rows += _rows(user.subject, name, base, found.judgement)
            intruders[user.subject] = _intruders(found.judgement)
    outcome.base_values = base.leading.values[:_SHOWN].tolist()
    outcome.births = {chain: _births(members, intruders, options.question) for chain, members in chains.items()}
    outcome.similarity = [
        (first, second, similarity_curve(directions[first], directions[second]))
        for first, second in _pairs(list(directions))
        if directions[first].shape[1] and directions[second].shape[1]
    ]
    arithmetic.cache.keep(base, exact=options.question.engine in ("svd", "base_svd"))
    return outcome


def _pairs(subjects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every pair; of many subjects each with the first alone, as all pairs of a sweep's runs would fill the result."""
    if len(subjects) <= _ALL_PAIRED:
        return combinations(subjects, 2)
    return ((subjects[0], other) for other in subjects[1:])


def loads(users: Sequence[User]) -> Iterator[Callable[[], Any]]:
    """What has to be read for one module, in the order in which :func:`analyse_users` asks for it."""
    first = users[0]
    yield partial(first.changes.base.weight, first.module)
    for user in users:
        yield partial(user.changes.change, user.module)


def ahead(calls: Iterable[Callable[[], _T]]) -> Iterator[_T]:
    """Results of ``calls`` in order, the next one always under way: reading overlaps with computing.

    One thread, one result in waiting: never more than two matrices beyond the ones in use.
    """
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = None
        for call in calls:
            following = reader.submit(call)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _analyse(
    subject: str,
    name: str,
    base: BaseMatrix,
    change: ModuleChange,
    options: AnalysisOptions,
    arithmetic: Arithmetic,
    judged: int,
) -> ModuleAnalysis:
    tuned = None if change.adapted is None else arithmetic.put(change.adapted)
    if change.factors is not None:
        up, down = arithmetic.put(change.factors.up), arithmetic.put(change.factors.down)
        delta: FactoredDelta | DenseDelta = FactoredDelta(up, down, change.factors.scaling)
    else:
        assert tuned is not None
        delta = DenseDelta(tuned - base.weight)
    try:
        return analyse_module(
            name,
            base,
            delta,
            method=change.method,
            adapter_rank=change.rank,
            stored_dtype=change.stored_dtype,
            tuned=tuned,
            options=options,
            subjects=judged,
        )
    except ArithmeticError as error:
        raise EvaluationError(
            f"{name} cannot be analysed: {error}",
            where=subject,
            remedy="look for a run that diverged: a checkpoint with NaN or infinite weights answers nothing either",
        ) from error


def _intruders(judgement: Judgement) -> Tensor:
    chosen = [vector.index for vector in judgement.report.vectors if vector.verdict == "intruder"]
    return judgement.triplets.left[:, chosen]


def _births(members: Sequence[str], intruders: Mapping[str, Tensor], question: Question) -> dict[str, int]:
    """Intruders that no intruder of the previous member points along (|cos| < ε); a member without ΔW has none."""
    born: dict[str, int] = {}
    before: Tensor | None = None
    for member in members:
        found = intruders.get(member)
        if found is not None and before is not None and before.shape[1] and found.shape[1]:
            along = (before.T @ found).abs().max(dim=0).values
            born[member] = int((along < question.epsilons[0]).sum())
        else:
            born[member] = 0 if found is None else found.shape[1]
        before = found
    return born


def _rows(subject: str, module: str, base: BaseMatrix, judgement: Judgement) -> list[dict[str, Any]]:
    _, layer, kind = position(module)
    values = (base.exact if base.is_decomposed else base.leading).values[: judgement.report.k].tolist()
    sides = [judgement.report, *([judgement.report.right] if judgement.report.right is not None else [])]
    return [
        {"subject": subject, "module": module, "layer": layer, "kind": kind, "side": side.side, "index": vector.index}
        | {"singular_value_base": values[vector.index] if vector.index < len(values) else None}
        | {"singular_value_adapted": vector.singular_value}
        | vector.model_dump(include={"low", "high", "leading_share", "verdict"})
        for side in sides
        for vector in side.vectors
    ]
