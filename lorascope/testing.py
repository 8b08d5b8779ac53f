"""Gates inside a test suite: ``assert_no_regression``, for those who run pytest rather than a command."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["assert_no_regression"]


def assert_no_regression(
    result: str | os.PathLike[str], policy: str | os.PathLike[str], *, baseline: str | os.PathLike[str] | None = None
) -> None:
    """Hold a ``result.json`` to a policy, and raise AssertionError with every row that blocks.

    Args:
        result: the ``result.json`` that a comparison wrote, with its ``samples.parquet`` beside it.
        policy: the policy file, ``gates.toml``.
        baseline: goes before the baseline that the policy names: a blessed baseline or an earlier ``result.json``.

    Raises:
        AssertionError: a gate fails.
        InvalidComparison: what blocks has nothing valid to compare with; it is not a regression.
        LorascopeError: the result, the policy or the baseline cannot be read.

    Where the gates pass or only warn, nothing is raised: ``pytest -rA`` shows the table that was printed.
    """
    __tracebackhide__ = True  # pytest ends its traceback at the test and not in here
    from rich.console import Console

    from lorascope.errors import InvalidComparison, LorascopeError
    from lorascope.gates.outputs import blocks, by_urgency, headline
    from lorascope.workflows.gate import run_gate

    try:
        done = run_gate(Path(result), Path(policy), None if baseline is None else Path(baseline), Console(emoji=False))
    except LorascopeError as error:
        # The frames of the gate tell the test's author nothing that the message does not.
        raise error.with_traceback(None) from None
    rows = [row for row in by_urgency(done.report) if blocks(row)]
    told = "\n".join([headline(done.report), *(f"  {r.outcome} {r.address}: {r.rule}: {r.evidence}" for r in rows)])
    if done.exit_code == InvalidComparison.exit_code:
        raise InvalidComparison(told, where=str(result), remedy="compare what was asked in the same way")
    if done.exit_code:
        raise AssertionError(told)
