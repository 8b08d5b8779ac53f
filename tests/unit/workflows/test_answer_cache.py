"""Where a run keeps its answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.checkpoints.hashing import content_hash
from lorascope.engines.base import Outcome, Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.keys import Setting, answer_keys
from lorascope.errors import DataError, OutputError
from lorascope.schema.items import ChoiceItem, ScoreAnswer
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.answer_cache import cache_path, open_answer_cache
from lorascope.workflows.output import OutputFolder

KEPT = [("k", Outcome(ScoreAnswer(value=1.0)))]


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder.claim(tmp_path / "out", {"of": "a test"})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache folder that is nobody's."""
    monkeypatch.delenv("LORASCOPE_CACHE_DIR", raising=False)
    monkeypatch.setattr("lorascope.workflows.answer_cache.user_cache_path", lambda name: tmp_path / "home" / name)
    return tmp_path / "home" / "lorascope"


def test_an_option_goes_before_the_environment_and_that_before_the_users_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_path() == home / "answers.sqlite"
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", " ")
    assert cache_path() == home / "answers.sqlite"
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(tmp_path / "named"))
    assert cache_path() == tmp_path / "named" / "answers.sqlite"
    assert cache_path(tmp_path / "option") == tmp_path / "option" / "answers.sqlite"


def test_runs_share_the_users_cache(home: Path, folder: OutputFolder, tmp_path: Path) -> None:
    with open_answer_cache(folder, shared=True) as cache:
        assert cache.path == home / "answers.sqlite"
        cache.put_many(KEPT)
    other = OutputFolder.claim(tmp_path / "other", {"of": "another"})
    with open_answer_cache(other, shared=True) as cache:
        assert cache.get_many(["k"]) == dict(KEPT)
    assert not folder.answers.exists()


def test_a_run_of_its_own_resumes_and_leaves_nothing_when_it_is_done(home: Path, folder: OutputFolder) -> None:
    with open_answer_cache(folder, shared=False, cache_dir=home) as cache:
        assert cache.path == folder.answers
        cache.put_many(KEPT)
    with open_answer_cache(folder, shared=False) as cache:
        assert cache.get_many(["k"]) == dict(KEPT)
    assert not home.exists()
    folder.forget_answers()
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("spoil", ["a file in its way", "no database"])
def test_a_default_cache_that_cannot_be_used_is_told_and_done_without(
    home: Path, folder: OutputFolder, spoil: str
) -> None:
    home.parent.mkdir(parents=True)
    if spoil == "no database":
        home.mkdir()
        (home / "answers.sqlite").write_text("no database" * 500)
    else:
        home.write_text("a file")
    said: list[str] = []
    with open_answer_cache(folder, shared=True, say=said.append) as cache:
        assert cache.path == folder.answers
    assert len(said) == 1
    assert str(home) in said[0]
    with open_answer_cache(folder, shared=True) as cache:
        assert cache.path == folder.answers


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_cache_that_was_named_and_cannot_be_used_is_an_error(
    folder: OutputFolder, tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file"
    place.write_text("a file")
    monkeypatch.setenv("LORASCOPE_CACHE_DIR", str(place if by == "environment" else tmp_path / "good"))
    option = place if by == "option" else None
    with pytest.raises(OutputError), open_answer_cache(folder, shared=True, cache_dir=option):
        pass
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "answers.sqlite").write_text("no database" * 500)
    with pytest.raises(DataError), open_answer_cache(folder, shared=True, cache_dir=damaged):
        pass


def test_a_checkpoint_that_is_overwritten_in_place_has_other_keys(
    llama: Any, copied: Callable[[Path, str], Path]
) -> None:
    """By content, at the same path, whatever the clock says."""
    base, adapter = copied(llama.base, "b"), copied(llama.lora, "l")

    def key() -> str:
        subject = Subject(
            name="lora",
            path=adapter,
            kind="adapter",
            tokenizer_path=base,
            content_hash=content_hash(adapter),
            base_path=base,
            base_hash=content_hash(base),
        )
        item = ChoiceItem(item_id="1", question="?", context="c", choices=("x", "y"), answer=0)
        task = SuiteTask(name="t", kind="choice", data="x")
        return answer_keys(subject, task, [item], Setting(engine="transformers", dtype="auto", device="cpu"))[0]

    seen = [key()]
    spoiled = [base / "model.safetensors", adapter / "adapter_model.safetensors", adapter / "adapter_config.json"]
    for file in [*spoiled, base / "config.json", base / "tokenizer_config.json"]:
        before = file.stat()
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        seen.append(key())
    assert len(set(seen)) == len(seen)


def test_an_empty_shared_cache_is_a_cache_too(home: Path, folder: OutputFolder) -> None:
    AnswerCache(home / "answers.sqlite").close()
    with open_answer_cache(folder, shared=True) as cache:
        assert cache.path == home / "answers.sqlite"
