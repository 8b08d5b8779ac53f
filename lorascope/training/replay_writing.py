"""Self-generated replay: before it is trained, the base writes the texts that will remind it of itself.

Where there is no general data, samples of the base stand for what it knows (self-generated replay, arXiv 2605.26097).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lorascope.errors import ConfigError, DataError, EvaluationError
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LikelihoodItem
from lorascope.schema.recipe import Replay
from lorascope.schema.seams import answer_separator
from lorascope.training.collating import training_pad_id
from lorascope.training.encoding_parts import place_of
from lorascope.training.encoding_passages import Chat, Passage, joined, running_text
from lorascope.training.encoding_texts import prompt_ids
from lorascope.training.packing import in_inference

OnWritten = Callable[[int, int], None]
_GRAM, _FEWEST_GRAMS, _MOST_REPEATED = 4, 12, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayText:
    """A text that the base wrote, after a prompt or messages where it had any.

    ``ended``: it came to an end by itself; else it was broken off, and its last word is no end to learn.
    """

    text: str
    ended: bool
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class WrittenReplay:
    """What the base wrote that can be used; ``empty``, ``looping`` and ``repeated`` texts were dropped."""

    texts: tuple[ReplayText, ...]
    empty: int
    looping: int
    repeated: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What was written and dropped, for the run's log."""
        dropped = {"empty": self.empty, "looping": self.looping, "written before": self.repeated}
        told = ", ".join(f"{count} {why}" for why, count in dropped.items() if count)
        return (f"replay: the base wrote {len(self.texts)} texts" + (f"; dropped: {told}" if told else ""),)


def write_replay_texts(
    model: Any,
    tokenizer: Any,
    replay: Replay,
    prompts: Sequence[Item] = (),
    *,
    seed: int,
    device: torch.device,
    batch: int = 16,
    context_length: int | None = None,
    on_progress: OnWritten | None = None,
) -> WrittenReplay:
    """``replay.items`` texts that ``model`` samples after ``prompts``, or after nothing but the start of a text.

    Prompts are taken in a drawn order, again from the first where there are too few. Each text has its own stream of
    random numbers, by the seed and its number: it does not depend on ``batch`` (beyond rounding). Sampling is from the
    model's distribution at ``temperature`` within ``top_p``, with no penalty of the model's own settings. Dropped are
    empty texts, texts of which more than half of the four-token sequences repeat an earlier one, and doubles.
    ``on_progress`` gets how many texts are written and how many there will be. Weights, mode and torch's own random
    state stay as they are.

    Raises:
        ConfigError: no prompts for an encoder–decoder or a tokenizer without a beginning-of-text token, or no room.
        DataError: prompts that hold no text, or messages that the chat template refuses.
        EvaluationError: the logits are not finite, or no text can be used.
    """
    requests = _requests(model, tokenizer, replay, prompts, seed, context_length)
    sampler = _Writer(model, tokenizer, replay, seed, device)
    written: dict[int, tuple[list[int], bool]] = {}
    # Prompts of like length share a batch, longest first, so that too large a batch is noticed at once.
    order = sorted(range(len(requests)), key=lambda number: -len(requests[number].ids))
    with in_inference(model), torch.no_grad():
        for begin in range(0, len(order), batch):
            numbers = order[begin : begin + batch]
            rows = sampler.write([requests[number].ids for number in numbers], numbers)
            written.update(zip(numbers, rows, strict=True))
            if on_progress is not None:
                on_progress(len(written), len(order))
    return _sorted_out(tokenizer, requests, [written[number] for number in range(len(order))])


class _Request(NamedTuple):
    ids: list[int]
    prompt: str | None
    messages: tuple[Mapping[str, str], ...] | None


def _requests(
    model: Any, tokenizer: Any, replay: Replay, prompts: Sequence[Item], seed: int, context_length: int | None
) -> list[_Request]:
    if not prompts:
        return [_Request([_start(model, tokenizer)], None, None)] * replay.items
    chat = Chat(tokenizer)
    both, room = bool(model.config.is_encoder_decoder), _room(model, replay, context_length)
    made = [_request(item, tokenizer, chat, place_of("replay.prompts", n), both) for n, item in enumerate(prompts)]
    order = np.random.default_rng(seed).permutation(len(made))
    chosen = [made[int(order[number % len(made)])] for number in range(replay.items)]
    return [one if room is None else one._replace(ids=one.ids[-room:]) for one in chosen]


