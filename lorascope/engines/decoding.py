"""Decoding of many prompts through one model: an answer that ends leaves its place to a waiting prompt at once.

``generate`` of transformers works on a fixed batch until its longest answer ends, and copies the whole key–value cache
at every step. Here the sequences stand right-aligned in one preallocated cache; a step computes only those that are
still being written, and prompts are read together with their references, whose log-probability so costs no pass of
its own. It is for decoders whose layers all attend to everything before (see :func:`can_decode`).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from lorascope.engines.batching import free_memory
from lorascope.engines.holding import Ready
from lorascope.engines.loading import first_position
from lorascope.engines.sampling import Pick, rows_at_once

_LOGITS_AT_ONCE = {"cuda": 2**27, "cpu": 2**23}
_SPARE_COLUMNS = 64
_ATTENTION = ("sdpa", "eager")
_MOST_ROWS = {"cuda": 256, "cpu": 64}


@dataclass(frozen=True, slots=True)
class Gold:
    """A reference read behind its prompt: ``tail`` follows the prompt's tokens in the same pass.

    ``targets`` are the tokens whose probability is asked, the first of which stands at position ``begin`` of prompt
    and tail together.
    """

    begin: int
    targets: tuple[int, ...]
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt that is to be answered ``answers`` times.

    ``chances`` gives the uniform numbers that decide each of them by its number; none where nothing is left to chance.
    """

    index: int
    prompt: Sequence[int]
    gold: Gold | None
    answers: int
    chances: Callable[[int], Sequence[float]]


@dataclass(slots=True)
class Written:
    """The answers to one request, in their order, and the log-probability (nats) of its reference if one was read."""

    request: Request
    answers: list[list[int]]
    unfinished: int
    gold_logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """When an answer ends: a token of ``ends``, ``most`` tokens, or what ``ended`` says of the tokens so far."""

    ends: frozenset[int]
    most: int
    pick: Pick
    ended: Callable[[list[int]], bool] | None = None


def gold_behind(prompt: Sequence[int], context: Sequence[int], target: Sequence[int]) -> Gold | None:
    """How to score ``target`` after ``context`` in the pass that reads ``prompt``; None where their tokens part."""
    whole = (*context, *target)
    if len(whole) < len(prompt) or whole[: len(prompt)] != tuple(prompt):
        return None
    return Gold(len(context), tuple(target), whole[len(prompt) : -1])


def can_decode(ready: Ready, longest: int | None = None) -> bool:
    """Whether this module is exact for the model, for prompts and answers of up to ``longest`` tokens (None: any).

    It is for decoders with full attention in every layer that take positions and a cache; not for encoder–decoders,
    sliding windows, recurrent states, virtual tokens, adapters that look at whole prompts, rotary factors that follow
    the longest sequence of a batch, or other attention kernels.
    """
    plain = ready.plain
    config = plain.config
    if ready.encoder_decoder or ready.virtual or config._attn_implementation not in _ATTENTION:
        return False
    if ready.follows_length(ready.context if longest is None else longest):
        return False
    if any(_looks_at_tokens(one) for one in getattr(ready.model, "peft_config", {}).values()):
        return False
    if getattr(plain.generation_config, "forced_bos_token_id", None) is not None:
        return False
    taken = inspect.signature(plain.forward).parameters
    if not {"position_ids", "past_key_values", "attention_mask"} <= set(taken):
        return False
    if getattr(plain, "_is_stateful", False):
        return False
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _looks_at_tokens(adapter: Any) -> bool:
    """Whether what an adapter does depends on more than each token's own states."""
    kind = str(getattr(adapter.peft_type, "value", adapter.peft_type))
    return kind in {"XLORA", "ADAPTION_PROMPT"} or bool(getattr(adapter, "alora_invocation_tokens", None))


