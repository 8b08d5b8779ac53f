from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from lorascope.errors import ConfigError
from lorascope.gates.explaining import Explanation, explain
from lorascope.gates.power import Rules, normal_chances, right_wrong_bounds, right_wrong_chances
from lorascope.measures.intervals import newcombe_paired, unvarying_interval
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.policy import GatePolicy, parse_policy
from lorascope.workflows.gate_explain import run_explain

Build = Callable[..., Measurement]
Result = Callable[..., Comparison]


def policy(metric: str, *lines: str, head: str = "") -> GatePolicy:
    return parse_policy("\n".join(["version = 1", head, "[[gate]]", f'metric = "{metric}"', *lines]))


def of(gates: GatePolicy, comparison: Comparison | None = None) -> Explanation:
    (found,) = explain(gates, comparison)
    return found


def half(discordant: float, items: int) -> float:
    """Half the two-sided 95 % interval of an unchanged model."""
    return 1.959964 * math.sqrt(discordant / items)


def test_table_of_the_contract_without_a_result() -> None:
    found = of(policy("support.accuracy", "max_drop = 0.02"))
    seen = {(each.discordant, each.n, each.drop): each for each in found.seen}
    still, fallen = seen[0.10, 500, 0.0], seen[0.10, 500, 0.05]
    assert fallen.chances.failed >= 0.95
    assert still.chances.failed <= 0.05
    assert still.chances.passed == pytest.approx(0.41, abs=0.01)
    assert still.needed == pytest.approx(1550, abs=10)
    # Nothing, 0.02, 0.04 and 0.05.
    assert len(seen) == 3 * 5 * 4
    assert all(
        each.chances.passed + each.chances.failed + each.chances.inconclusive == pytest.approx(1) for each in found.seen
    )


@pytest.mark.parametrize(("discordant", "drop", "items"), [(0.10, 0.02, 1544), (0.20, 0.05, 493), (0.20, 0.03, 1372)])
def test_items_needed_are_those_of_paired_sample_sizes(discordant: float, drop: float, items: int) -> None:
    assert Rules("max_drop", drop).needed(math.sqrt(discordant)) == pytest.approx(items, rel=0.005)


def test_result_gives_its_own_items_and_spread(measured: Build, result: Result) -> None:
    reach = half(0.10, 500)
    found = of(policy("support.accuracy", "max_drop = 0.02"), result(measured(delta=(0.0, -reach, reach))))
    assert [each.drop for each in found.seen] == pytest.approx([0.0, 0.01, 0.02, 0.04, 0.05])
    assert {(each.n, each.needed) for each in found.seen} == {(500, 1546)}
    assert found.seen[0].chances.passed == pytest.approx(0.41, abs=0.01)
    assert found.seen[0].chances.failed == pytest.approx(0.05, abs=0.001)
    assert found.seen[2].chances.passed == pytest.approx(0.05, abs=0.001)
    assert found.seen[4].chances.failed >= 0.95
    points = measured("bleu", delta=(0.0, -100 * reach, 100 * reach)).model_copy(update={"scale": "0-100"})
    assert of(policy("support.bleu", "max_drop = 2"), result(points)).seen[-1].drop == 5.0


def test_normal_and_exact_chances_agree_for_many_items() -> None:
    rules = Rules("max_drop", 0.02)
    for drop in (0.0, 0.02, 0.05):
        exact = right_wrong_chances(-drop, 0.20, 2_000, rules)
        normal = normal_chances(-drop, math.sqrt((0.20 - drop**2) / 2_000), rules)
        assert exact.passed == pytest.approx(normal.passed, abs=0.01)
        assert exact.failed == pytest.approx(normal.failed, abs=0.015)


