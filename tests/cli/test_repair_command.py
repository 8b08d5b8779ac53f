"""``lorascope repair`` by hand: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lorascope.cli.main import run
from lorascope.workflows import repair_scan


@pytest.fixture(scope="session")
def strong(llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA large enough for intruder dimensions."""
    folder = tmp_path_factory.mktemp("strong") / "lora"
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=64, target_modules=["q_proj", "o_proj"])
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(llama.base), config)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.2
    wrapped.save_pretrained(folder)
    return folder


def test_intruders_are_scaled_and_the_result_is_told(llama, strong: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(["repair", str(llama.base), str(strong), "--intruders", "0.5", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "4 intruder dimensions in 4 of 4 modules × 0.5" in shown
    assert f"Written: {out} (adapter)" in shown
    record = json.loads((out / "lorascope_repair.json").read_text())
    assert record["command"][0] == "lorascope"
    assert {row["rank_after"] for row in record["modules"]} == {3}


def test_a_rotation_whose_repair_lengthens_the_change_is_told(llama, tmp_path: Path, capsys) -> None:
    """A full fine-tune that turns the first direction of one matrix: its intruder is nearly all the base's."""
    model = AutoModelForCausalLM.from_pretrained(llama.base)
    weight = model.model.layers[0].self_attn.q_proj.weight
    left, values, right = torch.linalg.svd(weight.detach(), full_matrices=False)
    weight.data += 9 * values[0] * torch.outer(left[:, 0], right[0])
    for name in ("base", "full"):
        model.save_pretrained(tmp_path / name)
        turned = (left[:, 0] + left[:, 1]) / 2**0.5
        weight.data += 10 * values[0] * torch.outer(turned - left[:, 0], right[0])
    given = ["repair", str(tmp_path / "base"), str(tmp_path / "full"), "--k", "1", "--epsilon", "0.99"]
    assert run([*given, "--intruders", "0", "--out", str(tmp_path / "a")]) == 0
    assert "ΔW grew in 1 of 1 scaled modules: these intruders are rotations" in capsys.readouterr().out
    assert run([*given[:3], "--strength", "1.5", "--out", str(tmp_path / "b")]) == 0
    assert "grew" not in capsys.readouterr().out


def test_all_digits_of_a_strength_are_told(llama, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run(["repair", str(llama.base), str(llama.lora), "--strength", "0.123456789", "--out", str(out)]) == 0
    assert "× 0.123456789;" in capsys.readouterr().out
    assert "multiplied by 0.123456789." in (out / "README.md").read_text()


def test_truncation_says_what_is_lost(llama, strong: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--intruders", "0", "--which", "all", "--truncate", "--out", str(tmp_path / "out")]
    assert run(["repair", str(llama.base), str(strong), *arguments]) == 0
    assert "Truncated to the adapter's ranks" in capsys.readouterr().out


def test_the_record_is_printed_as_json_and_nothing_when_quiet(llama, tmp_path: Path, capsys) -> None:
    given = ["repair", str(llama.base), str(llama.lora), "--strength", "0.5", "--quiet"]
    assert run([*given, "--out", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == ""
    assert run([*given, "--json", "--out", str(tmp_path / "b")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["option"] == "strength"
    assert record["totals"]["frobenius_after"] == pytest.approx(record["totals"]["frobenius_before"] / 2)


def test_a_repaired_checkpoint_can_be_analysed(llama, strong: Path, tmp_path: Path) -> None:
    repaired = tmp_path / "repaired"
    assert run(["repair", str(llama.base), str(strong), "--intruders", "0", "--quiet", "--out", str(repaired)]) == 0
    out = tmp_path / "weights"
    assert run(["weights", str(llama.base), str(strong), str(repaired), "--quiet", "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    counts = {
        found["subject"]: found["adapted"]["value"]
        for found in result["measurements"]
        if found["metric"] == "intruder_count"
    }
    assert counts["repaired"] < counts["lora"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of"),
        (["--scan", "--strength", "0.5"], "exactly one of"),
        (["--strength", "0.5"], "--out names the folder"),
        (["--strength", "0.5", "--limit", "3", "--out", "x"], "--limit goes with --scan"),
        (["--intruders", "0.5", "--probe", "en", "--out", "x"], "--probe goes with --scan"),
        (["--scan", "--truncate"], "--truncate goes with"),
        (["--scan", "--lambdas", "0.5;0.7"], "numbers with commas"),
        (["--intruders", "1.5"], "1.5"),
        (["--strength", "nan", "--out", "x"], "nan"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], message: str, llama, capsys) -> None:
    assert run(["repair", str(llama.base), str(llama.lora), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_an_existing_folder_is_refused_without_overwrite(llama, tmp_path: Path, capsys) -> None:
    given = ["repair", str(llama.base), str(llama.lora), "--quiet", "--out", str(tmp_path / "out")]
    assert run([*given, "--strength", "0.5"]) == 0
    assert run([*given, "--strength", "0.6"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*given, "--strength", "0.6", "--overwrite"]) == 0
    assert run(["repair", str(llama.base), str(llama.lora), "--strength", "1", "--out", str(llama.lora)]) == 2


def test_nothing_to_scale_is_no_success(llama, tmp_path: Path, capsys) -> None:
    given = ["repair", str(llama.base), str(llama.lora), "--intruders", "0.5", "--epsilon", "0.001"]
    assert run([*given, "--out", str(tmp_path / "out")]) == 3
    assert "no matrix has an intruder dimension" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_scan_gets_its_options(llama, questions: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []

    def scan(options, watch) -> Path:
        asked.append(options)
        return tmp_path / "result.json"

    (tmp_path / "result.json").write_text("{}")
    monkeypatch.setattr(repair_scan, "scan", scan)
    given = ["--scan", "--data", str(questions), "--strengths", "0,0.5,1", "--limit", "4", "--seed", "7", "--json"]
    more = ["--probe", "en", "--k", "5", "--batch-size", "2", "--out", str(tmp_path / "out")]
    assert run(["repair", str(llama.base), str(llama.lora), *given, *more]) == 0
    [options] = asked
    assert options.strengths == (0.0, 0.5, 1.0)
    assert options.lambdas == repair_scan.LAMBDAS
    assert dict(options.questions.data) == {"": str(questions)}
    assert (options.questions.limit, options.questions.seed, options.questions.probe) == (4, 7, ("en",))
    assert (options.k, options.batch_size, options.out) == (5, 2, tmp_path / "out")


def test_a_scan_shows_its_verdict_and_report(llama, strong: Path, questions: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    asked = ["--data", str(questions), "--probe", "none", "--strengths", "0,1", "--lambdas", "0.5", "--limit", "2"]
    assert run(["repair", str(llama.base), str(strong), "--scan", *asked, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Forgetting was not measured" in shown
    assert "top intruder × 0.5" in shown
    assert json.loads((out / "result.json").read_text())["repair"]["subject"] == "lora"
    assert (out / "report.html").is_file()
