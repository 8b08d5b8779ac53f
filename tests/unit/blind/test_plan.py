"""The registered plan: its words, its file, and what is no plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorascope.blind.plan import Exclusions, StudyPlan
from lorascope.blind.power import plan_study
from lorascope.blind.registration import describe, plan_document, read_plan, write_plan
from lorascope.errors import DataError, OutputError


@pytest.fixture
def plan() -> StudyPlan:
    rules = Exclusions(min_checks_passed=2 / 3, min_repeat_consistency=0.6)
    return plan_study(0.6, ties=0.2, raters=3, correlation=0.3, exclusions=rules)


def test_a_plan_survives_its_file(plan: StudyPlan, tmp_path: Path) -> None:
    path = tmp_path / "registered" / "plan.json"
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert read_plan(path).hash == plan.hash
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["hash"] == plan.hash
    assert written["in_words"]["zh"] == describe(plan, "zh")
    assert path.read_text(encoding="utf-8") == plan_document(plan)


def test_a_registered_plan_is_not_overwritten(plan: StudyPlan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(plan, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="not overwritten"):
        write_plan(plan_study(0.7), path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="cannot be written"):
        write_plan(plan, path / "below-a-file.json")


def test_the_hash_is_of_the_content(plan: StudyPlan) -> None:
    assert plan.model_copy(update={"alpha": 0.01}).hash != plan.hash
    assert StudyPlan.model_validate_json(plan.model_dump_json()).hash == plan.hash


def test_the_words_say_every_number(plan: StudyPlan) -> None:
    told = " ".join(describe(plan)).replace("\u00a0", " ")
    for word in ("α = 0.05", "60 %", "80 %", f"{plan.items:,}", f"{plan.decisive_items:,}", "20 %", "0.3", "66.7 %"):
        assert word in told
    assert len(describe(plan, "zh")) == len(describe(plan)) == 8
    assert "主要终点" in describe(plan, "zh")[0]
    assert "each item's share of votes, ties half, averaged over items" in told


def test_the_words_state_the_rules_that_are_applied(plan: StudyPlan) -> None:
    told, chinese = "\n".join(describe(plan)), "\n".join(describe(plan, "zh"))
    assert "checks called 'both bad' do not count" in told
    assert "compared to two decimals" in told
    assert "“都不好”的检查题不计" in chinese
    assert "按两位小数比较" in chinese
    without = plan.model_copy(update={"exclusions": Exclusions()})
    assert "two decimals" not in "\n".join(describe(without))
    assert "两位小数" not in "\n".join(describe(without, "zh"))


def test_the_words_of_simple_plans() -> None:
    assert "No rater is excluded." in describe(plan_study(0.7))
    assert any("No credit" in line for line in describe(plan_study(0.7)))
    assert "Raters: 1, one vote per item." in describe(plan_study(0.7, raters=1))
    short = StudyPlan(effect=0.6, raters=3, votes_per_item=3, decisive_items=60, items=60)
    assert any("below the planned one" in line for line in describe(short))


def changed(path: Path, plan: StudyPlan, **content: object) -> Path:
    document = json.loads(plan_document(plan))
    document["plan"].update(content)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_changed_plan_is_refused(plan: StudyPlan, tmp_path: Path) -> None:
    path = changed(tmp_path / "plan.json", plan, items=plan.items + 1)
    with pytest.raises(DataError, match="changed after it was registered") as caught:
        read_plan(path)
    assert caught.value.where == f"{path}, hash"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"items": 0}, "plan.items"),
        ({"effect": 0.4}, "plan.effect"),
        ({"unheard_of": 1}, "plan.unheard_of"),
        ({"exclusions": {"min_checks_passed": 3}}, "plan.exclusions.min_checks_passed"),
        ({"items": 3}, "plan"),
        ({"votes_per_item": 4}, "plan"),
    ],
)
def test_a_wrong_value_is_said_with_its_place(
    plan: StudyPlan, tmp_path: Path, content: dict[str, object], place: str
) -> None:
    path = changed(tmp_path / "plan.json", plan, **content)
    with pytest.raises(DataError) as caught:
        read_plan(path)
    assert caught.value.where == f"{path}, {place}"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no valid JSON"),
        (b"{\n 'a': 1}", "no valid JSON"),
        (b"[1, 2]", "no JSON object"),
        (b'{"plan": {}}', "no version"),
        (b'{"lorascope_plan": 2, "plan": {}}', "version 2"),
        (b'{"lorascope_plan": 1}', "the plan is wrong"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 200_000, "UTF-8|JSON"),
        (b" " * 1_000_001, "too large"),
    ],
)
def test_what_is_no_plan(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=said):
        read_plan(path)


def test_a_missing_file_and_a_mark_of_bytes(plan: StudyPlan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_plan(tmp_path / "none.json")
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xef\xbb\xbf" + plan_document(plan).replace("\n", "\r\n").encode())
    assert read_plan(path) == plan


def test_impossible_plans() -> None:
    with pytest.raises(ValidationError, match="cannot come from"):
        StudyPlan(effect=0.6, raters=2, votes_per_item=3, decisive_items=10, items=10)
    with pytest.raises(ValidationError, match="cannot hold"):
        StudyPlan(effect=0.6, raters=2, votes_per_item=2, decisive_items=10, items=9)
