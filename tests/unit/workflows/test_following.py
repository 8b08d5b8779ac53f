"""Runs that are followed, with a clock that does not tick by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lorascope.errors import DataError
from lorascope.workflows.following import INTERVAL, Follower, follow, read_runs, start_following


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def rows(first: int, last: int, total: int | None = 1000, **losses: float) -> str:
    more = {} if total is None else {"total_steps": total}
    made = [
        {"current_steps": step, "loss": losses.get(f"at{step}", 1 + 100 / (50 + step)), **more}
        for step in range(first, last + 1, 5)
    ]
    return "".join(json.dumps(each) + "\n" for each in made)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def kinds(found: list[Any]) -> list[str]:
    return [finding.id.partition(":")[0] for finding in found]


def test_each_finding_is_told_once_when_it_appears(tmp_path: Path) -> None:
    path, clock = tmp_path / "trainer_log.jsonl", Clock()
    follower = Follower("run", path, clock=clock)
    assert (follower.poll(), follower.waiting, follower.status()) == ([], True, "run: waiting, no log there yet")
    append(path, '{"current_steps": 0, "total_steps": 1000}\n')
    assert (follower.poll(), follower.status()) == ([], "run: waiting, no loss in it yet")
    append(path, rows(5, 300))
    assert follower.poll() == []
    assert (follower.step, follower.waiting, follower.ended) == (300, False, False)
    clock.now = 100.0
    append(path, rows(305, 500, at400=9.0))
    [spike] = follower.poll()
    assert spike.id.startswith("spikes")
    assert "400" in spike.title
    assert follower.status() == "run: step 500 of 1000 · loss 1.182 · about 4 min left"
    assert follower.poll() == []
    append(path, rows(505, 600, at550=9.0))
    [again] = follower.poll()
    assert "550" in again.title
    append(path, json.dumps({"current_steps": 600, "eval_loss": math.nan}) + "\n")
    assert follower.poll() == []
    assert "eval loss is no number" in follower.status()


def test_what_judges_a_whole_run_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    steps = range(10, 410, 10)
    made: list[dict[str, Any]] = [{"loss": 3 - step / 200, "global_step": step} for step in steps]
    made += [{"eval_loss": 3 - step / 200, "global_step": step} for step in range(50, 450, 50)]
    path.write_text("".join(json.dumps(each) + "\n" for each in made))
    follower = Follower("run", path, clock=Clock())
    early = kinds(follower.poll())
    assert not {"checkpoint", "learning_rate_low", "still_falling"} & set(early)
    assert follower.outcome is not None
    assert "checkpoint" in kinds(follower.outcome.findings)
    append(path, '{"train_runtime": 3.0, "train_loss": 2.0, "global_step": 400}\n')
    assert "checkpoint" in kinds(follower.poll())
    assert follower.ended


def test_a_run_ends_at_its_last_step_when_nothing_follows(tmp_path: Path) -> None:
    path, clock = tmp_path / "trainer_log.jsonl", Clock()
    append(path, rows(5, 50, total=50))
    follower = Follower("run", path, clock=clock)
    follower.poll()
    assert not follower.ended
    clock.now = 59.0
    append(path, '{"current_steps": 50, "eval_loss": 1.0}\n')
    follower.poll()
    clock.now = 100.0
    assert not follower.ended
    clock.now = 119.0
    assert follower.ended
    assert follower.seconds_left() is None


def test_a_log_that_is_being_written_is_no_error_and_a_broken_one_is(tmp_path: Path) -> None:
    path, clock = tmp_path / "trainer_state.json", Clock()
    whole = json.dumps({"log_history": [{"step": step, "loss": 1.0} for step in (1, 2, 3)]})
    path.write_text(whole)
    follower = Follower("run", path, clock=clock)
    follower.poll()
    path.write_text(whole[:40])
    clock.now = 2.0
    assert follower.poll() == []
    assert follower.step == 3
    clock.now = 33.0
    with pytest.raises(DataError, match="broken JSON"):
        follower.poll()
    with pytest.raises(DataError, match="broken JSON"):
        Follower("other", path, clock=clock).poll()


def test_all_logs_are_followed_until_each_has_ended(tmp_path: Path) -> None:
    first, second, clock = tmp_path / "a.jsonl", tmp_path / "b.jsonl", Clock()
    end = '{"train_runtime": 3.0, "train_loss": 2.0, "current_steps": 10}\n'
    first.write_text(rows(5, 10) + end)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 2:
            second.write_text(rows(5, 10) + end)

    shown: list[str] = []
    follow(
        [Follower("a", first, clock=clock), Follower("b", second, clock=clock)],
        lambda follower, news: shown.append(follower.name),
        sleep=sleep,
        clock=clock,
    )
    assert shown == ["a", "b", "b", "b"]
    assert slept == [INTERVAL, INTERVAL]


def test_folders_of_runs_and_exports_of_runs_are_read_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "trainer_log.jsonl").write_text(rows(5, 50))
    (tmp_path / "runs" / "notes").mkdir()
    export = tmp_path / "export.csv"
    export.write_text("train/global_step,x - train/loss,y - train/loss\n1,2,3\n2,1,2\n")
    found = read_runs([tmp_path / "runs", export])
    folder = tmp_path / "runs"
    assert [run.name for run in found] == [f"{folder}/one", f"{folder}/two", f"{export}:x", f"{export}:y"]
    about = found[0].document()["log"]
    assert about == {
        "source": f"{folder}/one/trainer_log.jsonl",
        "format": "LLaMA-Factory",
        "x_name": "step",
        "total_steps": 1000,
        "finished": False,
        "notes": [],
    }
    (tmp_path / "new").mkdir()
    waited = [tmp_path / "new", tmp_path / "later.jsonl"]
    followed = start_following([tmp_path / "runs", *waited])
    assert [follower.path for follower in followed] == [folder / "one", folder / "two", *waited]
    assert [follower.poll() == [] and follower.waiting for follower in followed] == [False, False, True, True]
    with pytest.raises(DataError, match="no training log"):
        read_runs([tmp_path / "runs" / "notes"])


def flat(steps: range, total: int) -> str:
    made = [{"current_steps": step, "total_steps": total, "loss": 1.0 + step % 7 / 1000} for step in steps]
    made += [{"current_steps": step, "eval_loss": 1.5 + step % 3 / 1000} for step in steps if step % 50 == 0]
    return "".join(json.dumps(each) + "\n" for each in made)


def test_a_flat_start_is_no_standstill_until_the_last_step_is_settled(tmp_path: Path) -> None:
    path, clock = tmp_path / "trainer_log.jsonl", Clock()
    follower = Follower("run", path, clock=clock)
    append(path, flat(range(5, 505, 5), 1000))
    whole = {"checkpoint", "gap", "learning_rate_low", "plateau", "standstill", "still_falling"}
    assert not whole & set(kinds(follower.poll()))
    assert follower.outcome is not None
    assert {"standstill", "plateau", "gap", "checkpoint"} & set(kinds(follower.outcome.findings))
    append(path, flat(range(505, 1005, 5), 1000))
    assert not whole & set(kinds(follower.poll()))
    clock.now = 61.0
    late = kinds(follower.poll())
    assert {"standstill", "checkpoint"} <= set(late)
    assert follower.poll() == []


def test_another_checkpoint_to_keep_is_news(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    end = '{"train_runtime": 3.0, "train_loss": 2.0, "current_steps": 40}\n'

    def evaluated(step: int, loss: float) -> str:
        return json.dumps({"current_steps": step, "eval_loss": loss}) + "\n"

    append(path, rows(5, 40) + evaluated(20, 1.5) + evaluated(40, 1.2) + end)
    follower = Follower("run", path, clock=Clock())
    assert [found.title for found in follower.poll() if found.id.startswith("checkpoint")] == [
        "run: keep the checkpoint of step 40 (eval, by validation loss)"
    ]
    append(path, rows(45, 60) + evaluated(60, 1.0) + end.replace("40}", "60}"))
    assert [found.title for found in follower.poll() if found.id.startswith("checkpoint")] == [
        "run: keep the checkpoint of step 60 (eval, by validation loss)"
    ]


def test_what_a_run_says_that_ends_between_look_and_question_is_shown(tmp_path: Path) -> None:
    path, clock = tmp_path / "trainer_log.jsonl", Clock()
    path.write_text(flat(range(5, 505, 5), 500))
    shown: list[str] = []

    def show(follower: Follower, news: list[Any]) -> None:
        shown.extend(kinds(news))
        clock.now = 61.0

    follow([Follower("run", path, clock=clock)], show, sleep=lambda seconds: None, clock=clock)
    assert "checkpoint" in shown
