from __future__ import annotations

from pathlib import Path

import pytest

from lorascope.data.tasks import load_suite
from lorascope.errors import ConfigError

GOOD = """\
version: 1
tasks:
  - name: support
    kind: generate
    data: {val1: a.jsonl, val2: b.jsonl}
    prompt: "Q: {question}\\nA:"
    references: answer
    stop: ["\\n"]
  - name: topics
    kind: labels
    role: retention
    data: c.csv
    labels: [art, "yes"]
"""
KEY = 'stop: ["\\n"]'


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "suite.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_suite_and_the_hash_of_its_text(tmp_path: Path) -> None:
    suite, digest = load_suite(write(tmp_path, GOOD))
    assert [task.name for task in suite.tasks] == ["support", "topics"]
    assert suite.tasks[0].prompt == "Q: {question}\nA:"
    assert suite.tasks[0].stop == ["\n"]
    assert suite.tasks[1].labels == ["art", "yes"]
    assert len(digest) == 16
    assert load_suite(write(tmp_path, GOOD + "# more\n"))[1] != digest


@pytest.mark.parametrize(
    ("old", "new", "problem", "line", "remedy"),
    [
        ("references: answer", "refrences: answer", "unknown key 'tasks.0.refrences'", 7, "did you mean 'references'?"),
        ("version: 1", "version: 1\nxyzzy: 3", "unknown key 'xyzzy'", 2, "known keys: version, tasks"),
        ("version: 1", "version: 2", "'version'", 1, "use 1"),
        ("kind: labels", "kind: label", "'tasks.1.kind'", 10, "'labels'"),
        ("    data: c.csv\n", "", "the key 'tasks.1.data' is missing", 9, ""),
        ('[art, "yes"]', "[art, yes]", "'tasks.1.labels.1'", 13, "quotes"),
        ("name: topics", "name: support", "given twice: support", 1, ""),
        ("name: topics", "name: my topics", "'tasks.1.name'", 9, ""),
        ("role: retention", "kind: labels", "'kind' is given twice", 11, ""),
        ("role: retention", "margin: -1", "'tasks.1.margin'", 11, ""),
        ("role: retention", 'stop: ["x"]', "'stop' belongs to tasks of kind 'generate'", 9, ""),
        ("role: retention", "data: [a", "not valid YAML", 0, ""),
        (
            KEY,
            f"{KEY}\n    sampling: {{temprature: 1}}",
            "'tasks.0.sampling.temprature'",
            9,
            "did you mean 'temperature'?",
        ),
        (KEY, f"{KEY}\n    sampling: {{xyzzy: 1}}", "'tasks.0.sampling.xyzzy'", 9, "known keys: temperature, top_p"),
        (KEY, f"{KEY}\n    extract: {{patern: x}}", "'tasks.0.extract", 9, "pattern"),
        (KEY, f"{KEY}\n    system: be brief", "'system' belongs to a chat", 3, ""),
    ],
)
def test_what_is_wrong_is_said_with_key_line_and_remedy(
    tmp_path: Path, old: str, new: str, problem: str, line: int, remedy: str
) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        load_suite(write(tmp_path, GOOD.replace(old, new)))
    assert problem in caught.value.problem
    assert "suite.yaml" in (caught.value.where or "")
    if line:
        assert (caught.value.where or "").endswith(f"line {line}")
    assert remedy in (caught.value.remedy or "")


def test_several_faults_are_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("references", "refs").replace("kind: labels", "kind: lables")
    with pytest.raises(ConfigError) as caught:
        load_suite(write(tmp_path, text))
    assert "tasks.0.refs" in str(caught.value)
    assert "also: 'tasks.1.kind'" in str(caught.value)
    assert "(line 10)" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "- 1\n- 2\n", "just text", b"version: \xff", "version: 1\ntasks: []\n"]
)
def test_files_that_are_no_suite(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(ConfigError):
        load_suite(write(tmp_path, text))


def test_missing_suites(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such suite"):
        load_suite(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="no such suite"):
        load_suite(tmp_path)


@pytest.mark.parametrize("text", ['["art", "yes no", "三"]', "art\nyes no\n三\n\n"])
def test_labels_from_a_file_beside_the_suite(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    suite, _ = load_suite(write(tmp_path, GOOD.replace('[art, "yes"]', "names.txt")))
    assert suite.tasks[1].labels == ["art", "yes no", "三"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file of labels"),
        ("a\n\nb", "entry 2 is ''"),
        ('["a", 3]', "entry 2 is 3"),
        ('["a", "b", "a"]', "'a' is named twice"),
        ("[]", "there are no labels"),
        ('["a"', "no JSON list"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_files_of_labels_that_cannot_be_used(tmp_path: Path, text: str | bytes | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "names.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=problem) as caught:
        load_suite(write(tmp_path, GOOD.replace('[art, "yes"]', "names.txt")))
    assert "suite.yaml, line 13" in (caught.value.where or "")
    assert "names.txt" in (caught.value.where or "")
    assert caught.value.remedy


def test_labels_that_are_no_list_are_told_what_to_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks.1.labels") as caught:
        load_suite(write(tmp_path, GOOD.replace('[art, "yes"]', "{art: 1}")))
    assert "one label a line" in (caught.value.remedy or "")
