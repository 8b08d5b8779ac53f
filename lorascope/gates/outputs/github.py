"""The outcome as GitHub's workflow commands, which it shows at the lines of the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lorascope.errors import LorascopeError
from lorascope.gates.outputs.urgency import blocks, by_urgency, headline, in_one_sentence
from lorascope.schema.gates import GateReport, GateRow

_MOST = 10
"""GitHub shows ten errors and ten warnings a step; ten in all leave room for what else the step says."""
_LONGEST = 1_000


@dataclass(frozen=True, slots=True)
class _Annotation:
    level: Literal["error", "warning"]
    title: str
    message: str
    line: int | None = None


def github_annotations(report: GateReport, file: str) -> str:
    """At most ten lines of workflow commands, most urgent first; the last says how many were left out.

    ``file`` is the policy's path as the repository knows it. Empty when there is nothing to say.
    """
    found = [*_of_rows(report), *(_Annotation("warning", report.policy, text) for text in report.warnings)]
    shown = found if len(found) <= _MOST else found[: _MOST - 1]
    if len(shown) < len(found):
        left_out = found[len(shown) :]
        level: Literal["error", "warning"] = "error" if any(each.level == "error" for each in left_out) else "warning"
        message = f"{len(left_out):,} more are not shown here: {headline(report)}"
        shown = [*shown, _Annotation(level, report.policy, message)]
    return "".join(_command(each, file) for each in shown)


def github_error(error: LorascopeError) -> str:
    """One workflow command for what kept the gate from being judged at all: the problem, where, and what to do."""
    return f"::error title=lorascope gate::{_data(in_one_sentence(error))}\n"


def _of_rows(report: GateReport) -> Iterator[_Annotation]:
    for row in by_urgency(report):
        if row.outcome != "PASS":
            level: Literal["error", "warning"] = "error" if blocks(row) else "warning"
            yield _Annotation(level, f"{row.outcome} {row.address}", _message(row), row.line)
    for row in report.rows:
        if row.outcome == "PASS" and row.warning:
            yield _Annotation("warning", f"{row.outcome} {row.address}", row.warning, row.line)


def _message(row: GateRow) -> str:
    text = f"{row.rule}: {row.evidence}"
    return f"{text}; note: {row.warning}" if row.warning else text


def _command(each: _Annotation, file: str) -> str:
    line = "" if each.line is None else f",line={each.line}"
    return f"::{each.level} file={_property(file)}{line},title={_property(each.title)}::{_data(each.message)}\n"


def _data(text: str) -> str:
    """A message by GitHub's escapes: a percent sign or a line end would end it, or begin another command."""
    legal = text[:_LONGEST].encode("utf-8", "replace").decode()
    return legal.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property's value, in which a colon and a comma end it too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
