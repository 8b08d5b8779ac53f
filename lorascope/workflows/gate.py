"""Hold a finished result to a policy."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.errors import ConfigError, OutputError, UsageError
from lorascope.gates.evaluation import evaluate, exit_code
from lorascope.gates.outputs import (
    as_json,
    by_urgency,
    github_annotations,
    headline,
    junit,
    markdown,
    open_metrics,
)
from lorascope.gates.pairing import Baseline
from lorascope.schema.comparison import Comparison
from lorascope.schema.gates import GateReport
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.workflows.gate_baseline import read_baseline
from lorascope.workflows.gate_calibrate import run_calibrate
from lorascope.workflows.gate_explain import run_explain
from lorascope.workflows.output import write_whole
from lorascope.workflows.publish import load_result, load_samples

_STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INVALID": "bold red",
    "MISSING": "bold magenta",
    "INCONCLUSIVE": "yellow",
}
_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, slots=True)
class GateFiles:
    """Where the outcome is written besides the terminal; None: not at all."""

    json: Path | None = None
    summary: Path | None = None
    junit: Path | None = None
    openmetrics: Path | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate came to. ``annotations`` are GitHub's workflow commands, empty where there is nothing to say."""

    report: GateReport
    exit_code: int
    annotations: str


def run_gate(
    result_path: Path,
    gates_path: Path,
    baseline_path: Path | None,
    console: Console,
    *,
    files: GateFiles | None = None,
) -> Judged:
    """Judge the result, print the table and write ``files``; all of it also when a gate fails or is invalid.

    The exit code is 0 when the gates pass or only warn, 1 when one fails, 3 when one has nothing valid to compare.
    ``baseline_path`` goes before the baseline that the policy names (relative to the policy's folder). A summary is
    written whole, except that GitHub's own (``GITHUB_STEP_SUMMARY``) is appended to: a step may write several.
    """
    report = judge(result_path, gates_path, baseline_path)
    code = exit_code(report)
    show(report, console)
    files = files or GateFiles()
    if files.json is not None:
        _write(files.json, as_json(report, code))
    if files.junit is not None:
        _write(files.junit, junit(report))
    if files.openmetrics is not None:
        _write(files.openmetrics, open_metrics(report))
    if files.summary is not None:
        _summarise(files.summary, markdown(report))
    return Judged(report, code, github_annotations(report, gates_path.as_posix()))


def judge(result_path: Path, gates_path: Path, baseline_path: Path | None = None) -> GateReport:
    """Evaluate a policy on a finished result; see :func:`run_gate`."""
    policy = read_policy(gates_path)
    comparison = load_result(result_path)
    baseline = _baseline(policy, gates_path, baseline_path, result_path, comparison)
    return evaluate(policy, comparison, baseline, name=gates_path.name)


def explain_policy(
    gates_path: Path, console: Console, *, result_path: Path | None = None, baseline_path: Path | None = None
) -> None:
    """Print what each rule of a policy means, with the numbers of ``result_path``'s items where it is given."""
    policy = read_policy(gates_path)
    if result_path is None:
        if baseline_path is not None:
            raise UsageError("a baseline alone explains nothing", remedy="give --result beside --baseline")
        run_explain(policy, console, name=str(gates_path))
        return
    comparison = load_result(result_path)
    baseline = _baseline(policy, gates_path, baseline_path, result_path, comparison)
    run_explain(policy, console, comparison, baseline, name=str(gates_path))


def calibrate_policy(
    result_path: Path,
    console: Console,
    *,
    gates_path: Path | None = None,
    resamples: int,
    seed: int,
    json_path: Path | None = None,
) -> None:
    """Print, and write to ``json_path``, how often a policy cries wolf on this result's items and what it finds."""
    policy = None if gates_path is None else read_policy(gates_path)
    comparison, samples = load_result(result_path), load_samples(result_path)
    name = "gates.toml" if gates_path is None else gates_path.name
    report = run_calibrate(comparison, samples, policy, console, resamples=resamples, seed=seed, name=name)
    if json_path is not None:
        _write(json_path, report.model_dump_json(indent=1) + "\n")


def read_policy(path: Path) -> GatePolicy:
    """Read ``gates.toml``; ConfigError when it cannot be read or is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the gate policy cannot be read: {error}", where=str(path)) from error
    return parse_policy(text, path.name)


def _baseline(
    policy: GatePolicy, gates_path: Path, given: Path | None, result_path: Path, comparison: Comparison
) -> Baseline | None:
    """The baseline that was given, else the one that the policy names, relative to the policy's folder."""
    path = given or (gates_path.parent / policy.baseline if policy.baseline is not None else None)
    return None if path is None else read_baseline(path, result_path, comparison)


def judged_in(result_path: Path) -> Judged | None:
    """What the gates of a finished result came to when it was made; None where it was held to no policy."""
    report = load_result(result_path).gates
    return None if report is None else Judged(report, exit_code(report), "")


def outcome_line(report: GateReport) -> str:
    """The outcome in one line, for those who asked for no table."""
    return headline(report)


def show(report: GateReport, console: Console) -> None:
    """Print the rows, those that block first, the doubts about the whole, and the outcome."""
    show_rows(report, console)
    console.print(Text(headline(report), style="bold"))


def show_rows(report: GateReport, console: Console) -> None:
    """Print the rows, those that block first, and the doubts about the whole."""
    console.print(_table(report))
    for warning in report.warnings:
        console.print(Text(f"note: {warning}", style="yellow"))


def _table(report: GateReport) -> Table:
    """Two columns, so that it reads in a terminal of any width: the outcome, and what it is about."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in by_urgency(report):
        harmless = row.outcome != "PASS" and row.severity == "warn"
        outcome = Text.assemble((row.outcome, _STYLES[row.outcome]), " (warns)" if harmless else "")
        said = Text.assemble((row.address, "bold"), f"  {row.rule}\n{row.evidence}")
        table.add_row(outcome, said.append(f"\nnote: {row.warning}", "yellow") if row.warning else said)
    return table


def _summarise(path: Path, text: str) -> None:
    if os.environ.get(_STEP_SUMMARY) != str(path):
        return _write(path, text)
    try:
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"the summary cannot be written: {error.strerror}", where=str(path)) from error
    return None


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", errors="replace"))
