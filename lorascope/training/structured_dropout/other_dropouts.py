"""A model's own dropouts: modules, and probabilities that layers keep as numbers for functional dropout."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def active_dropouts(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, float]]:
    """Name, module, attribute and probability of every dropout above zero, the adapter's included.

    A layer's number counts where its attribute's name speaks of dropout (``attention_dropout``, ``dropout_rate``).
    The configuration, which is saved with the model, is not looked at.
    """
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            if module.p > 0:
                yield f"{name}.p", module, "p", module.p
            continue
        for attribute, value in vars(module).items():
            if "dropout" in attribute and type(value) is float and 0 < value <= 1:
                yield f"{name}.{attribute}", module, attribute, value
