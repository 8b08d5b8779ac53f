from __future__ import annotations

import pytest

from lorascope.data.templates import render, render_messages
from lorascope.errors import ConfigError, DataError

FIELDS = {"question": "What is {x}?", "n": 3, "choices": ["a", "b"], "nothing": None, "my field": "spaced"}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Q: {question}\nA:", "Q: What is {x}?\nA:"),
        ("{{literal}} {n}", "{literal} 3"),
        ("{choices[1]} {my field}", "b spaced"),
        ("no field", "no field"),
        ("{n:03d}", "003"),
    ],
)
def test_fields_are_filled_in_and_braces_in_the_data_are_safe(template: str, text: str) -> None:
    assert render(template, FIELDS, place="line 1") == text


def test_an_unknown_field_is_named_with_the_nearest_one() -> None:
    with pytest.raises(DataError, match="'qestion'") as caught:
        render("{qestion}", FIELDS, place="a.jsonl, line 7")
    assert caught.value.where == "a.jsonl, line 7"
    assert "did you mean 'question'" in (caught.value.remedy or "")


@pytest.mark.parametrize("template", ["{nothing}", "{choices}"])
def test_null_and_lists_are_not_written_out(template: str) -> None:
    with pytest.raises(DataError):
        render(template, FIELDS, place="line 1")


@pytest.mark.parametrize("template", ["{", "}", "{}", "{0}", "{choices[9]}", "{question.missing}", "{n:nonsense}"])
def test_a_wrong_template_is_a_configuration_error(template: str) -> None:
    with pytest.raises(ConfigError):
        render(template, FIELDS, place="line 1")


def test_messages() -> None:
    templates = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{question}"}]
    assert render_messages(templates, FIELDS, place="line 1") == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is {x}?"},
    )
    with pytest.raises(ConfigError, match="no role"):
        render_messages([{"role": "narrator", "content": "x"}], FIELDS, place="line 1")
    with pytest.raises(ConfigError, match="exactly role and content"):
        render_messages([{"role": "user", "text": "x"}], FIELDS, place="line 1")
