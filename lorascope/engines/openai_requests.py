"""What is asked of an OpenAI-compatible server, one request at a time, and what its refusals mean.

Retries and back-off are the client library's: 408, 409, 429 (``Retry-After`` is heeded), 5xx and lost connections are
tried again. What is left after that is an :class:`EvaluationError`.
"""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from lorascope.errors import EvaluationError, ServerGone, UsageError

ScoringMode = Literal["echo", "prompt_logprobs"]
"""How a server gives the log-probabilities of a text that it is shown."""

CONNECT_SECONDS = 10.0
_NO_KEY = "none"
_PROBE = "The sky is blue."
_REFUSED = {400, 404, 405, 422, 501}
_LONGEST_MESSAGE = 300
_NOT_THAT_API = "check that the address is that of an OpenAI-compatible API"
_NOT_IN_HOST = re.compile(r"[\x00-\x20\x7f\s<>\"'\\^`{|}%\[\]]")
# Finish reasons that a message without content may have: what was written went elsewhere, or was kept back.
_EXPLAINED = {"length", "content_filter", "tool_calls", "function_call"}
# What an object of another shape than the client library's types makes of being read.
_ODD = (AttributeError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is, and how it is asked. The key itself is read where it is sent and kept nowhere."""

    url: str
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 5

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise UsageError(f"a concurrency of {self.concurrency} asks nothing", remedy="give 1 or more")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise UsageError(
                f"the environment variable {self.api_key_env}, which is to hold the API key, is not set",
                remedy=f"export {self.api_key_env}=…, or leave the option out where the server needs no key",
            )
        if self.api_key_env is not None and not re.fullmatch(r"[!-~]+", os.environ[self.api_key_env]):
            raise UsageError(
                f"the environment variable {self.api_key_env} holds a space or another sign that no API key can have",
                remedy=f"export {self.api_key_env} again, without quotes and line ends around the key",
            )


@dataclass(frozen=True, slots=True)
class Written:
    """One text that a server wrote; ``prompt_tokens`` is None where it does not count them.

    ``note`` says why there is no text where the server gave none and a reason for it; ``text`` is then empty.
    """

    text: str
    finish: str | None
    stop: str | None
    prompt_tokens: int | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A text's tokens with their log-probabilities (nats); None for a first token that nothing stands before.

    None is also what the server gave as something other than a number.
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]


def server_url(url: str) -> str:
    """The address that requests go to: as given, with ``/v1`` where it names a host alone.

    Raises:
        UsageError: no http address, or one that holds a name and a password, which would end up in the result.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.port != 0 and _is_host(parts.hostname or "")
    except ValueError:  # an open bracket, a port that is no number from 0 to 65535
        valid = False
    if not valid or not url.isprintable() or parts.fragment:
        raise UsageError(f"{url!r} is no address of a server", remedy="give one like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "the server's address holds a name, a password or a query, which would be written into the result",
            remedy="put the key into an environment variable and name that",
        )
    return url.rstrip("/") if parts.path.strip("/") else url.rstrip("/") + "/v1"


def _is_host(host: str) -> bool:
    if ":" in host:
        ipaddress.IPv6Address(host.split("%")[0])  # raises a ValueError
        return True
    if not host or _NOT_IN_HOST.search(host):
        return False
    host.encode("idna")  # raises a UnicodeError, which is a ValueError, for an empty or an overlong part
    return True


def open_client(server: Server) -> Any:
    """An ``AsyncOpenAI`` client, to be used as an asynchronous context manager.

    Nothing of the environment is sent but the key that ``api_key_env`` names: the usual ``OPENAI_API_KEY``,
    ``OPENAI_ORG_ID``, ``OPENAI_PROJECT_ID`` and ``OPENAI_CUSTOM_HEADERS`` belong to OpenAI, not to whatever ``url`` is.
    """
    try:
        import openai
    except ImportError as error:
        raise UsageError(
            "the openai package is needed to ask a server, and it is not installed",
            remedy="pip install 'lorascope[openai]'",
        ) from error
    client = openai.AsyncOpenAI(
        base_url=server.url,
        api_key=os.environ[server.api_key_env] if server.api_key_env else _NO_KEY,
        max_retries=server.retries,
        timeout=openai.Timeout(server.timeout, connect=CONNECT_SECONDS),
    )
    # The library reads the environment for whatever is None, and sends what is empty; so it is taken out afterwards.
    client.organization = client.project = None
    client._custom_headers = {}
    return client


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Turn what the client library raises into errors that say what to do; ``where`` is what was asked."""
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        remedy = "raise the timeout or lower the concurrency; the same command goes on where it stopped"
        raise ServerGone("the server did not answer in time", where=where, remedy=remedy) from error
    except openai.APIConnectionError as error:
        raise ServerGone(
            f"the server cannot be reached: {error.__cause__ or error}",
            where=where,
            remedy="start it, or check its address; the same command goes on where it stopped",
        ) from error
    except openai.APIStatusError as error:
        raise _refused(error, where) from error
    except openai.APIError as error:
        said = whole_characters(str(error.message))[:_LONGEST_MESSAGE]
        raise EvaluationError(
            f"the server's answer cannot be read: {said}", where=where, remedy=_NOT_THAT_API
        ) from error
    except _ODD as error:
        said = whole_characters(f"{type(error).__name__}: {error}")[:_LONGEST_MESSAGE]
        raise EvaluationError(
            f"the server's answer cannot be read: {said}", where=where, remedy=_NOT_THAT_API
        ) from error


def whole_characters(text: str) -> str:
    """The text with a replacement character for each half of one (a surrogate alone), which no file can hold."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _place(model: str) -> str:
    return f"model '{model}'"


def _refused(error: Any, where: str) -> EvaluationError:
    status, said = int(error.status_code), whole_characters(str(error.message))[:_LONGEST_MESSAGE]
    if status in (401, 403):
        remedy = "name the environment variable that holds the server's key"
        return EvaluationError("the server does not accept the API key", where=where, remedy=remedy)
    if status in (404, 405):
        problem = f"the server does not know the model, or has no {error.request.url.path} ({status}): {said}"
        remedy = (
            "check the name against the server's /v1/models; a server without /v1/completions needs `chat: true` "
            "or `messages` in the suite's task"
        )
        return EvaluationError(problem, where=where, remedy=remedy)
    if status == 429:
        problem = f"the server still asks for fewer requests after all retries: {said}"
        return EvaluationError(problem, where=where, remedy="lower the concurrency")
    if status >= 500:
        return EvaluationError(f"the server failed ({status}): {said}", where=where, remedy="look into its log")
    return EvaluationError(f"the server refuses the request ({status}): {said}", where=where)


async def list_models(client: Any) -> dict[str, dict[str, Any]]:
    """What ``/v1/models`` says, by name; empty where the server has no such list."""
    import openai

    with refusals("the list of models"):
        try:
            page = await client.models.list()
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED:
                return {}
            raise
        return _described(page.data or [])


def _described(listed: Any) -> dict[str, dict[str, Any]]:
    """Models by name; whatever is no list of objects with a name each is no list of models."""
    described = json.loads(whole_characters(json.dumps([dict(model) for model in listed], ensure_ascii=False)))
    if not all(isinstance(model.get("id"), str) for model in described):
        raise TypeError("the list of models has entries without a name")
    return {model["id"]: model for model in described}


async def complete(client: Any, model: str, prompt: str, settings: Mapping[str, Any]) -> list[Written]:
    """Continuations of a plain prompt."""
    with refusals(_place(model)):
        response = await client.completions.create(model=model, prompt=prompt, **settings)
        return [
            _written(response, choice, getattr(choice, "text", None), None, model)
            for choice in _choices(response, model)
        ]


async def chat(client: Any, model: str, messages: Sequence[Any], settings: Mapping[str, Any]) -> list[Written]:
    """Answers to chat messages, through the server's own chat template."""
    given = [dict(message) for message in messages]
    with refusals(_place(model)):
        response = await client.chat.completions.create(model=model, messages=given, **settings)
        return [
            _written(response, choice, getattr(choice.message, "content", None), _why_silent(choice), model)
            for choice in _choices(response, model)
        ]


def _why_silent(choice: Any) -> str | None:
    """Why a message may have no content; None where the server gives no reason for it."""
    message, finish = choice.message, getattr(choice, "finish_reason", None)
    if getattr(message, "refusal", None):
        return "a refusal, which the server keeps apart"
    if getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None):
        return f"reasoning alone, which the server keeps apart (finish reason {finish})"
    return f"finish reason {finish}" if finish in _EXPLAINED else None


