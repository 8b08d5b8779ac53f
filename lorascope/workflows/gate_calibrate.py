"""Print how often a gate policy raises false alarms on a result's own items, and which drops it finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lorascope.gates.calibration import RESAMPLES, calibrate
from lorascope.gates.outputs import one_line
from lorascope.gates.pairing import Baseline
from lorascope.schema.comparison import Comparison
from lorascope.schema.gates import CalibrationReport, CalibrationRow, Rate, Scenario
from lorascope.schema.policy import GatePolicy

if TYPE_CHECKING:
    import pyarrow

_NAMES = {"no_change": "no change", "noise": "noise alone"}


def run_calibrate(
    comparison: Comparison,
    samples: pyarrow.Table | None,
    policy: GatePolicy | None,
    console: Console,
    *,
    baseline: Baseline | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    name: str = "gates.toml",
) -> CalibrationReport:
    """Calibrate, print the table, and return the report; ``policy`` None stands for max_drop = margin everywhere."""
    named = name if policy is not None else "max_drop = margin for every task metric"
    report = calibrate(comparison, samples, policy, baseline=baseline, resamples=resamples, seed=seed, name=named)
    console.print(Text(one_line(_against(report, policy))))
    show_calibration(report, console)
    return report


def _against(report: CalibrationReport, policy: GatePolicy | None) -> str:
    """What is resampled, and what takes no part in it."""
    if report.baseline is not None:
        return f"Resampled: this result's items, against the adapted checkpoint in the baseline {report.baseline}."
    told = "Resampled: this result's items, against the run's own reference"
    if policy is not None and policy.baseline is not None:
        return f"{told}; the policy's baseline {policy.baseline} is not used."
    return f"{told}."


def show_calibration(report: CalibrationReport, console: Console) -> None:
    """A table a rule, what could not be calibrated with the reason, and the false alarms of the whole policy."""
    for row in report.rows:
        if row.scenarios:
            _show(row, console)
    for row in report.rows:
        if row.reason is not None:
            console.print(Text(one_line(f"{row.address} {row.rule}: not calibrated, {row.reason}")))
    if report.any_false_alarm is not None:
        told = f"any FAIL of {report.policy} without any change: {_share(report.any_false_alarm)}"
        console.print(Text(one_line(told), style="bold"))
    console.print(Text(f"{report.resamples:,} resamples, seed {report.seed}; {'; '.join(report.notes)}"))


def _show(row: CalibrationRow, console: Console) -> None:
    changed = f", {100 * (row.changed or 0):.1f} % of them changed" if row.changed is not None else ""
    console.print(Text.assemble((one_line(f"{row.address} {row.rule}"), "bold"), f"  {row.n or 0:,} items{changed}"))
    console.print(Padding(Text(row.method or ""), (0, 0, 0, 2)))
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(("True drop", "FAIL", "PASS", "INCONCLUSIVE")):
        table.add_column(title, justify="left" if place == 0 else "right")
    for each in row.scenarios:
        table.add_row(_named(each), _share(each.failed), _share(each.passed), _share(each.inconclusive))
    console.print(Padding(table, (0, 0, 1, 2)))


def _named(scenario: Scenario) -> str:
    return _NAMES.get(scenario.kind) or f"{scenario.drop:.4g}"


def _share(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} % ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
