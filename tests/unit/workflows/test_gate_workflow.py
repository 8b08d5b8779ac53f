from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from lorascope.cli.main import run as command
from lorascope.errors import ConfigError, DataError, EvaluationError, InvalidComparison, OutputError, UsageError
from lorascope.schema.policy import Gate
from lorascope.workflows.asking import AskingOptions
from lorascope.workflows.compare import CompareOptions, compare
from lorascope.workflows.gate import calibrate_policy, explain_policy, prove_policy, run_gate
from lorascope.workflows.gate_files import GateFiles
from lorascope.workflows.imported import ImportOptions, import_runs
from lorascope.workflows.served import ServedOptions, compare_served


def checkpoint(name: str, content_hash: str) -> dict[str, Any]:
    return {
        "name": name, "path": name, "role": "base" if name == "base" else "adapted", "kind": "model",
        "architecture": "LlamaForCausalLM", "dtype": "float32", "content_hash": content_hash,
        "parameters": {"total": 10}, "generation_ready": True,
    }  # fmt: skip


def document(value: float, low: float, high: float, content_hash: str = "h1") -> dict[str, Any]:
    estimate = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 40, "method": "bootstrap"}
    measurement = {
        "subject": "lora[1]", "reference": "base", "area": "task", "task": "support", "metric": "accuracy",
        "unit": "fraction", "scale": "0-1", "direction": "higher", "base": estimate, "adapted": estimate,
        "delta": {"value": value, "low": low, "high": high, "n": 40}, "signature": "s",
    }  # fmt: skip
    task = {"name": "support", "kind": "choice", "role": "target", "items": 40, "fingerprint": "f", "metrics": []}
    return {
        "schema_version": 1, "created": "2025-01-01T00:00:00Z", "command": ["lorascope"], "seed": 0,
        "lorascope_version": "0", "tasks": [task], "measurements": [measurement],
        "provenance": {"libraries": {}, "device": "cpu", "dtype": "float32", "timings": {}},
        "checkpoints": [checkpoint("base", "h0"), checkpoint("lora[1]", content_hash)],
    }  # fmt: skip


def save(folder: Path, content: dict[str, Any], scores: list[float] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content))
    if scores is not None:
        rows = [
            {"subject": "lora[1]", "task": "support", "item_id": str(place), "accuracy_adapted": score}
            for place, score in enumerate(scores)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "samples.parquet")
    return folder / "result.json"


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    path = tmp_path / "gates.toml"
    path.write_text('version = 1\n[[gate]]\nmetric = "support.accuracy"\nmax_drop = 0.02\n')
    return path


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


PASSING, FAILING = (0.0, -0.01, 0.01), (-0.1, -0.15, -0.05)


@pytest.mark.parametrize(("delta", "code"), [(PASSING, 0), (FAILING, 1), ((0.0, -0.1, 0.1), 0)])
def test_exit_code_and_table(
    tmp_path: Path, gates: Path, console: Console, delta: tuple[float, float, float], code: int
) -> None:
    result = save(tmp_path / "run", document(*delta))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run_gate(result, gates, None, console).exit_code == code
    assert "lora[1]:support.accuracy" in shown(console)
    assert f"gates.toml: {'failed' if code else 'passed'}" in shown(console)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_outputs_are_written_on_demand(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*FAILING))
    files = GateFiles(
        json=tmp_path / "g.json", summary=tmp_path / "g.md", junit=tmp_path / "g.xml", openmetrics=tmp_path / "g.txt"
    )
    done = run_gate(result, gates, None, console, files=files)
    assert "| FAIL | yes |" in (tmp_path / "g.md").read_text()
    assert fromstring((tmp_path / "g.xml").read_text())[0].get("failures") == "1"
    assert json.loads((tmp_path / "g.json").read_text())["exit_code"] == 1
    assert (tmp_path / "g.txt").read_text().endswith("# EOF\n")
    assert done.annotations.startswith(f"::error file={gates},line=2,title=FAIL lora[1]%3Asupport.accuracy::")
    run_gate(result, gates, None, console, files=GateFiles(summary=tmp_path / "none" / "yet" / "g.md"))
    assert "| FAIL | yes |" in (tmp_path / "none" / "yet" / "g.md").read_text()