def _start(model: Any, tokenizer: Any) -> int:
    remedy = "give replay.prompts, or replay.data with general texts"
    if model.config.is_encoder_decoder:
        raise ConfigError("an encoder–decoder writes after a prompt only", where="replay", remedy=remedy)
    if tokenizer.bos_token_id is None:
        raise ConfigError("the tokenizer has no beginning-of-text token to write from", where="replay", remedy=remedy)
    return int(tokenizer.bos_token_id)


def _room(model: Any, replay: Replay, context_length: int | None) -> int | None:
    if context_length is None or model.config.is_encoder_decoder:
        return context_length
    if context_length <= replay.max_new_tokens:
        raise ConfigError(
            f"{replay.max_new_tokens} new tokens leave no room for a prompt in a context of {context_length}",
            where="replay.max_new_tokens",
            remedy="lower it",
        )
    return context_length - replay.max_new_tokens


def _request(item: Item, tokenizer: Any, chat: Chat, place: str, both: bool) -> _Request:
    messages = item.messages if isinstance(item, (GenerateItem, ChoiceItem)) else None
    if messages is not None:
        text = chat.written(messages, place, ask=True)
        return _Request(prompt_ids(tokenizer, text, chat=True, encoder_decoder=both), None, messages)
    texts = {GenerateItem: "prompt", ChoiceItem: "context", LikelihoodItem: "text"}
    text = str(getattr(item, texts.get(type(item), ""), None) or "").rstrip()
    if not text:
        raise DataError("there is no prompt to write after", where=place, remedy="fill it in or leave the item out")
    return _Request(prompt_ids(tokenizer, text, chat=False, encoder_decoder=both), text, None)


class _Writer:
    """Samples continuations, each from random numbers of its own."""

    def __init__(self, model: Any, tokenizer: Any, replay: Replay, seed: int, device: torch.device) -> None:
        self._model, self._replay, self._seed, self._device = model, replay, seed, device
        own = model.generation_config
        stated = own.eos_token_id if isinstance(own.eos_token_id, (list, tuple)) else [own.eos_token_id]
        self._ends = {int(token) for token in [*stated, tokenizer.eos_token_id] if token is not None}
        self._config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=replay.max_new_tokens,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=training_pad_id(model, tokenizer),
            bos_token_id=own.bos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
            forced_bos_token_id=own.forced_bos_token_id,
        )

    def write(self, prompts: Sequence[list[int]], numbers: Sequence[int]) -> list[tuple[list[int], bool]]:
        """The tokens after each prompt, and whether the text ended; ``numbers`` name the streams of random numbers."""
        both = bool(self._model.config.is_encoder_decoder)
        ids, mask = self._padded(prompts, left=not both)
        steps = self._replay.max_new_tokens
        chances = np.stack([np.random.default_rng((self._seed, number)).random(steps) for number in numbers])
        draws = _Draws(self._replay, chances)
        with _only(self._model, self._config):
            written = self._model.generate(
                input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList([draws])
            )
        begin = 1 if both else ids.shape[1]
        return [self._ended(row) for row in torch.as_tensor(written)[:, begin:].tolist()]

    def _padded(self, prompts: Sequence[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), width), int(self._config.pad_token_id), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            places = slice(width - len(prompt), width) if left else slice(0, len(prompt))
            ids[row, places], mask[row, places] = torch.tensor(prompt), 1
        return ids.to(self._device), mask.to(self._device)

    def _ended(self, tokens: list[int]) -> tuple[list[int], bool]:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        return (tokens, False) if end is None else (tokens[:end], True)


