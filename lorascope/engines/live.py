"""Asking a model that is in memory already, such as one in the middle of its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lorascope.engines.base import Outcome, Subject
from lorascope.engines.batching import run_batches
from lorascope.engines.choice import ChoiceAsker
from lorascope.engines.holding import Ready, virtual_tokens
from lorascope.engines.loading import context_length, decoder_positions, padding_id
from lorascope.schema.items import ChoiceAnswer, ChoiceItem
from lorascope.schema.suite import SuiteTask

_TOKENS_AT_ONCE = {"cuda": 16384, "cpu": 2048}


def ask_choices(model: Any, tokenizer: Any, task: SuiteTask, items: Sequence[ChoiceItem]) -> list[ChoiceAnswer]:
    """Log-probabilities of each item's choices, by the rules of a comparison. The model has to be in evaluation mode.

    Raises:
        EvaluationError: an item does not fit the model's context, or memory runs out.
    """
    ready = _ready(model, tokenizer)
    found: dict[int, ChoiceAnswer] = {}

    def keep(batch: Sequence[int], outcomes: list[Outcome]) -> None:
        for place, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome.answer, ChoiceAnswer):
                found[place] = outcome.answer

    with torch.no_grad():
        asker = ChoiceAsker(ready, task, items)
        run_batches(
            range(len(items)), asker.sizes, asker.ask, keep, budget=_TOKENS_AT_ONCE.get(ready.device.type, 2048)
        )
    return [found[place] for place in range(len(items))]


def _ready(model: Any, tokenizer: Any) -> Ready:
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    virtual = virtual_tokens(model)
    rows = int(plain.get_input_embeddings().weight.shape[0])
    nowhere = Path()
    return Ready(
        subject=Subject(
            name="the model in training", path=nowhere, kind="model", tokenizer_path=nowhere, content_hash=""
        ),
        model=model,
        plain=plain,
        tokenizer=tokenizer,
        device=next(model.parameters()).device,
        context=context_length(plain, tokenizer) - virtual,
        virtual=virtual,
        rows=rows,
        pad_id=padding_id(plain.config, tokenizer, rows),
        writable=decoder_positions(plain),
    )
