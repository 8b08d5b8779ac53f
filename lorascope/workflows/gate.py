"""Hold a finished result to a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.errors import ConfigError, InvalidComparison, LorascopeError, UsageError
from lorascope.gates.evaluation import evaluate, exit_code
from lorascope.gates.outputs import (
    as_json,
    by_urgency,
    github_annotations,
    github_error,
    headline,
    junit,
    markdown,
    one_line,
    open_metrics,
    whether_blocks,
)
from lorascope.gates.plausibility import check_policy
from lorascope.gates.validity import check_suites
from lorascope.schema.comparison import Comparison, TaskInfo
from lorascope.schema.gates import GateReport
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.workflows.gate_baseline import read_baseline
from lorascope.workflows.gate_calibrate import run_calibrate
from lorascope.workflows.gate_explain import run_explain
from lorascope.workflows.gate_files import (
    GateFiles,
    forget_earlier,
    inputs_of,
    refuse_inputs,
    telling_errors,
    write_all,
    write_one,
)
from lorascope.workflows.output import RESULT
from lorascope.workflows.publish import load_result, load_samples

_STYLES = {
    "PASS": "green",
    "FAIL": "bold red",
    "INVALID": "bold red",
    "MISSING": "bold magenta",
    "INCONCLUSIVE": "yellow",
}


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
    annotate: Callable[[str], object] | None = None,
) -> Judged:
    """Judge the result, print the table and write ``files``; all of it also when a gate fails or is invalid.

    The exit code is 0 when the gates pass or only warn, 1 when one fails, 3 when one has nothing valid to compare.
    ``baseline_path`` goes before the baseline that the policy names (relative to the policy's folder). A summary is
    written whole, except that GitHub's own (``GITHUB_STEP_SUMMARY``) is appended to: a step may write several.
    ``annotate`` is given the annotations, also where a file then cannot be written, and the error where nothing could
    be judged; the summary then says it in a line.

    Raises UsageError before anything is judged for a file that would replace an input or another of the files, and
    OutputError, with the outcome in it, after all files were attempted. Outputs of an earlier gate at these paths are
    removed first, so that none of them stands for a run that ends by an error.
    """
    try:
        return _run_gate(result_path, gates_path, baseline_path, console, files or GateFiles(), annotate)
    except LorascopeError as error:
        if annotate is not None:
            annotate(github_error(error))
        raise


def _run_gate(
    result_path: Path,
    gates_path: Path,
    baseline_path: Path | None,
    console: Console,
    files: GateFiles,
    annotate: Callable[[str], object] | None,
) -> Judged:
    known = inputs_of(result_path, gates_path, baseline_path)
    forget_earlier(files, known)
    refuse_inputs(files, known)
    with telling_errors(files):
        policy = read_policy(gates_path)
    baseline = _baseline_path(policy, gates_path, baseline_path)
    refuse_inputs(files, inputs_of(result_path, gates_path, baseline))
    with telling_errors(files):
        report = _judge(policy, result_path, gates_path, baseline)
    done = Judged(report, exit_code(report), github_annotations(report, gates_path.as_posix()))
    show(report, console)
    if annotate is not None:
        annotate(done.annotations)
    texts = {
        "json": lambda: as_json(report, done.exit_code),
        "summary": lambda: markdown(report),
        "junit": lambda: junit(report),
        "openmetrics": lambda: open_metrics(report),
    }
    outcome = f"{headline(report)}, exit code {done.exit_code}"
    write_all(((name, path, texts[name]()) for name, path in files), outcome)
    return done


def judge(result_path: Path, gates_path: Path, baseline_path: Path | None = None) -> GateReport:
    """Evaluate a policy on a finished result; see :func:`run_gate`."""
    policy = read_policy(gates_path)
    return _judge(policy, result_path, gates_path, _baseline_path(policy, gates_path, baseline_path))


def _judge(policy: GatePolicy, result_path: Path, gates_path: Path, baseline_path: Path | None) -> GateReport:
    comparison = load_result(result_path)
    baseline = None if baseline_path is None else read_baseline(baseline_path, result_path, comparison)
    # Errors name the path, by which the file is found; the report its name, which is the same on every machine.
    report = evaluate(policy, comparison, baseline, name=str(gates_path))
    return report.model_copy(update={"policy": gates_path.name})


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
    path = _baseline_path(policy, gates_path, baseline_path)
    baseline = None if path is None else read_baseline(path, result_path, comparison)
    run_explain(policy, console, comparison, baseline, name=str(gates_path))


def calibrate_policy(
    result_path: Path,
    console: Console,
    *,
    gates_path: Path | None = None,
    baseline_path: Path | None = None,
    resamples: int,
    seed: int,
    json_path: Path | None = None,
) -> None:
    """Print, and write to ``json_path``, how often a policy cries wolf on this result's items and what it finds.

    The items are paired with those of the baseline as :func:`run_gate` does it: with ``baseline_path``, else with the
    baseline that the policy names, else with the run's own reference.
    """
    policy = None if gates_path is None else read_policy(gates_path)
    path = baseline_path
    if policy is not None and gates_path is not None:
        path = _baseline_path(policy, gates_path, baseline_path)
    if json_path is not None:
        refuse_inputs([("json", json_path)], inputs_of(result_path, gates_path, path))
    comparison, samples = load_result(result_path), load_samples(result_path)
    baseline = None if path is None else read_baseline(path, result_path, comparison)
    name = "gates.toml" if gates_path is None else gates_path.name
    try:
        report = run_calibrate(
            comparison, samples, policy, console, baseline=baseline, resamples=resamples, seed=seed, name=name
        )
    except ConfigError as error:
        raise error if gates_path is None else error.at(str(gates_path)) from None
    if json_path is not None:
        write_one("json", json_path, report.model_dump_json(indent=1) + "\n")


def read_policy(path: Path) -> GatePolicy:
    """Read ``gates.toml``; ConfigError when it cannot be read, is wrong, or sets a limit that nothing can break."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        told = (error.strerror if isinstance(error, OSError) else None) or str(error)
        remedy = "give the path of a policy in UTF-8"
        raise ConfigError(f"the gate policy cannot be read: {told}", where=str(path), remedy=remedy) from error
    policy = parse_policy(text, str(path))
    check_policy(policy, name=str(path))
    return policy


def _baseline_path(policy: GatePolicy, gates_path: Path, given: Path | None) -> Path | None:
    """The baseline that was given, else the one that the policy names, relative to the policy's folder."""
    return given or (gates_path.parent / policy.baseline if policy.baseline is not None else None)


@dataclass(frozen=True, slots=True)
class ProvedPolicy:
    """A policy that a later result will be held to, with the baseline it names, read before the work begins."""

    path: Path | None = None
    baseline: Comparison | None = None

    def check_tasks(self, names: Iterable[str]) -> None:
        """InvalidComparison where the baseline has tasks, and none of these."""
        if self.baseline is None:
            return
        # Of the result that is still to come the names of its tasks are known, and nothing else is asked here.
        tasks = [TaskInfo.model_construct(name=name) for name in names]
        try:
            check_suites(self.baseline.model_copy(update={"tasks": tasks}), self.baseline)
        except InvalidComparison as error:
            raise error.at(str(self.path)) from None

    def check_folder(self, folder: Path) -> None:
        """UsageError where the baseline is the very result that the work will write."""
        if self.path is not None and self.path.exists():
            refuse_inputs([("out", folder / RESULT)], {"the baseline of the policy": self.path})


def prove_policy(gates_path: Path | None) -> ProvedPolicy:
    """Read a policy and its baseline as far as that goes without the result; None: there is no policy.

    Raises what :func:`judge` would raise for a policy that is wrong and for a baseline that is not there or cannot be
    read. Whether a measurement of it can be paired is known only afterwards.
    """
    if gates_path is None:
        return ProvedPolicy()
    path = _baseline_path(read_policy(gates_path), gates_path, None)
    if path is None:
        return ProvedPolicy()
    # A result without tasks is of every suite; one in a folder that is not there has no samples.
    empty, nowhere = Comparison.model_construct(tasks=[]), path.parent / ".none" / RESULT
    return ProvedPolicy(path, read_baseline(path, nowhere, empty).comparison)


def judged_in(result_path: Path) -> Judged | None:
    """What the gates of a finished result came to when it was made; None where it was held to no policy."""
    report = load_result(result_path).gates
    return None if report is None else Judged(report, exit_code(report), "")


def outcome_line(report: GateReport) -> str:
    """The outcome in one line, for those who asked for no table."""
    return one_line(headline(report))


def show(report: GateReport, console: Console) -> None:
    """Print the rows, those that block first, the doubts about the whole, and the outcome."""
    show_rows(report, console)
    console.print(Text(outcome_line(report), style="bold"))


def show_rows(report: GateReport, console: Console) -> None:
    """Print the rows, those that block first, and the doubts about the whole."""
    console.print(_table(report))
    for warning in report.warnings:
        console.print(Text(one_line(f"note: {warning}"), style="yellow"))


def _table(report: GateReport) -> Table:
    """Few columns, so that it reads in a terminal of any width: the outcome, whether it blocks, what it is about."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Outcome", no_wrap=True)
    table.add_column("Blocks", no_wrap=True)
    table.add_column("Check", overflow="fold")
    for row in by_urgency(report):
        outcome = Text(row.outcome, style=_STYLES[row.outcome])
        said = Text.assemble((one_line(row.address), "bold"), f"  {one_line(row.rule)}\n{one_line(row.evidence)}")
        if row.warning:
            said.append(f"\nnote: {one_line(row.warning)}", "yellow")
        table.add_row(outcome, whether_blocks(row), said)
    return table