def _choices(response: Any, model: str) -> list[Any]:
    choices = getattr(response, "choices", None)
    if not choices:
        raise EvaluationError("the server's answer holds no text", where=_place(model), remedy=_NOT_THAT_API)
    return sorted(choices, key=lambda choice: getattr(choice, "index", None) or 0)


def _written(response: Any, choice: Any, text: Any, silent: str | None, model: str) -> Written:
    """What a choice says. A text that is not there is no empty answer, unless ``silent`` is the reason for it."""
    if not isinstance(text, str) and not (text is None and silent):
        raise EvaluationError("the server's answer holds no text", where=_place(model), remedy=_NOT_THAT_API)
    # vLLM and SGLang say which stop string it was; a number there is a token's.
    stops = (getattr(choice, name, None) for name in ("stop_reason", "matched_stop"))
    stop = next((stop for stop in stops if isinstance(stop, str)), None)
    note = f"answers without a text count as empty: {silent}" if text is None else None
    finish = getattr(choice, "finish_reason", None)
    return Written(whole_characters(text or ""), finish, stop, _prompt_tokens(response), note)


def _prompt_tokens(response: Any) -> int | None:
    count = getattr(getattr(response, "usage", None), "prompt_tokens", None)
    return count if isinstance(count, int) else None


async def scoring_mode(client: Any, model: str) -> ScoringMode | None:
    """How this server gives log-probabilities of a given text, found out on a short one; None where it does not."""
    import openai

    for mode in ("echo", "prompt_logprobs"):
        with refusals(_place(model)):
            try:
                reading = await _read(client, model, _PROBE, mode)
            except openai.APIStatusError as error:
                if error.status_code not in _REFUSED:
                    raise
                continue
        if reading is not None and None not in reading.logprobs[1:]:
            return mode
    return None


