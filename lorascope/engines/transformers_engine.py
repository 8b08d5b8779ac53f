"""The engine on transformers: every kind of task, for models and for adapters on a shared base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lorascope.engines.base import Asker, Outcome, Progress, Size, Subject
from lorascope.engines.batching import Gauge, run_batches, run_stream
from lorascope.engines.cache import AnswerCache
from lorascope.engines.choice import ChoiceAsker
from lorascope.engines.classification import LabelsAsker, ScoreAsker, TokensAsker
from lorascope.engines.cost import MOST_ITEMS, Cost, measure
from lorascope.engines.divergence import DivergenceAsker, open_sides
from lorascope.engines.generation import GenerationAsker, ignored_settings
from lorascope.engines.hidden import HiddenAsker, by_layer
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.keys import Setting, answer_keys, context_of, tokenizer_hash
from lorascope.engines.loading import hidden_need, need_of, resolve_device, resolve_dtype
from lorascope.engines.merging import MergeProof, Proofs, merge, ready_to_answer
from lorascope.engines.scoring import LikelihoodAsker
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.items import Answer, DivergenceAnswer, Item
from lorascope.schema.suite import SuiteTask

__all__ = ["TransformersEngine", "tokenizer_hash"]

_BUDGETS = {"cuda": 16384, "cpu": 2048}
_CUT = {
    "generate": "prompts lost their left",
    "choice": "contexts lost their left",
    "tokens": "items lost their last words, which count as O",
}


class TransformersEngine:
    """Answers with transformers and peft, on one device.

    One model is in memory at a time: a base with adapters attached and detached in turn, or a full model. Items run in
    batches of similar length under ``token_budget`` padded tokens and, where given, ``batch_size`` items; generated
    answers as a stream, ``batch_size`` of them at a time. Without ``batch_size`` the size follows the device: a CUDA
    device is filled by its free memory, a CPU gets what is fastest there. Batches shrink when memory runs out. None of
    it changes an answer beyond rounding: a model whose rotary factors follow the longest text of a batch reads a task
    with texts beyond its trained length item by item. With a ``cache``, answers that were given before are read from it
    and every batch is stored at once.

    ``dtype`` "auto" keeps what the checkpoint is stored in, on a GPU mostly bfloat16, whose rounding (two to three
    digits) makes answers depend a little on the batch; "float32" does not. ``merge`` "auto" merges an adapter into the
    base in memory where answers are many, the data type is float32 and the task's own items prove that it changes
    nothing (:attr:`proofs`); "never" leaves adapters beside their base.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        token_budget: int | None = None,
        cache: AnswerCache | None = None,
        merge: Literal["auto", "never"] = "auto",
    ) -> None:
        """Load nothing yet; a UsageError when the device, the data type or the batch size cannot be used."""
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"a batch size of {batch_size} is no batch", remedy="give 1 or more")
        self.device = resolve_device(device)
        self.notes: list[str] = []
        self._dtype_name = dtype
        self._cap = batch_size
        self._budget = token_budget or _BUDGETS.get(self.device.type, _BUDGETS["cpu"])
        self._grows = token_budget is None and self.device.type == "cuda"
        self._cache = cache
        self._holder = Holder(device=self.device, dtype=resolve_dtype(dtype), merge=merge)
        self._proofs: Proofs = {}

    @property
    def proofs(self) -> list[MergeProof]:
        """What merging the adapters came to, one for each that was tried."""
        return list(self._proofs.values())

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
        asked = [items[index] for index in waiting]
        ready = ready_to_answer(self._holder, subject, need_of(subject, task), asked, self._proofs)
        asker = self._asker(ready, task, asked)

        context = context_of(subject, task, self._setting())

        def keep(batch: Sequence[int], found: list[Outcome]) -> None:
            places = [waiting[position] for position in batch]
            outcomes.update(zip(places, found, strict=True))
            if self._cache is not None:
                self._cache.put_many(((keys[place], outcomes[place]) for place in places), context)
            if on_progress is not None:
                on_progress(len(outcomes), len(items))

        with torch.inference_mode():
            self._run(ready, asker, len(waiting), keep)

    def _run(
        self, ready: Ready, asker: Asker, count: int, keep: Callable[[Sequence[int], list[Outcome]], None]
    ) -> None:
        """Ask all items of an asker, as a stream where it is one, else in batches."""
        if isinstance(asker, GenerationAsker) and asker.continuous:
            run_stream(range(count), asker.sizes, asker.stream, keep, rows=asker.rows(self._cap), budget=self._budget)
        else:
            gauge = Gauge(self.device) if self._grows else None
            sizes, budget, cap = asker.sizes, self._budget, self._most_items(ready, asker.sizes)
            run_batches(range(count), sizes, asker.ask, keep, budget=budget, cap=cap, gauge=gauge)

    def _most_items(self, ready: Ready, sizes: Sequence[Size]) -> int | None:
        """Items in a batch: one where its neighbours' lengths would change what it gives."""
        return 1 if ready.follows_length(max((size.length for size in sizes), default=0)) else self._cap

    def _asker(self, ready: Ready, task: SuiteTask, items: Sequence[Any]) -> Asker:
        if task.kind == "generate":
            self._note_ignored(ready, task)
            return GenerationAsker(ready, task, items)
        if task.kind == "choice":
            return ChoiceAsker(ready, task, items)
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
            cap = self._most_items(ready, asker.sizes)
            run_batches(range(len(texts)), asker.sizes, asker.ask, keep, budget=self._budget, cap=cap)
        return by_layer([found[index] for index in range(len(texts))])

    def diverge(
        self,
        base: Subject,
        subject: Subject,
        task: SuiteTask,
        items: Sequence[Item],
        on_progress: Progress | None = None,
    ) -> list[DivergenceAnswer]:
        """KL(subject‖base) on each item's own text, in the order of the items.

        See :class:`lorascope.engines.divergence.DivergenceAsker`. Full models are both in memory meanwhile.

        Raises:
            EvaluationError: the two have different vocabularies, the task predicts no text, or a model gives values
                that are not finite.
        """
        beside = {"divergence_from": [base.content_hash, base.base_hash]}
        keys = answer_keys(subject, task, items, self._setting(), beside=beside)
        stored = self._cache.get_many(keys) if self._cache is not None else {}
        found = {index: stored[key].answer for index, key in enumerate(keys) if key in stored}
        waiting = [index for index in range(len(items)) if index not in found]
        context = context_of(subject, task, self._setting())

        def keep(batch: Sequence[int], outcomes: list[Outcome]) -> None:
            places = [waiting[position] for position in batch]
            found.update((place, outcome.answer) for place, outcome in zip(places, outcomes, strict=True))
            if self._cache is not None:
                self._cache.put_many(zip((keys[place] for place in places), outcomes, strict=True), context)
            if on_progress is not None:
                on_progress(len(found), len(items))

        if on_progress is not None:
            on_progress(len(found), len(items))
        if waiting:
            self._diverge(base, subject, task, [items[index] for index in waiting], keep)
        return [cast(DivergenceAnswer, found[index]) for index in range(len(items))]

    def _diverge(
        self,
        base: Subject,
        subject: Subject,
        task: SuiteTask,
        items: Sequence[Item],
        keep: Callable[[Sequence[int], list[Outcome]], None],
    ) -> None:
        second = type(self._holder)(device=self.device, dtype=resolve_dtype(self._dtype_name))
        try:
            asker = DivergenceAsker(open_sides(self._holder, second, base, subject, task), task, items)
            with torch.inference_mode():
                run_batches(range(len(items)), asker.sizes, asker.ask, keep, budget=self._budget, cap=self._cap)
        finally:
            second.release()

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

    def _note_ignored(self, ready: Ready, task: SuiteTask) -> None:
        ignored = ignored_settings(ready.plain.generation_config)
        if ignored:
            how = "sampled as the task says" if task.sampling else "greedy"
            self._note(f"{ready.subject.name}: decoding is {how}; not used of the checkpoint: {', '.join(ignored)}")

    def _note_cuts(self, subject: Subject, task: SuiteTask, cuts: Sequence[int]) -> None:
        cut = sum(1 for one in cuts if one > 0)
        if cut:
            what = _CUT.get(task.kind, "texts lost their right")
            self._note(f"{task.name}, {subject.name}: {cut} of {len(cuts)} items exceed the context; {what}")

    def _setting(self) -> Setting:
        return Setting(
            engine="transformers",
            dtype=self._dtype_name,
            device=self.device.type,
            merge=self._holder.merge,
        )

    def _keys(self, subject: Subject, task: SuiteTask, items: Sequence[Item]) -> list[str]:
        """One key per item, of everything that its answer depends on."""
        return answer_keys(subject, task, items, self._setting())