class _Draws(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token of each row possible, the one that its next random number falls on; greedy search takes it."""

    def __init__(self, replay: Replay, chances: NDArray[np.float64]) -> None:
        self._chances, self._step = torch.from_numpy(chances), 0
        self._limits = LogitsProcessorList([TemperatureLogitsWarper(float(replay.temperature))])
        if replay.top_p < 1:
            self._limits.append(TopPLogitsWarper(float(replay.top_p)))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool(scores.amax(dim=-1).isfinite().all()):
            raise EvaluationError("the base gives NaN or infinite values", remedy="check its weights and its precision")
        probabilities = self._limits(input_ids, scores.float()).softmax(dim=-1)
        # Float64, which not every device has, keeps rounding away from the steps of the cumulative distribution.
        exact = probabilities if scores.device.type in {"cpu", "cuda"} else probabilities.cpu()
        cumulative = exact.double().cumsum(dim=-1)
        aims = self._chances[:, self._step, None].to(cumulative.device) * cumulative[:, -1:]
        self._step += 1
        tokens = torch.searchsorted(cumulative, aims, right=True).clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens, 0.0)


@contextmanager
def _only(model: Any, config: GenerationConfig) -> Iterator[None]:
    """The model generates by ``config`` alone in here; merged with its own settings, penalties would come back."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def _sorted_out(
    tokenizer: Any, requests: Sequence[_Request], written: Sequence[tuple[list[int], bool]]
) -> WrittenReplay:
    texts: dict[tuple[str, str], ReplayText] = {}
    empty = looping = repeated = 0
    for request, (tokens, ended) in zip(requests, written, strict=True):
        text = str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)).rstrip()
        key = (json.dumps(request.ids), text)
        if not text.strip():
            empty += 1
        elif _loops(tokens):
            looping += 1
        elif key in texts:
            repeated += 1
        else:
            texts[key] = ReplayText(text=text, ended=ended, prompt=request.prompt, messages=request.messages)
    if not texts:
        raise EvaluationError(
            f"none of {len(written)} texts of the base can be replayed: {empty} are empty, {looping} loop",
            where="replay",
            remedy="give replay.data with general texts, or replay.prompts that the base can answer",
        )
    return WrittenReplay(tuple(texts.values()), empty, looping, repeated)


def _loops(tokens: Sequence[int]) -> bool:
    """Whether more than half of the four-token sequences repeat (seq-rep-4, Welleck et al., arXiv 1908.04319)."""
    grams = [tuple(tokens[at : at + _GRAM]) for at in range(len(tokens) - _GRAM + 1)]
    return len(grams) >= _FEWEST_GRAMS and 1 - len(set(grams)) / len(grams) > _MOST_REPEATED


def replay_passages(texts: Sequence[ReplayText], tokenizer: Any) -> list[Passage]:
    """The texts as a language model learns them: answers to their prompts, or running text; broken-off ones endless."""
    chat = Chat(tokenizer)
    return [_replay_passage(text, chat, place_of("replay", n)) for n, text in enumerate(texts)]


def _replay_passage(text: ReplayText, chat: Chat, place: str) -> Passage:
    if text.messages is not None:
        return chat.passage(text.messages, text.text, place, end=text.ended)
    if text.prompt is not None:
        return joined(text.prompt, answer_separator(text.prompt, text.text), text.text, place, end=text.ended)
    return running_text(text.text, place, end=text.ended)


def replay_lines(texts: Sequence[ReplayText]) -> str:
    """The texts as JSONL, for the run's folder; :func:`replay_from_lines` reads it."""
    records = (
        {
            **({"prompt": text.prompt} if text.prompt is not None else {}),
            **({"messages": [dict(message) for message in text.messages]} if text.messages is not None else {}),
            "text": text.text,
            "ended": text.ended,
        }
        for text in texts
    )
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def replay_from_lines(lines: str, *, where: str) -> list[ReplayText]:
    """What :func:`replay_lines` wrote; a DataError where it is damaged."""
    texts = []
    for number, line in enumerate(lines.rstrip("\n").split("\n"), start=1):
        try:
            record = json.loads(line)
            messages = record.get("messages")
            texts.append(
                ReplayText(
                    text=str(record["text"]),
                    ended=bool(record["ended"]),
                    prompt=record.get("prompt"),
                    messages=None if messages is None else tuple(messages),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "this is no text that a base wrote for replay",
                where=f"{where}, line {number}",
                remedy="remove the file; it is written again",
            ) from error
    return texts