def test_githubs_own_summary_is_appended_to(
    tmp_path: Path, gates: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, summary = save(tmp_path / "run", document(*FAILING)), tmp_path / "summary.md"
    summary.write_text("what an earlier command said\n")
    run_gate(result, gates, None, console, files=GateFiles(summary=summary))
    assert "earlier" not in summary.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run_gate(result, gates, None, console, files=GateFiles(summary=summary))
    assert summary.read_text().count("### gates.toml: failed") == 2


OLD = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0] * 4
NEW = [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0] * 4


def test_baseline_of_the_policy_lies_beside_it(tmp_path: Path, gates: Path, console: Console) -> None:
    gates.write_text('baseline = "old/result.json"\n' + gates.read_text())
    content = document(*FAILING)
    content["measurements"][0]["adapted"]["value"] = 0.8
    result = save(tmp_path / "run", content, NEW)
    save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    assert run_gate(result, gates, None, console).exit_code == 0
    assert "against the baseline's lora[1]" in shown(console)
    assert "+0.1" in shown(console)


def test_named_baseline_goes_first(tmp_path: Path, gates: Path, console: Console) -> None:
    gates.write_text('baseline = "nowhere.json"\n' + gates.read_text())
    content = document(*PASSING)
    content["measurements"][0]["adapted"]["value"] = 0.8
    result = save(tmp_path / "run", content, NEW)
    old = save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    with pytest.raises(DataError, match="baseline does not exist"):
        run_gate(result, gates, None, console)
    assert run_gate(result, gates, old, console).exit_code == 0


def test_baselines_that_cannot_be_compared(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*PASSING), OLD)
    with pytest.raises(EvaluationError, match="schema version 2") as caught:
        run_gate(result, gates, save(tmp_path / "a", document(*PASSING) | {"schema_version": 2}), console)
    assert caught.value.exit_code == 3
    bare = run_gate(result, gates, save(tmp_path / "b", document(*PASSING)), console)
    assert (bare.exit_code, [row.outcome for row in bare.report.rows]) == (3, ["INVALID"])
    assert "samples.parquet" in bare.report.rows[0].evidence
    beside = tmp_path / "run" / "baseline.json"
    beside.write_text(json.dumps(document(*PASSING)))
    with pytest.raises(EvaluationError, match=r"share one samples\.parquet"):
        run_gate(result, gates, beside, console)
    other = document(*PASSING)
    other["tasks"][0]["fingerprint"] = "g"
    done = run_gate(result, gates, save(tmp_path / "c", other, OLD), console)
    assert (done.exit_code, [row.outcome for row in done.report.rows]) == (3, ["INVALID"])
    assert "fingerprint g there, f here" in done.report.rows[0].evidence
    damaged = save(tmp_path / "d", document(*PASSING), OLD)
    (tmp_path / "d" / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="samples cannot be read"):
        run_gate(result, gates, damaged, console)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[: len(text) // 2], "not a whole JSON document"),
        (lambda text: "[]", "the document"),
        (lambda text: text.replace('"seed": 0', '"seed": "x"'), "seed"),
        (lambda text: text.replace('"value": 0.0', '"value": NaN'), "measurements.0.delta.value"),
        (lambda text: text.replace('"role": "adapted"', '"role": "base"'), "one base"),
    ],
)
def test_unreadable_results(tmp_path: Path, gates: Path, console: Console, change: Any, says: str) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    result.write_text(change(result.read_text()))
    with pytest.raises(DataError, match=says) as caught:
        run_gate(result, gates, None, console)
    assert caught.value.exit_code == 2


def test_other_schema_versions_cannot_be_judged(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*PASSING) | {"schema_version": 9})
    with pytest.raises(EvaluationError, match="schema version 9"):
        run_gate(result, gates, None, console)


