"""The diagonal Fisher information of a base, from items one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from lorascope.errors import DataError
from lorascope.schema.recipe import TrainedKind
from lorascope.training.encoding_parts import IGNORED


def diagonal_fisher(
    model: Any, items: Iterable[Mapping[str, torch.Tensor]], *, kind: TrainedKind
) -> dict[str, torch.Tensor]:
    """Mean over items of (∂ log p(y|x) / ∂θ)², for every parameter of ``model`` that is trained, by its name.

    This is the empirical Fisher information: y are the items' own answers, not samples of the model. Each item is a
    batch of one row with ``labels``; its log-probability is that of all its answer's tokens or labels together, of a
    score that of a normal distribution with variance 1. The model is evaluated without dropout, in its own precision.

    Raises:
        DataError: there is no item, or one without anything to answer.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in trained.items()}
    was_training = model.training
    model.eval()
    count = 0
    try:
        for count, item in enumerate(items, start=1):
            answers = _answers(model, item["labels"], kind)
            if not answers:
                raise DataError("the item has no answer to take the Fisher information from", where=f"item {count}")
            loss = model(**item).loss * answers
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    sums[name] += gradient.detach().float().square()
    finally:
        model.train(was_training)
    if not count:
        raise DataError("there are no items to take the Fisher information from", where="optim.ewc.data")
    return {name: total / count for name, total in sums.items()}


def _answers(model: Any, labels: torch.Tensor, kind: TrainedKind) -> float:
    """What turns the model's mean loss into −log p of the whole item."""
    if kind == "generate":
        shifted = labels if model.config.is_encoder_decoder else labels[:, 1:]
        return float((shifted != IGNORED).sum())
    if kind == "tokens":
        return float((labels != IGNORED).sum())
    if kind == "score":
        return 0.5
    return float(labels.shape[-1]) if labels.is_floating_point() else 1.0
