"""Generated answers, greedy or sampled, and how probable the model finds the first reference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lorascope.engines.base import Outcome, Size
from lorascope.engines.batching import plan
from lorascope.engines.decoding import Decoder, Request, Rules, best_rows, can_decode, gold_behind
from lorascope.engines.holding import Ready
from lorascope.engines.prompts import Pair, Prompt, encode, encode_pair, prompt_of, reference_separator, start_token
from lorascope.engines.sampling import Pick, Sampler, greedy, uniform_numbers
from lorascope.engines.scoring import not_finite, padded, target_logprobs
from lorascope.errors import EvaluationError
from lorascope.schema.items import GenerateAnswer, GenerateItem, content_id
from lorascope.schema.suite import SuiteTask

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "temperature": (1.0,),
    "top_k": (50, 0),
    "top_p": (1.0,),
    "min_p": (),
    "typical_p": (1.0,),
    "num_beams": (1,),
    "length_penalty": (1.0,),
    "early_stopping": (False,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": (),
    "sequence_bias": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "forced_eos_token_id": (),
}
_KEPT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
_MARGIN = 4
TOKENS_AT_ONCE = 8192
_Row = tuple[Sequence[int], Sequence[float]]


def ignored_settings(config: GenerationConfig) -> list[str]:
    """The checkpoint's own decoding settings that greedy decoding leaves out, as ``name=value``."""
    values = {name: getattr(config, name, None) for name in _NEUTRAL}
    return [f"{name}={value}" for name, value in values.items() if value is not None and value not in _NEUTRAL[name]]


