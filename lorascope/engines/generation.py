"""Generated answers: greedy decoding, and how probable the model finds the first reference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from lorascope.engines.base import Outcome, Size
from lorascope.engines.holding import Ready
from lorascope.engines.prompts import Pair, Prompt, encode, encode_pair, prompt_of, reference_separator, start_token
from lorascope.engines.scoring import padded, target_logprobs
from lorascope.errors import EvaluationError
from lorascope.schema.items import GenerateAnswer, GenerateItem
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


def ignored_settings(config: GenerationConfig) -> list[str]:
    """The checkpoint's own decoding settings that greedy decoding leaves out, as ``name=value``."""
    values = {name: getattr(config, name, None) for name in _NEUTRAL}
    return [f"{name}={value}" for name, value in values.items() if value is not None and value not in _NEUTRAL[name]]


class GenerationAsker:
    """Greedy answers. The checkpoint's sampling, penalties and beams are left out; its end-of-text tokens are kept.

    Decoder prompts are padded on the left, encoder prompts on the right. A prompt that leaves no room for
    ``max_new_tokens`` loses its left. The answer is the new text alone, without special tokens and surrounding
    whitespace, up to the first stop string; it is ``truncated`` when neither a stop string nor an end-of-text token
    ended it. ``gold_logprob`` is None where the reference does not fit into the context.
    """

    def __init__(self, ready: Ready, task: SuiteTask, items: Sequence[GenerateItem]) -> None:
        """Encode prompts and references; an EvaluationError when the context has no room for the answer."""
        self._ready = ready
        self._task = task
        self._room = ready.context if ready.encoder_decoder else ready.context - task.max_new_tokens
        if self._room < 1:
            raise EvaluationError(
                f"{task.max_new_tokens} new tokens leave no room for a prompt in a context of {ready.context} tokens",
                where=f"task '{task.name}'",
                remedy="lower max_new_tokens",
            )
        prompts = [prompt_of(ready, item.prompt, item.messages) for item in items]
        self._prompts = [self._encoded(prompt) for prompt in prompts]
        self._gold = [self._reference(*both) for both in zip(prompts, items, strict=True)]
        self._config = _greedy(ready, task)
        self.sizes = [Size(len(ids[-self._room :]) + task.max_new_tokens) for ids in self._prompts]

    def _encoded(self, prompt: Prompt) -> list[int]:
        ids = encode(self._ready, prompt.text, special=not prompt.chat)
        start = start_token(self._ready.tokenizer)
        if ids or start is None:
            return ids
        return [start]

    def _reference(self, prompt: Prompt, item: GenerateItem) -> Pair | None:
        reference = item.references[0]
        return encode_pair(self._ready, prompt, reference_separator(prompt, reference) + reference)

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Generate for the prompts at ``indices`` and score their first references."""
        prompts = [self._prompts[index][-self._room :] for index in indices]
        new_tokens = self._generate_by_length(prompts) if self._ready.virtual else self._generate(prompts)
        gold = self._gold_logprobs(indices)
        outcomes = []
        for index, tokens in zip(indices, new_tokens, strict=True):
            text, truncated = self._read(tokens)
            answer = GenerateAnswer(text=text, truncated=truncated, gold_logprob=gold[index])
            outcomes.append(Outcome(answer, max(0, len(self._prompts[index]) - self._room)))
        return outcomes

    def _gold_logprobs(self, indices: Sequence[int]) -> dict[int, float | None]:
        pairs = {index: pair for index in indices if (pair := self._gold[index]) is not None}
        scored = target_logprobs(self._ready, list(pairs.values())) if pairs else []
        found: dict[int, float | None] = dict.fromkeys(indices)
        found.update(zip(pairs, scored, strict=True))
        return found

    def _generate_by_length(self, prompts: list[list[int]]) -> list[list[int]]:
        """Without padding, which would stand between a prompt-learning adapter's virtual tokens and the prompt."""
        written: list[list[int]] = [[] for _ in prompts]
        for length in {len(prompt) for prompt in prompts}:
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
            for place, tokens in zip(places, self._generate([prompts[place] for place in places]), strict=True):
                written[place] = tokens
        return written

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        ready = self._ready
        ids, mask = padded(prompts, ready, side="right" if ready.encoder_decoder else "left")
        stopping: dict[str, Any] = (
            {"stop_strings": list(self._task.stop), "tokenizer": ready.tokenizer} if self._task.stop else {}
        )
        with _only(ready.plain, self._config), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
            written = ready.model.generate(input_ids=ids, attention_mask=mask, **stopping)
        start = 1 if ready.encoder_decoder else ids.shape[1]
        rows: list[list[int]] = torch.as_tensor(written)[:, start:].tolist()
        return rows

    def _read(self, tokens: list[int]) -> tuple[str, bool]:
        ends = set(self._config.eos_token_id or ())
        end = next((position for position, token in enumerate(tokens) if token in ends), None)
        text = self._ready.tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        stops = [place for stop in self._task.stop if (place := text.find(stop)) >= 0]
        if stops:
            return text[: min(stops)].strip(), False
        return text.strip(), end is None and len(tokens) >= self._task.max_new_tokens


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
