from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.data.logs import Curve, TrainingLog
from lorascope.data.recipes import LOCK_NAME, Lock, load_recipe, resolved_recipe, write_lock
from lorascope.errors import OutputError, UsageError
from lorascope.schema.comparison import CheckpointInfo, Comparison, Finding, ParameterCounts, Provenance
from lorascope.schema.recipe import Recipe
from lorascope.workflows import findings_recipe
from lorascope.workflows.curve_forgetting import forgetting_findings
from lorascope.workflows.findings_advice import Advice, Case, Change, advise
from lorascope.workflows.findings_recipe import NextRecipe, write_next_recipe

THREEFOLD = "Raise the learning rate threefold: nothing moves."
MIX = "Mix 1-5 % general data into training, lower the learning rate, or scale the adapter down."


def finding(kind: str, severity: str = "warning", area: str = "curves", advice: str = "Do it.", **more: Any) -> Finding:
    plain = {"id": f"{kind}:val1:lora", "severity": severity, "area": area, "subject": "lora", "title": f"lora: {kind}"}
    return Finding.model_validate({**plain, "evidence": ["number 1.5", "number 2.5"], "advice": advice, **more})


def recipe(kind: str = "generate", **blocks: Any) -> Recipe:
    task = {"kind": kind, "train": "t.jsonl", "validation": {"val1": "a.jsonl", "val2": "b.jsonl"}}
    if "task" in blocks:
        task |= blocks.pop("task")
    return Recipe.model_validate({"version": 1, "base": "b", "out": "runs/lora", "task": task, **blocks})


def asked(kind: str | Recipe, *findings: Finding, architecture: str = "LlamaForCausalLM") -> dict[str, Any]:
    return {changes[0].key: changes[0].value for changes in told(kind, *findings, architecture=architecture).changes}


def told(kind: str | Recipe, *findings: Finding, architecture: str = "LlamaForCausalLM") -> Advice:
    made = recipe(kind) if isinstance(kind, str) else kind
    return advise(Case(resolved_recipe(made, Path("/")), findings, architecture))


FULL = {"method": {"name": "full"}}
DROPPED = {"structured_dropout": {"preset": "hiddenkey-minus", "rate": 0.1}}


@pytest.mark.parametrize(
    ("made", "found", "keys"),
    [
        (recipe(), finding("divergence", "critical"), {"optim.learning_rate": 3.3e-5}),
        (recipe(), finding("learning_rate_high"), {"optim.learning_rate": 3.3e-5}),
        (recipe(), finding("learning_rate_low", advice=THREEFOLD), {"optim.learning_rate": 3e-4}),
        (recipe(), finding("standstill", advice=THREEFOLD), {"optim.learning_rate": 3e-4}),
        (recipe(), finding("standstill", "info", advice="Train fewer steps."), {}),
        (recipe(), finding("no_fall", advice=THREEFOLD), {"optim.learning_rate": 3e-4}),
        (recipe(), finding("no_fall", advice="Check that validation has the format."), {}),
        (recipe("labels"), finding("base_rate"), {"optim.head_learning_rate": 1e-3}),
        (
            recipe("labels", optim={"head_learning_rate": 1e-4}),
            finding("base_rate"),
            {"optim.head_learning_rate": 1e-3},
        ),
        (recipe(), finding("base_rate"), {}),
        (recipe(), finding("spikes"), {"optim.clip": 0.3}),
        (recipe(optim={"clip": None}), finding("spikes"), {"optim.clip": 0.3}),
        (recipe(optim={"clip": 0.1}), finding("spikes"), {}),
        (recipe(), finding("spikes", "info"), {}),
        (recipe(), finding("warm_up"), {"optim.warmup": 0.2}),
        (recipe(optim={"warmup": 0}), finding("warm_up"), {"optim.warmup": 0.1}),
        (recipe(optim={"warmup": 30}), finding("warm_up"), {"optim.warmup": 60}),
        (recipe(), finding("fluctuation"), {"optim.accumulate": 2}),
        (recipe(), finding("still_falling", "info"), {"optim.epochs": 7.5}),
        (recipe(optim={"max_steps": 300}), finding("still_falling", "info"), {"optim.max_steps": 450}),
        (recipe(), finding("gap", area="gap"), {"structured_dropout": {"preset": "hiddenkey-minus", "rate": 0.1}}),
        (recipe(**FULL), finding("gap", "info"), {"model_dropout": 0.2}),
        (recipe(hardware={"attention": "eager"}), finding("gap"), {"method.dropout": 0.2}),
        (
            recipe(**DROPPED),
            finding("gap"),
            {"structured_dropout.attention.rate": 0.2, "structured_dropout.hidden.rate": 0.2},
        ),
        (recipe(), finding("forgetting", area="forgetting", advice=MIX), {"replay": {"ratio": 0.05}}),
        (recipe(), finding("forgetting", area="forgetting", advice="Give more items of this task."), {}),
        (recipe(replay={"ratio": 0.01}), finding("forgetting", advice=MIX), {"replay.ratio": 0.05}),
        (recipe(replay={"ratio": 0.05}), finding("forgetting", advice=MIX), {"optim.learning_rate": 3.3e-5}),
        (recipe("labels"), finding("forgetting", advice=MIX), {"optim.learning_rate": 3.3e-5}),
        (
            recipe(**FULL),
            finding("forgetting", advice=MIX),
            {"replay": {"ratio": 0.05}, "optim.learning_rate": 3.3e-5},
        ),
        (recipe(), finding("learning", area="task", advice="Train longer, raise the rank."), {"optim.epochs": 10}),
        (recipe(), finding("learning", "critical", area="task", advice="Look at the broken answers first."), {}),
        (
            recipe("labels"),
            finding("labels:never", advice="Thresholds do not bring them back: weight rare labels in the loss."),
            {"loss.pos_weight": "balanced"},
        ),
        (recipe("labels"), finding("labels:never", advice="Tune thresholds on validation items."), {}),
        (recipe(), finding("intruders", "info", area="weights", advice="It is disputed; test it."), {}),
        (recipe(), finding("staircase"), {}),
        (recipe(), finding("plateau", "info"), {}),
    ],
)
def test_what_a_finding_asks_for(made: Recipe, found: Finding, keys: dict[str, Any]) -> None:
    assert asked(made, found) == keys


