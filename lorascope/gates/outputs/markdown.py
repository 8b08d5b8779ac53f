"""The outcome as Markdown, for the summary of a job or a comment on a pull request."""

from __future__ import annotations

import re

from lorascope.errors import LorascopeError
from lorascope.gates.outputs.urgency import blocks, by_urgency, headline, in_one_sentence, whether_blocks
from lorascope.schema.gates import GateReport, GateRow

_LIMIT = 1_000_000
"""Bytes. GitHub takes 1 MiB for all summaries of one step."""
_COLUMNS = ("Outcome", "Blocks", "Measurement", "Rule", "Evidence")
_FOR_THE_FOOT = 200


def markdown(report: GateReport, limit: int = _LIMIT) -> str:
    """What it comes to, the doubts, and a table with the most urgent rows first.

    Rows that would take it over ``limit`` bytes of UTF-8 are counted instead. Names and evidence are taken literally:
    they make no markup, no link and no mention.
    """
    lines = [f"### {_cell(headline(report))}\n\n", f"{_sentence(report)}\n\n"]
    lines += [f"- {_cell(warning)}\n" for warning in report.warnings]
    lines.append(("\n" if report.warnings else "") + _row(_COLUMNS) + "|---" * len(_COLUMNS) + "|\n")
    size = sum(len(line.encode("utf-8", "replace")) for line in lines) + _FOR_THE_FOOT
    rows = by_urgency(report)
    for place, row in enumerate(rows):
        line = _row(tuple(map(_cell, (row.outcome, whether_blocks(row), row.address, row.rule, _evidence(row)))))
        size += len(line.encode("utf-8", "replace"))
        if size > limit:
            lines.append(f"\n{len(rows) - place:,} more rows are left out here.\n")
            break
        lines.append(line)
    return "".join(lines)


def markdown_error(error: LorascopeError) -> str:
    """One line for what kept the gate from being judged at all."""
    return f"### lorascope gate could not judge: {_cell(in_one_sentence(error))}\n\n"


def _sentence(report: GateReport) -> str:
    """The outcome for somebody who has to decide about a merge."""
    against = f"the baseline {report.baseline}" if report.baseline else "the reference of the same run"
    compared = f"Drops and gains are those against {_cell(against)}"
    sure = f", with one-sided bounds at {100 * report.confidence:g} %" if report.confidence is not None else ""
    blocking = [row for row in report.rows if blocks(row)]
    if not blocking:
        return f"Nothing blocks. {compared}{sure}."
    invalid = sum(row.outcome == "INVALID" for row in blocking)
    why = f", {invalid} of them because the two sides cannot be compared" if invalid else ""
    block = "blocks" if len(blocking) == 1 else "block"
    return f"**{len(blocking):,} of {len(report.rows):,} checks {block}{why}.** {compared}{sure}."


def _evidence(row: GateRow) -> str:
    return f"{row.evidence}; note: {row.warning}" if row.warning else row.evidence


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cell(text: str) -> str:
    """Text that Markdown and the HTML inside it take literally, on one line.

    A zero-width space behind ``@``, ``#``, ``://``, ``www`` and ``GH`` keeps names from becoming mentions and links, of
    which GitHub makes some after the backslashes have gone; a dollar sign as an entity opens no formula.
    """
    text = re.sub(r"\s+", " ", text.encode("utf-8", "replace").decode())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\u200b").replace("://", ":\u200b//")
    text = re.sub(r"\b(www)(?=\.)|\b(gh)(?=-\d)", "\\g<0>\u200b", text, flags=re.IGNORECASE)
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)
    return text.replace("#", "#\u200b").replace("$", "&#36;")
