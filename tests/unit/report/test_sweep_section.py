"""The section on a sweep: every point is in it, charts show what the table holds, and it fits a terminal."""

from __future__ import annotations

import html
import io
import json
import re
from types import ModuleType
from typing import Any, get_args

import pytest
from rich.cells import cell_len
from rich.console import Console

from lorascope.report.charts import chart_svg
from lorascope.report.html import render_html
from lorascope.report.sweep_charts import against_chart, dots_chart, front_chart, numeric_keys, runs_chart
from lorascope.report.sweep_section import print_sweep, sweep_context
from lorascope.report.sweep_words import advice_evidence, advice_title, settings_text
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison, Series
from lorascope.schema.sweep import (
    ForgettingMatrix,
    SeedValue,
    SweepAdvice,
    SweepChoice,
    SweepDifference,
    SweepMeasure,
    SweepPoint,
    SweepReport,
    SweepRun,
    SweepTrial,
    SweepValue,
)

FRACTION: dict[str, Any] = {"unit": "fraction", "scale": "0-1", "direction": "higher"}
LEARNING = SweepMeasure(
    id="learning:task:f1_micro", area="learning", task="task", metric="f1_micro", margin=0.02, **FRACTION
)
MACRO = SweepMeasure(id="learning:task:f1_macro@tail", area="learning", task="task", metric="f1_macro@tail", **FRACTION)
GAP = SweepMeasure(id="gap:task:f1_micro_gap", area="gap", metric="f1_micro_gap", **{**FRACTION, "direction": "none"})
KEPT = SweepMeasure(id="forgetting:accuracy", area="forgetting", metric="accuracy", **FRACTION)
COUNT = SweepMeasure(
    id="weights:intruder_count", area="weights", metric="intruder_count", unit="count", scale="0-inf", direction="lower"
)
SECONDS = SweepMeasure(
    id="cost:train_seconds", area="cost", metric="train_seconds", unit="seconds", scale="0-inf", direction="lower"
)
MEASURES = [LEARNING, MACRO, GAP, KEPT, COUNT, SECONDS]


def value(center: float, seeds: int) -> SweepValue:
    singles = [
        SeedValue(seed=seed, value=center + 0.01 * seed, low=center - 0.05, high=center + 0.05, n=300)
        for seed in range(seeds)
    ]
    spread = {"low": center - 0.03, "high": center + 0.04} if seeds > 1 else {}
    return SweepValue(values=singles, mean=center, **spread)


def point(name: str, settings: dict[str, Any], level: float, seeds: int, **changed: Any) -> SweepPoint:
    runs = [SweepRun(name=f"{name}-s{seed}", seed=seed, folder="x", subject=f"{name}-s{seed}") for seed in range(seeds)]
    levels = (level, level / 2, 0.1, 1 - level, 10 * level, 100 * level)
    values = {measure.id: value(each, seeds) for measure, each in zip(MEASURES, levels, strict=True)}
    given: dict[str, Any] = {"method": settings.get("method.name", "lora"), "runs": runs, "values": values}
    return SweepPoint(name=name, settings=settings, **{**given, **changed})


def report(seeds: int = 2, **changed: Any) -> SweepReport:
    points = [point("full", {"method.name": "full"}, 0.6, seeds, front=True)]
    for rank, level in ((1, 0.4), (8, 0.55), (32, 0.58)):
        points.append(point(f"r{rank}", {"method.name": "lora", "method.rank": rank}, level, seeds, rank=rank))
    failed = SweepRun(name="r64-s0", seed=0, folder="x", failed="loss is nan <script>; step 3")
    points.append(SweepPoint(name="r64", settings={"method.rank": 64}, method="lora", runs=[failed]))
    told = SweepDifference(
        point="r8", reference="full", measure=LEARNING.id, value=-0.05, low=-0.06, high=-0.04, n=seeds,
        basis="seeds", margin=0.02, verdict="regressed",
    )  # fmt: skip
    trials = [SweepTrial(value=rate, run=f"full-{rate}", score=rate) for rate in (1e-5, 1e-4)]
    choice = SweepChoice(group="full", key="optim.learning_rate", by="loss", trials=trials, chosen=1e-4, edge=True)
    given: dict[str, Any] = {
        "seeds": list(range(seeds)),
        "keys": ["method.name", "method.rank"],
        "reference": "full",
        "measures": MEASURES,
        "learning": LEARNING.id,
        "gap": GAP.id,
        "forgetting": KEPT.id,
        "points": points,
        "differences": [told],
        "choices": [choice],
        "advice": SweepAdvice(
            outcome="better", point="full", best="full", measure=LEARNING.id, seeds=seeds,
            rests_on=[told.model_copy(update={"point": "full", "reference": "r8", "verdict": "improved"})],
        ),
        "notes": ["A note & more."],
    }  # fmt: skip
    return SweepReport(**{**given, **changed})


