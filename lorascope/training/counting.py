"""What the losses of one step are divided by: its supervised tokens or its rows, whatever batches they came in."""

from __future__ import annotations

from typing import Any

import torch

from lorascope.schema.recipe import TrainedKind
from lorascope.training.encoding_parts import IGNORED
from lorascope.training.packing import in_inference

_TOKENS = 4


def supervised(labels: torch.Tensor, kind: TrainedKind, *, encoder_decoder: bool) -> int:
    """How many losses a batch with these labels has: tokens that are asked for texts and tags, else rows.

    A decoder predicts the next token, so nothing predicts a row's first one.
    """
    if kind in ("labels", "score"):
        return len(labels)
    asked = labels[:, 1:] if kind == "generate" and not encoder_decoder else labels
    return int((asked != IGNORED).sum())


def divides_by_count(model: Any) -> bool:
    """Whether a language model divides its own loss by the ``num_items_in_batch`` that it is given.

    Many take the argument and return the batch's mean all the same, most encoder–decoders among them, so it is measured
    and not read from a signature: two short passes without gradients; neither weights nor random state change.
    """
    weight = model.get_input_embeddings().weight
    ids = torch.arange(_TOKENS, device=weight.device)[None] % int(weight.shape[0])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    counts = (torch.tensor(count, device=weight.device) for count in (1, 2))
    try:
        with torch.no_grad(), in_inference(model):
            whole, half = (float(model(**batch, num_items_in_batch=count).loss) for count in counts)
    except (TypeError, ValueError):  # the model does not take the argument
        return False
    return half < 0.75 * whole