def test_over_fitting_keeps_the_best_of_its_set() -> None:
    early = {"rule": "patience", "patience": 3}
    wanted = {"evaluation.keep": "best", "evaluation.set": "val1", "optim.early_stopping": early}
    assert asked("generate", finding("overfit")) == wanted
    by_metric = finding("overfit", "info", advice="Choose by f1_micro: keep the checkpoint of step 40.")
    wanted = {"evaluation.keep": "best", "evaluation.set": "val1", "evaluation.metric": "f1_micro"}
    assert asked("labels", by_metric) == wanted
    assert asked(recipe(task={"validation": {}}), finding("overfit")) == {}


def test_models_with_their_own_attention_get_plain_dropout() -> None:
    assert asked("labels", finding("gap"), architecture="DebertaV2Model") == {"method.dropout": 0.2}


def test_a_collapse_is_told_apart_by_the_curves() -> None:
    collapse = finding("labels:collapse", "critical", area="task")
    assert asked("labels", collapse) == {}
    assert told("labels", collapse).left == (collapse,)
    assert asked("labels", collapse, finding("base_rate")) == {"optim.head_learning_rate": 1e-3}
    assert asked("labels", collapse, finding("divergence", "critical")) == {"optim.learning_rate": 3.3e-5}


def test_opposite_advice_is_not_applied() -> None:
    found = told("generate", finding("learning_rate_low", advice=THREEFOLD), finding("learning_rate_high"))
    assert found.changes == ()
    (said,) = found.contradictions
    assert "learning_rate_low:val1:lora asks for 0.0003" in said
    assert "learning_rate_high:val1:lora asks for 3.3e-05" in said


def test_forgetting_outweighs_what_would_deepen_it() -> None:
    lost = finding("forgetting", "critical", area="forgetting", advice=MIX, id="forgetting:facts:lora")
    low, longer = finding("learning_rate_low", advice=THREEFOLD), finding("still_falling", "info")
    found = told("generate", low, longer, lost)
    assert {asked[0].key: asked[0].value for asked in found.changes} == {"replay": {"ratio": 0.05}}
    rate, epochs = found.contradictions
    assert rate.startswith("optim.learning_rate: learning_rate_low:val1:lora (lora: learning_rate_low) asks for 0.0003")
    assert rate.endswith("forgetting:facts:lora says (lora: forgetting)")
    assert epochs.startswith("optim.epochs: still_falling:val1:lora (lora: still_falling) asks for 7.5")
    # With replay there already, the rate falls: what asked for a higher one does not stop it.
    assert asked(recipe(replay={"ratio": 0.05}), low, lost) == {"optim.learning_rate": 3.3e-5}
    steps = told(recipe(optim={"max_steps": 300}), longer, lost)
    assert [text.split(":")[0] for text in steps.contradictions] == ["optim.max_steps"]


