from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from lorascope.data.documents import (
    Document,
    Setting,
    dotted_keys,
    overlaid,
    read_document,
    read_settings,
    validate,
    write_yaml,
)
from lorascope.errors import ConfigError
from lorascope.schema.model import Model


class Inner(Model):
    rate: float = 0.1
    steps: int = 3
    on: bool = False


class Part(Model):
    name: str
    inner: Inner | None = None


class Whole(Model):
    version: Literal[1]
    title: str = ""
    parts: list[Part] = Field(default_factory=list)
    inner: Inner = Field(default_factory=Inner)
    mixed: Literal["auto"] | list[str] | float = "auto"
    sets: str | dict[str, str] = ""
    options: dict[str, float | int | str] = Field(default_factory=dict)


def read(folder: Path, text: str | bytes) -> Document:
    path = folder / "whole.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path, what="thing", start="give 'version'")


def fault(folder: Path, text: str, *settings: str, renamed: dict[str, str] | None = None) -> ConfigError:
    document = overlaid(read(folder, text), read_settings(settings))
    with pytest.raises(ConfigError) as caught:
        validate(document, Whole, renamed=renamed)
    return caught.value


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ("inner: {rte: 1}", "unknown key 'inner.rte'", "did you mean 'rate'?"),
        ("parts: [{name: a, inner: {stps: 1}}]", "unknown key 'parts.0.inner.stps'", "did you mean 'steps'?"),
        ("steps: 1", "unknown key 'steps'", "inner.steps"),
        ("parts: [{inner: {}}]", "the key 'parts.0.name' is missing", ""),
        ("inner: {rate: yes}", "'inner.rate': Input should be a number, not true", "give a number"),
        ("options: {a: off}", "'options.a': Input should be a number, not false", "give a number"),
        ("title: yes", "'title'", "in quotes"),
        ("title: 12", "'title'", 'in quotes: "12"'),
        ("title: 2024-01-01", "'title'", 'in quotes: "2024-01-01"'),
        ("inner: fast", "'inner': Input should be a block of keys, not 'fast'", "rate, steps, on"),
        ("mixed: {a: 1}", "'mixed': Input should be 'auto', or a valid list, or a valid number", "use 'auto'"),
        ("mixed: [1]", "'mixed", ""),
        ("sets: [a]", "'sets': Input should be a valid string, or a valid dictionary", ""),
        ("sets: {a: 1}", "'sets", ""),
    ],
)
def test_the_key_its_line_and_what_to_do(tmp_path: Path, line: str, problem: str, remedy: str) -> None:
    error = fault(tmp_path, f"version: 1\n\n{line}\n")
    assert problem in error.problem
    assert (error.where or "").endswith("whole.yaml, line 3")
    assert remedy in (error.remedy or "")


def test_lines_of_nested_keys(tmp_path: Path) -> None:
    error = fault(tmp_path, "version: 1\nparts:\n  - name: a\n  - name: b\n    inner:\n      rate: fast\n")
    assert "'parts.1.inner.rate'" in error.problem
    assert (error.where or "").endswith("line 6")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = "version: 1\ninner: {rate: 1e-4, steps: 1e3}\noptions: {a: 2E+5, b: .5e1, c: 1.e3, d: 1e, e: '1e-4'}\n"
    found = validate(read(tmp_path, text), Whole)
    assert (found.inner.rate, found.inner.steps) == (1e-4, 1000)
    assert found.options == {"a": 2e5, "b": 5.0, "c": 1000.0, "d": "1e", "e": "1e-4"}


def test_several_faults_and_renamed_keys_first(tmp_path: Path) -> None:
    renamed = {"warm": "inner.rate", "cold": "nothing is called cold here"}
    error = fault(tmp_path, "warm: 1\ncold: 2\ntitel: 3\n", renamed=renamed)
    assert error.problem.startswith("unknown key 'warm'")
    assert error.remedy == "'warm' is called 'inner.rate' here"
    assert "also: nothing is called cold here (line 2)" in error.problem
    assert "the key 'version' is missing" in error.problem


