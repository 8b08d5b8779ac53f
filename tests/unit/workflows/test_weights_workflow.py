"""The weight analysis over whole checkpoints: streaming, cache, resume, runs and sequences."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorascope import CompareOptions, compare, load_result
from lorascope.errors import EvaluationError, InvalidComparison, UsageError
from lorascope.schema.comparison import Comparison, IntruderReport, IntruderVector, ModuleWeights, Series
from lorascope.weights.analysis import summarise
from lorascope.weights.bases import BaseMatrix
from lorascope.workflows import base_cache
from lorascope.workflows.base_cache import BaseCache
from lorascope.workflows.run_steps import RunStep, checkpoints_of, run_step
from lorascope.workflows.weight_modules import ModuleOutcome, ahead
from lorascope.workflows.weight_series import weight_series
from lorascope.workflows.weights import WeightOptions, _journalled


def look(llama, out: Path, *, adapted: tuple[str, ...] | None = None, **options) -> Comparison:
    settings = CompareOptions(
        base=str(llama.base),
        adapted=adapted or (str(llama.lora), str(llama.full)),
        behaviour=False,
        out=out,
        analysis=WeightOptions(**options),
    )
    return load_result(compare(settings))


def curve(comparison: Comparison, name: str, subject: str | None = None) -> Series:
    (found,) = [s for s in comparison.series if s.name == name and subject in (None, s.subject)]
    return found


def test_every_module_has_intruders_null_levels_and_curves(llama, tmp_path):
    comparison = look(llama, tmp_path / "out", k=4, epsilons=(0.5, 0.3))
    for subject in ("lora", "full"):
        report = comparison.weights[subject]
        assert all(module.null_count is not None for module in report.modules)
        assert {module.shrink_count for module in report.modules} <= {0, None}
        assert report.totals["null_intruder_count"] == sum(module.null_count for module in report.modules)
        assert report.totals["intruder_count"] == (report.totals["intruder_new"] + report.totals["intruder_rotations"])
        by_epsilon = curve(comparison, "epsilon_curve", subject)
        assert by_epsilon.y == sorted(by_epsilon.y)
        assert by_epsilon.y[by_epsilon.x.index(0.5)] == report.totals["intruder_count"]
        by_k = curve(comparison, "k_curve", subject)
        assert (by_k.x, by_k.y[-1]) == ([1.0, 2.0, 3.0, 4.0], report.totals["intruder_count"])
        assert curve(comparison, "null_epsilon_curve", subject).x == by_epsilon.x
    shared = curve(comparison, "subspace_similarity:full", "lora")
    assert all(0.0 <= value <= 1.0 for value in shared.y)
    assert len(curve(comparison, "subspace_random:full", "lora").y) == len(shared.y)
    full = comparison.weights["full"].modules[0]
    assert full.exact_zero_fraction is not None
    assert full.rank_90 <= full.rank_95 <= full.rank_99


def test_exact_and_certified_counts_are_equal_on_a_checkpoint(llama, tmp_path):
    one, other = look(llama, tmp_path / "a", exact=True, null=False), look(llama, tmp_path / "b", null=False)
    for subject in ("lora", "full"):
        for mine, theirs in zip(one.weights[subject].modules, other.weights[subject].modules, strict=True):
            assert mine.intruders.count == theirs.intruders.count
            assert mine.null_count is None


def test_the_left_side_alone(llama, tmp_path):
    comparison = look(llama, tmp_path / "out", sides=("left",))
    assert all(module.intruders.right is None for module in comparison.weights["lora"].modules)
    assert comparison.weights["lora"].totals["intruder_count_right"] is None
    assert not [s for s in comparison.series if s.name == "epsilon_curve:right"]


def test_a_killed_run_goes_on_where_it_stopped(llama, tmp_path, monkeypatch):
    whole = look(llama, tmp_path / "whole")
    calls = {"n": 0}
    from lorascope.workflows import weights

    real = weights.analyse_users

    def dies(*args):
        calls["n"] += 1
        if calls["n"] == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(weights, "analyse_users", dies)
    with pytest.raises(KeyboardInterrupt):
        look(llama, tmp_path / "out")
    journal = tmp_path / "out" / "modules.jsonl"
    assert len(journal.read_text().splitlines()) == 3
    # The kill came in the middle of a line.
    journal.write_text(journal.read_text() + '{"module": "half')
    calls["n"] = 100
    resumed = look(llama, tmp_path / "out")
    modules = len(whole.weights["full"].modules)
    assert calls["n"] == 100 + modules - 3
    assert len(journal.read_text().splitlines()) == modules
    assert resumed.weights == whole.weights
    assert [s for s in resumed.series if s.name != "x"] == whole.series


def test_reading_runs_one_ahead_and_errors_arrive_in_order():
    begun: list[int] = []
    gate = threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if number == 1:
            gate.set()
        if number == 3:
            raise OSError("unreadable")
        return number

    stream = ahead((lambda n=n: call(n)) for n in range(5))
    assert next(stream) == 0
    assert gate.wait(5)
    assert begun == [0, 1]
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="unreadable"):
        next(stream)
    assert list(ahead([])) == []


# The cache of bases


def test_what_is_found_of_a_base_is_kept_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(base_cache, "_WORTHWHILE", 100)
    cache = BaseCache(tmp_path / "cache")
    weight = torch.randn(160, 120, generator=torch.Generator().manual_seed(0))
    base = cache.recall(weight)
    found = base.leading
    cache.keep(base, exact=False)
    (file,) = (tmp_path / "cache").iterdir()
    again = cache.recall(weight.clone())
    assert torch.equal(again.leading.left, found.left)
    assert not cache.recall(weight + 1e-6).known
    assert "exact.left" not in load_file(file)
    _ = again.factor
    cache.keep(again, exact=False)
    assert set(load_file(file)) >= {"factor", "leading.left"}
    stamp = file.stat().st_mtime_ns
    cache.keep(cache.recall(weight), exact=False)
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(b"damaged")
    assert not cache.recall(weight).known
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [file.name]


def test_small_matrices_and_no_folder_keep_nothing(tmp_path):
    for cache in (BaseCache(None), BaseCache(tmp_path / "cache")):
        base = BaseMatrix(torch.eye(64))
        _ = base.leading
        cache.keep(base, exact=True)
    assert not (tmp_path / "cache").exists()


# Checkpoints of a run, stages of a sequence


@pytest.fixture
def run_folder(llama, tmp_path) -> Path:
    """Two checkpoints of one run, the second twice as strong, named so that their names sort the wrong way."""
    for step, alpha in ((9, 4), (20, 40)):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        shutil.copytree(llama.lora, folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    return tmp_path / "run"


def test_growth_follows_the_steps_that_the_checkpoints_say(llama, run_folder, tmp_path):
    given = tuple(checkpoints_of(str(run_folder)))
    assert [Path(path).name for path in given] == ["checkpoint-9", "checkpoint-20"]
    comparison = look(llama, tmp_path / "out", adapted=given[::-1])
    growth = curve(comparison, "growth", "run")
    totals = {name: report.totals for name, report in comparison.weights.items()}
    assert growth.x == [9.0, 20.0]
    assert growth.y == [totals[name]["intruder_count"] for name in ("checkpoint-9", "checkpoint-20")]
    assert growth.y[0] < growth.y[1]
    change = curve(comparison, "growth:relative_change")
    assert change.y[1] == pytest.approx(10 * change.y[0], rel=1e-4)


def test_births_are_counted_in_the_order_of_the_steps(llama, run_folder, tmp_path):
    forward = look(llama, tmp_path / "a", adapted=tuple(checkpoints_of(str(run_folder))))
    backward = look(llama, tmp_path / "b", adapted=tuple(checkpoints_of(str(run_folder))[::-1]))
    births = curve(forward, "growth:births")
    assert births.y == curve(backward, "growth:births").y
    assert births.y[0] == curve(forward, "growth").y[0]
    assert births.y[1] <= curve(forward, "growth").y[1]


def test_births_of_a_sequence_follow_the_order_given_and_those_of_a_run_its_steps(llama, run_folder, tmp_path):
    given = tuple(checkpoints_of(str(run_folder))[::-1])
    both = look(llama, tmp_path / "both", adapted=given, sequence=True)
    run = look(llama, tmp_path / "run-alone", adapted=given)
    assert curve(both, "growth:births").y == curve(run, "growth:births").y
    stages = curve(both, "sequence:births")
    assert stages.y[0] == curve(both, "sequence").y[0] > 0
    assert stages.y != curve(both, "growth:births").y


def test_several_epsilons_are_counted_in_the_totals(llama, tmp_path):
    totals = look(llama, tmp_path / "out", epsilons=(0.5, 0.3, 0.7)).weights["lora"].totals
    assert totals["intruder_count@0.3"] <= totals["intruder_count"] <= totals["intruder_count@0.7"]


def test_weights_that_are_not_finite_end_with_the_module_named(llama, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(llama.full, broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if key.endswith("q_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((EvaluationError, InvalidComparison), match="q_proj"):
        look(llama, tmp_path / "out", adapted=(str(broken),))


def test_a_cache_that_cannot_be_written_stops_nothing(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(base_cache, "_WORTHWHILE", 1)
    (tmp_path / "file").write_text("in the way")
    comparison = look(llama, tmp_path / "out", cache_dir=tmp_path / "file" / "cache")
    reasons = [missing.reason for missing in comparison.missing if missing.area == "weights"]
    assert len([reason for reason in reasons if "not kept in" in reason]) == 1


def test_a_record_without_its_end_is_not_taken(tmp_path):
    journal = tmp_path / "modules.jsonl"
    record = ModuleOutcome(module="a", base_norm=1.0, base_values=[]).model_dump_json().encode()
    journal.write_bytes(record + b"\n" + record.replace(b'"a"', b'"b"'))
    assert set(_journalled(journal)) == {"a"}
    assert journal.read_bytes() == record + b"\n"
    journal.write_bytes(record + b"\n" + '{"module": "Δ'.encode()[:-1])
    assert set(_journalled(journal)) == {"a"}


def test_stages_are_a_sequence_only_when_it_is_said(llama, tmp_path):
    comparison = look(llama, tmp_path / "out", sequence=True)
    stages = curve(comparison, "sequence")
    assert (stages.subject, stages.x_name, stages.x) == ("full", "stage", [1.0, 2.0])
    assert not [s for s in look(llama, tmp_path / "plain").series if s.name.startswith(("sequence", "growth"))]


def test_a_step_is_read_and_never_guessed(tmp_path):
    folder = tmp_path / "run" / "checkpoint-30"
    folder.mkdir(parents=True)
    assert run_step(folder) is None
    for content in ("{", "[]", '{"global_step": null}', '{"global_step": true}'):
        (folder / "trainer_state.json").write_text(content)
        assert run_step(folder) is None
    (folder / "trainer_state.json").write_text('{"global_step": 31}')
    assert run_step(folder) == RunStep((tmp_path / "run").resolve(), 31)
    other = tmp_path / "final"
    shutil.copytree(folder, other)
    assert run_step(other) is None
    assert checkpoints_of(f"mine={tmp_path / 'run'}") == [f"mine-31={folder}"]
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoints_of(str(tmp_path))


# Curves from intervals


def vector(index: int, low: float, high: float) -> IntruderVector:
    verdict = "kept" if low >= 0.5 else "intruder" if high < 0.5 else "undecided"
    return IntruderVector(index=index, singular_value=1.0, low=low, high=high, leading_share=0.1, verdict=verdict)


def test_an_epsilon_curve_has_a_band_where_intervals_are_open():
    vectors = [vector(0, 0.1, 0.3), vector(1, 0.2, 0.6), vector(2, 0.9, 0.95)]
    judged = IntruderReport(k=3, epsilon=0.5, side="left", count=1, undecided=1, exact=False, vectors=vectors)
    module = ModuleWeights(name="m", shape=(8, 8), method="lora", frobenius=1.0, intruders=judged)
    report = summarise([module], [2.0], [])
    outcome = ModuleOutcome(module="m", base_norm=2.0, base_values=[1.0], reports={"s": module})
    found = {series.name: series for series in weight_series("base", {"s": report}, [outcome], {}, [])}
    by_epsilon = found["epsilon_curve"]
    at = by_epsilon.x.index(0.4)
    assert (by_epsilon.low[at], by_epsilon.high[at], by_epsilon.y[at]) == (1.0, 2.0, 1.0)
    at = by_epsilon.x.index(0.65)
    assert (by_epsilon.low[at], by_epsilon.high[at]) == (2.0, 2.0)
    by_k = found["k_curve"]
    assert (by_k.y, by_k.high) == ([1.0, 1.0, 1.0], [1.0, 2.0, 2.0])
    assert report.totals["undecided"] == 1.0
