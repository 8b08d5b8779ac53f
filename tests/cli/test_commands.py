"""Each command by hand: its help, its output, and the documents that are generated from the code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from lorascope.cli.main import main, run

ROOT = Path(__file__).parents[2]


def commands() -> list[list[str]]:
    paths: list[list[str]] = [[]]
    for name, command in main.commands.items():
        paths.append([name])
        if isinstance(command, click.Group):
            paths += [[name, inner] for inner in command.commands]
    return paths


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_help_text_says_what_the_command_and_each_option_does(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == 0
    assert "Usage: lorascope" in capsys.readouterr().out
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_the_commands_are_these() -> None:
    assert sorted(main.commands) == [
        "blind",
        "cache",
        "compare",
        "curves",
        "demo",
        "gate",
        "import",
        "repair",
        "report",
        "sweep",
        "train",
        "weights",
    ]


def test_generated_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_curves_reads_a_run_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": step, "loss": 2.0 - step / 100} for step in range(10, 110, 10)]
    rows += [
        {"step": step, "eval_loss": loss}
        for step, loss in zip(range(20, 120, 20), (2, 1.5, 1.6, 1.9, 2.4), strict=True)
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 100, "log_history": rows}))
    assert run(["curves", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "over-fits from step 60" in shown
    assert "best_step" in shown
    assert run(["curves", str(tmp_path), "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out).values()
    assert {found["metric"]: found["adapted"]["value"] for found in document["measurements"] if found["adapted"]}[
        "best_step"
    ] == 40


def test_curves_of_a_folder_without_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curves", str(tmp_path)]) == 2
    assert "no training log" in capsys.readouterr().err


def test_report_renders_again_in_both_languages(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(["weights", str(llama.base), str(llama.lora), "--quiet", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run(["report", str(out / "result.json"), "--quiet"]) == 0
    assert (out / "report.html").read_text() == page
    assert run(["report", str(out / "result.json"), "--lang", "zh", "--out", str(tmp_path / "zh.html"), "--quiet"]) == 0
    assert 'lang="zh-Hans"' in (tmp_path / "zh.html").read_text()
    assert run(["report", str(out / "result.json")]) == 0
    assert "lora" in capsys.readouterr().out


def test_a_name_can_be_given_to_a_checkpoint(llama, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["weights", f"start={llama.base}", f"tuned={llama.lora}", "--quiet", "--out", str(out)]) == 0
    names = [entry["name"] for entry in json.loads((out / "result.json").read_text())["checkpoints"]]
    assert names == ["start", "tuned"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from lorascope import __version__

    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_no_name_or_path_turns_into_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curves", "/nowhere/:train:/log.json"]) == 2
    assert ":train:" in capsys.readouterr().err


def test_a_name_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["curves", "/nowhere/\x1b]0;owned\x07.json"]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\\x1b" in said
