from __future__ import annotations

import pytest

from lorascope.errors import ConfigError
from lorascope.schema.policy import Address, parse_address, parse_policy

WHOLE = """\
version = 1
baseline = "old/result.json"
confidence = 0.9
on_inconclusive = "fail"
on_missing = "warn"

[[gate]]
metric = "support.rougeL"
max_drop = 0.02
min_n = 500

[[gate]]
metric = "weights.intruder_count"
max = 12
severity = "warn"
rule = "strict"
"""


def test_whole_policy_is_read() -> None:
    policy = parse_policy(WHOLE)
    assert (policy.baseline, policy.confidence, policy.on_inconclusive, policy.on_missing) == (
        "old/result.json", 0.9, "fail", "warn",
    )  # fmt: skip
    assert [gate.limits for gate in policy.gate] == [[("max_drop", 0.02)], [("max", 12.0)]]
    assert [gate.line for gate in policy.gate] == [7, 12]
    assert policy.gate[0].rule == "significant"


def test_defaults_are_the_careful_ones() -> None:
    policy = parse_policy('version = 1\n[[gate]]\nmetric = "a.b"\nmin = 0.5')
    assert (policy.on_missing, policy.on_inconclusive, policy.confidence) == ("fail", "warn", 0.95)
    assert policy.gate[0].severity == "fail"


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("max_drop = 0.02", "max_drp = 0.02"), 9, "did you mean 'max_drop'"),
        (("on_missing", "on_mising"), 5, "did you mean 'on_missing'"),
        (("version = 1\n", "version = 2\n"), 1, "version"),
        (("confidence = 0.9", "confidence = 95"), 3, "confidence"),
        (("max_drop = 0.02", "max_drop = -0.02"), 9, "max_drop"),
        (("max_drop = 0.02", 'max_drop = "0.02"'), 9, "max_drop"),
        (("max_drop = 0.02", "max_drop = true"), 9, "max_drop"),
        (("max_drop = 0.02", "max_drop = nan"), 9, "max_drop"),
        (("max = 12\n", ""), 12, "no limit"),
        (("max = 12\n", "max = 12\nmin = 13\n"), 12, "above max"),
        (('"weights.intruder_count"', '"intruders"'), 13, "AREA_OR_TASK.METRIC"),
        (('rule = "strict"', 'rule = "stern"'), 16, "rule"),
        (('"support.rougeL"', '"support.rougeL'), 8, "TOML"),
    ],
)
def test_mistakes_are_named_with_their_line(change: tuple[str, str], line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(WHOLE.replace(*change), "gates.toml")
    assert f"line {line}" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.exit_code == 2


def test_every_mistake_is_told() -> None:
    with pytest.raises(ConfigError, match=r"line 5: .*line 10: "):
        parse_policy(WHOLE.replace("on_missing", "when_missing").replace("min_n = 500", "min_n = 0"))


def test_policy_without_gates_is_refused() -> None:
    with pytest.raises(ConfigError, match="gate"):
        parse_policy("version = 1")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("support.rougeL", (None, "support", "rougeL", None)),
        ("lora:support.rougeL", ("lora", "support", "rougeL", None)),
        ("run1/lora:v2:mmlu.v2.accuracy", ("run1/lora:v2", "mmlu.v2", "accuracy", None)),
        ("forgetting.*", (None, "forgetting", "*", None)),
        ("support.f1_micro@threshold=tuned", (None, "support", "f1_micro", "threshold=tuned")),
        ("support.f1_micro@label=a:b.c", (None, "support", "f1_micro", "label=a:b.c")),
        ("me@home:support.f1_micro@label=x@y", ("me@home", "support", "f1_micro", "label=x@y")),
    ],
)
def test_addresses_come_apart(text: str, parts: tuple[str | None, str, str, str | None]) -> None:
    assert parse_address(text) == Address(*parts)


@pytest.mark.parametrize("text", ["", "support", ".rougeL", "support.", "lora:support", "a b.c", "support.rougeL@"])
def test_other_texts_are_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        parse_address(text)
