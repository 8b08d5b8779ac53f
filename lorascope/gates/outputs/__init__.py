"""A gate report for those who read it: reviewers, CI systems, dashboards. Text out; nothing is written here."""

from __future__ import annotations

from lorascope.gates.outputs.document import as_json
from lorascope.gates.outputs.github import github_annotations, github_error
from lorascope.gates.outputs.junit import junit
from lorascope.gates.outputs.markdown import markdown, markdown_error
from lorascope.gates.outputs.one_line import one_line
from lorascope.gates.outputs.open_metrics import open_metrics
from lorascope.gates.outputs.urgency import blocks, by_urgency, headline, whether_blocks

__all__ = [
    "as_json",
    "blocks",
    "by_urgency",
    "github_annotations",
    "github_error",
    "headline",
    "junit",
    "markdown",
    "markdown_error",
    "one_line",
    "open_metrics",
    "whether_blocks",
]
