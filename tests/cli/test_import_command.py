"""``lorascope import`` by hand: each tool's command, its output, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorascope.cli.main import run

FIXTURES = Path(__file__).parents[1] / "unit" / "data" / "fixtures" / "imported"


def predictions(folder: Path, name: str, said: list[str]) -> str:
    rows = [{"id": n, "prediction": text, "reference": f"it is {n}"} for n, text in enumerate(said)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_a_table_and_a_report_of_two_runs_of_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(FIXTURES / "inspect" / name / "letters.eval") for name in ("base", "tuned")]
    assert run(["import", "inspect", f"start={runs[0]}", runs[1], "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "letters" in shown
    assert "report.html" in shown
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [each["name"] for each in document["checkpoints"]] == ["start", "letters"]


def test_json_and_the_exit_code_of_a_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = [f"it is {n}" for n in range(80)]
    base = predictions(tmp_path, "base.jsonl", right)
    worse = predictions(tmp_path, "worse.jsonl", right[:40] + ["no"] * 40)
    gates = tmp_path / "gates.toml"
    gates.write_text('version = 1\n[[gate]]\nmetric = "predictions.exact_match"\nmax_drop = 0.02\n')
    arguments = ["import", "files", base, worse, "--gates", str(gates), "--quiet", "--out", str(tmp_path / "out")]
    assert run([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["gates"]["passed"] is False
    assert run(["import", "files", base, base.replace("base", "same"), "--out", str(tmp_path / "o")]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lm-eval", "{lm}/base", "{lm}/nothing"], 2, "there is no such file or folder"),
        (["lm-eval", "{lm}/base", "{inspect}/base"], 2, "lorascope import inspect"),
        (["lm-eval", "{lm}/base", "{lm}/tuned", "--filter", "strict"], 2, "no filter named 'strict'"),
        (["lm-eval", "{lm}/base"], 2, "Missing argument"),
        (
            ["inspect", "{inspect}/base/facts.eval", "{inspect}/base/letters.eval"],
            2,
            "no task of facts stands in another",
        ),
        (["lighteval", "{lm}/base", "{lighteval}/base"], 2, "the folder holds no file of lighteval"),
        (["llamafactory", "{lm}/base", "{lm}/tuned"], 2, "it looks like lm-eval's"),
        (["files", "a.jsonl", "other.jsonl"], 3, "no item of predictions stands in all runs"),
        (["files", "a.jsonl", "broken.jsonl"], 2, "broken.jsonl, line 2"),
        (["files", "a.jsonl", "empty.jsonl"], 2, "the file is empty"),
        (["files", "a.jsonl", "deep.jsonl"], 2, "the JSON is nested too deeply"),
        (["files", "a.jsonl", f"{'n' * 300}=empty.jsonl"], 2, "longer than file systems take"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    predictions(tmp_path, "a.jsonl", ["x", "y"])
    (tmp_path / "other.jsonl").write_text('{"id": "z", "prediction": "x", "reference": "it is 0"}\n')
    (tmp_path / "broken.jsonl").write_text('{"id": 0, "prediction": "x", "reference": "it is 0"}\n{"id": 1, "pred')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "deep.jsonl").write_text('{"prediction": ' + "[" * 100_000 + "]" * 100_000 + "}")
    places = {"lm": FIXTURES / "lm-eval", "inspect": FIXTURES / "inspect", "lighteval": FIXTURES / "lighteval"}
    assert run(["import", *(part.format(**places) for part in arguments)]) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "reports").exists()
