"""The engine on a server: a small OpenAI-compatible one over real tiny models, with the failures that servers have."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.choosing import GROUP, EngineOptions, engine_names, open_engine
from lorascope.engines.openai_engine import OpenAIEngine, request_seed
from lorascope.engines.openai_requests import server_url
from lorascope.engines.server_check import check_server
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.items import ChoiceItem, GenerateItem, Item, LabelsItem, LikelihoodItem
from lorascope.schema.suite import Sampling, SuiteTask

QUESTIONS = [f"Question: number {n}?\nAnswer:" for n in range(6)]


@dataclass
class Fake:
    """What the server does and remembers; ``fail`` maps a prompt to the statuses that its first requests get."""

    models: dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = None
    url: str = ""
    fail: dict[str, list[int]] = field(default_factory=dict)
    scoring: str = "echo"
    ignore_n: bool = False
    completions: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    busy: int = 0
    most_busy: int = 0

    def prompts(self) -> Counter[str]:
        return Counter(str(body.get("prompt")) for body in self.asked)


SEEDING = threading.Lock()
"""torch has one generator for the whole process."""


def generated(model: Any, ids: list[int], body: dict[str, Any]) -> list[int]:
    settings: dict[str, Any] = {"do_sample": False}
    if body.get("temperature"):
        settings = {"do_sample": True, "temperature": body["temperature"], "top_k": 0}
    with SEEDING, torch.inference_mode():
        torch.manual_seed(body["seed"])
        given = torch.tensor([ids])
        written = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=body["max_tokens"],
            pad_token_id=0, **settings,
        )  # fmt: skip
    return written[0, len(ids) :].tolist()


def scored(model: Any, ids: list[int]) -> list[float | None]:
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    return [None, *(float(logprobs[place, token]) for place, token in enumerate(ids[1:]))]


def completion(fake: Fake, body: dict[str, Any]) -> dict[str, Any]:
    model, ids = fake.models[body["model"]], fake.tokenizer(body["prompt"])["input_ids"]
    choices = []
    for index in range(1 if fake.ignore_n else body.get("n", 1)):
        new = generated(model, ids, body | {"seed": (body.get("seed") or 0) + index})
        ended = new[-1] == fake.tokenizer.eos_token_id
        text = fake.tokenizer.decode(new, skip_special_tokens=True)
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": "stop" if ended else "length"}
        if body.get("logprobs") and fake.scoring != "none":
            whole = [*ids, *new] if body.get("echo") and fake.scoring == "echo" else new
            values = scored(model, [*ids, *new])[-len(whole) :]
            choice["logprobs"] = {
                "tokens": [fake.tokenizer.decode([one]) for one in whole],
                "token_logprobs": values, "top_logprobs": None, "text_offset": None,
            }  # fmt: skip
            if len(whole) > len(new):
                choice["text"] = body["prompt"] + text
        if "prompt_logprobs" in body and fake.scoring == "prompt_logprobs":
            values = scored(model, ids)
            choice["prompt_logprobs"] = [
                None if value is None else {str(one): {"logprob": value, "decoded_token": fake.tokenizer.decode([one])}}
                for one, value in zip(ids, values, strict=True)
            ]
        choices.append(choice)
    usage = {"prompt_tokens": len(ids), "completion_tokens": len(new), "total_tokens": len(ids) + len(new)}
    return {
        "id": "x", "object": "text_completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage
    }  # fmt: skip


def application(fake: Fake) -> FastAPI:
    app = FastAPI()

    def refusal(request: Request, body: dict[str, Any]) -> JSONResponse | None:
        fake.keys.add(request.headers.get("authorization", ""))
        fake.asked.append(body)
        statuses = fake.fail.get(str(body.get("prompt")), [])
        if statuses:
            error = {"error": {"message": "made to fail"}}
            return JSONResponse(error, statuses.pop(0), headers={"retry-after-ms": "10", "retry-after": "0.01"})
        if body["model"] not in fake.models:
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        return None

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        names = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in fake.models]
        return {"object": "list", "data": names}

    @app.post("/v1/completions")
    def completions(request: Request, body: dict[str, Any]) -> Any:
        refused = refusal(request, body)
        if refused is not None or not fake.completions:
            return refused or JSONResponse({"detail": "Not Found"}, 404)
        fake.busy += 1
        fake.most_busy = max(fake.most_busy, fake.busy)
        try:
            return completion(fake, body)
        finally:
            fake.busy -= 1

    @app.post("/v1/chat/completions")
    def chats(request: Request, body: dict[str, Any]) -> Any:
        refused = refusal(request, body)
        if refused is not None:
            return refused
        prompt = "".join(f"[{message['role']}]{message['content']}" for message in body["messages"])
        found = completion(fake, body | {"prompt": prompt})
        for choice in found["choices"]:
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        return found | {"object": "chat.completion"}

    return app


@pytest.fixture(scope="module")
def running(checkpoints: Path) -> Iterator[Fake]:
    torch.set_num_threads(1)
    fake = Fake(tokenizer=AutoTokenizer.from_pretrained(checkpoints / "llama-bos"))
    for name in ("llama", "llama-bos"):
        fake.models[name] = AutoModelForCausalLM.from_pretrained(checkpoints / name).eval()
    plain = AutoModelForCausalLM.from_pretrained(checkpoints / "llama")
    fake.models["lora"] = PeftModel.from_pretrained(plain, checkpoints / "lora").eval()
    fake.models["dead-lora"] = fake.models["llama"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application(fake), port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    fake.url = f"http://127.0.0.1:{port}"
    yield fake
    server.should_exit = True
    thread.join()


@pytest.fixture
def fake(running: Fake, checkpoints: Path) -> Fake:
    """The server as it is at first: every failure taken back, nothing remembered."""
    running.fail, running.scoring, running.ignore_n, running.completions = {}, "echo", False, True
    running.asked, running.keys, running.most_busy = [], set(), 0
    running.tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    return running


def served(name: str) -> Subject:
    return Subject(name=name, path=Path(name), kind="model", tokenizer_path=Path(name), content_hash="served")


def local(checkpoints: Path, name: str, base: str | None = None) -> Subject:
    return Subject(
        name=name, path=checkpoints / name, kind="model" if base is None else "adapter", content_hash=name,
        tokenizer_path=checkpoints / (base or name), base_path=checkpoints / base if base else None, base_hash=base,
    )  # fmt: skip


def generate(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "qa", "kind": "generate", "data": "", "max_new_tokens": 8} | more)


def questions(count: int = 3) -> list[GenerateItem]:
    return [GenerateItem(item_id=f"q{n}", prompt=QUESTIONS[n], references=(f"it is {n}",)) for n in range(count)]


def engine(fake: Fake, **more: Any) -> OpenAIEngine:
    return OpenAIEngine(fake.url, **({"retries": 2} | more))


def test_answers_and_logprobs_are_those_of_the_local_engine(fake: Fake, checkpoints: Path) -> None:
    for name, base in (("llama", None), ("lora", "llama")):
        there = engine(fake).answer(served(name), generate(), questions())
        here = TransformersEngine(device="cpu").answer(local(checkpoints, name, base), generate(), questions())
        for answer, expected in zip(there, here, strict=True):
            assert (answer.text, answer.truncated) == (expected.text, expected.truncated)
            assert answer.gold_logprob == pytest.approx(expected.gold_logprob, abs=1e-4)


CHOICES: list[ChoiceItem] = [
    ChoiceItem(item_id="a", question="", context=QUESTIONS[0], choices=("Paris", "the dog"), answer=0),
    ChoiceItem(item_id="b", question="", context="trailing space ", choices=("Paris", "over"), answer=0),
    ChoiceItem(item_id="c", question="", context="答案：", choices=("巴黎", "法国的首都"), answer=0),
]


@pytest.mark.parametrize("scoring", ["echo", "prompt_logprobs"])
def test_choices_are_scored_as_locally_whichever_way_the_server_tells(
    fake: Fake, checkpoints: Path, scoring: str
) -> None:
    fake.scoring = scoring
    task = SuiteTask(name="mc", kind="choice", data="")
    there = engine(fake).answer(served("llama"), task, CHOICES)
    here = TransformersEngine(device="cpu").answer(local(checkpoints, "llama"), task, CHOICES)
    for answer, expected in zip(there, here, strict=True):
        assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_texts_and_empty_contexts_need_a_start_token_to_be_scored_whole(fake: Fake, checkpoints: Path) -> None:
    text = LikelihoodItem(item_id="t", text="the quick brown fox")
    empty = ChoiceItem(item_id="e", question="", context="", choices=("Paris", "fox"), answer=0)
    rolling, choice = SuiteTask(name="text", kind="likelihood", data=""), SuiteTask(name="mc", kind="choice", data="")
    without = engine(fake)
    [short] = without.answer(served("llama"), rolling, [text])
    assert any("first token of each text is not predicted" in note for note in without.notes)
    with pytest.raises(EvaluationError, match="first token of a text without context"):
        engine(fake).answer(served("llama"), choice, [empty])
    fake.tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama-bos")
    [whole] = engine(fake).answer(served("llama-bos"), rolling, [text])
    [chosen] = engine(fake).answer(served("llama-bos"), choice, [empty])
    inside = TransformersEngine(device="cpu")
    [expected] = inside.answer(local(checkpoints, "llama-bos"), rolling, [text])
    [preferred] = inside.answer(local(checkpoints, "llama-bos"), choice, [empty])
    assert (whole.tokens, whole.bytes) == (expected.tokens, expected.bytes)
    assert whole.tokens == short.tokens + 1
    assert whole.logprob == pytest.approx(expected.logprob, abs=1e-4)
    assert chosen.logprobs == pytest.approx(preferred.logprobs, abs=1e-4)


def test_a_server_without_logprobs_writes_and_does_not_choose(fake: Fake) -> None:
    for scoring in ("none", "generated"):
        fake.scoring = scoring
        writer = engine(fake)
        [answer] = writer.answer(served("llama"), generate(), questions(1))
        assert answer.gold_logprob is None
        assert any("no log-probabilities" in note for note in writer.notes)
        with pytest.raises(EvaluationError, match="no log-probabilities of given text"):
            writer.answer(served("llama"), SuiteTask(name="mc", kind="choice", data=""), CHOICES)


def test_stop_strings_end_an_answer_as_they_do_locally(fake: Fake, checkpoints: Path) -> None:
    [free] = engine(fake).answer(served("llama"), generate(), questions(1))
    stop = free.text[2:4]
    [cut] = engine(fake).answer(served("llama"), generate(stop=[stop]), questions(1))
    assert (cut.text, cut.truncated, cut.stop) == (free.text[: free.text.index(stop)].strip(), False, stop)
    assert fake.asked[-2]["stop"] == [stop]


@pytest.mark.parametrize("ignore_n", [False, True])
def test_samples_are_drawn_even_where_the_server_ignores_n(fake: Fake, ignore_n: bool) -> None:
    fake.ignore_n = ignore_n
    task = generate(sampling=Sampling(n=3, seed=5, temperature=1.5))
    first = engine(fake).answer(served("llama"), task, questions(2))
    second = engine(fake, concurrency=1).answer(served("llama"), task, list(reversed(questions(2))))
    assert [len(answer.others) for answer in first] == [2, 2]
    assert first == list(reversed(second))
    assert len({first[0].text, *first[0].others}) > 1
    reseeded = generate(sampling=Sampling(n=3, seed=6, temperature=1.5))
    other = engine(fake).answer(served("llama"), reseeded, questions(1))
    assert other[0].text != first[0].text
    assert request_seed(0, questions(1)[0], 0) != request_seed(0, questions(2)[1], 0)


def test_chats_go_to_the_chat_endpoint(fake: Fake) -> None:
    item = GenerateItem(item_id="c", prompt=None, messages=({"role": "user", "content": "hi"},), references=("yes",))
    fake.completions = False
    [answer] = engine(fake).answer(served("llama"), generate(chat=True), [item])
    assert answer.text
    assert answer.gold_logprob is None
    with pytest.raises(EvaluationError, match=r"no /v1/completions") as caught:
        engine(fake).answer(served("llama"), generate(), questions(1))
    assert "chat: true" in str(caught.value)


def test_busy_and_failing_servers_are_asked_again(fake: Fake) -> None:
    fake.fail = {QUESTIONS[0]: [429, 500]}
    seen: list[tuple[int, int]] = []
    asking = engine(fake)
    answers = asking.answer(served("llama"), generate(), questions(), lambda done, total: seen.append((done, total)))
    assert len(answers) == 3
    assert fake.prompts()[QUESTIONS[0]] >= 3
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_was_answered_before_a_failure_is_kept(fake: Fake, tmp_path: Path) -> None:
    fake.fail = {QUESTIONS[2]: [503] * 9}
    fake.scoring = "none"
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        asking = engine(fake, cache=cache, concurrency=1, retries=1)
        with pytest.raises(EvaluationError, match="failed \\(503\\)") as caught:
            asking.answer(served("llama"), generate(), questions(4))
        assert "item q2" in str(caught.value)
        assert len(cache) == 2
        fake.fail, fake.asked = {}, []
        answers = asking.answer(served("llama"), generate(), questions(4))
        assert fake.prompts().keys() & set(QUESTIONS) == {QUESTIONS[2], QUESTIONS[3]}
        fake.asked = []
        assert engine(fake, cache=cache).answer(served("llama"), generate(), questions(4)) == answers
        assert not fake.asked
        assert engine(fake, cache=cache).answer(served("lora"), generate(), questions(1)) != answers[:1]


def test_no_more_requests_at_once_than_allowed(fake: Fake) -> None:
    engine(fake, concurrency=2).answer(served("llama"), generate(), questions(6))
    assert fake.most_busy <= 2


def test_a_server_that_is_not_there_is_said_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    silent = OpenAIEngine(f"http://127.0.0.1:{port}", retries=0)
    with pytest.raises(EvaluationError, match="cannot be reached"):
        silent.answer(served("llama"), generate(), questions(1))
    with pytest.raises(EvaluationError, match="cannot be reached"):
        silent.models()


def test_the_key_is_sent_and_shown_nowhere(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-openai")
    monkeypatch.setenv("MY_KEY", "a-secret")
    asking = engine(fake, api_key_env="MY_KEY")
    asking.answer(served("llama"), generate(), questions(1))
    assert fake.keys == {"Bearer a-secret"}
    assert "a-secret" not in repr(vars(asking)) + repr(asking.server)
    fake.keys.clear()
    engine(fake).answer(served("llama"), generate(), questions(1))
    assert fake.keys == {"Bearer none"}
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UsageError, match="MY_KEY"):
        engine(fake, api_key_env="MY_KEY")


@pytest.mark.parametrize("kind", ["labels", "score", "tokens"])
def test_servers_have_no_heads(fake: Fake, kind: str) -> None:
    item: Item = LabelsItem(item_id="x", text="a", labels=("b",), multi=False)
    with pytest.raises(EvaluationError, match=f"not {kind}"):
        engine(fake).answer(served("llama"), SuiteTask.model_validate({"name": "t", "kind": kind, "data": ""}), [item])


def test_addresses() -> None:
    assert server_url("http://localhost:8000") == "http://localhost:8000/v1"
    assert server_url("https://host/api/v3/") == "https://host/api/v3"
    for wrong in ("localhost:8000", "ftp://host", "http://", "http://me:secret@host", "http://host/v1?key=secret"):
        with pytest.raises(UsageError):
            server_url(wrong)


def test_inside_a_running_event_loop(fake: Fake) -> None:
    import asyncio

    async def notebook() -> int:
        return len(engine(fake).answer(served("llama"), generate(), questions(2)))

    # In a thread of its own: other tests leave a loop running in this one, as browser drivers do.
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(asyncio.run, notebook()).result() == 2


def test_a_live_adapter_passes_and_a_dead_one_is_found(fake: Fake, checkpoints: Path) -> None:
    inside = TransformersEngine(device="cpu")
    folders = {"llama": local(checkpoints, "llama"), "lora": local(checkpoints, "lora", "llama")}
    check = check_server(
        engine(fake), served("llama"), [served("lora")], questions(), local=inside, folders=folders
    )  # fmt: skip
    base, lora = check.models
    assert (base.listed, base.repeated, base.like_local, base.as_base) == (True, 1.0, 1.0, False)
    assert not lora.as_base
    assert lora.local_shift == pytest.approx(0.0, abs=1e-3)
    check.refuse_unapplied()
    assert [finding.severity for finding in check.findings] == ["good", "good"]
    dead = check_server(engine(fake), served("llama"), [served("dead-lora")], questions())
    with pytest.raises(EvaluationError, match="is the adapter loaded"):
        dead.refuse_unapplied()
    fake.scoring = "none"
    silent = check_server(engine(fake), served("llama"), [served("dead-lora")], questions())
    silent.refuse_unapplied()
    assert [finding.severity for finding in silent.findings] == ["critical"]


def test_other_weights_than_in_the_folder_are_found(fake: Fake, checkpoints: Path) -> None:
    folders = {"lora": local(checkpoints, "llama")}
    inside = TransformersEngine(device="cpu")
    check = check_server(engine(fake), served("llama"), [served("lora")], questions(), local=inside, folders=folders)
    [finding] = check.findings
    assert (finding.severity, finding.id) == ("warning", "server_parity:lora")
    with pytest.raises(EvaluationError, match="lists the models: dead-lora, llama"):
        check_server(engine(fake), served("llama"), [served("nobody")], questions())


def test_engines_by_name(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_engine("openai", url=fake.url), OpenAIEngine)
    assert isinstance(open_engine("transformers", device="cpu"), TransformersEngine)
    for name, options, said in (
        ("openai", {}, "address"), ("transformers", {"url": fake.url}, "asks no server"), ("vllm", {}, "no engine"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            open_engine(name, **options)
    given: list[EngineOptions] = []

    class Point:
        name, value = "mine", "package:factory"

        def load(self) -> Any:
            return lambda options: given.append(options) or "an engine"

    monkeypatch.setattr("lorascope.engines.choosing.entry_points", lambda group: [Point()] if group == GROUP else [])
    assert open_engine("mine", dtype="float16") == "an engine"
    assert given[0].dtype == "float16"
    assert engine_names() == ["transformers", "openai", "mine"]


def test_answers_that_are_no_answers(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "completion", lambda fake, body: json.loads("{}"))
    with pytest.raises(EvaluationError, match="holds no text"):
        engine(fake).answer(served("llama"), generate(), questions(1))


def test_without_the_client_library_the_command_that_installs_it_is_named(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError) as caught:
        engine(fake).answer(served("llama"), generate(), questions(1))
    assert "pip install 'lorascope[openai]'" in str(caught.value)