def best_rows(ready: Ready, longest: int) -> int:
    """How many answers of ``longest`` tokens with their prompts are best written at a time.

    As many as half of the free memory holds keys and values of: up to 256 on a CUDA device, up to 64 elsewhere. A step
    reads all weights however many answers it writes to, so more are faster as long as that reading is most of its work.
    """
    config = ready.plain.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = 2 * config.num_hidden_layers * heads * width * ready.plain.dtype.itemsize * (longest + _SPARE_COLUMNS)
    fitting = free_memory(ready.device) // (2 * size)
    return max(1, min(int(fitting), _MOST_ROWS.get(ready.device.type, _MOST_ROWS["cpu"])))


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's part of :class:`_Places`: writes the new column, and gives back the columns in use."""

    def __init__(self, places: _Places, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._places = places
        shape = (places.rows, keys.shape[1], places.columns)
        self.keys = keys.new_zeros((*shape, keys.shape[-1]))
        self.values = values.new_zeros((*shape, values.shape[-1]))
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        places = self._places
        rows, new = slice(0, len(places.starts)), places.end
        self.keys[rows, :, new : new + 1] = key_states
        self.values[rows, :, new : new + 1] = value_states
        columns = slice(places.begin, new + 1)
        return self.keys[rows, :, columns], self.values[rows, :, columns]

    def get_seq_length(self) -> int:
        return self._places.end - self._places.begin


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Where the keys and values of a prompt that was read are: the last ``length`` of a row's ``width`` columns."""

    cache: DynamicCache
    row: int
    length: int
    width: int


class _Places:
    """Keys and values of the sequences being written: row ``r`` is in the columns from ``starts[r]`` to ``end``.

    Before ``starts[r]`` there are zeros: what a mask hides is still multiplied by 0, and what an earlier sequence or
    chance left there may be NaN.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.starts: list[int] = []
        self.end = 0
        self.layers: list[_Layer] = []
        self.cache: Cache | None = None

    @property
    def begin(self) -> int:
        return min(self.starts, default=self.end)

    def admit(self, prompt: _Prompt) -> None:
        """Take a prompt that was read. None may be longer than the longest row that is here."""
        if not self.layers:
            self.layers = [_Layer(self, layer.keys, layer.values) for layer in prompt.cache.layers]
            self.cache = Cache(layers=self.layers)
        if not self.starts:
            self.end = prompt.length
        place, start = len(self.starts), self.end - prompt.length
        columns = slice(prompt.width - prompt.length, prompt.width)
        for mine, theirs in zip(self.layers, prompt.cache.layers, strict=True):
            for held, new in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                held[place, :, :start] = 0
                held[place, :, start : self.end] = new[prompt.row, :, columns]
        self.starts.append(start)

    def make_room(self) -> None:
        """Let one more column fit behind, where the rows have reached the buffer's end."""
        if self.end < self.columns:
            return
        by, rows = self.begin, len(self.starts)
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                held[:rows, :, : self.end - by] = held[:rows, :, by : self.end].clone()
        self.starts = [start - by for start in self.starts]
        self.end -= by

    def leave(self, place: int) -> None:
        """Let a row go; the last one takes its place."""
        start = self.starts.pop()
        last = len(self.starts)
        if place == last:
            return
        self.starts[place] = start
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                held[place, :, : self.end] = held[last, :, : self.end]


@dataclass(slots=True)
class _Row:
    """One answer being written, and the prompt from which it goes on."""

    written: Written
    chances: Sequence[float]
    tokens: list[int]
    prompt: _Prompt | None


class Decoder:
    """Writes the answers to requests, ``places`` of them at a time."""

    def __init__(self, ready: Ready, rules: Rules, *, places: int, tokens_at_once: int) -> None:
        """``tokens_at_once`` bounds the padded tokens of a pass that reads prompts."""
        self._ready = ready
        self._rules = rules
        self._room = places
        self._tokens_at_once = tokens_at_once
        self._vocabulary = int(ready.plain.config.get_text_config().vocab_size)
        self._logits_at_once = _LOGITS_AT_ONCE.get(ready.device.type, _LOGITS_AT_ONCE["cpu"])
        self._narrowed = "logits_to_keep" in inspect.signature(ready.plain.forward).parameters
        self._first_position = first_position(ready.plain)
        self._rows: list[_Row] = []
        self._begun: deque[_Row] = deque()

    def stream(self, requests: Sequence[Request]) -> Iterator[list[Written]]:
        """Requests as they are finished, in groups; the longest prompts are read first.

        As many prompts as there are places are read at once and wait, so that none of the places is ever empty.
        """
        if not requests:
            return
        waiting = deque(sorted(requests, key=lambda one: (-len(one.prompt), one.index)))
        places = _Places(self._room, len(waiting[0].prompt) + self._rules.most + _SPARE_COLUMNS)
        while waiting or self._begun or self._rows:
            done: list[Written] = []
            while len(self._rows) < self._room and (self._begun or waiting):
                if self._begun:
                    self._place(places, self._begun.popleft())
                else:
                    done += self._read(self._group(waiting))
            if self._rows:
                done += self._step(places)
            if done:
                yield done

    def _place(self, places: _Places, row: _Row) -> None:
        if row.prompt is not None:
            places.admit(row.prompt)
        row.prompt = None
        self._rows.append(row)

    def _group(self, waiting: deque[Request]) -> list[Request]:
        """Take what fits into one pass and, with all its answers, into the places; at least one request."""
        group = [waiting.popleft()]
        width, tail, answers = len(group[0].prompt), _kept(group), group[0].answers
        while waiting and answers + waiting[0].answers <= self._room:
            tail = max(tail, _kept([waiting[0]]))
            answers += waiting[0].answers
            rows = len(group) + 1
            if rows * (width + tail) > self._tokens_at_once or rows * tail * self._vocabulary > self._logits_at_once:
                break
            group.append(waiting.popleft())
        return group

    def _read(self, group: list[Request]) -> list[Written]:
        """Read prompts with the references behind them and begin their answers; what is finished at once."""
        width = max(len(one.prompt) for one in group)
        keep = _kept(group)
        ids, mask = self._columns(group, width)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0) + self._first_position
        read = DynamicCache(config=self._ready.plain.config)
        options = {"logits_to_keep": keep} if self._narrowed else {}
        logits = self._ready.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=read, use_cache=True, **options
        ).logits[:, -keep:]
        before = ids.shape[1] - keep
        written = [Written(one, [[] for _ in range(one.answers)], one.answers) for one in group]
        for row, one in enumerate(written):
            if (gold := one.request.gold) is not None:
                begin = width - len(one.request.prompt) + gold.begin - 1 - before
                one.gold_logprob = _logprob(logits[row, begin : begin + len(gold.targets)], gold.targets)
        return self._begin(read, logits[:, width - 1 - before], written, width)

    def _columns(self, group: Sequence[Request], width: int) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left to ``width``, the tails of their references behind them; and the mask."""
        tail = max(len(one.gold.tail) if one.gold else 0 for one in group)
        ids = torch.full((len(group), width + tail), self._ready.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(group):
            tokens = [*one.prompt, *(one.gold.tail if one.gold else ())]
            self._ready.refuse_unknown(tokens)
            begin = width - len(one.prompt)
            ids[row, begin : begin + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[row, begin : begin + len(tokens)] = 1
        return ids.to(self._ready.device), mask.to(self._ready.device)

    def _begin(self, read: DynamicCache, logits: Tensor, written: list[Written], width: int) -> list[Written]:
        """The first tokens of all answers to the prompts of a pass, from the logits after the prompts."""
        sources = [source for source, one in enumerate(written) for _ in one.answers]
        rows = [
            _Row(one, one.request.chances(answer), tokens, _Prompt(read, source, len(one.request.prompt), width))
            for source, one in enumerate(written)
            for answer, tokens in enumerate(one.answers)
        ]
        done, tokens = [], []
        at_once = rows_at_once(logits.shape[-1])
        for begin in range(0, len(rows), at_once):
            part = slice(begin, begin + at_once)
            tokens += self._rules.pick(logits[sources[part]], [_chance(row) for row in rows[part]])
        for row, token in zip(rows, tokens, strict=True):
            if not self._add(row, token):
                self._begun.append(row)
            elif not row.written.unfinished:
                done.append(row.written)
        return done

    def _step(self, places: _Places) -> list[Written]:
        """One more token for every row; what is finished by it."""
        places.make_room()
        device = self._ready.device
        starts = torch.tensor(places.starts)
        ids = torch.tensor([[row.tokens[-1]] for row in self._rows])
        mask = (torch.arange(places.begin, places.end + 1) >= starts[:, None]).long()
        logits = self._ready.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(places.end - starts + self._first_position)[:, None].to(device),
            past_key_values=places.cache,
            use_cache=True,
        ).logits[:, -1]
        places.end += 1
        tokens = self._rules.pick(logits, [_chance(row) for row in self._rows])
        done = []
        # From the last on: a row that leaves is replaced by the last one, which then has its token already.
        for place in reversed(range(len(tokens))):
            row = self._rows[place]
            if self._add(row, tokens[place]):
                places.leave(place)
                self._rows[place] = self._rows[-1]
                self._rows.pop()
                if not row.written.unfinished:
                    done.append(row.written)
        return done

    def _add(self, row: _Row, token: int) -> bool:
        """Whether a token ends its answer."""
        row.tokens.append(token)
        if not self._ends(row.tokens):
            return False
        row.written.unfinished -= 1
        return True

    def _ends(self, tokens: list[int]) -> bool:
        rules = self._rules
        if tokens[-1] in rules.ends or len(tokens) >= rules.most:
            return True
        return rules.ended is not None and rules.ended(tokens)


def _chance(row: _Row) -> float:
    return row.chances[len(row.tokens)] if row.chances else 0.0


def _kept(group: Sequence[Request]) -> int:
    """How many of a pass's last positions need logits: from the first that is asked of any row."""
    tail = max(len(one.gold.tail) if one.gold else 0 for one in group)
    back = max(max(0, len(one.prompt) - one.gold.begin) if one.gold else 0 for one in group)
    return tail + back + 1


def _logprob(logits: Tensor, targets: Sequence[int]) -> float:
    asked = torch.tensor(targets, device=logits.device)[:, None]
    return float(torch.log_softmax(logits.float(), dim=-1).gather(1, asked).double().sum())
