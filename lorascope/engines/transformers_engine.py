"""The engine on transformers: every kind of task, for models and for adapters on a shared base."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorascope.engines.base import ENGINE_VERSION, Asker, Outcome, Progress, Subject
from lorascope.engines.batching import run_batches
from lorascope.engines.cache import AnswerCache
from lorascope.engines.classification import LabelsAsker, ScoreAsker, TokensAsker
from lorascope.engines.cost import MOST_ITEMS, Cost, measure, merge
from lorascope.engines.generation import GenerationAsker, ignored_settings
from lorascope.engines.hidden import HiddenAsker, by_layer
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import hidden_need, need_of, resolve_device, resolve_dtype
from lorascope.engines.scoring import ChoiceAsker, LikelihoodAsker
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.items import Answer, Item, content_id
from lorascope.schema.suite import SuiteTask

_BUDGETS = {"cuda": 32768, "cpu": 8192}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_CUT = {
    "generate": "prompts lost their left",
    "choice": "contexts lost their left",
    "tokens": "items lost their last words, which count as O",
}


class TransformersEngine:
    """Answers with transformers and peft, on one device.

    One model is in memory at a time: a base with adapters attached and detached in turn, or a full model. Items run in
    batches of similar length under ``token_budget`` padded tokens and, where given, ``batch_size`` items; batches
    shrink when memory runs out. Neither changes an answer beyond rounding. With a ``cache``, answers that were given
    before are read from it and every batch is stored at once.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        token_budget: int | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        """Load nothing yet; a UsageError when the device, the data type or the batch size cannot be used."""
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"a batch size of {batch_size} is no batch", remedy="give 1 or more")
        self.device = resolve_device(device)
        self.notes: list[str] = []
        self._dtype_name = dtype
        self._cap = batch_size
        self._budget = token_budget or _BUDGETS.get(self.device.type, _BUDGETS["cpu"])
        self._cache = cache
        self._holder = Holder(device=self.device, dtype=resolve_dtype(dtype))

    def answer(
        self, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Progress | None = None
    ) -> list[Answer]:
        """One answer per item, in the order of the items; see :class:`lorascope.engines.base.Engine`."""
        keys = self._keys(subject, task, items)
        outcomes: dict[int, Outcome] = {}
        if self._cache is not None:
            stored = self._cache.get_many(keys)
            outcomes = {index: stored[key] for index, key in enumerate(keys) if key in stored}
        waiting = [index for index in range(len(items)) if index not in outcomes]
        if on_progress is not None:
            on_progress(len(outcomes), len(items))
        if waiting:
            self._ask(subject, task, items, waiting, keys, outcomes, on_progress)
        self._note_cuts(subject, task, [outcomes[index].cut for index in range(len(items))])
        return [outcomes[index].answer for index in range(len(items))]

    def _ask(
        self,
        subject: Subject,
        task: SuiteTask,
        items: Sequence[Item],
        waiting: Sequence[int],
        keys: Sequence[str],
        outcomes: dict[int, Outcome],
        on_progress: Progress | None,
    ) -> None:
        """Fill ``outcomes`` at the ``waiting`` places, batch by batch."""
        ready = self._holder.ready(subject, need_of(subject, task))
        asker = self._asker(ready, task, [items[index] for index in waiting])

        def keep(batch: Sequence[int], found: list[Outcome]) -> None:
            places = [waiting[position] for position in batch]
            outcomes.update(zip(places, found, strict=True))
            if self._cache is not None:
                self._cache.put_many((keys[place], outcomes[place]) for place in places)
            if on_progress is not None:
                on_progress(len(outcomes), len(items))

        with torch.inference_mode():
            run_batches(range(len(waiting)), asker.sizes, asker.ask, keep, budget=self._budget, cap=self._cap)

    def _asker(self, ready: Ready, task: SuiteTask, items: Sequence[Any]) -> Asker:
        if task.kind == "generate":
            self._note_ignored(ready)
            return GenerationAsker(ready, task, items)
        if task.kind == "choice":
            return ChoiceAsker(ready, items)
        if task.kind == "likelihood":
            return LikelihoodAsker(ready, items)
        if task.kind == "labels":
            return LabelsAsker(ready, task, items)
        if task.kind == "score":
            return ScoreAsker(ready, items)
        return TokensAsker(ready, task, items)

    def hidden_states(
        self, subject: Subject, texts: Sequence[str], on_progress: Progress | None = None
    ) -> list[NDArray[np.float32]]:
        """Per layer, from the embeddings on, an (n, d) array of states averaged over each text's tokens.

        Raises:
            UsageError: there are no texts.
            EvaluationError: the subject cannot be loaded or gives values that are not finite.
        """
        if not texts:
            raise UsageError("hidden states of no texts are not defined")
        ready = self._holder.ready(subject, hidden_need(subject))
        asker = HiddenAsker(ready, texts)
        found: dict[int, NDArray[np.float32]] = {}

        def keep(batch: Sequence[int], states: list[NDArray[np.float32]]) -> None:
            found.update(zip(batch, states, strict=True))
            if on_progress is not None:
                on_progress(len(found), len(texts))

        with torch.inference_mode():
            run_batches(range(len(texts)), asker.sizes, asker.ask, keep, budget=self._budget, cap=self._cap)
        return by_layer([found[index] for index in range(len(texts))])

    def measure_cost(self, subject: Subject, task: SuiteTask, items: Sequence[Item], *, merged: bool = False) -> Cost:
        """Latency and memory on the first 16 items at most, one at a time; ``merged`` merges an adapter first.

        Afterwards the base is as it was before. See :func:`lorascope.engines.cost.measure`.

        Raises:
            EvaluationError: there are no items, or nothing that could be merged.
        """
        if not items:
            raise EvaluationError("the cost of no items is not defined", where=f"task '{task.name}'")
        if merged and subject.kind == "model":
            raise EvaluationError(f"'{subject.name}' is a full model; there is nothing to merge")
        ready = self._holder.ready(subject, need_of(subject, task))
        asked = items[:MOST_ITEMS]
        try:
            if merged:
                merge(ready)
            with torch.inference_mode():
                return measure(ready, self._asker(ready, task, asked), len(asked), merged=merged)
        finally:
            if merged:
                self._holder.detach()

    def close(self) -> None:
        """Let the model go. The cache stays open: it belongs to the caller."""
        self._holder.release()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_ignored(self, ready: Ready) -> None:
        ignored = ignored_settings(ready.plain.generation_config)
        if ignored:
            self._note(f"{ready.subject.name}: decoding is greedy; not used of the checkpoint: {', '.join(ignored)}")

    def _note_cuts(self, subject: Subject, task: SuiteTask, cuts: Sequence[int]) -> None:
        cut = sum(1 for one in cuts if one > 0)
        if cut:
            what = _CUT.get(task.kind, "texts lost their right")
            self._note(f"{task.name}, {subject.name}: {cut} of {len(cuts)} items exceed the context; {what}")

    def _keys(self, subject: Subject, task: SuiteTask, items: Sequence[Item]) -> list[str]:
        """One key per item, of everything that its answer depends on."""
        shared = {
            "engine": ENGINE_VERSION,
            "weights": [subject.content_hash, subject.base_hash],
            "tokenizer": tokenizer_hash(subject.tokenizer_path),
            "head": subject.labels,
            "task": task.model_dump(include={"kind", "max_new_tokens", "stop", "labels", "multi_label"}),
            "dtype": self._dtype_name,
            "device": self.device.type,
        }
        start = hashlib.sha256(json.dumps(shared, sort_keys=True, ensure_ascii=False).encode("utf-8"))
        keys = []
        for item in items:
            digest = start.copy()
            digest.update(_asked(item).encode("ascii"))
            keys.append(digest.hexdigest())
        return keys


def _asked(item: Item) -> str:
    """Hash of what an item asks, without its place in a set."""
    beside = {"item_id", "group", "category", "split"}
    names = [field.name for field in dataclasses.fields(item) if field.name not in beside]
    return content_id({"type": type(item).__name__, **{name: getattr(item, name) for name in names}})


def tokenizer_hash(folder: Path) -> str:
    """SHA-256 over the tokenizer's files in a folder, chat template included."""
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(name.encode("ascii"))
            digest.update(path.read_bytes())
    return digest.hexdigest()