def test_wrong_policies_name_file_and_line(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    gates.write_text(gates.read_text().replace("max_drop", "max_fall"))
    with pytest.raises(ConfigError) as caught:
        run_gate(result, gates, None, console)
    assert caught.value.where == f"{gates}, line 4"
    assert "line 4: unknown key 'max_fall'" in caught.value.problem
    with pytest.raises(ConfigError, match="cannot be read"):
        run_gate(result, tmp_path / "none.toml", None, console)


def test_a_policy_is_explained_with_and_without_a_result(tmp_path: Path, gates: Path, console: Console) -> None:
    explain_policy(gates, console)
    assert "max_drop" in shown(console)
    explain_policy(gates, console, result_path=save(tmp_path / "run", document(*PASSING)))
    assert "lora[1]:support.accuracy" in shown(console)
    with pytest.raises(UsageError, match="baseline alone"):
        explain_policy(gates, console, baseline_path=gates)


def test_a_calibration_is_printed_and_written(tmp_path: Path, gates: Path, console: Console) -> None:
    content = document(*PASSING)
    content["measurements"][0]["adapted"]["value"] = 0.7
    result = save(tmp_path / "run", content, OLD)
    samples = pyarrow.parquet.read_table(result.parent / "samples.parquet")
    samples = samples.append_column("accuracy_base", pyarrow.array(NEW))
    pyarrow.parquet.write_table(samples, result.parent / "samples.parquet")
    out = tmp_path / "rates.json"
    calibrate_policy(result, console, gates_path=gates, resamples=100, seed=0, json_path=out)
    assert json.loads(out.read_text())["policy"] == "gates.toml"
    assert "lora[1]:support.accuracy" in shown(console)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["json", "summary", "junit", "openmetrics"])
@pytest.mark.parametrize("taken", ["run/result.json", "run/samples.parquet", "gates.toml", "old/result.json"])
@pytest.mark.parametrize("named", [True, False])
def test_no_output_replaces_an_input(
    tmp_path: Path, gates: Path, console: Console, option: str, taken: str, named: bool
) -> None:
    result = save(tmp_path / "run", document(*PASSING), NEW)
    old = save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    gates.write_text(("" if named else 'baseline = "old/result.json"\n') + gates.read_text())
    (tmp_path / "link").symlink_to(tmp_path / "run")
    before = contents(tmp_path)
    for path in (tmp_path / taken, tmp_path / "old" / ".." / taken, tmp_path / "link" / ".." / taken):
        with pytest.raises(UsageError, match=f"--{option} would replace the"):
            run_gate(result, gates, old if named else None, console, files=GateFiles(**{option: path}))
    assert contents(tmp_path) == before
    assert shown(console) == ""


def test_no_output_replaces_another(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    files = GateFiles(json=tmp_path / "x", junit=tmp_path / "run" / ".." / "x")
    with pytest.raises(UsageError, match="--junit would replace what --json writes"):
        run_gate(result, gates, None, console, files=files)
    assert not (tmp_path / "x").exists()


def test_a_calibration_replaces_no_input(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*PASSING), OLD)
    before = contents(tmp_path)
    for path in (result, result.parent / "samples.parquet", gates):
        with pytest.raises(UsageError, match="--json would replace the"):
            calibrate_policy(result, console, gates_path=gates, resamples=100, seed=0, json_path=path)
    assert contents(tmp_path) == before


def test_all_outputs_are_attempted_and_the_outcome_is_said(tmp_path: Path, gates: Path, console: Console) -> None:
    result = save(tmp_path / "run", document(*FAILING))
    (tmp_path / "file").write_text("")
    files = GateFiles(json=tmp_path / "file" / "g.json", summary=tmp_path / "run", junit=tmp_path / "g.xml")
    told: list[str] = []
    with pytest.raises(OutputError) as caught:
        run_gate(result, gates, None, console, files=files, annotate=told.append)
    assert "--json" in caught.value.problem
    assert "--summary" in caught.value.problem
    assert "gates.toml: failed (1 FAIL blocks), exit code 1" in caught.value.problem
    assert "--out" not in str(caught.value)
    assert 'failures="1"' in (tmp_path / "g.xml").read_text()
    assert told[0].startswith("::error ")


@pytest.mark.parametrize("broken", ["policy", "result", "baseline"])
def test_no_outcome_of_an_earlier_run_stays_when_one_ends_by_an_error(
    tmp_path: Path, gates: Path, console: Console, broken: str
) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    files = GateFiles(json=tmp_path / "j", summary=tmp_path / "s", junit=tmp_path / "x", openmetrics=tmp_path / "o")
    run_gate(result, gates, None, console, files=files)
    assert all(path.exists() for _, path in files)
    {"policy": gates, "result": result}.get(broken, gates).write_text("?")
    if broken == "baseline":
        gates.write_text('version = 1\nbaseline = "none.json"\n[[gate]]\nmetric = "a.b"\nmin = 0\n')
    with pytest.raises((ConfigError, DataError)):
        run_gate(result, gates, None, console, files=files)
    assert [path for _, path in files if path.exists()] == [files.summary]
    (line,) = filter(None, (tmp_path / "s").read_text().splitlines())
    assert line.startswith("### lorascope gate could not judge: ")
    gates.write_text('version = 1\n[[gate]]\nmetric = "support.accuracy"\nmin = 0.1\n')
    run_gate(save(tmp_path / "run", document(*PASSING)), gates, None, console, files=files)
    assert "could not judge" not in (tmp_path / "s").read_text()


