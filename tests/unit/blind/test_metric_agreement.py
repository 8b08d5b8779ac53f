from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest

from lorascope.blind.key import KeyRow, StudyItem
from lorascope.blind.metric_agreement import item_metrics
from lorascope.blind.scoring import score_study
from lorascope.schema.comparison import CheckpointInfo, Comparison, Measurement, ParameterCounts, Provenance

make = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("filled_study.py"))))


def comparison(*subjects: str, measurements: list[Measurement] | None = None) -> Comparison:
    def checkpoint(name: str) -> CheckpointInfo:
        return CheckpointInfo(
            name=name, path=name, role="base" if name == "base" else "adapted", kind="model", architecture="x",
            dtype="float32", content_hash=f"h-{name}", parameters=ParameterCounts(total=1), generation_ready=True,
        )  # fmt: skip

    return Comparison(
        created="2025-01-01T00:00:00Z", command=[], seed=0, lorascope_version="0",
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
        checkpoints=[checkpoint("base"), *map(checkpoint, subjects)], measurements=measurements or [],
    )  # fmt: skip


def row(subject: str, item: str, base: float | None, adapted: float | None, **more: Any) -> dict[str, Any]:
    found = {"subject": subject, "task": "support", "item_id": item, "rougeL_base": base, "rougeL_adapted": adapted}
    return found | more


def test_columns_become_metrics_by_item_and_system() -> None:
    made = make.make_study(3, 1, systems=("base", "tuned", "other"), repeats=0, checks=0, same=0)
    samples = pyarrow.Table.from_pylist(
        [
            row("tuned", "i0", 0.25, 0.5, mse_base=1.0, mse_adapted=3.0),
            row("other", "i0", 0.25, 0.75),
            row("tuned", "i1", None, 0.5),
            row("other", "i1", 0.125, float("nan")),
            row("tuned", "i0", 0.9, 0.9),
            row("tuned", "elsewhere", 0.1, 0.1),
            row("stranger", "i2", None, 0.5),
            {**row("tuned", "i2", 0.5, 0.5), "task": "quiz"},
        ]
    )
    found = item_metrics(samples, comparison("tuned", "other"), made.key)
    assert found == {
        ("support", "rougeL"): {
            ("i0", "base"): 0.25,
            ("i0", "tuned"): 0.5,
            ("i0", "other"): 0.75,
            ("i1", "base"): 0.125,
            ("i1", "tuned"): 0.5,
        },
        ("support", "mse"): {("i0", "base"): -1.0, ("i0", "tuned"): -3.0},
    }


def test_directions_come_from_the_result_and_then_from_the_registry() -> None:
    made = make.make_study(3, 1, repeats=0, checks=0, same=0)
    more = {f"{name}{side}": 1.0 for name in ("plugged", "unknown", "gold_logprob", "cardinality_error") for side in
            ("_base", "_adapted")} | {"lonely_base": 1.0}  # fmt: skip
    plugged = Measurement(
        subject="tuned", reference="base", area="task", task="support", metric="plugged", unit="x", scale="0-inf",
        direction="lower", signature="s",
    )  # fmt: skip
    samples = pyarrow.Table.from_pylist([row("tuned", "i0", 0.25, 0.5, **more)])
    found = item_metrics(samples, comparison("tuned", measurements=[plugged]), made.key)
    assert {metric for _, metric in found} == {"rougeL", "plugged"}
    assert found["support", "plugged"]["i0", "tuned"] == -1.0


def by_number(row: KeyRow, item: StudyItem) -> str:
    """Even items: tuned, much better; odd ones: base."""
    if row.kind != "rated":
        return "tie"
    even = int(item.item_id[1:]) % 2 == 0
    return ("A" if (row.a == "tuned") == even else "B") + (" much" if even else "")


def metric(of: Any, items: int = 20) -> dict[tuple[str, str], dict[tuple[str, str], float]]:
    values = {}
    for place in range(items):
        values[f"i{place}", "base"], values[f"i{place}", "tuned"] = of(place)
    return {("support", "rougeL"): values}