def test_settings_are_laid_over_and_named_in_errors(tmp_path: Path) -> None:
    document = read(tmp_path, "version: 1\nparts: [{name: a}, {name: b}]\n")
    settings = read_settings(
        ["inner.rate=1e-3", "parts.1.inner.steps=7", "sets={v: a.jsonl}", "mixed=[x, y]", "title="]
    )
    laid = overlaid(document, [*settings, Setting("title", "T", "point")])
    found = validate(laid, Whole)
    assert (found.inner.rate, found.parts[1].inner, found.mixed) == (1e-3, Inner(steps=7), ["x", "y"])
    assert (found.sets, found.title) == ({"v": "a.jsonl"}, "T")
    assert validate(document, Whole).inner.rate == 0.1
    assert laid.text_hash == document.text_hash
    assert laid.where(("inner", "rate")) == "--set inner.rate=1e-3"
    assert laid.where(("title",)) == "point"
    assert laid.where(("parts", 0, "name")).endswith("line 2")


@pytest.mark.parametrize(
    ("setting", "problem", "remedy"),
    [
        ("inner.rtae=1", "unknown key 'inner.rtae'", "did you mean 'rate'?"),
        ("inner.rate=fast", "'inner.rate'", ""),
        ("inner.rate=yes", "not true", "number"),
        ("inner={rtae: 1}", "unknown key 'inner.rtae'", "'rate'"),
    ],
)
def test_faults_of_settings(tmp_path: Path, setting: str, problem: str, remedy: str) -> None:
    error = fault(tmp_path, "version: 1\ninner: {steps: 1}\n", setting)
    assert problem in error.problem
    assert error.where == f"--set {setting}"
    assert remedy in (error.remedy or "")


@pytest.mark.parametrize("setting", ["rate", "=1", "a..b=1", "a=[1", "a={b", "a=2024-99-99"])
def test_settings_that_are_none(setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings([setting])
    assert caught.value.where == f"--set {setting}"
    assert caught.value.remedy


@pytest.mark.parametrize("setting", ["title.x=1", "parts.5.name=x", "parts.5=x"])
def test_settings_that_lead_nowhere(tmp_path: Path, setting: str) -> None:
    document = read(tmp_path, "version: 1\ntitle: text\nparts: [{name: a}]\n")
    with pytest.raises(ConfigError) as caught:
        overlaid(document, read_settings([setting]))
    assert caught.value.where == f"--set {setting}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the thing is empty"),
        ("a: 1\nb: 2\na: 3\n", "the key 'a' is given twice"),
        ("a: [1", "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("a: 2024-99-99", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_files_that_are_no_document(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(tmp_path, text)


def test_a_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        validate(read(tmp_path, "version: 1\noptions: &a {b: *a}\n"), Whole)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such thing file"):
        read_document(tmp_path / "none.yaml", what="thing")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    values = {
        "b": 1e-5,
        "a": "1e-5",
        "c": ["yes", "on", "三", "12", "null", "a: b"],
        "d": None,
        "e": 0.1,
        "f": {"x": 1},
    }
    again = read(tmp_path, write_yaml(values))
    assert again.raw == values
    assert list(again.raw) == list(values)


def test_dotted_keys() -> None:
    assert "inner.rate" in dotted_keys(Whole)
    assert "parts.name" not in dotted_keys(Whole)
    assert dotted_keys(Whole)[0] == "version"


def test_aliases_of_aliases_are_refused_before_they_are_written_out(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb, encoding="utf-8")
    with pytest.raises(ConfigError, match="aliases stand for more than 100,000 values"):
        read_document(path, what="recipe")
    value = "{" + bomb.replace("\n", ", ") + "}"
    with pytest.raises(ConfigError, match="aliases stand for"):
        read_settings([f"task={value}"])


def test_plain_length_and_a_few_aliases_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(f"a: &a [{', '.join(['1'] * 500)}]\nb: *a\nc: *a\n", encoding="utf-8")
    assert read_document(path, what="recipe").raw["c"] == [1] * 500
