"""Models behind a real server: ``transformers serve`` in a process of its own, with tiny checkpoints as model names."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorascope.cli.main import run
from lorascope.engines.base import Subject
from lorascope.engines.openai_engine import OpenAIEngine
from lorascope.engines.server_check import check_server
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError, UsageError
from lorascope.schema.comparison import Comparison
from lorascope.schema.items import ChoiceItem, GenerateItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.publish import load_result, load_samples
from lorascope.workflows.served import served_argument, served_only, served_subjects
from lorascope.workflows.tasks import Questions

CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Serving:
    url: str
    base: Path
    full: Path


@pytest.fixture(scope="module")
def serving(llama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The tiny Llama and its full fine-tune behind ``transformers serve``, each under the name of its folder."""
    root = tmp_path_factory.mktemp("served")
    base, full = (Path(shutil.copytree(folder, root / folder.name)) for folder in (llama.base, llama.full))
    for folder in (base, full):
        (folder / "chat_template.jinja").write_text(CHAT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub = root / "hub"
    (hub / "hub").mkdir(parents=True)
    arguments = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    program = "from transformers.cli.transformers import main; main()"
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=log, stderr=log, cwd=root,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(hub), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, root / "log")
            yield Serving(f"http://127.0.0.1:{port}", base, full)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture
def asked(questions: Path, tmp_path: Path) -> Questions:
    """Six short answers to write, and two choices to make, which this server cannot."""
    rows = [{"question": f"number {n}", "choices": ["one", "two"], "answer": 0} for n in range(2)]
    write = tmp_path / "choices.jsonl"
    write.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {"name": "qa", "kind": "generate", "data": questions.name, "max_new_tokens": 6},
        {"name": "mc", "kind": "choice", "role": "retention", "data": write.name},
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"version": 1, "tasks": tasks}))
    return Questions(suite=tmp_path / "suite.yaml", probe=())


def local(folder: Path) -> Subject:
    return Subject(name=folder.name, path=folder, kind="model", tokenizer_path=folder, content_hash=folder.name)


def test_a_real_server_answers_as_the_local_engine(serving: Serving) -> None:
    plain = [
        GenerateItem(item_id=str(n), prompt=f"Question: number {n}?\nAnswer:", references=("x",)) for n in range(4)
    ]
    chats = [GenerateItem(item_id="c", prompt=None, messages=({"role": "user", "content": "hi"},), references=("x",))]
    engine, inside = OpenAIEngine(serving.url), TransformersEngine(device="cpu")
    for folder in (serving.base, serving.full):
        for items, chat in ((plain, False), (chats, True)):
            task = SuiteTask(name="qa", kind="generate", data="", max_new_tokens=8, chat=chat)
            there = engine.answer(local(folder), task, items)
            here = inside.answer(local(folder), task, items)
            assert [(one.text, one.truncated) for one in there] == [(one.text, one.truncated) for one in here]
            assert [one.gold_logprob for one in there] == [None] * len(items)
    choice = ChoiceItem(item_id="a", question="", context="the quick", choices=("fox", "dog"), answer=0)
    with pytest.raises(EvaluationError, match="no log-probabilities of given text"):
        engine.answer(local(serving.base), SuiteTask(name="mc", kind="choice", data=""), [choice])


def compare(
    serving: Serving, questions: Questions, out: Path, *checkpoints: str, more: Sequence[str] = ()
) -> Comparison:
    """What the command finds; one of its outcomes that are no errors."""
    arguments = ["--engine", "openai", "--url", serving.url, "--suite", str(questions.suite), "--probe", "none"]
    place = ["--out", str(out), "--device", "cpu", "--quiet"]
    assert run(["compare", *checkpoints, *arguments, *place, *more]) == 0
    return load_result(out / "result.json")


