"""What servers say that is no answer, what they may not be told, and what is remembered of them between two runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.openai_requests import Server, server_url
from lorascope.engines.server_check import ServerCheck, check_server, same_model
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.items import GenerateAnswer, GenerateItem, LikelihoodItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.served_check import check_served
from lorascope.workflows.watch import Silent


@dataclass
class Scripted:
    """A server that says what it is told to; ``logprob`` is that of every token of a text that it is shown."""

    url: str = ""
    listed: Any = None
    choice: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    html: bool = False
    logprob: Any = None
    starts: bool = False
    said: dict[str, str] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        model, prompt = body["model"], body.get("prompt")
        text = self.said.get(model, f"answer of {model}")
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
        tokens = ["<s>"] * self.starts + str(prompt).split(" ")
        if prompt is None:
            choice["message"] = {"role": "assistant", "content": text}
        elif body.get("echo") and self.logprob is not None:
            known = [None, *[self.logprob] * (len(tokens) - 1), -1.0]
            choice |= {"text": prompt + " x", "logprobs": {"tokens": [*tokens, " x"], "token_logprobs": known}}
        else:
            choice["text"] = text
        choice |= self.choice
        for name in self.drop:
            choice.pop(name, None)
        return {"id": "1", "model": model, "choices": [choice], "usage": {"prompt_tokens": len(tokens)}}


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing."""

        def reply(self, document: Any) -> None:
            scripted.headers.append(dict(self.headers))
            content = b"<html>" if scripted.html else json.dumps(document).encode()
            self.send_response(200)
            self.send_header("content-type", "text/html" if scripted.html else "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.reply({"data": [{"id": "base"}, {"id": "lora"}]} if scripted.listed is None else scripted.listed)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            scripted.asked.append(body)
            self.reply(scripted.answer(body))

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    scripted.url = f"http://127.0.0.1:{listening.server_port}"
    yield scripted
    listening.shutdown()
    listening.server_close()
    thread.join()


def served(name: str) -> Subject:
    return Subject(name=name, path=Path(name), kind="model", tokenizer_path=Path(name), content_hash=f"served {name}")


WRITE = SuiteTask(name="qa", kind="generate", data="")
CHAT = SuiteTask(name="qa", kind="generate", data="", chat=True)
READ = SuiteTask(name="text", kind="likelihood", data="")
PLAIN = [GenerateItem(item_id=f"q{n}", prompt=f"question {n}", references=("right",)) for n in range(4)]
TALK = [GenerateItem(item_id="c", prompt=None, messages=({"role": "user", "content": "hi"},), references=("right",))]


def engine(server: Scripted, cache: AnswerCache | None = None, **more: Any) -> OpenAIEngine:
    return OpenAIEngine(server.url, cache=cache, retries=0, **more)


# --- what is no answer ---


def test_a_text_that_is_not_there_is_no_empty_answer(server: Scripted) -> None:
    for server.drop, server.choice in ((("text",), {}), ((), {"text": None}), ((), {"text": 5})):
        with pytest.raises(EvaluationError, match="holds no text") as caught:
            engine(server).answer(served("base"), WRITE, PLAIN[:1])
        assert "item q0" in str(caught.value)
    server.choice = {"message": {"role": "assistant", "content": None}}
    with pytest.raises(EvaluationError, match="holds no text"):
        engine(server).answer(served("base"), CHAT, TALK)
    server.choice = {"text": "", "message": {"role": "assistant", "content": ""}}
    assert [one.text for one in engine(server).answer(served("base"), CHAT, TALK)] == [""]


@pytest.mark.parametrize(
    ("finish", "message", "said"),
    [
        ("length", {}, "finish reason length"),
        ("content_filter", {}, "finish reason content_filter"),
        ("stop", {"reasoning_content": "hm"}, "reasoning alone"),
        ("stop", {"refusal": "no"}, "a refusal"),
    ],
)
def test_a_message_without_content_and_with_a_reason_is_empty_and_told(
    server: Scripted, finish: str, message: dict[str, str], said: str
) -> None:
    server.choice = {"finish_reason": finish, "message": {"role": "assistant", "content": None, **message}}
    asking = engine(server)
    [answer] = asking.answer(served("base"), CHAT, TALK)
    assert answer.text == ""
    [note] = [note for note in asking.notes if said in note]
    assert note.startswith("qa, base: ")
    assert note.endswith("(1 of 1)")


def test_half_a_character_becomes_a_replacement_character(server: Scripted, tmp_path: Path) -> None:
    server.said = {"base": "half \ud83d and whole \ud83d\ude00"}
    server.listed = {"data": [{"id": "base", "owned_by": "\udc00"}]}
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        [answer] = engine(server, cache).answer(served("base"), WRITE, PLAIN[:1])
        assert answer.text == "half \ufffd and whole \U0001f600"
        assert engine(server, cache).answer(served("base"), WRITE, PLAIN[:1]) == [answer]
    assert engine(server).models()["base"]["owned_by"] == "\ufffd"


@pytest.mark.parametrize("listed", [{"data": [{"name": "x"}]}, {"data": ["base"]}, {"data": 5}, [1, 2], {"data": [[]]}])
def test_lists_of_models_that_are_none(server: Scripted, listed: Any) -> None:
    server.listed = listed
    with pytest.raises(EvaluationError, match="cannot be read") as caught:
        engine(server).models()
    assert "OpenAI-compatible" in str(caught.value.remedy)


def test_a_page_for_people_is_no_answer(server: Scripted) -> None:
    server.html = True
    with pytest.raises(EvaluationError, match="cannot be read"):
        engine(server).models()
    with pytest.raises(EvaluationError):
        engine(server).answer(served("base"), WRITE, PLAIN[:1])


def test_an_empty_list_of_models_is_one(server: Scripted) -> None:
    server.listed = {"object": "list", "data": None}
    assert engine(server).models() == {}


def test_choices_without_what_the_protocol_has(server: Scripted) -> None:
    server.drop = ("index", "finish_reason", "logprobs")
    assert [one.text for one in engine(server).answer(served("base"), WRITE, PLAIN[:1])] == ["answer of base"]
    for choice in ({"message": "text"}, {"message": None}):
        server.choice = choice
        with pytest.raises(EvaluationError):
            engine(server).answer(served("base"), CHAT, TALK)


def test_log_probabilities_that_are_no_numbers(server: Scripted) -> None:
    server.logprob = "high"
    [answer] = engine(server).answer(served("base"), WRITE, PLAIN[:1])
    assert answer.gold_logprob is None
    server.logprob = -1.0
    asking = engine(server)
    asking.answer(served("base"), READ, [LikelihoodItem(item_id="t", text="a b c")])
    for server.logprob in ("high", float("nan")):
        with pytest.raises(EvaluationError, match="no numbers"):
            asking.answer(served("base"), READ, [LikelihoodItem(item_id="u", text="a b d")])


@pytest.mark.parametrize("odd", [{"text": None}, {"text": 3}, {"logprobs": {"tokens": None, "token_logprobs": [1]}}])
def test_a_server_that_echoes_nothing_gives_no_log_probabilities(server: Scripted, odd: dict[str, Any]) -> None:
    server.logprob, server.choice = -1.0, odd
    with pytest.raises(EvaluationError, match="no log-probabilities of given text"):
        engine(server).answer(served("base"), READ, [LikelihoodItem(item_id="t", text="a b c")])


def test_a_text_of_which_nothing_is_predicted_names_its_place(server: Scripted) -> None:
    server.logprob = -1.0
    with pytest.raises(EvaluationError, match="nothing of the text 'one' is predicted") as caught:
        engine(server).answer(served("base"), READ, [LikelihoodItem(item_id="t", text="one")])
    assert caught.value.where == "task 'text', item t"
    server.starts = True
    [answer] = engine(server).answer(served("base"), READ, [LikelihoodItem(item_id="t", text="one")])
    assert (answer.tokens, answer.logprob) == (1, -1.0)


# --- where it is, and what it may know ---


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://[::1::2]", "http://host:99999", "http://host:abc", "http://host:0", "http://a..b",
     "http://two words", "http://host\n", "http://host/v1#part", "http://" + "a" * 70, "http://<host>"],
)  # fmt: skip
def test_addresses_that_cannot_be_are_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        OpenAIEngine(url)


