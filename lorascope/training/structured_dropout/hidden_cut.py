"""HiddenCut: dropout of what a feed-forward gives, before the residual is added (arXiv 2403.00812, section 3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from lorascope.errors import ConfigError
from lorascope.schema.recipe import HiddenDrop
from lorascope.training.structured_dropout import masks

DOWN_PROJECTIONS = (
    r"(?:.*\.)?down_proj",  # Llama, Qwen, Mistral, Gemma, Phi-3, OLMo …
    r"output\.dense",  # BERT, RoBERTa, ELECTRA; attention.output.dense is another
    r"(?:.*\.)?DenseReluDense\.wo",  # T5
    r"mlp\.(?:c_proj|fc2|fc_out|dense_4h_to_h|Wo)",  # GPT-2, Phi, GPT-J, GPT-NeoX, ModernBERT
    r"(?:ffn\.)?(?:fc2|lin2)",  # OPT, BART, DistilBERT
)
_DOWN = re.compile("|".join(f"(?:{pattern})" for pattern in DOWN_PROJECTIONS))
_EXPERTS = re.compile(r"(?:.*\.)?experts")


@dataclass(frozen=True, slots=True)
class HiddenCut:
    """A forward hook that drops of a module's output while the module trains, and divides the rest by 1 − rate.

    The output is (batch, tokens, features), or (tokens, features) for elements alone.
    """

    drop: HiddenDrop

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """What goes on instead of ``output``."""
        rate = self.drop.rate or 0.0
        if not module.training or rate == 0.0:
            return output
        if self.drop.structure == "element":
            return functional.dropout(output, p=rate, training=True)
        if output.dim() != 3:
            raise ConfigError(
                f"HiddenCut by {self.drop.structure} cannot tell rows from tokens in an output of {output.dim()} axes",
                where="structured_dropout.hidden.structure",
                remedy="set it to element",
            )
        batch, tokens, features = output.shape
        dropped = masks.dropped_hidden(
            self.drop.structure, batch=batch, tokens=tokens, features=features, rate=rate, span=self.drop.span,
            device=output.device,
        )  # fmt: skip
        return output.masked_fill(dropped, 0.0) / (1.0 - rate)


def down_projection(block: nn.Module, name: str, model_name: str) -> tuple[str, nn.Module]:
    """The last linear layer of a block's feed-forward, as it stands in the block: with its adapter around it.

    Raises:
        ConfigError: a mixture of experts, or a block in which none or several are known.
    """
    names = dict(block.named_modules())
    if any(_EXPERTS.fullmatch(inner) for inner in names):
        raise ConfigError(
            f"HiddenCut is not defined for the mixture of experts of {model_name}",
            where=f"structured_dropout.hidden, {name}",
            remedy="drop in attention alone: preset: dropkey",
        )
    found = [inner for inner in names if _DOWN.fullmatch(inner)]
    if len(found) != 1:
        linear = [inner for inner, module in names.items() if isinstance(module, nn.Linear) and "lora_" not in inner]
        raise ConfigError(
            f"the end of the feed-forward of {model_name} is not known: {len(found)} modules of {name} look like it "
            f"(its linear layers: {', '.join(linear) or 'none'})",
            where="structured_dropout.hidden",
            remedy="drop in attention alone: preset: dropkey",
        )
    return f"{name}.{found[0]}", names[found[0]]
