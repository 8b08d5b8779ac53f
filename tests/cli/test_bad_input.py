"""The table of bad input: what goes wrong ends in three parts, the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorascope.cli.main import run

Copy = Callable[..., Path]


def quiet(*arguments: object) -> int:
    return run([*(str(argument) for argument in arguments), "--quiet"])


def three_parts(text: str) -> bool:
    return "Error: " in text and "where: " in text and "what to do: " in text


def spoil_config(folder: Path, **change: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def spoil_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name, metadata={"format": "pt"})


def nan_in(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if key in name)
        tensors[name][0, 0] = float("nan")

    return change


def zero_all_b(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**40) + path.read_bytes()[8:])


ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"

CHECKPOINTS: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "empty folder": ("lora", lambda f: [child.unlink() for child in f.iterdir()], 2, "the folder is empty"),
    "truncated": ("lora", lambda f: truncate(f / ADAPTER), 2, ADAPTER),
    "absurd header": ("full", lambda f: huge_header(f / MODEL), 2, MODEL),
    "config without weights": ("full", lambda f: (f / MODEL).unlink(), 2, "no weights"),
    "config of another model": ("full", lambda f: spoil_config(f, hidden_size=64), 3, "hidden_size is 64"),
    "another architecture": ("full", lambda f: spoil_config(f, model_type="gpt2"), 3, "model_type is gpt2"),
    "quantised": ("full", lambda f: spoil_config(f, quantization_config={"quant_method": "gptq"}), 2, "gptq"),
    "rank that does not fit": (
        "lora",
        lambda f: (f / "adapter_config.json").write_text(
            (f / "adapter_config.json").read_text().replace('"r": 4', '"r": 8')
        ),
        3,
        "rank 8",
    ),
    "nothing learned": ("lora", lambda f: spoil_tensors(f, zero_all_b, ADAPTER), 3, "‖ΔW‖ = 0"),
    "NaN in the adapter": ("lora", lambda f: spoil_tensors(f, nan_in("lora_A"), ADAPTER), 3, "lora_A"),
    "NaN in the model": ("full", lambda f: spoil_tensors(f, nan_in("o_proj"), MODEL), 3, "o_proj"),
    "broken adapter config": ("lora", lambda f: (f / "adapter_config.json").write_text("{"), 2, "adapter_config.json"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_bad_checkpoints(case: str, llama, copied: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    which, spoil, code, said = CHECKPOINTS[case]
    folder = copied(getattr(llama, which), "spoilt")
    spoil(folder)
    out = tmp_path / "out"
    assert quiet("weights", llama.base, folder, "--out", out) == code
    message = capsys.readouterr().err
    assert three_parts(message), message
    assert said in message.replace("\n", " "), message
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "a", "reference": "b"}\n{"prompt": \n', "line 2"),
        (b"", "no items"),
        (b'{"prompt": "\xff\xfe", "reference": "b"}\n', "UTF-8"),
        (b'{"nothing": 1}\n', "line 1"),
        (b'{"text": "a", "labels": ["x"]}\n{"prompt": "a", "reference": "b"}\n', "line 2"),
    ],
    ids=["broken line", "zero items", "not UTF-8", "no known form", "forms mixed"],
)
def test_bad_data(content: bytes, said: str, llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "val.jsonl"
    data.write_bytes(content)
    out = tmp_path / "out"
    assert quiet("compare", llama.base, llama.lora, "--data", data, "--probe", "none", "--out", out) == 2
    message = capsys.readouterr().err
    assert "Error: " in message
    assert "what to do: " in message
    assert said in message, message
    assert not out.exists()


def test_labels_unknown_to_the_model(bert, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "val.jsonl"
    data.write_text('{"text": "the fox", "labels": ["astrology"]}\n' * 12)
    code = quiet("compare", bert.base, bert.full, "--data", data, "--probe", "none", "--out", tmp_path / "out")
    message = capsys.readouterr().err
    assert code == 2, message
    assert "astrology" in message
    assert not (tmp_path / "out" / "result.json").exists()


def test_label_names_that_nobody_knows(bert, topics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = quiet("compare", bert.base, bert.lora, "--data", topics, "--probe", "none", "--out", tmp_path / "out")
    message = capsys.readouterr().err
    assert code == 2, message
    assert "does not say what its labels are" in message


def test_adapter_of_another_architecture(llama, bert, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quiet("weights", bert.base, llama.lora, "--out", tmp_path / "out") == 3
    message = capsys.readouterr().err
    assert three_parts(message)
    assert "which the base BertModel has not" in message


def test_an_architecture_that_nobody_knows(
    llama, copied: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = copied(llama.base, "strange")
    spoil_config(base, model_type="strange", architectures=["StrangeForCausalLM"])
    assert quiet("weights", base, llama.lora, "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert three_parts(message)
    assert "StrangeForCausalLM" in message


def test_a_folder_with_two_checkpoints_names_them(
    llama, copied: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    for name in ("checkpoint-10", "checkpoint-20"):
        copied(llama.lora, f"run/{name}")
    assert quiet("weights", llama.base, run_folder, "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "checkpoint-10" in message
    assert "checkpoint-20" in message
    assert "--checkpoints" not in message  # they do not say their steps


def test_a_run_of_several_steps_offers_them_all_in_their_order(
    llama, copied: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    for step in (40, 120):
        folder = copied(llama.lora, f"run/checkpoint-{step}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert quiet("weights", llama.base, tmp_path / "run", "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "checkpoint-40 (adapter), checkpoint-120 (adapter); compare and weights take all of them with" in message
    assert "--checkpoints" in message
    assert quiet("weights", tmp_path / "run", llama.lora, "--out", tmp_path / "out") == 2
    assert "--checkpoints" not in capsys.readouterr().err  # a base is one
    assert quiet("weights", llama.base, tmp_path / "run" / "checkpoint-40", "--checkpoints") == 2
    assert f"drop --checkpoints, or give its parent ({tmp_path / 'run'})" in capsys.readouterr().err


def test_the_same_folder_as_base_and_adapted(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quiet("weights", llama.base, f"{llama.base}/", "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert three_parts(message)
    assert "the same checkpoint was given twice" in message


def test_another_commands_folder_is_refused_and_kept(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert quiet("weights", llama.base, llama.lora, "--out", out) == 0
    before = (out / "result.json").read_bytes()
    assert quiet("weights", llama.base, llama.full, "--out", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before
    assert quiet("weights", llama.base, llama.full, "--out", out, "--overwrite") == 0
    assert (out / "result.json").read_bytes() != before


def test_a_folder_of_somebody_elses_files_is_refused(llama, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert quiet("weights", llama.base, llama.lora, "--out", out) == 2
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("command", ["weights", "compare"])
def test_an_output_that_cannot_be_is_said_before_anything_is_read(
    command: str, llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert run([command, str(llama.base), str(llama.lora), "--out", str(out)]) == 2
        message = capsys.readouterr().err
        assert three_parts(message)
        assert "Opening" not in message
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_a_folder(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quiet("weights", llama.base, llama.lora, "--out", "/dev/full/out") == 2
    assert three_parts(capsys.readouterr().err)
    file = tmp_path / "file"
    file.write_text("")
    assert quiet("weights", llama.base, llama.lora, "--out", file) == 2
    assert file.read_text() == ""


def test_no_such_folder_and_no_such_hub_name(llama, capsys: pytest.CaptureFixture[str]) -> None:
    assert quiet("weights", llama.base, "./nowhere/at/all") == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("metrics: [rougel]", "did you mean rougeL"),
        ("metrics: []", "'metrics' is empty"),
        ("metrics: [bleu]\n  primary: rougeL", "'primary' names rougeL"),
        ("metrics: [f1_macro]", "f1_macro"),
        ("tune_on: x.jsonl", "tune_on"),
        ("metric: [bleu]", "metric"),
        ("max_new_tokens: 0", "max_new_tokens"),
    ],
)
def test_a_wrong_suite_is_said_before_any_model_runs(
    keys: str, said: str, llama, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"version: 1\ntasks:\n- name: a\n  kind: generate\n  data: {questions.name}\n  {keys}\n")
    (tmp_path / "x.jsonl").write_text(questions.read_text())
    code = quiet("compare", llama.base, llama.lora, "--suite", suite, "--probe", "none", "--out", tmp_path / "out")
    message = capsys.readouterr().err
    assert code == 2, message
    assert said in message
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_said_at_once(llama, tmp_path: Path) -> None:
    for device in ("cuda:7", "meta", "toaster"):
        if device.startswith("cuda") and torch.cuda.is_available():
            continue
        assert quiet("compare", llama.base, llama.lora, "--device", device, "--out", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_half_a_character_is_named_by_its_line(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "val.jsonl"
    data.write_text('{"prompt": "a", "reference": "b"}\n{"prompt": "\\ud83d", "reference": "b"}\n')
    assert quiet("compare", llama.base, llama.lora, "--data", data, "--probe", "none", "--out", tmp_path / "out") == 2
    assert "line 2" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_failed_gate(llama, tmp_path: Path) -> None:
    assert quiet("weights", llama.base, llama.lora, "--out", tmp_path / "out") == 0
    program = f"{sys.executable} -c 'from lorascope.cli.main import entry; entry()'"
    result = tmp_path / "out" / "result.json"
    done = subprocess.run(
        ["bash", "-c", f"{program} report {result} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False
    )
    assert done.returncode != 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["weights", "a", "b", "--data", "x"], "No such option '--data'. It belongs to compare and repair."),
        (["gate", "--lang=zh"], "No such option '--lang'. It belongs to report."),
        (["weights", "a", "b", "--exat"], "Did you mean one of: '--exact'"),
        (["weights", "a", "b", "--epsilon", "0,3"], "write 0.3, with a point"),
        (["compare", "a", "b", "--fraction", ",5"], "write .5, with a point"),
        (["weights", "a", "b", "--epsilon", "0,3,0"], "'0,3,0' is not a valid float"),
        (["weights", "a", "b", "--epsilon", "1.5"], "1.5 is not in the range"),
        (["weights", "a", "b", "--sequence"], "--sequence needs two ADAPTED"),
        (["compare", "a", "b", "--sequence"], "--sequence needs two ADAPTED"),
        (["weights", "a", "b", "--out", ""], "the path is empty"),
        (["compare", "a", "b", "--out", " "], "the path is empty"),
        (["weights", "a", "b", "--cache-dir", ""], "the path is empty"),
        (["report", "a", "--out", ""], "the path is empty"),
        (["demo", "--out", ""], "the path is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_told_what_to_mend(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "a", "b"], "Run the same command again: it resumes where it stopped."),
        (["weights", "a", "b"], "Run the same command again: it resumes where it stopped."),
        (["repair", "a", "b", "--scan"], "Run the same command again: it resumes where it stopped."),
        (["demo"], "Run the same command again: it resumes where it stopped."),
        (["demo", "--overwrite"], "Run the same command again without --overwrite: it resumes where it stopped."),
        (["repair", "a", "b", "--strength", "0.5", "--out", "c"], ""),
        (["report", "a"], ""),
    ],
    ids=" ".join,
)
def test_an_interruption_promises_what_the_command_keeps(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.Command.invoke", stopped)
    assert run(arguments) == 130
    assert capsys.readouterr().err.strip() == f"Interrupted. {said}".strip()


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--data", "nope.jsonl"], "--data nope.jsonl"),
        (["--data", "VALID", "--train-data", "no.csv"], "--train-data no.csv"),
    ],
    ids=["data", "training data"],
)
def test_a_missing_data_file_is_looked_for_where_it_was_named(
    options: list[str], place: str, llama, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(questions) if option == "VALID" else option for option in options]
    assert quiet("compare", llama.base, llama.lora, *given, "--probe", "none", "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert place in message
    assert "relative to the current folder" in message
    assert not (tmp_path / "out").exists()


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "onlybase"]) == 2
    assert run(["compare", "a", "b", "--nonsense"]) == 2
    assert run(["nonsense"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_reference_is_named(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = quiet("compare", llama.base, llama.lora, "--probe", "none", "--reference", "fulll", "--out", tmp_path / "o")
    assert code == 2
    assert "fulll" in capsys.readouterr().err


def test_a_bug_is_called_one_and_leaves_its_traceback(
    llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("lorascope.workflows.compare._prepare", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert quiet("weights", llama.base, llama.lora) == 70
    assert "Traceback" not in capsys.readouterr().err
    [report] = tmp_path.glob("lorascope-*.txt")
    assert "planted" in report.read_text()


def test_result_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    assert run(["report", str(result)]) == 2
    result.write_text('{"schema_version": 1')
    assert run(["report", str(result)]) == 2
    result.write_text('{"schema_version": 99}')
    assert run(["report", str(result)]) == 3
    assert "99" in capsys.readouterr().err
    for other in ('{"format": 1, "strength": 0.5, "modules": []}', "[1]", "3"):
        result.write_text(other)
        assert run(["report", str(result)]) == 2
        message = capsys.readouterr().err
        assert "this is no lorascope result" in message
        assert "Field required" not in message
    assert run(["report", str(tmp_path)]) == 2
    assert f"{result}" in capsys.readouterr().err


def test_a_damaged_result_names_the_place(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert quiet("weights", llama.base, llama.lora, "--out", out) == 0
    document = json.loads((out / "result.json").read_text())
    document["checkpoints"][1]["role"] = "friend"
    (out / "result.json").write_text(json.dumps(document))
    assert run(["report", str(out / "result.json")]) == 2
    message = capsys.readouterr().err
    assert "the result is damaged" in message
    assert "checkpoints.1.role" in message


def test_interrupted_in_the_middle_then_resumed(llama, tmp_path: Path) -> None:
    """A real SIGINT to a real process: exit 130, no half-written file, and the same command finishes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for attempt in range(3):
        out = tmp_path / f"out{attempt}"
        command = [sys.executable, "-c", "from lorascope.cli.main import entry; entry()", "compare", str(llama.base),
                   str(llama.lora), "--probe", "en", "--out", str(out), "--batch-size", "1", "--no-cache"]  # fmt: skip
        code, message = _interrupted(command, environment, out)
        # On a busy machine the run may be over before the signal is there: then nothing was interrupted.
        if code != 0:
            break
    assert code == 130, message
    assert not (out / "result.json").exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    given = _answered(out)
    assert given > 0
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resuming" in done.stderr
    assert "what is finished is kept" in done.stderr
    assert (out / "report.html").exists()


def _interrupted(command: list[str], environment: dict[str, str], out: Path) -> tuple[int, str]:
    """Exit code and messages of a command that gets SIGINT once it has written its first answers."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _answered(out) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    return process.returncode, message


def _answered(out: Path) -> int:
    import sqlite3

    if not (out / "answers.sqlite").is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{out / 'answers.sqlite'}?mode=ro", uri=True, timeout=1) as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