def test_forgetting_during_training_is_heeded_as_well() -> None:
    curves = Curve((0, 100), (0.75, 0.5))
    none = Curve((), ())
    log = TrainingLog(Path("log"), none, {}, none, none, none, {"eval": {"probe_en_accuracy": curves}})
    (lost,) = forgetting_findings("lora", log)
    low = finding("learning_rate_low", id="learning_rate_low:train:lora", advice=THREEFOLD)
    assert asked("generate", low, lost) == {"replay": {"ratio": 0.05}}
    assert asked("labels", low, lost) == {"optim.learning_rate": 3.3e-5}


def test_a_mild_finding_on_forgetting_stops_nothing() -> None:
    mild = finding("forgetting", "info", area="forgetting", advice="Give more items of this task.")
    assert asked("generate", finding("learning_rate_low", advice=THREEFOLD), mild) == {"optim.learning_rate": 3e-4}


def test_longer_training_is_not_asked_of_a_run_that_over_fits() -> None:
    found = told("generate", finding("overfit"), finding("still_falling", "info"))
    assert {changes[0].key for changes in found.changes} >= {"evaluation.keep"}
    assert len(found.contradictions) == 1
    assert found.contradictions[0].startswith("optim.epochs: ")


def test_the_same_advice_twice_is_one_change_with_two_reasons() -> None:
    first, second = finding("learning_rate_high"), finding("divergence", "critical")
    (changes,) = told("generate", first, second).changes
    assert [change.finding for change in changes] == [second, first]


def test_severe_findings_that_ask_for_something_else_are_left() -> None:
    other = finding("no-op", "critical", area="task", advice="The adapter may not be active.")
    assert told("generate", other, finding("leak", "info")).left == (other,)


def result(folder: Path, *findings: Finding, subjects: tuple[str, ...] = ("lora",)) -> Path:
    def checkpoint(name: str, role: str) -> CheckpointInfo:
        return CheckpointInfo.model_validate({
            "name": name, "path": str(folder / "runs" / name), "role": role, "kind": "model", "dtype": "float32",
            "architecture": "LlamaForCausalLM", "content_hash": "0", "parameters": ParameterCounts(total=1),
            "generation_ready": True,
        })  # fmt: skip

    made = Comparison(
        created="2026-01-01T00:00:00Z",
        command=["lorascope"],
        seed=0,
        lorascope_version="0",
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
        checkpoints=[checkpoint("base", "base"), *(checkpoint(name, "adapted") for name in subjects)],
        findings=list(findings),
    )
    path = folder / "result.json"
    path.write_text(made.model_dump_json(), encoding="utf-8")
    return path


def with_lock(folder: Path, made: Recipe) -> Path:
    run = folder / "runs" / "lora"
    run.mkdir(parents=True)
    (run / LOCK_NAME).write_text(write_lock(resolved_recipe(made, folder), Lock(base="ab")), encoding="utf-8")
    return run


def write(folder: Path, *findings: Finding, **options: Any) -> NextRecipe:
    return write_next_recipe(result(folder, *findings), write=folder / "next.yaml", **options)


def test_the_recipe_is_written_with_its_reasons(tmp_path: Path) -> None:
    run = with_lock(tmp_path, recipe(method={"rank": 8}, optim={"learning_rate": 3e-4}))
    forgetting = finding("forgetting", area="forgetting", advice=MIX, title="lora forgot general knowledge (probe-en)")
    made = write(tmp_path, finding("divergence", "critical"), forgetting, finding("gap", subject="other"))
    assert made.path == tmp_path / "next.yaml"
    text = made.path.read_text(encoding="utf-8")
    loaded = load_recipe(made.path)
    assert loaded.recipe == made.recipe
    assert loaded.lock is None
    assert loaded.recipe.out == f"{run}-advised"
    assert loaded.recipe.optim.learning_rate == 1e-4
    assert loaded.recipe.replay is not None
    assert loaded.recipe.replay.ratio == 0.05
    assert loaded.recipe.structured_dropout is None
    assert loaded.recipe.method.rank == 8
    lines = text.splitlines()
    place = next(index for index, line in enumerate(lines) if line.strip().startswith("learning_rate:"))
    assert "Was: 0.0003." in lines[place - 2]
    assert "divergence:val1:lora: lora: divergence. number 1.5. number 2.5." in lines[place - 1]
    assert lines[place].startswith("  learning_rate: 0.0001")
    assert all(len(line) <= 120 for line in lines)
    place = lines.index("replay:")
    assert "forgot general knowledge" in lines[place - 1]
    assert f"The recipe {run / LOCK_NAME}" in " ".join(lines[:3])


