"""What a log that is no terminal is told of a long stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lorascope.cli.progress import TerminalWatch


class Log:
    """A watch on a log file, with a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        self.file = io.StringIO()
        self.watch = TerminalWatch(Console(file=self.file, width=200), clock=lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_short_stage_is_one_line(log: Log) -> None:
    with log.watch.stage("Checking") as report:
        for done in range(11):
            log.now = 2.9 * done
            report(done, 10)
    assert log.lines == ["Checking …"]


def test_a_long_stage_says_early_how_long_and_then_goes_on_saying(log: Log) -> None:
    with log.watch.stage("Weights") as report:
        for done in range(225):
            log.now = 2.0 * done
            report(done, 224)
    assert log.lines[1] == "Weights: 5 of 224, about 7 min left"
    assert log.lines[2] == "Weights: 20 of 224, about 7 min left"
    assert len(log.lines) == 2 + (448 - 10) // 30
    assert log.lines[-1] == "Weights: 215 of 224, about 18 s left"


def test_what_an_earlier_run_has_done_is_no_pace(log: Log) -> None:
    with log.watch.stage("Weights") as report:
        report(200, 224)
        log.now = 31.0
        report(201, 224)
    assert log.lines[1:] == ["Weights: 201 of 224, about 12 min left"]


def test_what_comes_before_the_first_step_is_no_pace(log: Log) -> None:
    with log.watch.stage("Train") as report:
        report(0, 300)
        log.now = 25.0
        report(0, 300)  # an evaluation of the base
        log.now = 37.0
        report(2, 300)
    assert log.lines[-1] == "Train: 2 of 300, about 30 min left"


def test_hours_are_called_hours_and_an_unknown_pace_is_left_out(log: Log) -> None:
    with log.watch.stage("Weights") as report:
        log.now = 40.0
        report(0, 300)
        log.now = 80.0
        report(1, 300)
    assert log.lines[1:] == ["Weights: 0 of 300", "Weights: 1 of 300, about 3 h 19 min left"]


def test_a_terminal_gets_bars_and_no_lines() -> None:
    file = io.StringIO()
    watch = TerminalWatch(Console(file=file, force_terminal=True, width=120), clock=lambda: 1e9)
    with watch.stage("Weights") as report:
        report(3, 4)
    assert "3/4" in file.getvalue()
    assert "about" not in file.getvalue()
