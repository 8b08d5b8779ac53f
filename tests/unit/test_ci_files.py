"""The files that other projects take into their CI: they parse, their commands exist, and the action runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from lorascope.cli.main import main

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "ci"
POLICY = 'version = 1\n[[gate]]\nmetric = "qa.accuracy"\nmax_drop = 0.02\n'


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def parses(words: list[str]) -> bool:
    """Whether the command line has known options alone; nothing is run."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words) if words[0] in command.commands else (
            "check", command.commands["check"], words,
        )  # fmt: skip
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context("lorascope", list(words), resilient_parsing=False)
    return True


def commands_in(script: list[str]) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in script if line.startswith("lorascope ")]


def test_the_commands_of_the_gitlab_example_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text("")
    job = load(EXAMPLES / "gitlab-ci.yml")["model-gate"]
    found = commands_in(job["script"])
    assert [words[0] for words in found] == ["compare", "gate"]
    assert all(parses(words) for words in found)
    written = {found[1][place + 1] for place, word in enumerate(found[1]) if word in ("--junit", "--openmetrics")}
    assert written == set(job["artifacts"]["reports"].values())


def test_the_github_example_gives_inputs_that_the_action_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text("")
    steps = load(EXAMPLES / "github-workflow.yml")["jobs"]["gate"]["steps"]
    assert all(parses(words) for words in commands_in([step["run"] for step in steps if "run" in step]))
    (used,) = [step for step in steps if "/lorascope@" in step.get("uses", "")]
    inputs = load(ROOT / "action.yml")["inputs"]
    assert set(used["with"]) <= set(inputs)
    assert {name for name, spec in inputs.items() if spec.get("required")} <= set(used["with"])


def test_the_hooks_of_the_example_are_the_hooks_that_there_are() -> None:
    hooks = {hook["id"]: hook for hook in load(ROOT / ".pre-commit-hooks.yaml")}
    for hook in load(EXAMPLES / "pre-commit-config.yaml")["repos"][0]["hooks"]:
        words = shlex.split(hooks[hook["id"]]["entry"])[1:] + hook.get("args", [])
        assert parses(words if hook["id"] == "lorascope-gate" else [*words, "a/gates.toml", "gates.toml"])
    assert re.search(hooks["lorascope-policy"]["files"], "ci/gates.toml")


def test_the_action_takes_no_input_into_its_shell_text() -> None:
    action = load(ROOT / "action.yml")
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"], step["name"]
        assert step["shell"] == "bash"


def act(folder: Path, **inputs: str) -> tuple[int, dict[str, str], str, str]:
    """Run the action's judging step as a runner would: exit code, outputs, summary, and what it printed."""
    action = load(ROOT / "action.yml")
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "gate")
    given = {name: str(spec.get("default", "")) for name, spec in action["inputs"].items()} | inputs
    environment = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match[1]], text)
        for name, text in step["env"].items()
    }
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary.md"}
    for path in files.values():
        path.write_text("")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **environment, **{name: str(path) for name, path in files.items()},
             "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done.returncode, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), done.stdout + done.stderr


def put_result(folder: Path, low: float, value: float, high: float) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("plugin_results", Path(__file__).with_name("test_pytest_plugin.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.result(folder, low, value, high)


@pytest.mark.parametrize(
    ("interval", "code", "outcome"), [((0.01, 0.02, 0.03), 0, "passed"), ((-0.12, -0.1, -0.08), 1, "failed")]
)
def test_the_action_judges_as_a_runner_would(
    tmp_path: Path, interval: tuple[float, float, float], code: int, outcome: str
) -> None:
    (tmp_path / "gates.toml").write_text(POLICY)
    put_result(tmp_path, *interval)
    returned, outputs, summary, printed = act(tmp_path, result="result.json", junit="gate.xml", json="gate.json")
    assert returned == code, printed
    assert outputs == {"outcome": outcome, "exit-code": str(code)}
    assert f"gates.toml: {outcome}" in summary
    assert (tmp_path / "gate.xml").is_file()
    assert (tmp_path / "gate.json").is_file()
    assert ("::error file=gates.toml,line=2" in printed) is (code == 1)


def test_the_action_runs_nothing_that_an_input_holds(tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(POLICY)
    returned, outputs, summary, printed = act(
        tmp_path, result='"; touch owned; echo "$(touch owned)`touch owned`', baseline="--help"
    )
    assert returned == 2, printed
    assert outputs == {"outcome": "", "exit-code": "2"}
    assert "::error title=lorascope gate::" in printed
    assert summary.startswith("### lorascope gate could not judge: ")
    assert not (tmp_path / "owned").exists()