def test_addresses_that_can_be() -> None:
    for url in ("http://[::1]:8000/v1", "http://my_host:8000/v1", "https://münchen.example/v1", "http://10.0.0.1/v1"):
        assert server_url(url) == url


def test_nothing_of_the_environment_is_sent(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORG_ID", "PROJECT_ID", "API_KEY", "ADMIN_KEY", "BASE_URL", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "http://secret")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: secret\nAuthorization: Bearer secret")
    asking = engine(server)
    asking.models()
    asking.answer(served("base"), WRITE, PLAIN[:1])
    assert server.headers
    for headers in server.headers:
        assert not [name for name, value in headers.items() if "secret" in value]
        assert not {"openai-organization", "openai-project"} & {name.lower() for name in headers}
        assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer none"


def test_keys_that_no_header_can_hold_are_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("secret\n", "sécret", "a secret"):
        monkeypatch.setenv("MY_KEY", key)
        with pytest.raises(UsageError, match="MY_KEY") as caught:
            Server(url="http://host/v1", api_key_env="MY_KEY")
        assert key not in str(caught.value)


# --- what is remembered ---


def test_notes_are_there_when_everything_was_answered_before(server: Scripted, tmp_path: Path) -> None:
    server.choice = {"finish_reason": "content_filter"}
    texts = [LikelihoodItem(item_id="t", text="a b c")]
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        first = engine(server, cache)
        first.answer(served("base"), WRITE, PLAIN)
        server.logprob = -1.0
        first.answer(served("lora"), READ, texts)
        assert len(first.notes) == 4
        asked = len(server.asked)
        again = engine(server, cache)
        again.answer(served("base"), WRITE, PLAIN)
        again.answer(served("lora"), READ, texts)
        assert len(server.asked) == asked
        assert again.notes == first.notes
        assert any("content filter ended answers (4 of 4)" in note for note in again.notes)
        assert any("no log-probabilities" in note for note in again.notes)
        assert any("no beginning-of-text token" in note for note in again.notes)
        cache.prune()
        assert cache.notes([]) == {}
        assert cache._read("SELECT * FROM notes") == []


def resumed(server: Scripted, cache: AnswerCache, tasks: list[LoadedTask]) -> list[str]:
    """Notes on answers that were dropped, when a run goes on."""
    asking = engine(server, cache)
    known = [served("base"), served("lora")]
    check_served(asking, known, tasks, device="cpu", dtype="auto", watch=Silent())
    return [note for note in asking.notes if "dropped" in note]


def test_a_run_goes_on_with_the_same_models_alone(server: Scripted, tmp_path: Path) -> None:
    tasks = [
        LoadedTask(spec=WRITE, kind="generate", items=tuple(PLAIN), train_items=(), tuning_items=(), fingerprint="f")
    ]
    for server.logprob in (None, -1.0):
        server.said = {}
        with AnswerCache(tmp_path / f"{server.logprob}.sqlite") as cache:
            assert resumed(server, cache, tasks) == []
            for name in ("base", "lora"):
                engine(server, cache).answer(served(name), WRITE, PLAIN[:2])
            assert resumed(server, cache, tasks) == []
            asked = len(server.asked)
            engine(server, cache).answer(served("lora"), WRITE, PLAIN[:2])
            assert len(server.asked) == asked
            server.said = {"lora": "retrained"}
            [note] = resumed(server, cache, tasks)
            assert note.startswith("lora: 2 kept answers")
            assert [one.text for one in engine(server, cache).answer(served("lora"), WRITE, PLAIN[:2])] == (
                ["retrained"] * 2
            )
            asked = len(server.asked)
            engine(server, cache).answer(served("base"), WRITE, PLAIN[:2])
            assert len(server.asked) == asked
            assert resumed(server, cache, tasks) == []


def test_without_a_prompt_to_check_with_everything_is_asked_again(server: Scripted, tmp_path: Path) -> None:
    server.logprob = -1.0
    items = [LikelihoodItem(item_id="t", text="a b c")]
    tasks = [
        LoadedTask(spec=READ, kind="likelihood", items=tuple(items), train_items=(), tuning_items=(), fingerprint="f")
    ]
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        assert resumed(server, cache, tasks) == []
        engine(server, cache).answer(served("lora"), READ, items)
        [note] = resumed(server, cache, tasks)
        assert "no prompt can show" in note
        assert len(cache) == 0


def said(*told: tuple[str, float | None]) -> list[GenerateAnswer]:
    return [GenerateAnswer(text=text, truncated=False, gold_logprob=value) for text, value in told]


def test_what_speaks_for_other_weights() -> None:
    quiet = said(("a", -1.0)), said(("a", -1.0))
    noisy = said(("a", -1.0)), said(("b", -1.1))
    assert same_model(quiet, quiet)
    assert same_model(noisy, (said(("c", -1.05)), said(("a", -1.04))))
    assert not same_model(quiet, (said(("b", -1.0)), said(("b", -1.0))))
    assert not same_model(quiet, (said(("a", -1.001)), said(("a", -1.001))))
    assert not same_model(noisy, (said(("a", -1.3)), said(("b", -1.3))))
    assert not same_model(quiet, (said(("a", None)), said(("a", None))))


# --- whether an adapter is applied ---


def checked(server: Scripted) -> ServerCheck:
    return check_server(engine(server), served("base"), [served("lora")], PLAIN)


def test_only_exact_equality_of_all_prompts_stops_a_run(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    server.said, server.logprob = {"base": "same", "lora": "same"}, -1.0
    with pytest.raises(EvaluationError, match="is the adapter loaded") as caught:
        checked(server).refuse_unapplied()
    assert "--engine transformers" in str(caught.value.remedy)
    unscored = [*PLAIN, GenerateItem(item_id="blank", prompt="question", references=(" ",))]
    check = check_server(engine(server), served("base"), [served("lora")], unscored)
    check.refuse_unapplied()
    assert [finding.severity for finding in check.findings] == ["critical"]
    plain = server.answer

    def with_noise(body: dict[str, Any]) -> dict[str, Any]:
        server.logprob = -1.0 - 0.001 * (len(server.asked) % 7)
        return plain(body)

    def slightly_moved(body: dict[str, Any]) -> dict[str, Any]:
        server.logprob = -1.0 if body["model"] == "base" else -1.00001
        return plain(body)

    monkeypatch.setattr(server, "answer", slightly_moved)
    check = checked(server)
    check.refuse_unapplied()
    assert [finding.severity for finding in check.findings] == ["critical"]
    monkeypatch.setattr(server, "answer", with_noise)
    check = checked(server)
    check.refuse_unapplied()
    assert check.models[1].noise
    assert not check.models[1].proven_base
