"""The engine on an OpenAI-compatible server (vLLM, SGLang, ``transformers serve`` …): subjects by their model names."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lorascope.engines.base import Outcome, Progress, Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.keys import Setting, answer_keys, context_of
from lorascope.engines.openai_requests import (
    Reading,
    ScoringMode,
    Server,
    Written,
    chat,
    complete,
    list_models,
    open_client,
    read_text,
    scoring_mode,
    server_url,
)
from lorascope.engines.streaming import Emit, ask_each, streamed
from lorascope.errors import EvaluationError
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LikelihoodAnswer,
    LikelihoodItem,
    content_id,
)
from lorascope.schema.seams import answer_separator, choice_separator
from lorascope.schema.suite import SuiteTask

_BAD_REQUEST = 400
_SPECIAL = re.compile(r"<.+>|\[.+\]")
_KINDS = ("generate", "choice", "likelihood")
_NO_START = "the server puts no beginning-of-text token: the first token of each text is not predicted"
_NO_LOGPROBS = "the server gives no log-probabilities of given text (neither echo with logprobs, nor prompt_logprobs)"
_OWN_SETTINGS = (
    "answers come from a server: what it adds to decoding by itself (a repetition penalty in the checkpoint's "
    "generation_config.json, say) stays in force"
)


class OpenAIEngine:
    """Answers of a server's models; ``Subject.name`` is the model's name there, and no local file is needed.

    Plain prompts go to ``/v1/completions``, chat messages to ``/v1/chat/completions`` and through the server's own chat
    template. Temperature 0 is greedy; with ``sampling``, each request carries a seed made of the task's seed and the
    item's content (what a server makes of it is its own affair), and a server that ignores ``n`` is asked once for each
    answer.

    Log-probabilities (choice, likelihood, the first reference of generate) need a server that scores given text; they
    follow the same rule for the seam between context and continuation as the transformers engine, by token counts. A
    server that cannot is an EvaluationError for choice and likelihood, and leaves ``gold_logprob`` None.

    A prompt that is too long is refused by the server, not cut. Answers are stored as they arrive, with what ``notes``
    say of them. The key of an answer holds the address and the model's name, but a server may change its weights under
    the same name: give a ``cache`` that lives no longer than the run.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 600.0,
        retries: int = 5,
        cache: AnswerCache | None = None,
    ) -> None:
        """Ask nothing yet. ``api_key_env`` names the variable that holds the key; ``timeout`` is in seconds a request.

        Raises:
            UsageError: the address or the concurrency cannot be used, the key's variable is not set.
        """
        self.server = Server(
            url=server_url(url), api_key_env=api_key_env, concurrency=concurrency, timeout=timeout, retries=retries
        )
        self.notes: list[str] = [_OWN_SETTINGS]
        self.cache = cache
        self._modes: dict[str, ScoringMode | None] = {}

    def answer(
        self, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Progress | None = None
    ) -> list[Answer]:
        """One answer per item, in the order of the items; see :class:`lorascope.engines.base.Engine`."""
        setting = self.setting(subject)
        keys = answer_keys(subject, task, items, setting)
        stored = self.cache.get_many(keys) if self.cache is not None else {}
        outcomes = {index: stored[key] for index, key in enumerate(keys) if key in stored}
        told = self.cache.notes(list(stored)) if self.cache is not None else {}
        notes = Counter(note for index in outcomes for note in told.get(keys[index], ()))
        waiting = [index for index in range(len(items)) if index not in outcomes]
        if on_progress is not None:
            on_progress(len(outcomes), len(items))
        context = context_of(subject, task, setting)
        for index, (outcome, said) in self._fresh(subject.name, task, items, waiting):
            outcomes[index] = outcome
            notes.update(said)
            if self.cache is not None:
                self.cache.put_many([(keys[index], outcome)], context, {keys[index]: said})
            if on_progress is not None:
                on_progress(len(outcomes), len(items))
        self._tell(subject.name, task, notes, len(items))
        return [outcomes[index].answer for index in range(len(items))]

    def setting(self, subject: Subject) -> Setting:
        """What the keys of this subject's answers hold beside the questions."""
        return Setting(engine=f"openai {self.server.url} {subject.name}", dtype="as served", device="server")

    def _tell(self, model: str, task: SuiteTask, notes: Counter[str], asked: int) -> None:
        for note, count in sorted(notes.items()):
            told = note if note == _NO_LOGPROBS else f"{task.name}, {model}: {note} ({count:,} of {asked:,})"
            if told not in self.notes:
                self.notes.append(told)

    def ask(self, model: str, task: SuiteTask, items: Sequence[Item]) -> list[Answer]:
        """Answers asked now, past the cache, in the order of the items."""
        found = dict(self._fresh(model, task, items, range(len(items))))
        return [found[index][0].answer for index in range(len(items))]

    def models(self) -> dict[str, dict[str, Any]]:
        """The server's own list of models, with what it says about each; empty where it has no list.

        Raises:
            EvaluationError: the server cannot be reached.
        """

        async def produce(emit: Emit[dict[str, dict[str, Any]]]) -> None:
            async with open_client(self.server) as client:
                emit(await list_models(client))

        [listed] = streamed(produce)
        return listed

    def close(self) -> None:
        """Nothing is held between calls. The cache stays open: it belongs to the caller."""

    def _fresh(
        self, model: str, task: SuiteTask, items: Sequence[Item], waiting: Sequence[int]
    ) -> Iterator[tuple[int, _Told]]:
        """(index, (outcome, notes)) of the items at ``waiting``, as they arrive."""
        if task.kind not in _KINDS:
            raise EvaluationError(
                f"a server answers tasks of kind {', '.join(_KINDS)}, not {task.kind}",
                where=f"task '{task.name}'",
                remedy="use the transformers engine for this task",
            )
        if not waiting:
            return

        async def produce(emit: Emit[tuple[int, _Told]]) -> None:
            async with open_client(self.server) as client:
                if model not in self._modes:
                    await self._find_mode(client, model, task)
                asker = _Asker(client, model, task, self._modes.get(model))
                limit = min(self.server.concurrency, len(waiting))
                await ask_each(waiting, lambda index: asker.outcome(items[index]), emit, concurrency=limit)

        yield from streamed(produce)

    async def _find_mode(self, client: Any, model: str, task: SuiteTask) -> None:
        """How log-probabilities are asked for, found out once a model, where the task needs or can have them."""
        if task.kind == "generate" and (task.chat or task.messages is not None):
            return
        self._modes[model] = mode = await scoring_mode(client, model)
        if mode is None and task.kind != "generate":
            remedy = "serve the model with vLLM or SGLang, or use the transformers engine"
            del self._modes[model]
            raise EvaluationError(_NO_LOGPROBS, where=f"model '{model}'", remedy=remedy)