@pytest.mark.parametrize("rule", ["strict", "point"])
def test_other_rules_have_their_own_chances(rule: str) -> None:
    found = of(policy("support.accuracy", "max_drop = 0.02", f'rule = "{rule}"'))
    at = {(each.n, each.drop): each for each in found.seen if each.discordant == 0.10}
    if rule == "strict":
        assert at[500, 0.05].chances.failed < 0.8
    else:
        assert at[500, 0.0].chances.inconclusive == pytest.approx(0, abs=1e-6)
        assert {each.needed for each in found.seen if each.discordant == 0.10} == {178}
        assert all(each.chances.passed >= 0.8 for each in found.seen if each.drop == 0 and each.n > (each.needed or 0))


def test_correction_is_told_with_its_number_of_tests(measured: Build, result: Result) -> None:
    many = [measured(f"m{place}", delta=(0.0, -0.03, 0.03)) for place in range(10)]
    lines = ("max_drop = 0.02", 'correction = "holm"')
    found = of(policy("support.*", *lines), result(*many))
    assert any("10 tests" in sentence for sentence in found.sentences)
    assert found.seen[0].chances.failed == pytest.approx(0.005, abs=0.001)


def test_too_few_items_for_min_n_are_not_told_to_pass(measured: Build, result: Result) -> None:
    gates = policy("support.accuracy", "max_drop = 0.02", "min_n = 9000")
    for comparison in (None, result(measured(delta=(0.0, -0.01, 0.01)))):
        found = of(gates, comparison)
        assert {each.chances.passed for each in found.seen} == {0.0}
        assert {each.needed for each in found.seen} == {9000}
        assert any("9,000 items" in sentence for sentence in found.sentences)


def test_words_follow_the_policy() -> None:
    told = " ".join(of(policy("lora:support.f1@tuned", "min_gain = 0.1", "confidence = 0.9")).sentences)
    for part in ("the checkpoint lora", "the part tuned", "run's own reference", "90 %", "at least 0.1 better"):
        assert part in told
    told = " ".join(of(policy("support.f1", "max_drop = 0.1", head='baseline = "old.json"')).sentences)
    assert "the baseline old.json" in told
    assert "FAIL and MISSING fail the policy; INCONCLUSIVE only warns" in told
    told = " ".join(of(policy("support.f1", "max_drop = 0.1", 'severity = "warn"')).sentences)
    assert "No outcome of this gate fails the policy" in told
    told = " ".join(of(policy("weights.intruder_count", "max = 12")).sentences)
    assert "counted" in told
    assert "confidence" not in told


def test_baseline_that_is_not_at_hand_is_said(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(0.0, -0.03, 0.03)))
    for head, said in (('baseline = "old.json"', True), ("", False)):
        told = " ".join(of(policy("support.accuracy", "max_drop = 0.1", head=head), comparison).sentences)
        assert ("not at hand" in told) == said
    told = " ".join(of(policy("support.accuracy", "min = 0.1", head='baseline = "old.json"'), comparison).sentences)
    assert "baseline" not in told


def test_absolute_limits_say_which_values_they_can_tell(measured: Build, result: Result) -> None:
    told = " ".join(of(policy("support.accuracy", "min = 0.7"), result(measured(own=(0.7, 0.66, 0.74)))).sentences)
    reach = 0.04 / 1.959964 * (1.644854 + 0.841621)
    assert f"{0.7 + reach:.4g}" in told
    assert f"{0.7 - reach:.4g}" in told


def test_what_cannot_be_seen_is_said(measured: Build, result: Result) -> None:
    comparison = result(measured(delta=(0.0, 0.0, 0.0)), measured("f1", delta=(0.0, None, None)))
    found = of(policy("support.*", "max_drop = 0.02"), comparison)
    assert found.seen == []
    told = " ".join(found.sentences)
    assert "all agree" in told
    assert "without an interval" in told
    told = " ".join(of(policy("suport.acuracy", "max_drop = 0.02"), comparison).sentences)
    assert "nearest: support.accuracy" in told


def test_policy_that_means_nothing_names_its_file(measured: Build, result: Result) -> None:
    comparison = result(measured("kl_to_base", delta=(0.1, 0.0, 0.2), direction="none"))
    with pytest.raises(ConfigError, match=r"rules\.toml, line 3"):
        explain(policy("support.kl_to_base", "max_drop = 0.1"), comparison, name="rules.toml")


