"""Names of folders, and how long the answers of models that may change unseen are kept."""

from __future__ import annotations

from pathlib import Path

from lorascope.engines.base import Outcome
from lorascope.schema.items import ScoreAnswer
from lorascope.workflows.answer_cache import open_answer_cache
from lorascope.workflows.output import RESULT, OutputFolder, short_name
from lorascope.workflows.served import served_folder, served_subjects

KEPT = [("k", Outcome(ScoreAnswer(value=1.0)))]


def test_answers_that_are_not_shared_end_with_the_result(tmp_path: Path) -> None:
    """So that the same command asks a server again, whose adapter may have been trained again."""
    folder = OutputFolder.claim(tmp_path / "out", {"of": "a test"})
    with open_answer_cache(folder, shared=False) as cache:
        cache.put_many(KEPT)
    folder = OutputFolder.claim(tmp_path / "out", {"of": "a test"})
    assert folder.resumed
    with open_answer_cache(folder, shared=False) as cache:
        assert cache.get_many(["k"]) == dict(KEPT)
    folder.write_text("other.txt", "x")
    assert folder.answers.is_file()
    folder.write_text(RESULT, "{}")
    assert sorted(path.name for path in folder.path.iterdir()) == ["other.txt", RESULT, "run.json"]


def test_a_shared_cache_outlives_the_result(tmp_path: Path) -> None:
    folder = OutputFolder.claim(tmp_path / "out", {"of": "a test"})
    with open_answer_cache(folder, shared=True, cache_dir=tmp_path / "cache") as cache:
        cache.put_many(KEPT)
    folder.write_text(RESULT, "{}")
    with open_answer_cache(folder, shared=True, cache_dir=tmp_path / "cache") as cache:
        assert cache.get_many(["k"]) == dict(KEPT)


def test_names_that_no_file_system_takes_are_cut_and_kept_apart(tmp_path: Path) -> None:
    assert short_name("a b/c-vs-d") == "a-b-c-vs-d"
    assert short_name("x" * 255) == "x" * 255
    long = [short_name("模" * 200 + end) for end in ("1", "2")]
    assert long[0] != long[1]
    for name in long:
        assert name.startswith("模模")
        assert len(name.encode()) <= 255
        (tmp_path / name).mkdir()
    named = served_folder(served_subjects("b" * 200, ["a" * 200], url="http://host", listed={}))
    assert len(named.name) <= 255