_Told = tuple[Outcome, tuple[str, ...]]
"""An outcome, and what a reader of it has to know."""


class _Asker:
    """One model's answers to the items of one task, each by itself."""

    def __init__(self, client: Any, model: str, task: SuiteTask, mode: ScoringMode | None) -> None:
        self._client = client
        self._model = model
        self._task = task
        self._mode = mode

    async def outcome(self, item: Item) -> _Told:
        """The item's outcome, with notes; an EvaluationError names the item."""
        try:
            match item:
                case GenerateItem():
                    return await self._generate(item)
                case ChoiceItem():
                    return Outcome(await self._choose(item)), ()
                case LikelihoodItem():
                    return await self._likelihood(item)
        except EvaluationError as error:
            raise error.at(f"task '{self._task.name}', item {item.item_id}") from error.__cause__
        raise TypeError(f"no server answers {type(item).__name__}")

    async def _generate(self, item: GenerateItem) -> _Told:
        written = await self._samples(item)
        first, *others = written
        text, truncated, stop = self._read(first)
        answer = GenerateAnswer(
            text=text,
            truncated=truncated,
            gold_logprob=await self._gold(item, first.prompt_tokens),
            stop=stop,
            others=tuple(self._read(other)[0] for other in others),
        )
        return Outcome(answer), tuple(self._notes(item, written))

    def _notes(self, item: GenerateItem, written: Iterable[Written]) -> Iterator[str]:
        """Each once: a server without log-probabilities, its content filter, answers that have no text."""
        if self._mode is None and item.prompt is not None:
            yield _NO_LOGPROBS
        if any(one.finish == "content_filter" for one in written):
            yield "the server's content filter ended answers"
        yield from sorted({one.note for one in written if one.note is not None})

    async def _samples(self, item: GenerateItem) -> list[Written]:
        """As many answers as the task samples, whether or not the server knows ``n``."""
        sampling = self._task.sampling
        wanted = sampling.n if sampling else 1
        found: list[Written] = []
        while len(found) < wanted:
            settings = decoding(self._task, item, drawn=len(found))
            if item.messages is not None:
                new = await chat(self._client, self._model, item.messages, settings)
            else:
                new = await complete(self._client, self._model, item.prompt or "", settings)
            found += new
        return found[:wanted]

    def _read(self, written: Written) -> tuple[str, bool, str | None]:
        """Text, whether ``max_new_tokens`` ended it, the stop string that did; read as from the transformers engine."""
        found = [(place, stop) for stop in self._task.stop if (place := written.text.find(stop)) >= 0]
        if found:
            place, stop = min(found)
            return written.text[:place].strip(), False, stop
        stopped = written.stop if written.stop in self._task.stop else None
        return written.text.strip(), written.finish == "length", stopped

    async def _gold(self, item: GenerateItem, prompt_tokens: int | None) -> float | None:
        """Log-probability of the first reference; None for chats, without a prompt, and where it is too long."""
        reference = item.references[0]
        if self._mode is None or item.prompt is None or not item.prompt.strip() or not reference.strip():
            return None
        separated = answer_separator(item.prompt, reference) + reference
        known = prompt_tokens if item.prompt == item.prompt.rstrip() else None
        try:
            return await self._continuation(item.prompt, separated, known)
        except EvaluationError as error:
            if getattr(error.__cause__, "status_code", None) != _BAD_REQUEST:
                raise
            return None

    async def _choose(self, item: ChoiceItem) -> ChoiceAnswer:
        if item.messages is not None:
            raise EvaluationError(
                "a server scores plain text only, and the choices stand after chat messages",
                remedy="give the task a plain 'prompt', or use the transformers engine",
            )
        said = self._task.delimiter
        delimiter = choice_separator(item.context) if said is None else said
        given = await self._count(item.context.rstrip()) if item.context.strip() else None
        found = [await self._continuation(item.context, delimiter + choice, given) for choice in item.choices]
        return ChoiceAnswer(logprobs=tuple(found))

    async def _likelihood(self, item: LikelihoodItem) -> _Told:
        """Every token but the first is predicted; the first is the beginning of text where the server puts one."""
        reading = await self._reading(item.text)
        notes = () if _has_start(reading, item.text) else (_NO_START,)
        values = _all_known(reading.logprobs[1:], self._model)
        if not values:
            raise EvaluationError(
                f"nothing of the text {item.text!r} is predicted: it has no token that another one stands before",
                remedy="leave texts of a single token out of the data, or use the transformers engine",
            )
        size = len(item.text.encode("utf-8"))
        return Outcome(LikelihoodAnswer(logprob=math.fsum(values), tokens=len(values), bytes=size)), notes

    async def _continuation(self, prompt: str, continuation: str, given: int | None) -> float:
        """Summed log-probability of a continuation; ``given`` is the tokens of the prompt without trailing spaces.

        Trailing white space of the prompt belongs to the continuation, and at least one token is predicted.
        """
        context = prompt.rstrip()
        whole = context + prompt[len(context) :] + continuation
        reading = await self._reading(whole)
        if not context and not _has_start(reading, whole):
            raise EvaluationError(
                "the first token of a text without context has no probability: the server puts no beginning-of-text "
                "token before it",
                remedy="give the task a prompt",
            )
        if not context:
            given = 1
        elif given is None:
            given = await self._count(context)
        start = min(given, len(reading.logprobs) - 1)
        return math.fsum(_all_known(reading.logprobs[start:], self._model))

    async def _reading(self, text: str) -> Reading:
        if self._mode is None:
            raise EvaluationError(_NO_LOGPROBS, where=f"model '{self._model}'")
        return await read_text(self._client, self._model, text, self._mode)

    async def _count(self, text: str) -> int:
        """Tokens of a text, a beginning-of-text token included, as the server counts them."""
        if self._mode == "echo":
            [written] = await complete(self._client, self._model, text, {"max_tokens": 1, "temperature": 0})
            if written.prompt_tokens is not None:
                return written.prompt_tokens
        return len((await self._reading(text)).logprobs)