async def read_text(client: Any, model: str, text: str, mode: ScoringMode) -> Reading:
    """The tokens of ``text`` and their log-probabilities under the model."""
    with refusals(_place(model)):
        reading = await _read(client, model, text, mode)
    if reading is None:
        raise EvaluationError("the server left the text's log-probabilities out", where=_place(model))
    return reading


async def _read(client: Any, model: str, text: str, mode: str) -> Reading | None:
    # One token is generated, for not every server accepts none; it is left out of the reading.
    asked: dict[str, Any] = {"echo": True, "logprobs": 1} if mode == "echo" else {"extra_body": {"prompt_logprobs": 0}}
    response = await client.completions.create(model=model, prompt=text, max_tokens=1, temperature=0, **asked)
    choice = _choices(response, model)[0]
    return _echoed(response, choice, text) if mode == "echo" else _prompt_logprobs(choice)


def _echoed(response: Any, choice: Any, text: str) -> Reading | None:
    """None where the values are missing, or are those of the generated token alone (``echo`` was ignored)."""
    found, count = getattr(choice, "logprobs", None), _prompt_tokens(response)
    values, tokens = getattr(found, "token_logprobs", None), getattr(found, "tokens", None)
    if not (isinstance(values, list) and isinstance(tokens, list)) or not values or not tokens or not count:
        return None
    if not str(getattr(choice, "text", None) or "").startswith(text) or not 0 <= len(values) - count <= 1:
        return None
    return Reading(tuple(str(token) for token in tokens[:count]), tuple(_number(value) for value in values[:count]))


def _prompt_logprobs(choice: Any) -> Reading | None:
    entries = getattr(choice, "prompt_logprobs", None)
    if not isinstance(entries, list) or not entries:
        return None
    if any(entry is not None and not (isinstance(entry, dict) and len(entry) == 1) for entry in entries):
        return None
    single = [next(iter(entry.values())) if entry else {} for entry in entries]
    tokens = tuple(str(one.get("decoded_token") or "") for one in single)
    return Reading(tokens, tuple(_number(one.get("logprob")) for one in single))


def _number(value: Any) -> float | None:
    """None for whatever is no finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None