def test_a_value_that_is_the_default_is_written_all_the_same(tmp_path: Path) -> None:
    with_lock(tmp_path, recipe(optim={"learning_rate": 3e-4, "accumulate": 2}))
    made = write(tmp_path, finding("divergence", "critical"))
    assert made.path is not None
    assert "  learning_rate: 0.0001\n" in made.path.read_text(encoding="utf-8")


def test_contradictions_stand_at_the_top(tmp_path: Path) -> None:
    with_lock(tmp_path, recipe())
    low = finding("learning_rate_low", advice=THREEFOLD)
    made = write(tmp_path, low, finding("learning_rate_high"), finding("warm_up"))
    assert made.path is not None
    text = made.path.read_text(encoding="utf-8")
    assert "# Not applied, optim.learning_rate: " in text
    assert made.recipe.optim.learning_rate == 1e-4
    assert made.recipe.optim.warmup == 0.2


def test_nothing_to_change_writes_nothing(tmp_path: Path) -> None:
    with_lock(tmp_path, recipe())
    made = write(tmp_path, finding("staircase", "info"))
    assert (made.path, made.applied) == (None, ())
    assert not (tmp_path / "next.yaml").exists()


def test_a_change_that_makes_no_recipe_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_lock(tmp_path, recipe())
    found = finding("base_rate")
    wrong = Change("optim.head_learning_rate", None, 1e-3, found)
    right = Change("optim.warmup", 0.1, 0.2, found)
    monkeypatch.setattr(findings_recipe, "advise", lambda case: Advice(((wrong,), (right,)), (), ()))
    made = write(tmp_path, found)
    assert [asked[0].key for asked in made.applied] == ["optim.warmup"]
    assert made.recipe.optim.head_learning_rate is None
    assert "belongs to tasks with a head" in made.passed_over[0]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    with_lock(tmp_path, recipe())
    (tmp_path / "next.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="such a file already"):
        write(tmp_path, finding("warm_up"))
    assert (tmp_path / "next.yaml").read_text(encoding="utf-8") == "mine"
    assert write(tmp_path, finding("warm_up"), overwrite=True).path is not None


def test_a_new_folder_each_time(tmp_path: Path) -> None:
    run = with_lock(tmp_path, recipe())
    run.with_name("lora-advised").mkdir()
    assert write(tmp_path, finding("warm_up")).recipe.out == f"{run}-advised-2"


def test_subjects(tmp_path: Path) -> None:
    with_lock(tmp_path, recipe())
    both = result(tmp_path, finding("warm_up"), subjects=("lora", "full"))
    with pytest.raises(UsageError, match="2 subjects: lora, full"):
        write_next_recipe(both, write=tmp_path / "n.yaml")
    with pytest.raises(UsageError, match="no subject 'x'"):
        write_next_recipe(both, subject="x", write=tmp_path / "n.yaml")
    assert write_next_recipe(both, subject="lora", write=tmp_path / "n.yaml").path is not None
    with pytest.raises(UsageError, match=LOCK_NAME) as caught:
        write_next_recipe(both, subject="full", write=tmp_path / "m.yaml")
    assert "--recipe" in (caught.value.remedy or "")


def test_a_recipe_that_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    own = folder / "own.yaml"
    own.write_text("version: 1\nbase: b\nout: run\ntask: {kind: generate, train: t.jsonl}\n", encoding="utf-8")
    made = write(tmp_path, finding("warm_up"), recipe=own)
    assert made.recipe.task.train == str(folder / "t.jsonl")
    assert made.recipe.out == str(folder / "run-advised")


def test_the_lock_of_a_run_is_found_from_its_checkpoint(tmp_path: Path) -> None:
    run = with_lock(tmp_path, recipe())
    path = result(tmp_path, finding("warm_up"))
    path.write_text(path.read_text(encoding="utf-8").replace(str(run), f"{run}/checkpoint-10"), encoding="utf-8")
    assert write_next_recipe(path, write=tmp_path / "next.yaml").source == run / LOCK_NAME


def test_an_id_without_a_set_keeps_the_best_of_all() -> None:
    wanted = {"evaluation.keep": "best", "optim.early_stopping": {"rule": "patience", "patience": 3}}
    assert asked("generate", finding("overfit", id="overfit")) == wanted


def test_comments_hold_no_control_characters() -> None:
    said = findings_recipe._comment("a\x1b[31m \x00b\x85c\x7f\udc80 \u2028 é 文", 100)
    assert said == ["# a[31m b c é 文"]
    assert yaml.safe_load("\n".join([*said, "key: 1"])) == {"key": 1}
