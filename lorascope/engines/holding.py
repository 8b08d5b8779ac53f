"""The one model in memory: the base stays loaded while adapters come and go, a full model replaces it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lorascope.engines.attaching import Snapshot, attach, fingerprint
from lorascope.engines.base import Subject
from lorascope.engines.batching import release_memory
from lorascope.engines.loading import (
    Loaded,
    Need,
    context_length,
    decoder_positions,
    load_model,
    load_tokenizer,
    model_path,
    padding_id,
    steady_length,
    untrained_head,
)
from lorascope.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Ready:
    """A subject that can be asked.

    ``plain`` is the transformers model inside ``model`` (the same without adapter). ``context`` is what is left for
    items after the ``virtual`` tokens that a prompt-learning adapter puts in front; ``rows`` is the embedding's length.
    ``writable`` is how many tokens an encoder–decoder can write, where its decoder has a table of positions.
    """

    subject: Subject
    model: Any
    plain: Any
    tokenizer: Any
    device: torch.device
    context: int
    virtual: int
    rows: int
    pad_id: int
    writable: int | None = None

    def refuse_unknown(self, ids: Iterable[int]) -> None:
        """An EvaluationError for a token beyond the embedding, which on a CUDA device would end the whole process."""
        largest = max(ids, default=0)
        if largest >= self.rows:
            raise EvaluationError(
                f"the tokenizer gives token {largest}, and the embedding of '{self.subject.name}' has {self.rows} rows",
                where=str(self.subject.tokenizer_path),
                remedy="the tokenizer is not this checkpoint's, or the adapter was saved without its new embeddings",
            )

    @property
    def encoder_decoder(self) -> bool:
        """Whether prompts go to an encoder and answers come from a decoder."""
        return bool(self.plain.config.is_encoder_decoder)

    def follows_length(self, longest: int) -> bool:
        """Whether what a sequence gives depends on the longest that shares its batch, which has ``longest`` tokens.

        So where rotary factors follow the largest position of a batch (see :func:`loading.steady_length`). Sequences
        of different lengths have to be read apart then.
        """
        steady = steady_length(self.plain.config)
        return steady is not None and self.virtual + longest > steady


class Holder:
    """Keeps at most one base or full model, with at most one adapter on it.

    ``merge`` is whether adapters may be merged into the base in memory where that is proven to be equal ("auto").
    """

    def __init__(
        self,
        *,
        device: torch.device,
        dtype: torch.dtype | Literal["auto"],
        merge: Literal["auto", "never"] = "never",
    ) -> None:
        """Hold nothing yet."""
        self.device = device
        self.merge = merge
        self._dtype = dtype
        self._key: tuple[Path, Need] | None = None
        self._loaded: Loaded | None = None
        self._weights: dict[str, int] | None = None
        self._snapshot: Snapshot | None = None
        self._current: tuple[Subject, Need, Ready] | None = None
        self._is_merged = False

    def merged(self, subject: Subject, need: Need) -> Ready | None:
        """The subject with its adapter merged, if it is here in that state."""
        if self._is_merged and self._current is not None and self._current[:2] == (subject, need):
            return self._current[2]
        return None

    def mark_merged(self) -> None:
        """Remember that the adapter which is attached has been merged."""
        self._is_merged = True

    def ready(self, subject: Subject, need: Need) -> Ready:
        """The subject, unmerged, loaded as ``need`` says; whatever was there before is detached or let go.

        Raises:
            CheckpointError: weights or tokenizer cannot be read.
            EvaluationError: the subject has no trained head for the task, or the adapter does not fit its base.
        """
        if self._current is not None and self._current[:2] == (subject, need) and not self._is_merged:
            return self._current[2]
        self.detach()
        loaded = self._load(subject, need)
        if subject.kind == "model" and loaded.missing:
            raise untrained_head(subject, loaded.missing)
        tokenizer = load_tokenizer(subject, for_words=need.family == "token")
        model = loaded.model if subject.kind == "model" else self._attach(subject, loaded)
        virtual = virtual_tokens(model)
        rows = int(loaded.model.get_input_embeddings().weight.shape[0])
        ready = Ready(
            subject=subject,
            model=model,
            plain=loaded.model,
            tokenizer=tokenizer,
            device=self.device,
            context=context_length(loaded.model, tokenizer) - virtual,
            virtual=virtual,
            rows=rows,
            pad_id=padding_id(loaded.model.config, tokenizer, rows),
            writable=decoder_positions(loaded.model),
        )
        self._current = (subject, need, ready)
        return ready

    def _load(self, subject: Subject, need: Need) -> Loaded:
        key = (model_path(subject), need)
        if self._loaded is None or self._key != key:
            self.release()
            self._loaded = load_model(
                key[0], need, device=self.device, dtype=self._dtype, allow_pickle=subject.allow_pickle
            )
            self._key = key
        return self._loaded

    def _attach(self, subject: Subject, loaded: Loaded) -> Any:
        if self._weights is None:
            self._weights = fingerprint(loaded.model)
        self._snapshot = Snapshot(loaded.model)
        try:
            return attach(loaded.model, subject, device=self.device, untrained=loaded.missing)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Leave the plain base, bit for bit; one whose weights were changed is let go, and loaded again when needed."""
        self._current = None
        self._is_merged = False
        if self._snapshot is None or self._loaded is None:
            return
        self._snapshot.restore()
        self._snapshot = None
        if fingerprint(self._loaded.model) != self._weights:
            self.release()

    def release(self) -> None:
        """Let everything go."""
        held = self._loaded is not None
        self._current = self._snapshot = self._loaded = self._weights = self._key = None
        self._is_merged = False
        if held:
            release_memory()


def virtual_tokens(model: Any) -> int:
    """Positions that a prompt-learning adapter takes from the model's context."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens or 0) if config is not None and config.is_prompt_learning else 0
