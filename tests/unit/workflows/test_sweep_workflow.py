"""Whole sweeps on tiny models: a trainer that only adds noise, and the real comparison and report."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lorascope.errors import ConfigError, EvaluationError, OutputError, UsageError
from lorascope.schema.recipe import Recipe
from lorascope.training.cost import TrainingCost
from lorascope.workflows.publish import load_result
from lorascope.workflows.sweep import SweepOptions, list_sweep, sweep


@dataclass(frozen=True)
class Outcome:
    folder: Path
    metrics: dict[str, float]
    cost: TrainingCost
    reused: bool


@dataclass
class Noise:
    """A trainer that copies a checkpoint and disturbs it, by rank and seed; ``broken`` are names that fail."""

    family: Any
    broken: tuple[str, ...] = ()
    error: Exception = field(
        default_factory=lambda: EvaluationError("training came apart: loss is nan", where="step 3")
    )
    trained: list[str] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)

    def __call__(self, recipe: Recipe, *, root: Path, overwrite: bool = False, watch: Any = None) -> Outcome:
        folder, rate = Path(recipe.out), recipe.optim.learning_rate
        reused = (folder / "cost.json").is_file()
        if not reused:
            if any(folder.name.startswith(name) for name in self.broken):
                raise self.error
            self.trained.append(folder.name)
            self._write(folder, recipe)
        self.recipes.append(recipe)
        cost = TrainingCost(**json.loads((folder / "cost.json").read_text()))
        loss = abs(rate - 3e-4) + 0.1
        return Outcome(folder, {"eval_validation_loss": loss, "eval_validation_f1_micro": 1 - loss}, cost, reused)

    def _write(self, folder: Path, recipe: Recipe) -> None:
        full = recipe.method.name == "full"
        source, name = (self.family.full, "model") if full else (self.family.lora, "adapter_model")
        shutil.copytree(source, folder)
        path = folder / f"{name}.safetensors"
        torch.manual_seed(recipe.seed + 10 * recipe.method.rank)
        tensors = {key: value + 0.3 * torch.randn_like(value) for key, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        history = [{"loss": 1.0 / step, "step": step} for step in (1, 2, 3)]
        history += [{"eval_loss": 1.2 / step, "step": step} for step in (1, 2, 3)]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history, "max_steps": 3}))
        cost = {
            "method": recipe.method.name, "trainable_parameters": 5000 if full else 10 * recipe.method.rank,
            "total_parameters": 5000, "steps": 3, "tokens": 30, "train_seconds": 2.0 + recipe.seed,
            "tokens_per_second": 15.0, "peak_memory_bytes": None, "memory_kind": None, "energy_joules": None,
            "devices": 1,
        }  # fmt: skip
        (folder / "cost.json").write_text(json.dumps(cost))


@pytest.fixture
def written(tmp_path: Path, bert: Any, topics: Path) -> Any:
    """``written(**keys)`` writes a sweep file over a recipe of topics."""

    def write(**keys: Any) -> Path:
        recipe = {
            "version": 1,
            "out": "sweep",
            "base": str(bert.base),
            "task": {"kind": "labels", "train": topics.name, "validation": topics.name},
            "compare": {"probe": []},
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(recipe | keys))
        return path

    return write


def test_two_seeds_of_two_ranks_make_one_report(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2, 4]}, seeds=[0, 1])
    train = Noise(bert)
    outcome = sweep(SweepOptions(path=path), train=train)
    assert train.trained == ["r2-s0", "r2-s1", "r4-s0", "r4-s1"]
    assert outcome.result is not None
    comparison = load_result(outcome.result)
    report = comparison.sweep
    assert report is not None
    assert [subject.name for subject in comparison.subjects] == train.trained
    assert report.learning == "learning:task:f1_micro"
    assert report.gap == "gap:task:f1_micro_gap"
    by_name = {point.name: point for point in report.points}
    value = by_name["r2"].values[report.learning]
    singles = [
        found.adapted.value
        for found in comparison.measurements
        if found.task == "task" and found.metric == "f1_micro" and found.area == "task" and found.slice is None
        if found.reference == "base" and found.subject in ("r2-s0", "r2-s1") and found.adapted
    ]
    assert value.mean == pytest.approx(sum(singles) / 2)
    assert [each.value for each in value.values] == singles
    assert value.low is not None
    assert by_name["r4"].values["cost:trainable_parameters"].mean == 40
    # The base has no head: pairs are those with the reference alone.
    pairs = {(found.subject, found.reference) for found in comparison.measurements if found.task == "task"}
    assert {reference for _, reference in pairs} == {"base", "r2-s0"}
    assert {each.basis for each in report.differences if each.measure == report.learning} == {"seeds"}
    assert all(each.n == 2 for each in report.differences if each.measure == report.learning)
    assert [finding.id for finding in comparison.findings if finding.id == "sweep"]
    page = outcome.result.with_name("report.html").read_text(encoding="utf-8")
    assert 'id="sweep"' in page
    assert "f1_micro against rank" in page


def test_what_is_finished_is_not_made_again_and_more_seeds_are_added(written: Any, bert: Any) -> None:
    first = Noise(bert)
    path = written(grid={"method.rank": [2, 4]})
    sweep(SweepOptions(path=path, runs_only=True), train=first)
    assert first.trained == ["r2-s0", "r4-s0"]
    again = Noise(bert)
    outcome = sweep(SweepOptions(path=written(grid={"method.rank": [2, 4]}, seeds=[0, 1]), runs_only=True), train=again)
    assert again.trained == ["r2-s1", "r4-s1"]
    assert outcome.result is None
    assert all(len(point.runs) == 2 for point in outcome.report.points)
    assert outcome.report.advice.outcome == "nothing"


@pytest.mark.parametrize(
    "error", [EvaluationError("loss is nan"), RuntimeError("CUDA out of memory. Tried"), MemoryError()]
)
def test_a_failed_run_is_a_row_with_its_reason_and_tried_again(written: Any, bert: Any, error: Exception) -> None:
    path = written(grid={"method.rank": [2, 4]})
    outcome = sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert, broken=("r2",), error=error))
    [failed] = outcome.report.failed
    assert failed.name == "r2"
    assert failed.failed in ("loss is nan", "out of memory")
    assert failed.subject is None
    assert [point.values == {} for point in outcome.report.points] == [True, False]
    mended = Noise(bert)
    assert sweep(SweepOptions(path=path, runs_only=True), train=mended).report.failed == []
    assert mended.trained == ["r2-s0"]


def test_the_failed_run_is_missing_in_the_result(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2, 4]}, compare={"probe": [], "weights": False})
    outcome = sweep(SweepOptions(path=path), train=Noise(bert, broken=("r2",)))
    assert outcome.result is not None
    comparison = load_result(outcome.result)
    assert [found.reason for found in comparison.missing if found.area == "sweep"] == [
        "the run r2 has no values: training came apart: loss is nan; step 3"
    ]
    assert [subject.name for subject in comparison.subjects] == ["r4"]
    assert comparison.sweep is not None
    assert comparison.sweep.advice.outcome == "alone"


def test_a_bug_a_full_disk_and_nothing_but_failures_stop_the_sweep(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2, 4]})
    for error in (RuntimeError("shapes cannot be multiplied"), OutputError("the disk is full")):
        with pytest.raises(type(error)):
            sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert, broken=("r",), error=error))
    with pytest.raises(EvaluationError, match="no run of the sweep was finished: training came apart"):
        sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert, broken=("r",)))


def test_the_folder_belongs_to_one_sweep(written: Any, bert: Any, tmp_path: Path) -> None:
    path = written(grid={"method.rank": [2]})
    sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert))
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text())
    with pytest.raises(OutputError, match="belongs to another sweep"):
        sweep(SweepOptions(path=other, runs_only=True), train=Noise(bert))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("all of it")
    with pytest.raises(OutputError, match="holds no sweep"):
        sweep(SweepOptions(path=path, out=strange, runs_only=True), train=Noise(bert))


def test_only_and_the_dry_run(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2, 4]}, seeds=[0, 1])
    assert list_sweep(SweepOptions(path=path)).seconds is None
    train = Noise(bert)
    outcome = sweep(SweepOptions(path=path, only=("r4-s1",), runs_only=True), train=train)
    assert train.trained == ["r4-s1"]
    assert {run.failed for point in outcome.report.points for run in point.runs} == {None, "not run yet"}
    listing = list_sweep(SweepOptions(path=path))
    assert [(run.name, run.finished) for run in listing.runs] == [
        ("r2-s0", False), ("r2-s1", False), ("r4-s0", False), ("r4-s1", True)
    ]  # fmt: skip
    assert listing.to_do == 3
    assert listing.seconds == pytest.approx(9.0)
    with pytest.raises(UsageError, match="neither a point nor a run") as caught:
        sweep(SweepOptions(path=path, only=("r4-s2",)), train=train)
    assert "did you mean 'r4-s" in str(caught.value)


def test_the_first_stage_chooses_for_each_method_and_its_best_trial_is_the_run(written: Any, bert: Any) -> None:
    values = {"full": [1e-4, 2e-4], "lora": [1e-4, 3e-4, 1e-3]}
    path = written(
        grid={"method.name": ["full", "lora"], "method.rank": [2, 4]}, seeds=[0, 1], choose={"values": values}
    )
    train = Noise(bert)
    outcome = sweep(SweepOptions(path=path, runs_only=True), train=train)
    report = outcome.report
    assert {choice.group: choice.chosen for choice in report.choices} == {"full": 2e-4, "lora": 3e-4}
    assert {choice.group: choice.edge for choice in report.choices} == {"full": False, "lora": False}
    assert train.trained == [
        "full-lr1e-4-s0", "full-lr2e-4-s0", "r2-lr1e-4-s0", "r2-lr3e-4-s0", "r2-lr1e-3-s0",
        "full-lr2e-4-s1", "r2-lr3e-4-s1", "r4-lr3e-4-s0", "r4-lr3e-4-s1",
    ]  # fmt: skip
    assert [run.name for point in report.points for run in point.runs if point.name == "r2"] == ["r2-s0", "r2-s1"]
    assert {point.name: point.chosen["optim.learning_rate"] for point in report.points}["r4"] == 3e-4
    again = Noise(bert)
    alone = sweep(SweepOptions(path=path, only=("r4",), runs_only=True), train=again)
    assert again.trained == []
    assert alone.report.failed == []


def test_a_best_value_at_an_end_is_said_and_an_unknown_metric_named(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2]}, choose={"values": [1e-5, 1e-4, 2e-4], "by": "f1_micro"})
    outcome = sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert))
    [choice] = outcome.report.choices
    assert choice.chosen == 2e-4
    assert choice.edge
    path = written(out="second", grid={"method.rank": [2]}, choose={"values": [1e-5, 1e-4], "by": "f1_mirco"})
    with pytest.raises(ConfigError, match="does not report"):
        sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert))


def test_a_group_whose_every_trial_fails_has_no_runs(written: Any, bert: Any) -> None:
    path = written(grid={"method.name": ["full", "lora"], "method.rank": [2]}, choose={"values": [1e-4, 3e-4]})
    outcome = sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert, broken=("full",)))
    failed = {run.name: run.failed for run in outcome.report.failed}
    assert failed == {"full": "every value that was tried failed in the first stage"}


def test_a_sequence_goes_on_from_merged_models_and_fills_the_matrix(
    written: Any, bert: Any, topics: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.jsonl"
    second.write_text(topics.read_text().replace("quick", "lazy"))
    path = written(
        grid={"method.rank": [2]},
        sequence={"first": {}, "next": {"task.train": second.name, "task.validation": second.name}},
    )
    train = Noise(bert)
    outcome = sweep(SweepOptions(path=path), train=train)
    assert train.trained == ["r2-s0-1-first", "r2-s0-2-next"]
    merged = outcome.out / "runs" / "r2-s0-1-first-merged"
    assert train.recipes[1].base == str(merged.absolute())
    config = json.loads((merged / "config.json").read_text())
    assert list(config["id2label"].values()) == ["art", "music", "sport"]
    [matrix] = outcome.report.matrices
    assert matrix.stages == matrix.tasks == ["first", "next"]
    assert all(value is not None for row in matrix.values for value in row)
    [[own, _], [after, _]] = matrix.values
    assert own is not None
    assert after is not None
    assert matrix.backward_transfer == pytest.approx(after - own)
    assert all(count is not None for count in matrix.intruders)
    assert outcome.report.points[0].values["cost:train_seconds"].mean == 4.0
    assert sweep(SweepOptions(path=path), train=Noise(bert)).report.matrices == outcome.report.matrices


def test_a_stage_after_a_failed_one_is_not_run(written: Any, bert: Any) -> None:
    path = written(grid={"method.rank": [2, 4]}, sequence={"first": {}, "next": {"optim.epochs": 1}})
    outcome = sweep(SweepOptions(path=path, runs_only=True), train=Noise(bert, broken=("r2-s0-1",)))
    reasons = {run.name: run.failed for run in outcome.report.failed}
    assert list(reasons) == ["r2-1-first", "r2-2-next"]
    assert "was not finished" in str(reasons["r2-2-next"])