@pytest.mark.parametrize(
    ("of", "agreement", "sign"),
    [(lambda n: (n % 2, 1 - n % 2), 1.0, 1), (lambda n: (1 - n % 2, n % 2), 0.0, -1)],
)
def test_metrics_that_prefer_the_same_or_the_other(of: Any, agreement: float, sign: int) -> None:
    made = make.make_study(20, 3, repeats=0, checks=0, same=0)
    (pair,) = score_study(made.fill(by_number), made.key, metrics=metric(of)).pairs
    (found,) = pair.metrics
    assert (found.task, found.metric, found.items) == ("support", "rougeL", 20)
    assert found.agreement is not None
    assert found.correlation is not None
    assert found.agreement.value == agreement
    assert found.correlation.value == pytest.approx(sign)
    assert found.missing_reason is None


def test_ties_and_missing_values_decide_nothing() -> None:
    made = make.make_study(20, 3, repeats=0, checks=0, same=0)
    values = metric(lambda n: (0.5, 0.5 if n < 10 else 0.7))
    for place in range(15, 20):
        del values["support", "rougeL"][f"i{place}", "base"]
    (pair,) = score_study(made.fill(by_number), made.key, metrics=values).pairs
    (found,) = pair.metrics
    assert found.items == 15
    assert found.agreement is not None
    assert found.agreement.n == 5
    assert found.agreement.value == pytest.approx(3 / 5)


def test_equal_differences_are_ties_whatever_their_last_digits() -> None:
    made = make.make_study(20, 3, repeats=0, checks=0, same=0)
    # 0.9 - 0.7 and 0.3 - 0.1 differ by 6e-17, always to the side that the raters prefer more.
    values = metric(lambda n: (0.1, 0.3) if n % 2 == 0 else (0.7, 0.9))
    (pair,) = score_study(made.fill(by_number), made.key, metrics=values).pairs
    (found,) = pair.metrics
    assert found.correlation is None
    assert found.missing_reason
    exact = metric(lambda n: (0.25 * (n % 3), 0.5))
    shifted = metric(lambda n: (0.1 * (n % 3 + n), 0.2 + 0.1 * n))
    rank = [score_study(made.fill(by_number), made.key, metrics=each).pairs[0].metrics[0] for each in (exact, shifted)]
    assert rank[0].correlation is not None
    assert rank[1].correlation is not None
    assert rank[0].correlation.value == rank[1].correlation.value


def test_agreement_holds_what_was_drawn() -> None:
    # Flipped items, on which the metric is wrong, are a tenth; a third of the rest has identical answers.
    made = make.make_study(60, 2, strata={"rest": (90, 30), "flipped": (10, 30)}, identical=range(0, 30, 3), split=True,
                           repeats=0, checks=0, same=0)  # fmt: skip
    values = metric(lambda n: (0, 1) if n < 30 else (1, 0), 60)
    tuned = make.prefer("tuned")
    sheets = made.fill(tuned)
    whole = score_study(sheets, made.key, metrics=values).pairs[0].metrics[0]
    (one,) = score_study(sheets[:1], made.key, metrics=values).pairs[0].metrics
    assert whole.agreement is not None
    assert one.agreement is not None
    assert one.items == 25
    assert one.agreement.value == pytest.approx(whole.agreement.value) == pytest.approx(0.6 / 0.7)


def test_identical_answers_and_other_tasks_stay_out() -> None:
    made = make.make_study(20, 3, identical=5, repeats=0, checks=0, same=0)
    values = metric(lambda n: (n % 2, 1 - n % 2))
    (pair,) = score_study(made.fill(by_number), made.key, metrics=values | {("quiz", "accuracy"): {}}).pairs
    assert [(found.metric, found.items) for found in pair.metrics] == [("rougeL", 15)]


def test_reasons_are_given_where_nothing_can_be_said() -> None:
    made = make.make_study(20, 3, repeats=0, checks=0, same=0)
    same = metric(lambda n: (0.5, 0.5)) | {("support", "empty"): {}}
    empty, flat = score_study(made.fill(by_number), made.key, metrics=same).pairs[0].metrics
    assert (empty.agreement, empty.correlation, empty.items) == (None, None, 0)
    assert empty.missing_reason == "no rated item has the metric of both answers"
    assert (flat.agreement, flat.correlation) == (None, None)
    assert flat.missing_reason
