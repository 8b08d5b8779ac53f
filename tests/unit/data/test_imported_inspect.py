"""Logs that Inspect wrote, read without its library; and archives that are damaged or made to harm."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from lorascope.data.imported import eval_archive
from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.inspect_log import read_inspect
from lorascope.data.imported.pairing import pair_runs
from lorascope.errors import DataError, InvalidComparison
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
    other = {"other": {"value": "C"}}
    run = read_inspect(log(tmp_path / "t.eval", [sample("a"), sample("b", scores=other)]))
    assert run.tasks["t"].metrics == {}
    assert any("match, other of inspect are missing" in note for note in run.notes)


@pytest.mark.parametrize("nothing", [None, {}, {"choice": None}, {"choice": {"value": math.nan}}])
@pytest.mark.parametrize("scorer", ["choice", "match"])
def test_samples_without_a_score_are_no_wrong_answers(tmp_path: Path, nothing: Any, scorer: str) -> None:
    scored = {scorer: {"value": "N", "answer": None}}
    samples = [sample("a", scores=scored), sample("b", scores=nothing), *(sample(n, scores=scored) for n in range(3))]
    header = {"task": "t", "scorers": [{"name": scorer}], "config": {}}
    run = read_inspect(log(tmp_path / "t.eval", samples, eval=header))
    assert [one.key for one in run.tasks["t"].items] == ["a", "0", "1", "2"]
    assert "1 of 5 samples" in str(run.tasks["t"].dropped)
    assert any("have no score and are left out" in note for note in run.notes)
    if scorer == "choice":
        assert {one.answer.text for one in run.tasks["t"].items if isinstance(one.answer, GenerateAnswer)} == {""}
    with pytest.raises(DataError, match="no sample of the log has a score"):
        read_inspect(log(tmp_path / "t.eval", samples[1:2], eval=header))


def test_epochs_stand_in_their_order_whatever_the_archives_is(tmp_path: Path) -> None:
    late, early = sample("a", "no", epoch=10), sample("a", "yes", epoch=2)
    late["scores"] = {"match": {"value": "I"}}
    [one] = read_inspect(log(tmp_path / "t.eval", [late, early])).tasks["t"].items
    assert isinstance(one.answer, GenerateAnswer)
    assert (one.answer.text, one.answer.others, one.turns) == ("yes", ("no",), (2, 10))
    assert one.first == {"match": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("base", "tuned", "error", "problem"),
    [
        ((1, 2), (1, 3), InvalidComparison, "2 of 2 items of t were answered in other epochs in tuned than in base"),
        ((1, 2), (1,), InvalidComparison, "answered in other epochs"),
    ],
)
def test_epochs_of_both_sides_are_the_same(
    tmp_path: Path, base: tuple[int, ...], tuned: tuple[int, ...], error: type[Exception], problem: str
) -> None:
    runs = {
        name: read_inspect(log(tmp_path / f"{name}.eval", [sample(key, epoch=n) for key in "ab" for n in epochs]))
        for name, epochs in (("base", base), ("tuned", tuned))
    }
    with pytest.raises(error, match=problem):
        pair_runs("base", runs, tool="inspect", allow_different=True)


def test_an_item_that_lacks_an_epoch_is_named(tmp_path: Path) -> None:
    whole = read_inspect(log(tmp_path / "w.eval", [sample(key, epoch=n) for key in "ab" for n in (1, 2)]))
    holed = read_inspect(log(tmp_path / "h.eval", [sample("a"), sample("a", epoch=2), sample("b")]))
    with pytest.raises(DataError, match="items of t have 1 to 2 answers in base") as error:
        pair_runs("base", {"base": holed, "tuned": whole}, tool="inspect")
    assert "h.eval, samples/b_epoch_1.json" in str(error.value)
    with pytest.raises(DataError, match="epoch is no number"):
        read_inspect(log(tmp_path / "h.eval", [sample("a", epoch="x")]))


def test_a_scorer_that_is_alone_says_what_right_is(tmp_path: Path) -> None:
    judged = {"judge": {"value": "P"}}
    task = read_inspect(log(tmp_path / "t.eval", [sample("a", scores=judged)])).tasks["t"]
    [one] = task.items
    assert task.metrics["judge"].ours == "exact_match"
    assert one.scores == {"judge": (0.5, 1.0)}
    assert one.verdict("judge", task.metrics["judge"]) is False


def test_what_no_file_can_hold_is_refused_with_its_sample(tmp_path: Path) -> None:
    for damaged, problem in (
        (sample("a", "half \ud83d"), "half a character"),
        (sample("a", scores={"match": {"value": 10**400}}), "too large to be a score"),
    ):
        with pytest.raises(DataError, match=problem) as error:
            read_inspect(log(tmp_path / "t.eval", [damaged]))
        assert "t.eval, samples/a_epoch_1.json" in str(error.value)
    content: Any = "x"
    for _ in range(400):
        content = [{"type": "text", "text": content}]
    nested = sample("a", input=[{"role": "user", "content": content}])
    [one] = read_inspect(log(tmp_path / "t.eval", [nested])).tasks["t"].items
    assert isinstance(one.item, GenerateItem)
    assert one.item.prompt == "[text]"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 5_000, '{"a": ' + "1" * 5_000 + "}", "[]", "{"])
def test_a_header_that_is_no_document_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", text)
    with pytest.raises(DataError, match="JSON") as error:
        read_inspect(path)
    assert "header.json" in str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_that_inspect_never_used_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "t.eval"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("header.json", "{}")
    with pytest.raises(DataError, match=f"compressed by method {method}"):
        read_inspect(path)


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 + 5])
def test_a_member_that_claims_more_than_the_file_has_is_refused(tmp_path: Path, size: int) -> None:
    """The packed size in the directory is another's word: reading so many bytes at once would be the harm."""
    name, content = b"header.json", b"{}"
    extra = struct.pack("<HHQ", 1, 8, size)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, 0, 93, 0, 0, 0, 2, 2, len(name), 0) + name + content
    fields = (45, 45, 0, 93, 0, 0, 0, 2**32 - 1, 2, len(name), len(extra), 0, 0, 0, 0, 0)
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields) + name + extra
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)
    path = tmp_path / "t.eval"
    path.write_bytes(local + entry + end)
    with pytest.raises(DataError, match="larger than the whole archive"):
        read_inspect(path)


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
