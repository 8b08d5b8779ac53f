"""Compensation: a term that draws what a model says with something dropped towards what it says otherwise.

``kl`` compares two training passes, each with its own masks; ``js`` a training pass with one in evaluation mode, in
which nothing is dropped (arXiv 2403.00812, section 3). Two branches cost about two steps; a second pass without a
gradient about half a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lorascope.schema.recipe import StructuredDropout
from lorascope.training.encoding_parts import IGNORED

ConsistencyKind = Literal["causal", "tokens", "single_label", "multi_label", "score"]
Divergence = Literal["kl", "js"]


def consistency_loss(
    first_logits: Tensor,
    second_logits: Tensor,
    *,
    kind: ConsistencyKind,
    labels: Tensor,
    one_branch: bool,
    divergence: Divergence = "kl",
    count: Tensor | float | None = None,
) -> Tensor:
    """How far two outputs for the same input are apart, in nats; a scalar, 0 where they agree.

    ``kl`` is ½(KL(P₁‖P₂) + KL(P₂‖P₁)), ``js`` the Jensen–Shannon divergence ½KL(P₁‖M) + ½KL(P₂‖M), M = ½(P₁ + P₂). One
    term stands for each

    - ``causal``: position whose *next* token counts (logits and labels are (batch, tokens, …), labels unshifted);
    - ``tokens``: position that counts as it stands: token classification, and the decoder of an encoder–decoder;
    - ``single_label``: item; logits (batch, labels);
    - ``multi_label``: item and label, of Bernoulli distributions: ½(σ(a) − σ(b))(a − b) for ``kl``;
    - ``score``: number, ½(a − b)², the ``kl`` of normal distributions of variance 1, and taken for ``js`` as well.

    Positions and items with the label −100 do not count. The sum of terms is divided by ``count`` (the loss's own
    divisor, such as num_items_in_batch), by their number without it. ``one_branch`` lets gradients flow through
    ``first_logits`` alone. Without any term the value is 0 · logits: nothing is compared, and nothing is learned.
    """
    first, second = first_logits, second_logits.detach() if one_branch else second_logits
    if kind == "causal":
        first, second = (logits[:, -labels.shape[1] :] for logits in (first, second))  # without virtual tokens
        first, second, labels = first[:, :-1], second[:, :-1], labels[:, 1:]
    if kind in {"causal", "tokens", "single_label"}:
        counts = (labels != IGNORED).reshape(-1)
        first, second = (logits.reshape(-1, logits.shape[-1])[counts] for logits in (first, second))
    terms = _TERMS[kind, divergence](first.float(), second.float())
    return terms.sum() / (max(terms.numel(), 1) if count is None else count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """What a step does beside its pass: ``weight`` (α) times the divergence from a second pass of the same input."""

    kind: ConsistencyKind
    divergence: Divergence
    one_branch: bool
    weight: float

    @classmethod
    def of(cls, dropout: StructuredDropout, kind: ConsistencyKind) -> Self | None:
        """The compensation that ``dropout`` asks for; None where one pass is all (``rescale``)."""
        chosen = dropout.resolved()
        if chosen.compensation not in {"kl", "js"}:
            return None
        divergence: Divergence = "js" if chosen.compensation == "js" else "kl"
        one_branch = divergence == "js" or chosen.branches == "one"
        return cls(kind=kind, divergence=divergence, one_branch=one_branch, weight=chosen.weight)

    def passes(
        self, run: Callable[[], Any], model: nn.Module, labels: Tensor, count: Tensor | float | None = None
    ) -> tuple[list[Any], Tensor | None]:
        """The outputs whose task losses count, equally, and the weighted term to add to their mean.

        ``run`` passes one batch through ``model`` and gives outputs with ``logits``. Two branches of ``kl`` count both;
        with one, and by ``js``, the second pass has no gradient and its loss does not count. ``js`` runs it in
        evaluation mode, and every module's mode is restored. While the model does not train there is one pass and no
        term. ``labels`` and ``count`` are those of consistency_loss: where the loss is divided by ``count``, so is
        the term.
        """
        first = run()
        if not model.training:
            return [first], None
        with torch.set_grad_enabled(not self.one_branch):
            if self.divergence == "js":
                with _evaluation_mode(model):
                    second = run()
            else:
                second = run()
        term = consistency_loss(
            first["logits"], second["logits"], kind=self.kind, labels=labels, one_branch=self.one_branch,
            divergence=self.divergence, count=count,
        )  # fmt: skip
        return ([first] if self.one_branch else [first, second]), self.weight * term


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _categorical_kl(first: Tensor, second: Tensor) -> Tensor:
    a, b = first.log_softmax(-1), second.log_softmax(-1)
    return 0.5 * ((a.exp() - b.exp()) * (a - b)).sum(-1)


def _categorical_js(first: Tensor, second: Tensor) -> Tensor:
    a, b = first.log_softmax(-1), second.log_softmax(-1)
    middle = torch.logaddexp(a, b) - math.log(2)
    return 0.5 * (a.exp() * (a - middle) + b.exp() * (b - middle)).sum(-1)


def _bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    return 0.5 * (first.sigmoid() - second.sigmoid()) * (first - second)


def _bernoulli_js(first: Tensor, second: Tensor) -> Tensor:
    """A label is the categorical of two logits, a and 0."""
    pairs = [torch.stack([logits, torch.zeros_like(logits)], dim=-1) for logits in (first, second)]
    return _categorical_js(*pairs)


def _squared(first: Tensor, second: Tensor) -> Tensor:
    return 0.5 * (first - second) ** 2


_TERMS = {
    ("causal", "kl"): _categorical_kl,
    ("causal", "js"): _categorical_js,
    ("tokens", "kl"): _categorical_kl,
    ("tokens", "js"): _categorical_js,
    ("single_label", "kl"): _categorical_kl,
    ("single_label", "js"): _categorical_js,
    ("multi_label", "kl"): _bernoulli_kl,
    ("multi_label", "js"): _bernoulli_js,
    ("score", "kl"): _squared,
    ("score", "js"): _squared,
}
