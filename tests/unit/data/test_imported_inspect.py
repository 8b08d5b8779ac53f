"""Logs that Inspect wrote, read without its library; and archives that are damaged or made to harm."""

from __future__ import annotations

import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from lorascope.data.imported import eval_archive
from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.inspect_log import read_inspect
from lorascope.errors import DataError
from lorascope.schema.items import GenerateAnswer, GenerateItem

RUN = Path(__file__).parent / "fixtures" / "imported" / "inspect" / "base"


def log(path: Path, samples: list[dict[str, Any]], **header: Any) -> Path:
    """A log with deflated members, as earlier versions of Inspect wrote them."""
    whole = {"status": "success", "eval": {"task": "t", "scorers": [{"name": "match"}], "config": {}}, **header}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(whole))
        for sample in samples:
            name = f"samples/{sample['id']}_epoch_{sample.get('epoch', 1)}.json"
            archive.writestr(name, json.dumps(sample))
    return path


def sample(key: object, said: str = "yes", **more: Any) -> dict[str, Any]:
    scores = {"match": {"value": "C", "answer": said}}
    return {
        "id": key,
        "epoch": 1,
        "input": "Q?",
        "target": "yes",
        "output": {"completion": said},
        "scores": scores,
    } | more


def test_a_free_answer_is_scored_whole_and_the_scorers_values_are_kept() -> None:
    task = read_inspect(RUN).tasks["facts"]
    one = {one.key: one for one in task.items}["q0"]
    assert len(task.items) == 10
    assert isinstance(one.item, GenerateItem)
    assert (one.item.prompt, one.item.references) == ("Which gas do plants take in?", ("carbon dioxide",))
    assert isinstance(one.answer, GenerateAnswer)
    assert one.answer.text == "I believe it is carbon dioxide, yes."
    assert one.scores == {"match": (0.0, 1.0), "includes": (1.0, 1.0)}
    assert {name: metric.direction for name, metric in task.metrics.items()} == {
        "match": "higher",
        "includes": "higher",
    }


def test_the_letters_of_a_choice_are_what_is_scored() -> None:
    task = read_inspect(RUN).tasks["letters"]
    [one] = [one for one in task.items if one.key == "1"]
    assert isinstance(one.item, GenerateItem)
    assert isinstance(one.answer, GenerateAnswer)
    assert (one.answer.text, one.item.references) == ("B", ("B",))
    assert one.item.prompt is not None
    assert "A) iron\nB) water" in one.item.prompt
    assert task.usable == ("exact_match",)


def test_every_member_of_a_real_log_has_the_checksum_that_it_says() -> None:
    with closing(EvalArchive(RUN / "facts.eval")) as archive:
        assert len([archive.document(name) for name in archive.names("samples/")]) == 10


def test_epochs_are_answers_to_one_item_and_their_mean_score(tmp_path: Path) -> None:
    wrong = sample("a", "no", epoch=2) | {"scores": {"match": {"value": "I", "answer": "no"}}}
    [one] = read_inspect(log(tmp_path / "t.eval", [sample("a"), wrong])).tasks["t"].items
    assert isinstance(one.answer, GenerateAnswer)
    assert (one.answer.text, one.answer.others) == ("yes", ("no",))
    assert one.scores == {"match": (0.5, 1.0)}


def test_chats_attachments_and_several_values_of_a_scorer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "attachment://x"}, {"type": "image", "image": "…"}]},
        {"role": "assistant", "content": "yes"},
    ]
    given = sample("a", messages=turns, attachments={"x": "Is it so?"})
    given["scores"] = {"judge": {"value": {"style": 3, "fact": 0.5, "note": None}}}
    given["output"]["choices"] = [{"stop_reason": "max_tokens"}]
    [one] = read_inspect(log(tmp_path / "t.eval", [given])).tasks["t"].items
    assert isinstance(one.item, GenerateItem)
    assert one.item.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it so?\n[image]"},
    )
    assert one.scores == {"judge_style": (3.0, 1.0), "judge_fact": (0.5, 1.0)}
    assert isinstance(one.answer, GenerateAnswer)
    assert one.answer.truncated


def test_a_score_that_some_samples_lack_is_left_out_and_said(tmp_path: Path) -> None:
    run = read_inspect(log(tmp_path / "t.eval", [sample("a"), sample("b", scores={})]))
    assert run.tasks["t"].metrics == {}
    assert any("match of inspect are missing" in note for note in run.notes)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"status": "error"}, "did not come to a good end: it is of status error"),
        ({"status": "started"}, "of status started"),
        ({"invalidated": True}, "marked as invalid"),
        ({"eval": {}}, "does not name a task"),
    ],
)
def test_a_run_without_a_good_end_is_refused(tmp_path: Path, header: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_inspect(log(tmp_path / "t.eval", [sample("a")], **header))


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([], "holds no samples"),
        ([sample("a", error={"message": "x"})], "ended in an error"),
        ([sample("a", target="")], "target is empty"),
        ([sample("a", output={})], "no completion"),
    ],
)
def test_a_sample_that_cannot_be_compared_is_named(tmp_path: Path, samples: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(DataError, match=problem) as error:
        read_inspect(log(tmp_path / "t.eval", samples))
    assert "t.eval" in str(error.value)


def test_two_logs_of_a_task_are_refused(tmp_path: Path) -> None:
    log(tmp_path / "one.eval", [sample("a")])
    log(tmp_path / "two.eval", [sample("a")])
    with pytest.raises(DataError, match="several runs of t"):
        read_inspect(tmp_path)


def test_a_cut_archive_and_a_changed_byte_are_noticed(tmp_path: Path) -> None:
    whole = (RUN / "facts.eval").read_bytes()
    cut = tmp_path / "cut.eval"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"no whole \.eval archive"):
        read_inspect(cut)
    with zipfile.ZipFile(RUN / "facts.eval") as archive:
        place = archive.getinfo("header.json").header_offset + 30 + len("header.json") + 200
    changed = bytearray(whole)
    changed[place] ^= 0xFF
    cut.write_bytes(changed)
    with pytest.raises(DataError, match="the log is damaged"):
        read_inspect(cut)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.eval"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", b" " * (8 * 2**20))
    with pytest.raises(DataError, match=r"unpacks header.json from .* to 8,388,608 bytes: it is not read"):
        read_inspect(bomb)
    monkeypatch.setattr(eval_archive, "TOTAL_LIMIT", 1000)
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        read_inspect(RUN / "facts.eval")


def test_a_member_larger_than_it_says_is_not_unpacked_whole(tmp_path: Path) -> None:
    """A directory that lies about a size: only so many bytes are taken, and the member counts as damaged."""
    packed = pyarrow.compress(b'{"status": "success"}' + b" " * 500_000, codec="zstd", asbytes=True)
    path = tmp_path / "liar.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("header.json", packed)
    raw = path.read_bytes().replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x5d\x00"
    )
    assert raw.count(b"\x5d\x00") >= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="its size or checksum is another"):
        read_inspect(path)


def test_what_is_no_log_is_said_to_be_none(tmp_path: Path) -> None:
    other = tmp_path / "details_x_2025-01-01T00-00-00.parquet"
    other.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no file of inspect") as error:
        read_inspect(other)
    assert "lorascope import lighteval" in str(error.value)
    empty = tmp_path / "empty.eval"
    with zipfile.ZipFile(empty, "w"):
        pass
    with pytest.raises(DataError, match=r"has no header\.json"):
        read_inspect(empty)
