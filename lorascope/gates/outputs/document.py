"""The outcome as JSON, for programs."""

from __future__ import annotations

import json

from lorascope.schema.gates import GateReport


def as_json(report: GateReport, exit_code: int) -> str:
    """The report as it stands in ``result.json``, with the ``exit_code`` of the command that made it."""
    return json.dumps({"exit_code": exit_code, **report.model_dump(mode="json")}, indent=1, ensure_ascii=False) + "\n"
