"""Rows into batches: padded on the right, so that positions do not move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorascope.training.encoding_parts import IGNORED, Row

_SEQUENCES = ("input_ids", "token_type_ids", "position_ids")
TOKEN_COUNTS = "token_counts"
"""A batch's column (rows,) with the tokens of each row; where it stands no mask tells them from padding."""
DecoderInputs = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes one batch of rows of any kind.

    Labels of tokens are filled up with ``IGNORED``, which no loss counts; other labels become one tensor, as do further
    columns with one number a row (weights). Rows with ``position_ids`` are packed: they get no mask of padding, from
    which the borders between their items could not be read, but ``TOKEN_COUNTS``, which is not for the model; each
    padded place is an item of its own. ``flat`` joins all packed rows of a batch to one without padding, as flash
    attention needs it. ``multiple`` rounds lengths
    up, which suits tensor cores. ``decoder_inputs`` gives an encoder–decoder's inputs from the labels.
    """

    pad_id: int
    token_type_pad: int = 0
    multiple: int = 1
    flat: bool = False
    decoder_inputs: DecoderInputs | None = None

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The batch of ``rows``, which all have the same columns."""
        packed = "position_ids" in rows[0]
        if packed and self.flat:
            return _flattened(rows)
        fill = {"input_ids": self.pad_id, "token_type_ids": self.token_type_pad, "position_ids": 0}
        width = self._width(rows, "input_ids")
        batch = {
            name: _padded([row[name] for row in rows], width, fill[name]) for name in _SEQUENCES if name in rows[0]
        }
        if packed:
            batch[TOKEN_COUNTS] = torch.tensor([len(row["input_ids"]) for row in rows])
        else:
            batch["attention_mask"] = _padded([[1] * len(row["input_ids"]) for row in rows], width, 0)
        for name in rows[0].keys() - batch.keys() - {"labels"}:
            batch[name] = torch.tensor([row[name] for row in rows])
        if "labels" in rows[0]:
            batch["labels"] = self._labels(rows)
            if self.decoder_inputs is not None:
                batch["decoder_input_ids"] = self.decoder_inputs(batch["labels"])
        return batch

    def _width(self, rows: Sequence[Row], name: str) -> int:
        longest = max(len(row[name]) for row in rows)
        return -(-longest // self.multiple) * self.multiple

    def _labels(self, rows: Sequence[Row]) -> torch.Tensor:
        values = [row["labels"] for row in rows]
        if not isinstance(values[0], list):
            return torch.tensor(values)
        if isinstance(values[0][0], float):
            return torch.tensor(values, dtype=torch.float32)
        width = self._width(rows, "labels" if self.decoder_inputs is not None else "input_ids")
        return _padded(values, width, IGNORED)


def _padded(values: Sequence[list[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([value + [fill] * (width - len(value)) for value in values], dtype=torch.long)


def _flattened(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    names = ("input_ids", "position_ids", "labels")
    return {name: torch.tensor([[value for row in rows for value in row[name]]]) for name in names if name in rows[0]}


def collator_for(model: Any, tokenizer: Any, *, multiple: int = 1) -> Collator:
    """The collator that this model (with or without adapter) needs; ``multiple`` as in :class:`Collator`."""
    config = model.config
    return Collator(
        pad_id=training_pad_id(model, tokenizer),
        token_type_pad=int(tokenizer.pad_token_type_id),
        multiple=multiple,
        flat="flash" in str(config.get_text_config()._attn_implementation),
        decoder_inputs=model.prepare_decoder_input_ids_from_labels if config.is_encoder_decoder else None,
    )


def training_pad_id(model: Any, tokenizer: Any) -> int:
    """The token that fills up short rows: the model's own, the tokenizer's, or the end of text, as masked anyway.

    A classifier on a decoder finds the end of a text by ``config.pad_token_id``: where that is None, it has to be set
    to this. Tokens beyond the embedding are passed over.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    stated = getattr(model.config.get_text_config(), "pad_token_id", None)
    candidates = (stated, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if isinstance(token, int) and 0 <= token < rows), 0)