def test_what_no_gate_wrote_and_githubs_summary_are_not_removed(
    tmp_path: Path, gates: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, summary = tmp_path / "notes.json", tmp_path / "summary.md"
    notes.write_text("{}")
    summary.write_text("### an earlier command\n")
    gates.write_text("### no policy")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    before = contents(tmp_path)
    with pytest.raises((ConfigError, DataError)):
        run_gate(tmp_path / "none.json", gates, None, console, files=GateFiles(json=notes, summary=summary))
    with pytest.raises(UsageError):
        run_gate(tmp_path / "none.json", gates, None, console, files=GateFiles(summary=gates))
    told = summary.read_text().removeprefix("### an earlier command\n")
    assert told.startswith("### lorascope gate could not judge: ")
    assert told.count("\n") == 2
    assert contents(tmp_path) | {summary: before[summary]} == before


@pytest.mark.parametrize("broken", ["policy", "result", "baseline", "meaning"])
def test_what_cannot_be_judged_is_annotated(tmp_path: Path, gates: Path, console: Console, broken: str) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    baseline = tmp_path / "none.json" if broken == "baseline" else None
    if broken == "policy":
        gates.write_text("version = 1\n[gate]\n")
    elif broken == "result":
        result = tmp_path / "none" / "result.json"
    elif broken == "meaning":
        gates.write_text('version = 1\n[[gate]]\nmetric = "support.kl_to_base"\nmax_drop = 0.1\n')
        content = document(*PASSING)
        content["measurements"][0] |= {"metric": "kl_to_base", "direction": "none"}
        result = save(tmp_path / "run", content)
    told: list[str] = []
    with pytest.raises((ConfigError, DataError)) as caught:
        run_gate(result, gates, baseline, console, annotate=told.append)
    (line,) = told
    assert line.startswith("::error title=lorascope gate::")
    assert line.count("\n") == 1
    if broken in ("policy", "meaning"):
        assert str(caught.value.where).startswith(f"{gates}, line ")
        assert f"({gates}, line " in line
    with pytest.raises((ConfigError, DataError)):
        run_gate(result, gates, baseline, console)


def test_a_broken_policy_does_not_cost_the_file_that_the_summary_would_replace(
    tmp_path: Path, gates: Path, console: Console
) -> None:
    gates.write_text("?")
    old = tmp_path / "old.json"
    old.write_text("{}")
    with pytest.raises(ConfigError):
        run_gate(tmp_path / "r.json", gates, None, console, files=GateFiles(summary=old))
    assert old.read_text() == "{}"


def test_a_misspelt_command_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["gate", "bles", "X"]) == 2
    assert "did you mean bless?" in capsys.readouterr().err
    (tmp_path / "bles").write_text("{}")
    assert command(["gate", "bles", "--gates", "none.toml"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_the_help_of_explain_names_every_key_of_a_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["gate", "explain", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in Gate.model_fields)


def test_a_calibration_takes_the_baseline_of_the_policy(tmp_path: Path, gates: Path, console: Console) -> None:
    gates.write_text('baseline = "old/result.json"\n' + gates.read_text())
    content = document(*PASSING)
    content["measurements"][0]["adapted"]["value"] = 0.8
    result = save(tmp_path / "run", content, NEW)
    with pytest.raises(DataError, match="baseline does not exist"):
        calibrate_policy(result, console, gates_path=gates, resamples=100, seed=0)
    old = save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    calibrate_policy(result, console, gates_path=gates, resamples=100, seed=0)
    assert shown(console).startswith("Resampled: this result's items, against the adapted checkpoint in the baseline")
    assert "no change" in shown(console)
    with pytest.raises(UsageError, match="would replace the baseline"):
        calibrate_policy(result, console, gates_path=gates, resamples=100, seed=0, json_path=old)


def test_names_and_evidence_command_nothing(tmp_path: Path, gates: Path, console: Console) -> None:
    content = document(*FAILING)
    name = "lo\n::stop-commands::x\x1b]0;title\x07"
    content["checkpoints"][1]["name"] = content["measurements"][0]["subject"] = name
    content["missing"] = []
    result = save(tmp_path / "run", content)
    run_gate(result, gates, None, console)
    explain_policy(gates, console, result_path=result)
    assert "FAIL" in shown(console)
    assert not any(character in shown(console) for character in "\x1b\x07")
    assert "::" not in shown(console)


def test_an_explained_result_fits_a_narrow_terminal(tmp_path: Path, gates: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    explain_policy(gates, console, result_path=save(tmp_path / "run", document(*PASSING)))
    lines = shown(console).splitlines()
    titles = next(number for number, line in enumerate(lines) if "True drop" in line)
    assert lines[titles - 1].strip() == "lora[1]:support.accuracy"
    assert "INCONCLUSIVE  Items for 80 % PASS" in lines[titles]
    assert all(line.split()[0] == "40" for line in lines[titles + 1 : lines.index("", titles)])


def test_a_baseline_is_read_before_the_work_begins(tmp_path: Path, gates: Path) -> None:
    assert prove_policy(None).path is None
    assert prove_policy(gates).path is None
    gates.write_text('baseline = "old/result.json"\n' + gates.read_text())
    with pytest.raises(DataError, match="does not exist"):
        prove_policy(gates)
    old = save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    proved = prove_policy(gates)
    proved.check_tasks(["other", "support"])
    proved.check_tasks([])
    with pytest.raises(InvalidComparison, match="another suite") as caught:
        proved.check_tasks(["other"])
    assert str(old) in str(caught.value)
    proved.check_folder(tmp_path / "new")
    with pytest.raises(UsageError, match="baseline"):
        proved.check_folder(tmp_path / "old")
    old.write_text("[]")
    with pytest.raises(DataError, match="the baseline"):
        prove_policy(gates)


def test_the_command_alone_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["gate"]) == 2
    assert "Usage" in capsys.readouterr().out


def test_options_may_stand_before_the_command(
    tmp_path: Path, gates: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = save(tmp_path / "run", document(*PASSING))
    assert command(["gate", "--debug", "explain", str(gates)]) == 0
    assert "support.accuracy: max_drop" in capsys.readouterr().out
    assert command(["gate", "--gates", str(gates), "--quiet", str(result)]) == 0
    monkeypatch.chdir(tmp_path)
    assert command(["gate", "--result", "run/result.json", "explain", "gates.toml"]) == 0
    (tmp_path / "bless").write_bytes(result.read_bytes())
    assert command(["gate", "--gates", "gates.toml", "./bless"]) == 0
    assert command(["gate", "--gates", "gates.toml", "--", "bless"]) == 0


def test_work_does_not_begin_without_the_baseline(tmp_path: Path, gates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gates.write_text('baseline = "none.json"\n' + gates.read_text())
    for work in (
        lambda: compare(CompareOptions(base="no base", adapted=("none",), gates=gates)),
        lambda: import_runs(ImportOptions(tool="files", base="no base", adapted=("none",), gates=gates)),
        lambda: compare_served(ServedOptions(base="a", adapted=("b",), asking=AskingOptions(), gates=gates)),
    ):
        with pytest.raises(DataError, match="the baseline does not exist"):
            work()


def test_a_baseline_of_another_suite_is_said_before_anything_is_written(
    tmp_path: Path, gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gates.write_text('baseline = "old/result.json"\n' + gates.read_text())
    save(tmp_path / "old", document(*PASSING, "h2"), OLD)
    for name in ("before", "after"):
        rows = [{"id": str(n), "prompt": f"p{n}", "prediction": "a", "reference": "a"} for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ImportOptions(tool="files", base="before.jsonl", adapted=("after.jsonl",), out=tmp_path / "out")
    with pytest.raises(InvalidComparison, match="another suite"):
        import_runs(replace(options, gates=gates))
    assert not (tmp_path / "out").exists()
    import_runs(options)
    assert (tmp_path / "out" / "result.json").exists()


def test_a_limit_that_nothing_can_break_is_refused_before_any_result_is_read(
    tmp_path: Path, gates: Path, console: Console
) -> None:
    gates.write_text(gates.read_text().replace("max_drop = 0.02", "max_drop = 2"))
    with pytest.raises(ConfigError, match="can never be exceeded") as caught:
        explain_policy(gates, console)
    assert "line 2" in str(caught.value.where)
    with pytest.raises(ConfigError, match="can never be exceeded"):
        run_gate(tmp_path / "none.json", gates, None, console)
