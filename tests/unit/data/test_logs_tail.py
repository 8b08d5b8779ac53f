"""A log that grows, is cut, replaced, or not there yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorascope.data.logs import LogTail, TrainingLog
from lorascope.errors import DataError


def row(step: int, loss: float = 1.0) -> str:
    return json.dumps({"current_steps": step, "total_steps": 9, "loss": loss})


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def polled(tail: LogTail) -> TrainingLog:
    log = tail.poll()
    assert log is not None
    return log


def test_only_what_was_added_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trainer_log.jsonl"
    tail = LogTail(path)
    assert tail.poll() is None
    assert tail.source is None
    path.touch()
    assert tail.poll() is None
    append(path, row(1) + "\n" + row(2)[:20])
    first = polled(tail)
    assert (first.train.steps, first.notes) == ((1,), ("The last line is cut off and passed over.",))
    assert tail.poll() is None
    read: list[str] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(text) or loads(text))
    append(path, row(2)[20:] + "\r\n" + row(3))
    second = polled(tail)
    assert (second.train.steps, second.notes) == ((1, 2, 3), ())
    assert read == [row(2), row(3)]
    append(path, "\n" + row(4) + "\n")
    assert polled(tail).train.steps == (1, 2, 3, 4)


def test_characters_and_line_ends_may_be_cut_between_two_looks(tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    raw = "{'loss': 2.0, 'step': 1, 'note': 'é'}\r\n{'loss': 1.0, 'step': 2}\r\n".encode()
    tail = LogTail(path)
    for end in range(1, len(raw) + 1):
        path.write_bytes(raw[:end])
        log = tail.poll()
    assert log is not None
    assert (log.train.steps, log.notes, log.format) == ((1, 2), (), "printed rows")


def test_a_log_that_is_cut_replaced_or_gone_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    append(path, row(1) + "\n" + row(2) + "\n")
    tail = LogTail(path)
    assert polled(tail).train.steps == (1, 2)
    path.write_text(row(5) + "\n")
    assert polled(tail).train.steps == (5,)
    other = tmp_path / "other"
    other.write_text(row(6) + "\n" + row(7) + "\n" + row(8) + "\n")
    other.replace(path)
    assert polled(tail).train.steps == (6, 7, 8)
    path.unlink()
    assert tail.poll() is None
    append(path, row(3))
    assert polled(tail).train.steps == (3,)


@pytest.mark.parametrize("name", ["trainer_log.jsonl", "out.log"])
def test_a_longer_log_in_the_same_place_on_the_disk_is_read_anew(tmp_path: Path, name: str) -> None:
    """Unlinked and written again, a file often gets the number of its place back; one cut to nothing keeps it."""
    path = tmp_path / name
    path.write_text("".join(row(step) + "\n" for step in (1, 2)))
    tail = LogTail(path)
    assert polled(tail).train.steps == (1, 2)
    place = path.stat().st_ino
    with path.open("r+") as file:
        file.truncate(0)
        file.write("".join(row(step, 3.0) + "\n" for step in range(5, 25)))
    assert path.stat().st_ino == place
    assert polled(tail).train.steps == tuple(range(5, 25))
    append(path, row(30) + "\n")
    assert polled(tail).train.steps == (*range(5, 25), 30)


def test_a_log_that_differs_only_where_reading_stopped_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    old, new = ([row(step, loss) + "\n" for step in range(1, 301)] for loss in (1.0, 2.0))
    path.write_text("".join(old))
    tail = LogTail(path)
    assert polled(tail).train.values[-1] == 1.0
    with path.open("r+") as file:
        file.write("".join([*old[:200], *new[200:], row(301) + "\n"]))
    assert polled(tail).train.values[199:202] == (1.0, 2.0, 2.0)


def test_a_broken_log_that_is_replaced_by_a_longer_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(row(1) + '\n{"loss"\n' + row(2) + "\n")
    tail = LogTail(path)
    with pytest.raises(DataError, match="broken JSON"):
        tail.poll()
    with path.open("r+") as file:
        file.write("".join(row(step) + "\n" for step in range(3, 9)))
    assert polled(tail).train.steps == tuple(range(3, 9))


def test_the_newest_state_of_a_run_folder_is_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tail = LogTail(run)
    assert tail.poll() is None
    rows = [{"step": step, "loss": 1.0} for step in (10, 20)]
    for count in (1, 2):
        state = run / f"checkpoint-{10 * count}" / "trainer_state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"global_step": 10 * count, "max_steps": 40, "log_history": rows[:count]}))
        assert polled(tail).train.steps == (10, 20)[:count]
        assert tail.poll() is None
    append(run / "logging.jsonl", '{"loss": 1.0, "global_step/max_steps": "30/40"}\n')
    assert polled(tail).train.steps == (30,)
    assert tail.source == run / "logging.jsonl"


def test_a_broken_line_stays_an_error_until_the_log_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, row(1) + '\n{"loss"\n' + row(2) + "\n" + row(3) + "\n")
    tail = LogTail(path)
    for _ in range(2):
        with pytest.raises(DataError, match="broken JSON") as caught:
            tail.poll()
        assert (caught.value.where or "").endswith("line 2")
        append(path, row(4) + "\n")
    path.write_text(row(1) + "\n")
    assert polled(tail).train.steps == (1,)


def test_a_table_is_read_anew_and_several_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,2.0\n")
    tail = LogTail(path)
    assert polled(tail).train.steps == (1,)
    append(path, "2,1.0\n")
    assert polled(tail).train.steps == (1, 2)
    path.write_text("Step,a - train/loss,b - train/loss\n1,2,3\n")
    with pytest.raises(DataError, match="2 runs"):
        LogTail(path).poll()