@pytest.fixture
def swept(labels: Comparison) -> Comparison:
    curves = [
        Series(subject=f"r{rank}-s{seed}", name=name, x_name="step", x=[1, 2, 3], y=[1.0, 0.5, 0.4])
        for rank in (1, 8)
        for seed in (0, 1)
        for name in ("train_loss", "eval_loss:a", "eval_loss:b")
    ]
    return labels.model_copy(update={"sweep": report(), "series": [*labels.series, *curves]})


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_holds_every_point_and_escapes_what_failed(swept: Comparison, language: Any) -> None:
    page = render_html(swept, None, language=language)
    section = page[page.index('<section id="sweep"') :]
    section = section[: section.index("</section>")]
    words = load_texts(language)
    assert advice_title(report(), words) in html.unescape(section)
    for name in ("full", "r1", "r8", "r32", "r64"):
        assert re.search(rf">{name}\b", section), name
    assert "loss is nan &lt;script&gt;" in section
    assert "A note &amp; more." in section
    assert words("verdict.regressed") in section
    assert section.count("data-chart=") == 6
    assert "f1_macro@tail" in section


def test_a_page_without_a_sweep_has_no_section(labels: Comparison) -> None:
    assert sweep_context(labels, {}, "en") == {"sweep": None}
    assert 'id="sweep"' not in render_html(labels, None)


def rows_of(spec: Any) -> list[dict[str, Any]]:
    return spec["datasets"]["rows"]


def test_a_measure_against_rank_has_seeds_intervals_and_levels() -> None:
    spec = against_chart(report(), "method.rank", LEARNING)
    assert spec is not None
    rows = rows_of(spec)
    means = [row for row in rows if row["kind"] == "mean"]
    assert [(row["x"], row["y"]) for row in means] == [(1, 0.4), (8, 0.55), (32, 0.58)]
    assert all(row["low"] < row["y"] < row["high"] for row in means)
    assert len([row for row in rows if row["kind"] == "seed"]) == 6
    assert [row["name"] for row in rows if row["kind"] == "level"] == ["full"]
    assert spec["description"]
    assert '"type": "log"' in json.dumps(spec)
    assert "<svg" in chart_svg(spec)


def test_one_seed_is_called_one_seed() -> None:
    spec = against_chart(report(1), "method.rank", LEARNING)
    assert spec is not None
    assert spec["title"]["subtitle"] == "one seed"
    assert {row["kind"] for row in rows_of(spec)} == {"mean", "level"}
    assert "items" in rows_of(spec)[-1]["shown"]
    assert any(sentence.startswith("One seed") for sentence in advice_evidence(report(1), load_texts("en")))


def test_a_line_is_named_by_what_tells_it_from_others() -> None:
    swept = report(1)
    for number, point in enumerate(swept.points):
        point.settings["optim.learning_rate"] = 3e-4
        point.settings["loss.name"] = "asymmetric" if number == 2 else "bce"
    spec = against_chart(swept, "method.rank", LEARNING)
    assert spec is not None
    named = {row["name"]: row["series"] for row in rows_of(spec) if row["kind"] == "mean"}
    assert named == {"r1": "lora, loss bce", "r8": "lora, loss asymmetric", "r32": "lora, loss bce"}


def test_learning_against_forgetting() -> None:
    spec = front_chart(report())
    assert spec is not None
    rows = rows_of(spec)
    assert [(row["name"], row["front"]) for row in rows] == [
        ("full", True),
        ("r1", False),
        ("r8", False),
        ("r32", False),
    ]
    assert rows[0]["y"] == 0.6
    assert rows[0]["x"] == 0.4
    assert front_chart(report(forgetting=None)) is None
    assert "<svg" in chart_svg(spec)