def test_models_that_are_known_by_name_alone(serving: Serving, asked: Questions, tmp_path: Path) -> None:
    found = compare(serving, asked, tmp_path / "out", f"base={serving.base}", "full")
    base, adapted = found.checkpoints
    assert (base.name, adapted.name) == ("base", "full")
    assert (adapted.parameters.total, adapted.architecture) == (None, "not recorded")
    assert found.provenance.device == f"{serving.url}/v1"
    [parity] = [finding for finding in found.findings if finding.id.startswith("server_parity")]
    assert (parity.severity, parity.subject) == ("good", "base")
    whole = [one for one in found.measurements if one.task == "qa" and one.slice is None]
    assert {one.metric for one in whole} >= {"rougeL", "exact_match"}
    assert all(one.delta is not None for one in whole)
    assert any("no log-probabilities" in (one.missing_reason or "") for one in found.measurements)
    assert {one.area for one in found.missing} >= {"weights", "cost"}
    assert not found.weights
    assert (tmp_path / "out" / "report.html").is_file()
    samples = load_samples(tmp_path / "out" / "result.json")
    assert samples is not None
    assert len(samples) == 6
    assert not (tmp_path / "out" / "answers.sqlite").exists()
    again = compare(serving, asked, tmp_path / "out", f"base={serving.base}", "full")
    assert [one.adapted for one in again.measurements] == [one.adapted for one in found.measurements]


def test_with_local_folders_the_weights_are_looked_at_too(
    serving: Serving, asked: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(tmp_path / "cache"))
    named = f"base={serving.base}", f"full={serving.full}"
    found = compare(serving, asked, tmp_path / "out", *named, more=["--no-null", "--side", "left"])
    assert list(found.weights) == ["full"]
    told = {one.id: one.severity for one in found.findings if one.id.startswith("server_")}
    assert told == {"server_parity:base": "good", "server_parity:full": "good"}
    assert any(one.metric == "rougeL" and one.delta is not None for one in found.measurements)
    assert any(one.area == "cost" for one in found.missing)


def test_the_base_under_another_name_is_told(serving: Serving, asked: Questions, tmp_path: Path) -> None:
    found = compare(serving, asked, tmp_path / "out", "base@main", f"base={serving.base}")
    [told] = [one for one in found.findings if one.id.startswith("server_as_base")]
    assert told.severity == "critical"


def test_a_name_that_the_server_does_not_know(serving: Serving) -> None:
    known, unknown = local(serving.base), local(serving.base.parent / "nobody")
    item = GenerateItem(item_id="a", prompt="Question:", references=("x",))
    with pytest.raises(EvaluationError) as caught:
        check_server(OpenAIEngine(serving.url, retries=0), known, [unknown], [item])
    assert f"model '{unknown.name}'" in str(caught.value)
    assert "which lists the models" in str(caught.value)


def test_names_and_folders_on_the_command_line(llama, tmp_path: Path) -> None:
    assert served_argument("org/model").folder is None
    assert served_argument(f"org/model={llama.base}").name == "org/model"
    assert served_only("base", ["lora"])
    assert served_only(f"base={llama.base}", ["lora"])
    assert not served_only(f"base={llama.base}", [f"lora={llama.lora}"])
    for wrong, said in ((str(llama.base), "under which name"), ("lora=/nowhere", "no local"), ("a=", "no local")):
        with pytest.raises(UsageError, match=said):
            served_argument(wrong)


def test_hashes_of_served_models_see_address_name_and_what_the_server_says(llama) -> None:
    def hashed(name: str, url: str = "http://host:1", **described: object) -> str:
        found = served_subjects("base", [name], url=url, listed={name: described})
        return found.askers[1].content_hash

    known = hashed("lora")
    assert known == hashed("lora", url="http://host:1/v1", created=5)
    assert len({known, hashed("other"), hashed("lora", url="http://host:2"), hashed("lora", root="/models/x")}) == 4
    with pytest.raises(UsageError, match="given twice"):
        hashed("base")
    mixed = served_subjects(f"base={llama.base}", [f"a={llama.lora}", "b"], url="http://host", listed={})
    assert [asker.kind for asker in mixed.askers] == ["model", "adapter", "model"]
    assert mixed.askers[1].base_path == llama.base
    assert [json.loads(info.model_dump_json())["role"] for info in mixed.infos] == ["base", "adapted", "adapted"]