def decoding(task: SuiteTask, item: GenerateItem, *, drawn: int = 0) -> dict[str, Any]:
    """Settings of a request for the answers of an item that are still missing after ``drawn``."""
    settings: dict[str, Any] = {"max_tokens": task.max_new_tokens, "frequency_penalty": 0.0}
    if task.stop:
        settings["stop"] = list(task.stop)
    sampling = task.sampling
    if sampling is None:
        return settings | {"temperature": 0.0}
    settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    settings["seed"] = request_seed(sampling.seed, item, drawn)
    if sampling.n - drawn > 1:
        settings["n"] = sampling.n - drawn
    if sampling.top_k is not None:
        settings["extra_body"] = {"top_k": sampling.top_k}
    return settings


def request_seed(seed: int, item: GenerateItem, drawn: int) -> int:
    """Seed of one request, 0 to 2³¹ − 1: of the task's seed, what the item asks, and how many answers it has so far.

    Base and adapted get the same one, so that chance differs between them as little as it can.
    """
    asked: Mapping[str, Any] = {"prompt": item.prompt, "messages": item.messages}
    digest = hashlib.sha256(f"{seed} {drawn} {content_id(asked)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _has_start(reading: Reading, text: str) -> bool:
    """Whether the server puts a token of its own before every text: ``<s>``, ``<|begin_of_text|>``, ``[CLS]``.

    A first token that is neither part of the text nor looks like one of these counts as part of it.
    """
    first = reading.tokens[0]
    return _SPECIAL.fullmatch(first) is not None and not text.startswith(first)


def _all_known(values: Sequence[float | None], model: str) -> list[float]:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(known) != len(values):
        raise EvaluationError("the server gave log-probabilities that are no numbers", where=f"model '{model}'")
    return known