def test_all_runs_lie_over_each_other(swept: Comparison) -> None:
    spec = runs_chart(swept)
    assert spec is not None
    rows = rows_of(spec)
    assert {row["run"] for row in rows} == {"r1-s0", "r1-s1", "r8-s0", "r8-s1"}
    assert {row["series"] for row in rows} == {"r1", "r8"}
    assert {row["curve"] for row in rows} == {"training loss", "validation loss, first set"}
    assert len(rows) == 4 * 2 * 3
    assert "strokeDash" in json.dumps(spec)
    assert "<svg" in chart_svg(spec)


def test_costs_side_by_side() -> None:
    spec = dots_chart(report(), SECONDS)
    assert spec is not None
    assert [row["name"] for row in rows_of(spec)] == ["full", "r1", "r8", "r32"]
    assert dots_chart(report(), SECONDS.model_copy(update={"id": "cost:energy"})) is None
    assert "<svg" in chart_svg(spec)


def test_numeric_settings_are_axes() -> None:
    assert numeric_keys(report()) == ["method.rank"]
    data = [point(f"d{part}", {"task.fraction": part}, 0.4 + part / 4, 2) for part in (0.1, 0.5, 1.0)]
    found = report(points=data, keys=["optim.scheduler", "task.fraction"])
    assert numeric_keys(found) == ["task.fraction"]
    assert against_chart(found, "task.fraction", LEARNING) is not None
    assert against_chart(found, "method.rank", LEARNING) is None


@pytest.mark.parametrize("outcome", get_args(SweepAdvice.model_fields["outcome"].annotation))
@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_outcome_has_its_words(outcome: Any, language: Any) -> None:
    advice = SweepAdvice(outcome=outcome, point="r8", best="full", measure=LEARNING.id, seeds=2, open=["r1"])
    title = advice_title(report(advice=advice), load_texts(language))
    assert title
    assert "{" not in title
    assert ("r8" in title) == (outcome in ("better", "cheaper"))


def test_every_basis_and_place_has_its_words() -> None:
    words = load_texts("en")
    for name, prefix in (("basis", "sweep.basis"), ("area", "sweep.area")):
        model = SweepDifference if name == "basis" else SweepMeasure
        for each in get_args(model.model_fields[name].annotation):
            assert f"{prefix}.{each}" in words.by_key


def test_settings_read_as_people_write_them() -> None:
    settings = {"method.name": "lora", "optim.learning_rate": 3e-4, "replay": None, "method.rank": 8}
    assert settings_text(settings) == "method lora, learning_rate 3e-4, rank 8"
    assert settings_text(settings, left_out=["method.name"]) == "learning_rate 3e-4, rank 8"


def matrix() -> ForgettingMatrix:
    return ForgettingMatrix(
        point="r8", seed=0, metric="f1_micro", direction="higher", stages=["one", "two"], tasks=["one", "two"],
        base=[0.1, None], values=[[0.8, 0.2], [0.5, 0.9]], backward_transfer=-0.3, intruders=[3, 9],
        relative_change=[0.01, 0.02],
    )  # fmt: skip


def test_a_forgetting_matrix_stands_with_its_intruders(labels: Comparison) -> None:
    context = sweep_context(labels.model_copy(update={"sweep": report(matrices=[matrix()])}), {}, "en")
    [shown] = context["sweep"].matrices
    assert shown.tasks == ("one", "two")
    assert shown.rows[0] == ("base", ("0.100", "–", "–", "–"))
    assert shown.rows[2] == ("after two", ("0.500", "0.900", "9", "0.020"))
    assert "−0.3" in shown.transfer


def printed(found: SweepReport, encoding: str = "utf-8", width: int = 160) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_sweep(found, Console(file=stream, width=width, force_terminal=False))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_the_terminal_shows_the_same(factory: ModuleType) -> None:
    text = printed(report(matrices=[matrix()]))
    assert advice_title(report(), load_texts("en")) in text
    for part in ("full ★ recommended", "r32", "regressed", "r64-s0 has no values", "after two", "an end of its list"):
        assert part in text, part
    assert all(cell_len(line) <= 160 for line in text.splitlines())
    assert "r8" in printed(report(), "ascii")
