"""``lorascope curves``: what is shown of logs, and following them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lorascope.cli.curves import sparkline
from lorascope.cli.main import run
from lorascope.data.logs import Curve
from lorascope.workflows import following


def text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS: list[dict[str, Any]] = [{"current_steps": step, "loss": 2 - step / 100} for step in range(10, 110, 10)]
ROWS += [
    {"current_steps": step, "eval_loss": loss}
    for step, loss in zip(range(20, 120, 20), (2, 1.5, 1.6, 1.9, 2.4), strict=True)
]
END = {"current_steps": 100, "train_runtime": 1.0, "train_loss": 1.5}


def test_a_sparkline_has_one_scale_and_blanks_where_nothing_was_logged() -> None:
    whole = Curve((0, 10, 20, 30), (4.0, 3.0, None, 1.0))
    assert sparkline(whole, whole.steps, (1.0, 4.0), 4) == "█▆ ▁"
    assert sparkline(Curve((30,), (2.0,)), whole.steps, (1.0, 4.0), 4) == "   ▃"
    assert sparkline(Curve((7,), (1.0,)), (7,), (1.0, 1.0), 3) == "▁  "


def test_each_log_is_drawn_with_its_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text(ROWS) + '{"current_st')
    assert run(["curves", str(log)]) == 0
    shown = capsys.readouterr().out
    assert "over-fits" in shown
    assert "read as LLaMA-Factory, 10 training rows" in shown
    assert "note: The last line is cut off" in shown
    assert ["train", "1.9", "1", "step", "100", "1"] in [
        [word for word in line.split() if not set(word) <= set("▁▂▃▄▅▆▇█")] for line in shown.splitlines()
    ]
    assert run(["curves", str(log), "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out).values()
    assert document["log"]["format"] == "LLaMA-Factory"
    assert document["log"]["notes"] == ["The last line is cut off and passed over."]
    assert document["series"]


def test_a_finished_run_is_followed_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text([*ROWS, END]))
    assert run(["curves", str(log), "--follow"]) == 0
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "step 100: warning:" in shown
    assert "the run has ended" in shown
    assert shown.count("best_step") == 1
    assert run(["curves", str(log), "--follow", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["step"] for line in lines} == {100}
    assert "warning" in [line["finding"]["severity"] for line in lines]


def test_a_log_that_comes_later_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    parts = [text(ROWS[:3]), text([*ROWS[3:], END])]

    def sleep(seconds: float) -> None:
        with log.open("a") as file:
            file.write(parts.pop(0))

    monkeypatch.setattr(following.follow, "__kwdefaults__", {**following.follow.__kwdefaults__, "sleep": sleep})
    assert run(["curves", str(log), "--follow"]) == 0
    shown = capsys.readouterr().out
    assert "waiting, no log there yet" in shown
    assert shown.index("waiting") < shown.index("over-fits") < shown.index("the run has ended")


def test_a_log_that_is_none_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a.csv"
    log.write_text("step,loss,train_loss\n1,2,3\n")
    for more in ([], ["--follow"]):
        assert run(["curves", str(log), *more]) == 2
        assert "several columns stand for one curve" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_following_is_ended_by_an_interrupt(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text(ROWS))
    command = [sys.executable, "-c", "from lorascope.cli.main import entry; entry()", "curves", str(log), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "loss" not in (line := process.stdout.readline()):
            assert line
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()
        assert "Interrupted." in process.stderr.read()


def test_losses_at_the_end_of_what_numbers_reach_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = Curve((0, 1, 2, 3), (-1e308, 1e308, 1e308, 1.7e308))
    assert sparkline(far, far.steps, (-1e308, 1.7e308), 2) == "▃▇"
    log = tmp_path / "log.jsonl"
    log.write_text(text([{"step": step, "loss": (-1) ** step * 1e308} for step in range(3)]))
    assert run(["curves", str(log)]) == 0
    assert "1e+308" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_plateau_that_is_no_number(tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(text(ROWS))
    assert run(["curves", str(log), f"--plateau-loss={value}"]) == 2
    assert "--plateau-loss" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="file names")
def test_names_bring_no_escapes_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "a\x1b[2J\u202eb.jsonl"
    log.write_text(text([{"step": step, "loss": 1.0, "eval_\x1b[31mset_loss": 1.0 + step} for step in range(1, 9)]))
    export = tmp_path / "export.csv"
    export.write_text("train/global_step,x\x1b]0;y\x07 - train/loss,b - train/loss\n1,2,3\n2,1,2\n", encoding="utf-8")
    assert run(["curves", str(log), str(export)]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "\\x1b[31mset" in shown
    assert "\\x1b]0;y" in shown
    assert run(["curves", str(log), "--json"]) == 0
    [name] = json.loads(capsys.readouterr().out)
    assert name.endswith("a\\x1b[2J\\u202eb.jsonl")
