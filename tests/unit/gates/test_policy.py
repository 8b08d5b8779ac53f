from __future__ import annotations

import pytest

from lorascope.errors import ConfigError
from lorascope.schema.policy import Address, parse_address, parse_policy
from lorascope.schema.toml_lines import lines_of

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


@pytest.mark.parametrize("text", ["version = 1", "version = 1\ngate = []", "version = 1\ngate = 3"])
def test_policy_without_gates_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no gate: write at least one \[\[gate\]\]"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('max_drop = "2%"', 'max_drop: "2%" is a text; write 0.02 without quotes'),
        ('max_drop = "0.05"', "write 0.05 without quotes"),
        ('max_drop = "little"', '"little" is not a number'),
        ("max_drop = true", "true is not a number"),
        ("max_drop = -0.02", "-0.02 is below 0"),
        ("min = 0\nconfidence = 95", "confidence: 95 is not above 0.5 and below 1; write 0.95"),
        ("min = 0\nconfidence = 0.3", "0.3 is not above 0.5 and below 1"),
        ("min = 0\nmin_n = 2.5", "2.5 is not a whole number"),
        ('min = 0\nrule = "stern"', "write 'significant', 'strict' or 'point'"),
        ("min = 0\nseverity = 3", "write 'fail' or 'warn'"),
    ],
)
def test_values_are_told_in_the_words_of_the_file(lines: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f'version = 1\n[[gate]]\nmetric = "a.b"\n{lines}')
    assert says in caught.value.problem
    assert "Input should" not in caught.value.problem


def test_wrong_toml_has_a_line_and_a_remedy() -> None:
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        parse_policy("version = 1\n[[gate]]\nmetric = support.rougeL\nmin = 0", "ci/gates.toml")
    assert caught.value.where == "ci/gates.toml, line 3"
    assert "texts in quotes" in (caught.value.remedy or "")


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


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ('rule = "point"\ncorrection = "holm"', 2, "tests nothing"),
        ('rule = "point"\nconfidence = 0.9', 2, "looks at the value alone"),
        ("confidence = 1.0", 5, "confidence"),
        ('correction = "bonferroni"', 5, "correction"),
        ("corection = 'holm'", 5, "did you mean 'correction'"),
        ("min_n = 0", 5, "min_n"),
        ("min_n = 2.5", 5, "min_n"),
    ],
)
def test_combinations_that_mean_nothing_are_said(lines: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(f'version = 1\n[[gate]]\nmetric = "a.b"\nmax_drop = 0.1\n{lines}')
    assert f"line {line}" in str(caught.value)
    assert says in str(caught.value)


def test_gate_has_its_own_confidence_and_correction() -> None:
    policy = parse_policy(
        'version = 1\nconfidence = 0.9\n[[gate]]\nmetric = "a.*"\nmax_drop = 0.1\ncorrection = "holm"\n'
        'confidence = 0.99\n[[gate]]\nmetric = "a.b"\nmin = 0'
    )
    assert [policy.confidence_of(gate) for gate in policy.gate] == [0.99, 0.9]
    assert [gate.correction for gate in policy.gate] == ["holm", "none"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            'version = 1\ngate = [\n  {metric = "a.b", min = 0}, # one\n  {metric = "c.d", maxx = 1},\n]',
            4,
            "maxx",
        ),
        ('version = 1\n# [[gate]]\n[[gate]]\nmetric = "a.b" # max_drp = 1\nmax_drp = 1', 5, "max_drp"),
        ('version = 1\nnote.why = "x"\n[[gate]]\nmetric = "a.b"\nmin = 0', 2, "unknown key 'note'"),
        ('version = 1\n[[gate]]\nmetric = """\na.b"""\n"max_drop" = "x"', 5, "max_drop"),
        ('version = 1\n[gate]\nmetric = "a.b"\nmin = 0', 2, "write [[gate]]"),
        ('version = "1"\n[[gate]]\nmetric = "a.b"\nmin = 0', 1, "version"),
        ("[[gate]]\nmetric = 'a.b'\nmin = 0", 1, "version"),
        ('version = 1\n[[gate]]\nmetric = "a.b"\nmetric = "c.d"\nmin = 0', 4, "overwrite"),
        ("", 1, "empty"),
        ("# nothing but this\n\n", 1, "empty"),
        ("version =", 1, "TOML"),
    ],
)
def test_lines_are_found_however_the_policy_is_written(text: str, line: int, says: str) -> None:
    for written in (text, text.replace("\n", "\r\n"), f"\ufeff{text}"):
        with pytest.raises(ConfigError) as caught:
            parse_policy(written)
        assert f"line {line}" in str(caught.value), written
        assert says in str(caught.value), written


def test_every_place_of_a_document_has_its_line() -> None:
    text = "\n".join([
        "a = 1 # ] }", 'b."c d" = [1, [2,', "  3], {e = 'x'}]", "[t . u]", "v = 2024-01-01 10:00:00",
        "[[l.m]]", "w = {x = 1}", "[[l.m]]", '"\\u0077" = \'\'\'', "[not]", "\'\'\'",
    ])  # fmt: skip
    found = lines_of(text)
    assert found["a",] == 1
    assert found["b", "c d", 1, 1] == 3
    assert found["b", "c d", 2, "e"] == 3
    assert found["t", "u", "v"] == 5
    assert found["l", "m", 0, "w", "x"] == 7
    assert found["l", "m", 1] == 8
    assert found["l", "m", 1, "w"] == 9
    assert ("not",) not in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("x = " + "{a = " * 3000 + "1" + "}" * 3000, "nested too deeply"),
        ('version = 1\n[[gate]]\nmetric = "a.b"\nmin = ' + "9" * 5000, "cannot be read"),
        ('version = 1\n[[gate]]\nmetric = "a.b"\nmin = ' + "9" * 4000, "min"),
        ("version = " + "9" * 4000 + '\n[[gate]]\nmetric = "a.b"\nmin = 0', "version"),
    ],
)
def test_policies_beyond_every_measure_are_wrong_and_no_bug(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_policy(text)


def test_a_checkpoint_with_a_dot_and_an_at_sign_is_written_with_a_star() -> None:
    assert parse_address("lora.v1@3:support.accuracy").subject is None
    assert parse_address("lora.v1*3:support.accuracy") == Address("lora.v1*3", "support", "accuracy", None)
    assert parse_address("lora@3:support.accuracy") == Address("lora@3", "support", "accuracy", None)