class GenerationAsker:
    """Written answers: greedy, or sampled as the task says. The checkpoint's own sampling, penalties and beams are left
    out; its end-of-text tokens are kept.

    A prompt that leaves no room for ``max_new_tokens`` loses its left. The answer is the new text alone, without
    special tokens and surrounding whitespace, up to the first stop string, which it names; it is ``truncated`` when
    neither a stop string nor an end-of-text token ended it. ``gold_logprob`` is None where the reference is empty or
    does not fit into the context. Sampled answers beyond the first are in ``others``; an item's draws depend on the
    seed and on what it asks and accepts, never on what shares its batch.

    Decoders with full attention are decoded by :mod:`lorascope.engines.decoding` (``continuous``); for all others,
    ``generate`` of transformers works batch by batch, decoder prompts padded on the left, encoder prompts on the right.
    Where padding would change what is written, prompts of one length go together.

    Logits that are NaN or infinite are an EvaluationError, whether or not a reference is scored.
    """

    def __init__(self, ready: Ready, task: SuiteTask, items: Sequence[GenerateItem]) -> None:
        """Encode prompts and references; an EvaluationError when the context has no room for the answer."""
        self._ready = ready
        self._task = task
        self._room = ready.context if ready.encoder_decoder else ready.context - task.max_new_tokens
        _refuse_no_room(ready, task, self._room)
        self._items = items
        prompts = [prompt_of(ready, item.prompt, item.messages) for item in items]
        self._prompts = [self._encoded(prompt) for prompt in prompts]
        self._gold = [self._reference(*both) for both in zip(prompts, items, strict=True)]
        self._config = _greedy(ready, task)
        self._stops = StopStrings(ready.tokenizer, task.stop)
        self._samples = task.sampling.n if task.sampling else 1
        self._pick: Pick = partial(_picked, ready, Sampler(task.sampling) if task.sampling else greedy)
        self.sizes = [Size(len(self._kept(place)) + task.max_new_tokens, self._samples) for place in range(len(items))]
        # References are read behind their prompts, so theirs are lengths of the same passes.
        references = [len(pair.context) + len(pair.target) for pair in self._gold if pair is not None]
        longest = max([*references, *(size.length for size in self.sizes)], default=0)
        self.continuous = can_decode(ready, longest)
        self._unpadded = bool(ready.virtual) or ready.follows_length(longest)

    def _encoded(self, prompt: Prompt) -> list[int]:
        ids = encode(self._ready, prompt.text, special=not prompt.chat)
        start = start_token(self._ready.tokenizer)
        if ids or start is None:
            return ids
        return [start]

    def _kept(self, place: int) -> list[int]:
        """A prompt's tokens, without what is lost on the left."""
        return self._prompts[place][-self._room :]

    def _reference(self, prompt: Prompt, item: GenerateItem) -> Pair | None:
        reference = item.references[0]
        if not reference.strip():
            return None
        return encode_pair(self._ready, prompt, reference_separator(prompt, reference) + reference)

    def _chances(self, place: int, answer: int) -> Sequence[float]:
        """The uniform numbers of one answer to an item; none for a greedy one."""
        sampling, item = self._task.sampling, self._items[place]
        if sampling is None:
            return ()
        messages = None if item.messages is None else [dict(message) for message in item.messages]
        content = content_id({"prompt": item.prompt, "messages": messages, "references": list(item.references)})
        numbers: list[float] = uniform_numbers(sampling.seed, content, answer, self._task.max_new_tokens).tolist()
        return numbers

    def rows(self, batch_size: int | None) -> int:
        """How many answers are written at a time: those of ``batch_size`` items, or as many as is best (None)."""
        if batch_size is not None:
            return batch_size * self._samples
        return best_rows(self._ready, max((size.length for size in self.sizes), default=1))

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Answer the prompts at ``indices`` and score their first references."""
        if self.continuous:
            found = dict(pair for done in self.stream(indices, rows=self._samples * len(indices)) for pair in done)
            return [found[index] for index in indices]
        rows = [(self._kept(index), self._chances(index, one)) for index in indices for one in range(self._samples)]
        tokens = self._generate_by_length(rows) if self._unpadded else self._generate(rows)
        gold = self._gold_logprobs(indices)
        by_item = [tokens[begin : begin + self._samples] for begin in range(0, len(tokens), self._samples)]
        return [self._outcome(index, own, gold[index]) for index, own in zip(indices, by_item, strict=True)]

    def stream(
        self, indices: Sequence[int], *, rows: int, tokens_at_once: int = TOKENS_AT_ONCE
    ) -> Iterator[list[tuple[int, Outcome]]]:
        """Outcomes of the items at ``indices`` as they are finished, ``rows`` answers being written at a time.

        Only for models that are ``continuous``. ``tokens_at_once`` bounds the prompts that are read in one pass.
        """
        ended = self._stops.reached if self._task.stop else None
        rules = Rules(frozenset(self._config.eos_token_id or ()), self._task.max_new_tokens, self._pick, ended)
        requests = [self._request(index) for index in indices]
        apart = [one.index for one in requests if one.gold is None and self._gold[one.index] is not None]
        batches = plan(apart, self.sizes, budget=tokens_at_once, cap=rows)
        batch_of = {index: batch for batch in batches for index in batch}
        scored: dict[int, float | None] = {}
        for done in Decoder(self._ready, rules, places=rows, tokens_at_once=tokens_at_once).stream(requests):
            found = []
            for one in done:
                index = one.request.index
                if index in batch_of and index not in scored:
                    scored.update(self._gold_logprobs(batch_of[index]))
                gold_logprob = scored.get(index, one.gold_logprob)
                if gold_logprob is not None and not math.isfinite(gold_logprob):
                    raise not_finite(self._ready)
                found.append((index, self._outcome(index, one.answers, gold_logprob)))
            yield found

    def _request(self, index: int) -> Request:
        """An item for the decoder; its reference goes along where its tokens go on from the prompt's."""
        prompt, pair = self._kept(index), self._gold[index]
        gold = None if pair is None else gold_behind(prompt, pair.context, pair.target)
        return Request(index, prompt, gold, self._samples, partial(self._chances, index))

    def _outcome(self, index: int, answers: Sequence[list[int]], gold_logprob: float | None) -> Outcome:
        first, *others = [self._read(tokens) for tokens in answers]
        pair = self._gold[index]
        answer = GenerateAnswer(
            text=first.text,
            truncated=first.truncated,
            gold_logprob=gold_logprob,
            gold_tokens=None if pair is None else len(pair.target),
            stop=first.stop,
            others=tuple(one.text for one in others),
        )
        return Outcome(answer, max(0, len(self._prompts[index]) - self._room))

    def _gold_logprobs(self, indices: Sequence[int]) -> dict[int, float | None]:
        pairs = {index: pair for index in indices if (pair := self._gold[index]) is not None}
        scored = target_logprobs(self._ready, list(pairs.values())) if pairs else []
        found: dict[int, float | None] = dict.fromkeys(indices)
        found.update(zip(pairs, scored, strict=True))
        return found

    def _generate_by_length(self, rows: Sequence[_Row]) -> list[list[int]]:
        """Without padding, which would stand between a prompt-learning adapter's virtual tokens and the prompt.

        Rows of one length are at the same position in each step, so that none meets another's rotary factors.
        """
        written: list[list[int]] = [[] for _ in rows]
        for length in {len(prompt) for prompt, _ in rows}:
            places = [place for place, (prompt, _) in enumerate(rows) if len(prompt) == length]
            for place, tokens in zip(places, self._generate([rows[place] for place in places]), strict=True):
                written[place] = tokens
        return written

    def _generate(self, rows: Sequence[_Row]) -> list[list[int]]:
        ready = self._ready
        prompts = [prompt for prompt, _ in rows]
        ids, mask = padded(prompts, ready, side="right" if ready.encoder_decoder else "left")
        options: dict[str, Any] = (
            {"stop_strings": list(self._task.stop), "tokenizer": ready.tokenizer} if self._task.stop else {}
        )
        options["logits_processor"] = LogitsProcessorList([_Drawn(self._pick, [row[1] for row in rows])])
        with _only(ready.plain, self._config), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
            written = ready.model.generate(input_ids=ids, attention_mask=mask, **options)
        start = 1 if ready.encoder_decoder else ids.shape[1]
        found: list[list[int]] = torch.as_tensor(written)[:, start:].tolist()
        return found

    def _read(self, tokens: list[int]) -> _Text:
        ends = set(self._config.eos_token_id or ())
        end = next((position for position, token in enumerate(tokens) if token in ends), None)
        text, stop = self._stops.read(tokens[:end])
        truncated = stop is None and end is None and len(tokens) >= self._task.max_new_tokens
        return _Text(text.strip(), truncated, stop)


