"""Sweep files spread out: which points they make, what these are called, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from lorascope.data.sweep_presets import PRESETS
from lorascope.data.sweeps import Sweep, load_sweep, name_part, shown
from lorascope.errors import ConfigError
from lorascope.schema.sweep import PresetName

TASK = {"kind": "labels", "train": "train.jsonl", "validation": "val.jsonl"}
RECIPE: dict[str, Any] = {"version": 1, "out": "sweep", "base": "model", "task": TASK}


def loaded(tmp_path: Path, **keys: Any) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(RECIPE | keys, sort_keys=False))
    return load_sweep(path)


def names(tmp_path: Path, **keys: Any) -> list[str]:
    return [point.name for point in loaded(tmp_path, **keys).points]


def test_a_grid_is_every_combination_and_equal_runs_are_one(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, grid={"method.name": ["full", "lora"], "method.rank": [1, 8]}, seeds=[0, 3])
    assert [point.name for point in sweep.points] == ["full", "r1", "r8"]
    assert sweep.keys == ("method.name", "method.rank")
    assert [point.settings for point in sweep.points] == [
        {"method.name": "full"},
        {"method.name": "lora", "method.rank": 1},
        {"method.name": "lora", "method.rank": 8},
    ]
    assert sweep.points[2].recipe.method.scaling_alpha == 16
    assert sweep.seeds == (0, 3)
    assert sweep.reference == "full"
    assert sweep.out == tmp_path / "sweep"


def test_names_say_what_varies(tmp_path: Path) -> None:
    rates = {"optim.learning_rate": [1e-4, 3e-4]}
    assert names(tmp_path, grid={"method.rank": [8, 32], **rates}) == [
        "r8-lr1e-4", "r8-lr3e-4", "r32-lr1e-4", "r32-lr3e-4"
    ]  # fmt: skip
    methods = {"method.name": ["lora", "dora"], "method.rank": [4]}
    assert names(tmp_path, grid=methods) == ["r4", "dora-r4"]
    assert names(tmp_path, grid={"task.fraction": [0.1, 1.0]}) == ["lora-data0.1", "lora-data1"]
    losses = {"loss": [{}, {"name": "focal", "gamma": 1.0}]}
    assert names(tmp_path, grid=losses)[1:] == ["lora-focal"]
    assert names(tmp_path) == ["lora"]


def test_keys_that_move_together_are_one_axis_and_named_by_the_first(tmp_path: Path) -> None:
    block = {"method.rank": [1, 8], "method.alpha": [2, 8]}
    sweep = loaded(tmp_path, zip=block, grid={"optim.epochs": [1, 2]})
    assert [point.name for point in sweep.points] == ["ep1-r1", "ep1-r8", "ep2-r1", "ep2-r8"]
    assert {(point.recipe.method.rank, point.recipe.method.alpha) for point in sweep.points} == {(1, 2.0), (8, 8.0)}
    two = [block, {"optim.epochs": [1, 2], "seed": [1, 2]}]
    assert len(loaded(tmp_path, zip=two).points) == 4


def test_a_longer_list_renames_nothing(tmp_path: Path) -> None:
    one = names(tmp_path, grid={"method.rank": [8], "optim.learning_rate": [1e-4]})
    more = names(tmp_path, grid={"method.rank": [8, 16], "optim.learning_rate": [1e-4, 1e-3]})
    assert set(one) < set(more)


def test_points_have_settings_of_their_own_which_go_before_the_grid(tmp_path: Path) -> None:
    points = {
        "full": {"method": {"name": "full"}, "optim.learning_rate": 1e-5},
        "small": {"method.rank": 2},
        "large": {"method": {"rank": 64, "alpha": 64}, "structured_dropout.preset": "hiddenkey-minus"},
    }
    sweep = loaded(tmp_path, points=points, grid={"optim.learning_rate": [1e-4, 1e-3]}, reference="small-lr1e-4")
    assert [point.name for point in sweep.points] == [
        "full", "small-lr1e-4", "small-lr1e-3", "large-lr1e-4", "large-lr1e-3"
    ]  # fmt: skip
    by_name = {point.name: point.recipe for point in sweep.points}
    assert by_name["full"].optim.learning_rate == 1e-5
    assert by_name["large-lr1e-3"].structured_dropout is not None
    assert sweep.reference == "small-lr1e-4"


def test_a_recipe_in_a_file_of_its_own_keeps_its_folder(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "labels.txt").write_text("art\nmusic\n")
    task = {**TASK, "labels": "labels.txt"}
    (tmp_path / "recipes" / "tags.yaml").write_text(yaml.safe_dump(RECIPE | {"task": task, "seed": 7}))
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "version: 1\nout: here\nrecipe: recipes/tags.yaml\noptim: {epochs: 2}\ngrid: {method.rank: [1, 2]}\n"
    )
    sweep = load_sweep(path)
    assert sweep.root == tmp_path / "recipes"
    assert sweep.out == tmp_path / "here"
    assert sweep.seeds == (7,)
    assert sweep.points[0].recipe.task.labels == ["art", "music"]
    assert sweep.points[0].recipe.optim.epochs == 2


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_every_preset_gives_points_over_a_users_recipe(tmp_path: Path, preset: PresetName) -> None:
    assert set(PRESETS) == set(get_args(PresetName))
    task = {**TASK, "kind": "generate" if preset == "forgetting" else "labels"}
    sweep = loaded(tmp_path, preset=preset, task=task)
    assert len(sweep.points) >= 5
    assert sweep.reference in [point.name for point in sweep.points]
    assert sweep.plan.preset == preset


def test_presets_can_be_set_otherwise(tmp_path: Path) -> None:
    assert names(tmp_path, preset="rank", grid={"method.rank": [2, 3]}) == ["r2", "r3"]
    points = {"focal": {"loss": {"name": "focal", "gamma": 1.0}}, "zlpr": None, "mine": {"optim.epochs": 9}}
    sweep = loaded(tmp_path, preset="multilabel", points=points)
    by_name = {point.name: point.recipe for point in sweep.points}
    assert by_name["focal"].loss.gamma == 1.0
    assert "zlpr" not in by_name
    assert by_name["mine"].optim.epochs == 9
    assert loaded(tmp_path, preset="lora-vs-full").choose is not None
    assert loaded(tmp_path, preset="lora-vs-full", grid={"optim.learning_rate": [1e-4]}).choose is None


def test_the_dropout_preset_has_what_it_promises(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, preset="dropout")
    assert [point.name for point in sweep.points] == [
        "lora", "lora-dropout", "dropkey", "dropattention", "hiddencut", "hiddenkey-minus", "hiddenkey", "full"
    ]  # fmt: skip
    dropouts = [point.recipe.structured_dropout for point in sweep.points]
    assert [each and each.preset for each in dropouts[1:4]] == [None, "dropkey", "dropattention"]
    assert [point.recipe.method.dropout for point in sweep.points[:2]] == [0.0, 0.1]


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"grid": {"method.rnak": [1]}}, "unknown key 'method.rnak'", "did you mean '"),
    ({"grdi": {"method.rank": [1]}}, "unknown key 'grdi'", "did you mean 'grid'?"),
    ({"grid": {"method.rank": []}}, "'grid.method.rank' is an empty list", ""),
    ({"grid": {"method.rank": [-1]}}, "'method.rank'", "line 9"),
    ({"grid": {"method.rank": [1]}, "zip": {"method.rank": [2]}}, "'method.rank' is varied twice", ""),
    ({"zip": {"method.rank": [1, 2], "method.alpha": [2]}}, "lists of one length", ""),
    ({"points": {"a": {"optim.lr": 1}}}, "unknown key 'optim.lr'", "'lr' is called 'optim.learning_rate' here"),
    ({"points": {"a/b": {}}}, "no name for a point", "letters"),
    ({"points": {"a": {}, "A": {"optim.epochs": 1}}}, "two points have the name", "points"),
    ({"points": {"a": None}}, "every point is left out", ""),
    ({"points": {"a": {"base": "x"}, "b": {"base": "y"}}}, "different bases", "one sweep for each base"),
    ({"reference": "r17", "grid": {"method.rank": [8, 16]}}, "'reference' names r17", "did you mean 'r16'?"),
    ({"preset": "rnak"}, "'preset'", "use "),
    ({"choose": {"values": []}}, "nothing to choose from", ""),
    ({"choose": {"values": [1]}, "grid": {"optim.learning_rate": [1]}}, "both chosen and varied", ""),
    ({"sequence": {"one": {}}}, "two stages", ""),
    ({"sequence": {"one": {}, "two": {"optim.epoch": 1}}}, "unknown key 'optim.epoch'", "epochs"),
    ({"sequence": {"one": {}, "two": {"base": "x"}}}, "sets no base", ""),
    ({"seeds": [1, 1]}, "names one twice", ""),
    ({"points": {"full": {"method.name": "full", "optim.lora_plus_ratio": 4}}}, "lora_plus_ratio", ""),
]


@pytest.mark.parametrize(("keys", "problem", "remedy"), WRONG)
def test_what_is_wrong_is_said_before_anything_runs(
    tmp_path: Path, keys: dict[str, Any], problem: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, **keys)
    assert problem in str(caught.value)
    assert remedy in str(caught.value)
    assert "sweep.yaml" in str(caught.value)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("version: 1\nout: x\ngrid: {method.rank: [1]}\n")
    with pytest.raises(ConfigError, match="the key 'base' is missing"):
        load_sweep(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="a sweep is a mapping"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("value", "text"), [(3e-4, "3e-4"), (0.00015, "1.5e-4"), (0.1, "0.1"), (1.0, "1"), ([1, 2], "1+2"), ("q", "q")]
)
def test_values_in_names(value: Any, text: str) -> None:
    assert shown(value) == text


def test_parts_of_names() -> None:
    assert name_part("method.rank", 8) == "r8"
    assert name_part("replay", None) == "no-replay"
    assert name_part("task.packing", True) == "packing"
    assert name_part("optim.scheduler", "linear") == "scheduler-linear"
    assert name_part("structured_dropout", {"preset": "dropkey", "rate": 0.2}) == "dropkey"
