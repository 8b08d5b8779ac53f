"""How far a language model has moved from its base on the user's own data: KL(adapted‖base), at every evaluation.

The base's distributions are read once, from the model before its first step, and kept: no second model is held, and it
works for every method. What is kept is bounded, so a large vocabulary means fewer positions, not more memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lorascope.training.encoding_parts import IGNORED

_MOST_BYTES = 256 * 2**20
_FILE = "base_divergence.safetensors"
NAME = "kl_to_base"


class BaseDivergence:
    """Mean KL(adapted‖base) in nats a predicted token (≥ 0) over the supervised positions of some rows.

    An early warning: it grows before general answers break. The first call with a fresh folder has to be made before
    training; it keeps the base's log-probabilities in the folder, where a resumed run finds them, and gives 0, but for
    prompt methods, whose untrained virtual tokens move the base already. Positions are taken in the order of the rows
    until the bound on memory is reached.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """``rows`` hold ``input_ids`` and ``labels`` as lists; those without a supervised position are passed over."""
        self._rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
        self._path = folder / _FILE
        self._base: dict[str, torch.Tensor] | None = load_file(str(self._path)) if self._path.is_file() else None

    def __call__(self, model: Any, tokenizer: Any) -> Mapping[str, float]:
        """``kl_to_base``; nothing where no row can be read."""
        if not self._rows:
            return {}
        if self._base is None:
            self._base = self._read_base(model)
            if self._base:
                part = self._path.with_suffix(f".{os.getpid()}.part")  # each of several processes writes the same
                save_file(self._base, str(part))
                part.replace(self._path)
        total, positions = 0.0, 0
        for name, base in self._base.items():
            now = _log_probabilities(model, self._rows[int(name)])[: len(base)]
            base = base.to(now.device)
            total += float((now.exp() * (now - base)).sum().clamp_min(0))
            positions += len(base)
        return {NAME: total / positions} if positions else {}

    def _read_base(self, model: Any) -> dict[str, torch.Tensor]:
        kept: dict[str, torch.Tensor] = {}
        left = _MOST_BYTES
        with _without_prompts(model):
            for number, row in enumerate(self._rows):
                read = _log_probabilities(model, row)
                if not len(read):  # a decoder predicts no row's first token
                    continue
                most = left // (read.shape[-1] * read.element_size())
                if most < 1:
                    break
                kept[str(number)] = read[:most].cpu().contiguous()
                left -= kept[str(number)].nbytes
        return kept


def _without_prompts(model: Any) -> AbstractContextManager[None]:
    """The base behind virtual tokens, which speak from the start; every other method begins as the base."""
    prompted = hasattr(model, "peft_config") and model.active_peft_config.is_prompt_learning
    switched_off: AbstractContextManager[None] = model.disable_adapter() if prompted else nullcontext()
    return switched_off


@torch.no_grad()
def _log_probabilities(model: Any, row: Mapping[str, Any]) -> torch.Tensor:
    """Log-probabilities (positions, vocabulary) in float32 at the positions whose next token is supervised."""
    device = next(model.parameters()).device
    labels = torch.tensor(row["labels"], device=device)
    ids = torch.tensor([row["input_ids"]], device=device)
    if getattr(model.config, "is_encoder_decoder", False):
        logits = model(input_ids=ids, labels=labels.unsqueeze(0)).logits[0]
        return torch.log_softmax(logits[labels != IGNORED].float(), dim=-1)
    logits = model(input_ids=ids).logits[0]
    # Virtual tokens of prompt methods stand in front: positions are counted from the end.
    logits = logits[-len(labels) :]
    return torch.log_softmax(logits[:-1][labels[1:] != IGNORED].float(), dim=-1)
