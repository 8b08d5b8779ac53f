"""``lorascope train`` by hand: a real run, what it prints, what it refuses, and recipes from findings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.cli.main import run
from lorascope.data.suites import load_suite
from lorascope.data.tasks import load_task
from lorascope.schema.comparison import CheckpointInfo, Comparison, Finding, ParameterCounts, Provenance

QUESTIONS = [{"prompt": f"What is {place} plus 1?", "reference": str(place + 1)} for place in range(8)]


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write(folder: Path, base: Path, **more: Any) -> Path:
    lines(folder / "train.jsonl", QUESTIONS[:6])
    lines(folder / "a.jsonl", QUESTIONS[6:])
    lines(folder / "b.jsonl", QUESTIONS[:2])
    recipe = {
        "version": 1,
        "base": str(base),
        "out": "runs/lora",
        "task": {"kind": "generate", "train": "train.jsonl", "validation": {"val1": "a.jsonl", "val2": "b.jsonl"}},
        "method": {"rank": 2},
        "optim": {"max_steps": 4, "learning_rate": 1e-3},
        "evaluation": {"every": 2, "log_every": 1, "kl_to_base": 0},
        "hardware": {"device": "cpu", "threads": 1},
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert run(["train", str(write(folder, llama.base)), "--quiet"]) == 0
    return folder


def test_a_finished_run_is_told_again_and_leads_on(trained: Path, llama, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(trained / "recipe.yaml")]) == 0
    shown = capsys.readouterr().out
    out = trained / "runs" / "lora"
    assert f"The run was there already, whole: {out}" in shown
    assert "parameters trained" in shown.replace("\n", " ")
    assert "tokens a second" in shown
    assert "val1" in shown
    assert "val2" in shown
    assert "validation 'val2'" in shown  # its items are training items
    suite, _ = load_suite(out / "suite.yaml")
    assert suite.tasks[0].data == {"val1": str(trained / "a.jsonl"), "val2": str(trained / "b.jsonl")}
    assert suite.tasks[0].train_data == str(trained / "train.jsonl")
    command = ["lorascope", "compare", str(llama.base), str(out), "--suite", str(out / "suite.yaml")]
    assert f"Go on with: {shlex.join(command)}" in shown


def test_json(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(trained / "recipe.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == str(trained / "runs" / "lora")
    assert found["reused"] is True
    assert 0 < found["trainable_parameters"] < found["total_parameters"]
    assert {(one["split"], one["name"]) for one in found["validation"]} >= {("val1", "loss"), ("val2", "loss")}
    loss = next(one for one in found["validation"] if one["name"] == "loss")
    assert loss["best"] <= loss["last"]
    assert found["compare"].startswith("lorascope compare ")


def test_the_suite_it_leads_to_asks_what_was_trained(trained: Path) -> None:
    assert run(["train", str(trained / "recipe.yaml"), "--quiet"]) == 0
    place = trained / "runs" / "lora" / "suite.yaml"
    suite, _ = load_suite(place)
    task = load_task(suite.tasks[0], root=place.parent)
    assert {item.split for item in task.items} == {"val1", "val2"}
    assert (len(task.items), len(task.train_items)) == (4, 6)


def test_the_lock_of_a_run_is_a_recipe_that_names_the_same_run(trained: Path, capsys) -> None:
    lock = trained / "runs" / "lora" / "recipe.lock.yaml"
    assert run(["train", str(lock), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True


def test_settings_and_out(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", str(trained / "recipe.yaml"), "--set", "optim.max_steps=1", "--set", "evaluation.every=1"]
    assert run([*given, "--out", str(tmp_path / "one"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["reused"], found["cost"]["steps"]) == (str(tmp_path / "one"), False, 1)


def test_another_run_in_the_folder_is_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(trained / "recipe.yaml"), "--set", "seed=7", "--quiet"]) == 2
    assert "overwrit" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [None, "1"])
def test_a_dry_run_trains_nothing(
    rank: str | None, llama, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    path = write(tmp_path, llama.base)
    assert run(["train", str(path), "--dry-run", "--set", "optim.epochs=2"]) == 0
    shown = capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    if rank is not None:
        assert shown == ""
        return
    plain = yaml.safe_load(shown)
    assert plain["optim"]["epochs"] == 2
    assert plain["method"]["alpha"] == 4
    assert plain["task"]["train"] == str(tmp_path / "train.jsonl")
    assert "# training items: 6" in shown
    assert "# validation 'val1': 2" in shown
    assert "dry run" in shown


def test_a_dry_run_as_json(llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(write(tmp_path, llama.base)), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sizes"]["training items"] == 6
    assert found["recipe"]["version"] == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--set", "optim.warmup_ratio=0.1"], "optim.warmup"),
        (["--set", "method.rnak=4"], "did you mean 'rank'?"),
        (["--set", "method"], "key=value"),
        (["--set", "task.train=none.jsonl"], "none.jsonl"),
        (["--set", "optim.learning_rate=fast"], "--set optim.learning_rate=fast"),
        (["--subject", "lora"], "--subject goes with --from-findings"),
        (["--write", "x.yaml"], "--write goes with --from-findings"),
    ],
)
def test_what_is_refused_before_training(
    given: list[str], told: str, llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(write(tmp_path, llama.base)), *given]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", [[], ["no-such.yaml"], ["--set", "a=1"]])
def test_usage(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *given]) == 2
    assert capsys.readouterr().err


def result(folder: Path, run_folder: Path, *findings: Finding) -> Path:
    def checkpoint(name: str, role: str) -> CheckpointInfo:
        return CheckpointInfo.model_validate({
            "name": name, "path": str(run_folder), "role": role, "kind": "model", "dtype": "float32",
            "architecture": "LlamaForCausalLM", "content_hash": "0", "parameters": ParameterCounts(total=1),
            "generation_ready": True,
        })  # fmt: skip

    made = Comparison(
        created="2026-01-01T00:00:00Z",
        command=["lorascope"],
        seed=0,
        lorascope_version="0",
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
        checkpoints=[checkpoint("base", "base"), checkpoint("lora", "adapted")],
        findings=list(findings),
    )
    path = folder / "result.json"
    path.write_text(made.model_dump_json(), encoding="utf-8")
    return path


WARM_UP = Finding(
    id="warm_up:train:lora", severity="warning", area="curves", subject="lora", title="The warm-up is too short",
    evidence=["the loss rises from 1 to 2"], advice="Double the warm-up.",
)  # fmt: skip


def test_a_recipe_from_findings(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = result(tmp_path, trained / "runs" / "lora", WARM_UP), tmp_path / "next.yaml"
    given = ["train", "--from-findings", str(path), "--write", str(target)]
    assert run(given) == 0
    shown = capsys.readouterr().out
    assert "optim.warmup: 0.1 → 0.2   (warm_up:train:lora)" in shown
    assert f"Go on with: lorascope train {target}" in shown
    assert run(["train", str(target), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["optim"]["warmup"] == 0.2
    assert run(given) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*given, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["key"] == "optim.warmup"


def test_findings_that_ask_for_nothing(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = result(tmp_path, trained / "runs" / "lora"), tmp_path / "next.yaml"
    assert run(["train", "--from-findings", str(path), "--write", str(target)]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not target.exists()
    assert run(["train", "--from-findings", str(path), "--dry-run"]) == 2
    assert "--dry-run goes with a RECIPE" in " ".join(capsys.readouterr().err.split())
