"""Hold a finished result to a policy."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.errors import ConfigError, DataError, EvaluationError, InputError, InvalidComparison, OutputError
from lorascope.gates.evaluation import evaluate
from lorascope.gates.pairing import Baseline
from lorascope.gates.rendering import by_urgency, headline, junit, markdown
from lorascope.schema.comparison import GateReport
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.workflows.output import SAMPLES
from lorascope.workflows.publish import load_result, load_samples

_STYLES = {"PASS": "green", "FAIL": "bold red", "MISSING": "bold magenta", "INCONCLUSIVE": "yellow"}


def run_gate(
    result_path: Path,
    gates_path: Path,
    baseline_path: Path | None,
    console: Console,
    *,
    summary: Path | None = None,
    junit_path: Path | None = None,
) -> int:
    """Judge the result, print the table, and return the exit code: 0 when the gates pass or only warn, else 1.

    ``baseline_path`` goes before the baseline that the policy names (relative to the policy's folder). Nothing is
    written but ``summary`` (Markdown) and ``junit_path`` (XML) where they are given.
    """
    report = judge(result_path, gates_path, baseline_path)
    show(report, console)
    if summary is not None:
        _write(summary, markdown(report))
    if junit_path is not None:
        _write(junit_path, junit(report))
    return 0 if report.passed else 1


def judge(result_path: Path, gates_path: Path, baseline_path: Path | None = None) -> GateReport:
    """Evaluate a policy on a finished result; see :func:`run_gate`."""
    policy = read_policy(gates_path)
    comparison = load_result(result_path)
    if baseline_path is None and policy.baseline is not None:
        baseline_path = gates_path.parent / policy.baseline
    baseline = None if baseline_path is None else read_baseline(baseline_path, result_path)
    return evaluate(policy, comparison, baseline, name=gates_path.name)


def read_policy(path: Path) -> GatePolicy:
    """Read ``gates.toml``; ConfigError when it cannot be read or is wrong."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the gate policy cannot be read: {error}", where=str(path)) from error
    return parse_policy(text, path.name)


def read_baseline(path: Path, result_path: Path) -> Baseline:
    """Read a baseline with its samples and those of the judged result.

    A baseline that is not there is an input error; one that is there and cannot be understood cannot be compared with.
    """
    if not path.exists():
        raise DataError("the baseline does not exist", where=str(path), remedy="correct its path, or leave it out")
    if result_path.exists() and path.samefile(result_path):
        raise EvaluationError(
            "the baseline is the result itself, which never drops against itself",
            where=str(path),
            remedy="keep the baseline in a file of its own, outside the output folder",
        )
    try:
        comparison = load_result(path)
        samples = load_samples(path)
    except InputError as error:
        raise InvalidComparison(f"the baseline: {error.problem}", where=error.where, remedy=error.remedy) from error
    if samples is not None and path != result_path and _same_file(path.parent / SAMPLES, result_path.parent / SAMPLES):
        problem = "the baseline and the result share one samples.parquet, which can belong to only one of them"
        raise EvaluationError(
            problem, where=str(path.parent / SAMPLES), remedy="keep each result in a folder of its own"
        )
    return Baseline(comparison, samples, load_samples(result_path))


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def outcome_line(report: GateReport) -> str:
    """The outcome in one line, for those who asked for no table."""
    return headline(report)


def show(report: GateReport, console: Console) -> None:
    """Print the rows, those that block first, and the outcome."""
    console.print(_table(report))
    console.print(Text(headline(report), style="bold"))


def _table(report: GateReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Outcome", "Severity", "Measurement", "Rule", "Evidence"):
        table.add_column(title, overflow="fold")
    for row in by_urgency(report):
        outcome = Text(row.outcome, style=_STYLES[row.outcome])
        table.add_row(outcome, row.severity, Text(row.address), Text(row.rule), Text(row.evidence))
    return table


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutputError(f"the file cannot be written: {error.strerror}", where=str(path)) from error