class _Text(NamedTuple):
    text: str
    truncated: bool
    stop: str | None


class StopStrings:
    """Texts that end an answer. The first in the text counts; of several at one place, the shortest.

    Special tokens are not part of an answer's text, but a stop string may name one (``<|im_end|>``): then it is looked
    for in the text with them.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        """Look for ``stops`` in what ``tokenizer`` decodes."""
        self._tokenizer = tokenizer
        self._stops = sorted(set(stops), key=len)
        self._special = [str(token) for token in tokenizer.all_special_tokens]
        self._with_special = any(token in stop for stop in stops for token in self._special)
        self._window = max((len(stop.encode("utf-8")) for stop in stops), default=0) + _MARGIN

    def read(self, tokens: Sequence[int]) -> tuple[str, str | None]:
        """The answer's text before the first stop string, and that string; all of it and None where there is none."""
        text, stop = self.cut(self._decoded(tokens))
        for token in self._special if self._with_special else ():
            text = text.replace(token, "")
        return text, stop

    def _decoded(self, tokens: Sequence[int]) -> str:
        skip = not self._with_special
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return str(text)

    def reached(self, tokens: list[int]) -> bool:
        """Whether the newest tokens have completed a stop string.

        Their own text is looked at first, which costs the same at every length; what stands there is then looked for in
        the whole text. A stop string drawn out over more tokens than it has bytes is found when the answer is read.
        """
        if len(tokens) > self._window and self.cut(self._decoded(tokens[-self._window :]))[1] is None:
            return False
        return self.cut(self._decoded(tokens))[1] is not None

    def cut(self, text: str) -> tuple[str, str | None]:
        """The text before the first stop string, and that string; all of it and None where there is none."""
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if not found:
            return text, None
        place, stop = min(found, key=lambda one: one[0])
        return text[:place], stop


class _Drawn(LogitsProcessor):  # type: ignore[misc]
    """Leaves a single token of each row possible, the one that is picked: "greedy" search then takes it."""

    def __init__(self, pick: Pick, chances: Sequence[Sequence[float]]) -> None:
        self._pick = pick
        self._chances = chances
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._pick(scores, [row[self._step] if row else 0.0 for row in self._chances])
        self._step += 1
        only = torch.full_like(scores, float("-inf"))
        only[torch.arange(len(tokens)), torch.tensor(tokens)] = 0.0
        return only


def _picked(ready: Ready, pick: Pick, logits: torch.Tensor, chances: Sequence[float]) -> list[int]:
    """As ``pick`` chooses. NaN and infinity, from which it would choose as well, are refused."""
    if not bool(logits.amax(dim=-1).isfinite().all()):
        raise not_finite(ready)
    return pick(logits, chances)


def _refuse_no_room(ready: Ready, task: SuiteTask, room: int) -> None:
    if room < 1:
        raise EvaluationError(
            f"{task.max_new_tokens} new tokens leave no room for a prompt in a context of {ready.context} tokens",
            where=f"task '{task.name}'",
            remedy="lower max_new_tokens",
        )
    if ready.writable is not None and task.max_new_tokens > ready.writable:
        raise EvaluationError(
            f"the decoder of '{ready.subject.name}' has positions for {ready.writable} tokens, and "
            f"{task.max_new_tokens} are to be written",
            where=f"task '{task.name}'",
            remedy=f"lower max_new_tokens to {ready.writable} or less",
        )


def _greedy(ready: Ready, task: SuiteTask) -> GenerationConfig:
    """Greedy decoding with nothing of the checkpoint's settings but its special tokens."""
    own = ready.plain.generation_config
    stated = own.eos_token_id if isinstance(own.eos_token_id, (list, tuple)) else [own.eos_token_id]
    ends = sorted({int(token) for token in [*stated, ready.tokenizer.eos_token_id] if token is not None})
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=task.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=ready.pad_id,
        **{name: getattr(own, name, None) for name in _KEPT},
    )


@contextmanager
def _only(model: Any, config: GenerationConfig) -> Iterator[None]:
    """The model generates by ``config`` alone in here; merged with its own settings, penalties would come back."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