def test_bounds_of_many_tables_are_those_of_one() -> None:
    random = np.random.default_rng(7)
    for _ in range(300):
        items = int(random.choice([4, 30, 500]))
        table = random.multinomial(items, random.dirichlet([2, 0.3, 0.3, 1]))
        value, low, high = right_wrong_bounds(*(np.array([float(each)]) for each in table), 0.975)
        both, broken, fixed, neither = (int(each) for each in table)
        if broken or fixed:
            expected = newcombe_paired(both, broken, fixed, neither)
        else:
            expected = unvarying_interval(0.0, 1.0, items) or (0.0, 0.0)
        assert (low[0], high[0]) == pytest.approx(expected, abs=1e-12)
        assert value[0] == pytest.approx((fixed - broken) / items)


def test_change_needs_as_many_discordant_items() -> None:
    with pytest.raises(ValueError, match="discordant"):
        right_wrong_chances(-0.2, 0.1, 500, Rules("max_drop", 0.02))


@pytest.mark.parametrize("with_result", [False, True])
def test_page_holds_words_and_numbers(with_result: bool, measured: Build, result: Result) -> None:
    out = io.StringIO()
    comparison = result(measured(delta=(0.0, -0.03, 0.03))) if with_result else None
    gates = policy("support.accuracy", "max_drop = 0.02")
    assert run_explain(gates, Console(file=out, width=160), comparison, name="ci/gates.toml") == 0
    text = out.getvalue()
    assert "support.accuracy: max_drop = 0.02 (significant) (ci/gates.toml, line 3)" in text
    assert text.count("Items for 80 % PASS") == 2
    assert text.count('"items would decide"') == 1
    assert ("1,546" in text) != with_result


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("support.rouge", "rouge: no such metric; nearest: rougeL"),
        ("support.(rougeL|bleu)", "only * is a wildcard"),
        ("supp?rt.rougeL", "only * is a wildcard"),
        ("support..*", "only * is a wildcard"),
    ],
)
def test_addresses_that_mean_little_are_doubted(address: str, says: str) -> None:
    (doubt,) = of(policy(address, "max_drop = 0.02")).doubts
    assert says in doubt
    out = io.StringIO()
    run_explain(policy(address, "max_drop = 0.02"), Console(file=out, width=160))
    assert f"doubt: {doubt}" in out.getvalue()


@pytest.mark.parametrize("address", ["support.rougeL", "lora[1]:support.f1_micro@label=a|b", "*.*", "support.rouge*"])
def test_addresses_that_mean_something_are_not(address: str, measured: Build, result: Result) -> None:
    assert of(policy(address, "max_drop = 0.02")).doubts == ()
    assert of(policy("support.own", "max_drop = 0.02"), result(measured("own"))).doubts == ()


def test_assumed_drops_are_those_of_the_limit_too() -> None:
    found = of(policy("support.accuracy", "max_drop = 0.1"))
    drops = {share: sorted({each.drop for each in found.seen if each.discordant == share}) for share in (0.05, 0.2)}
    assert drops == {0.05: [0.0, 0.05], 0.2: [0.0, 0.05, 0.1, 0.2]}
    out = io.StringIO()
    run_explain(policy("support.accuracy", "max_drop = 0.1"), Console(file=out, width=160))
    assert "drop 0.2: FAIL" in out.getvalue()


def test_the_assumption_is_told() -> None:
    for metric, orientation in (("accuracy", False), ("bleu", True)):
        told = " ".join(of(policy(f"support.{metric}", "max_drop = 0.02")).sentences)
        assert "The table assumes right and wrong answers, of which 5, 10, 20 % differ" in told
        assert ("orientation" in told) == orientation


def test_no_drop_goes_beyond_the_scale(measured: Build, result: Result) -> None:
    found = of(policy("support.accuracy", "max_drop = 0.6"), result(measured(delta=(0.0, -0.03, 0.03))))
    assert [each.drop for each in found.seen] == pytest.approx([0.0, 0.05, 0.3, 0.6])
