from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.data.documents import Setting, overlaid, read_document
from lorascope.data.recipes import (
    LoadedRecipe,
    Lock,
    data_sources,
    file_hash,
    library_versions,
    load_recipe,
    prove_base,
    recipe_of,
    resolved_recipe,
    write_lock,
)
from lorascope.data.renamed_keys import RENAMED
from lorascope.errors import ConfigError
from lorascope.schema.recipe import AttentionDrop, EarlyStopping, HiddenDrop, Recipe

GOOD = """\
version: 1
base: models/base
out: runs/lora
task:
  kind: labels
  train: train.jsonl
  validation: {val1: a.jsonl, val2: "hf:some/set@test"}
  labels: names.txt
method: {name: lora, rank: 8}
structured_dropout: {preset: hiddenkey}
optim: {learning_rate: 1e-4, early_stopping: 5}
"""


def write(folder: Path, text: str = GOOD) -> Path:
    (folder / "names.txt").write_text("art\ngames\n", encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(folder: Path, text: str = GOOD, *settings: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, text), settings)
    return caught.value


def test_a_recipe_its_defaults_and_its_folder(tmp_path: Path) -> None:
    loaded = load_recipe(write(tmp_path))
    recipe = loaded.recipe
    assert type(recipe) is Recipe
    assert (recipe.optim.learning_rate, recipe.optim.epochs, recipe.method.scaling_alpha) == (1e-4, 5, 16)
    assert recipe.optim.early_stopping == EarlyStopping(patience=5)
    assert recipe.task.labels == ["art", "games"]
    assert loaded.root == tmp_path
    assert data_sources(recipe) == ("train.jsonl", "a.jsonl", "hf:some/set@test")


def test_settings(tmp_path: Path) -> None:
    settings = ["method.rank=32", "structured_dropout=null", "task.labels=other.txt", "task.validation=v.jsonl"]
    (tmp_path / "other.txt").write_text('["x"]', encoding="utf-8")
    loaded = load_recipe(write(tmp_path), settings)
    assert loaded.recipe.method.rank == 32
    assert loaded.recipe.structured_dropout is None
    assert loaded.recipe.task.labels == ["x"]
    assert loaded.recipe.validation_sets == {"validation": "v.jsonl"}
    assert loaded.settings[0] == "--set method.rank=32"
    assert loaded.text_hash == load_recipe(loaded.path).text_hash


def test_points_of_a_sweep_are_laid_over_a_document(tmp_path: Path) -> None:
    document = read_document(write(tmp_path), what="sweep")
    loaded = recipe_of(overlaid(document, [Setting("optim.learning_rate", 3e-4, "point r8")]))
    assert loaded.recipe.optim.learning_rate == 3e-4
    assert document.raw["task"]["labels"] == "names.txt"
    with pytest.raises(ConfigError, match=r"optim.lerning_rate") as caught:
        recipe_of(overlaid(document, [Setting("optim.lerning_rate", 3e-4, "point r8")]))
    assert caught.value.where == "point r8"


@pytest.mark.parametrize(
    ("old", "new", "problem", "line", "remedy"),
    [
        ("rank: 8", "rnak: 8", "'method.rnak'", 9, "did you mean 'rank'?"),
        ("rank: 8", "lora_alpha: 8", "'method.lora_alpha'", 9, "'lora_alpha' is called 'method.alpha' here"),
        ("early_stopping: 5", "warmup_ratio: 0.1", "'optim.warmup_ratio'", 11, "'optim.warmup'"),
        ("early_stopping: 5", "bf16: true", "'optim.bf16'", 11, "precision: bfloat16"),
        ("early_stopping: 5", "early_stopping: true", "'optim.early_stopping'", 11, "patience"),
        ("rank: 8", "rank: -1", "'method.rank'", 9, ""),
        ("rank: 8", "rank: true", "not true", 9, "number"),
        ("kind: labels", "kind: label", "'task.kind'", 5, "'labels'"),
        ("kind: labels", "kind: labels\n  packing: true", "packing", 6, ""),
        ("labels: names.txt", "labels: none.txt", "no such file of labels", 8, "relative to the recipe"),
        ("labels: names.txt", "labels: {a: 1}", "'task.labels'", 8, "relative to the recipe"),
        ("version: 1", "version: 1\noverwrite_output_dir: true", "overwrite_output_dir", 2, "--overwrite"),
        ("version: 1", "version: 1\nrank: 3", "'rank'", 2, "method.rank"),
        ("version: 1", "version: 1\nevaluation: {set: val3}", "'val3'", 2, ""),
        ("version: 1", "version: 1\nfreeze: head-only", "'freeze' goes with", 2, ""),
    ],
)
def test_what_is_wrong_is_said_with_key_line_and_remedy(
    tmp_path: Path, old: str, new: str, problem: str, line: int, remedy: str
) -> None:
    assert old in GOOD
    error = fault(tmp_path, GOOD.replace(old, new))
    assert problem in error.problem
    assert f"recipe.yaml, line {line}" in (error.where or "")
    assert remedy in (error.remedy or "")


def test_a_file_of_another_tool_is_explained_key_by_key(tmp_path: Path) -> None:
    error = fault(
        tmp_path,
        "model_name_or_path: m\nfinetuning_type: lora\nlora_rank: 8\ncutoff_len: 512\noutput_dir: o\nstage: sft\n"
        "per_device_train_batch_size: 2\nwarmup_ratio: 0.1\n",
    )
    told = str(error)
    for name in ("base", "method.name", "method.rank", "task.max_length", "out", "optim.batch_size", "optim.warmup"):
        assert f"'{name}' here" in told
    assert "'stage' has no counterpart" in told
    assert "the key 'version' is missing" not in error.problem.splitlines()[0]


def test_renamed_keys_lead_to_keys_that_there_are(tmp_path: Path) -> None:
    from lorascope.data.documents import dotted_keys

    known = set(dotted_keys(Recipe))
    assert [name for name in RENAMED.values() if " " not in name and name not in known] == []
    assert [word for word in RENAMED if word in Recipe.model_fields] == []


def test_renamed_keys_in_settings(tmp_path: Path) -> None:
    error = fault(tmp_path, GOOD, "method.lora_r=4")
    assert error.where == "--set method.lora_r=4"
    assert error.remedy == "'lora_r' is called 'method.rank' here"


def resolved(loaded: LoadedRecipe, **chosen: Any) -> Recipe:
    return resolved_recipe(
        loaded.recipe, loaded.root, chosen={key.replace("__", "."): it for key, it in chosen.items()}
    )


def test_a_resolved_recipe_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "models/base").mkdir(parents=True)
    recipe = resolved(load_recipe(write(tmp_path)), task__multi_label=True, optim__precision="float32")
    assert recipe.base == str(tmp_path / "models/base")
    assert recipe.out == str(tmp_path / "runs/lora")
    assert recipe.task.validation == {"val1": str(tmp_path / "a.jsonl"), "val2": "hf:some/set@test"}
    assert recipe.method.alpha == 16
    assert recipe.loss.name == "bce"
    assert recipe.optim.precision == "float32"
    dropout = recipe.structured_dropout
    assert dropout is not None
    assert dropout.attention == AttentionDrop(rate=0.1)
    assert dropout.hidden == HiddenDrop(rate=0.1)
    assert dropout.compensation == "kl"


@pytest.mark.parametrize(
    ("kind", "multi", "loss"),
    [
        ("labels", None, None),
        ("labels", False, "cross_entropy"),
        ("score", None, "mse"),
        ("tokens", None, "cross_entropy"),
    ],
)
def test_the_usual_loss(tmp_path: Path, kind: str, multi: bool | None, loss: str | None) -> None:
    text = GOOD.replace("kind: labels", f"kind: {kind}")
    assert resolved(load_recipe(write(tmp_path, text)), task__multi_label=multi).loss.name == loss


def test_a_name_on_the_hub_stays_a_name(tmp_path: Path) -> None:
    assert resolved(load_recipe(write(tmp_path, GOOD.replace("models/base", "org/name")))).base == "org/name"


@pytest.mark.parametrize(
    "change",
    [
        ("", ""),
        ("rank: 8", "rank: 8, name: adalora"),
        ("structured_dropout: {preset: hiddenkey}", "replay: null\nfreeze: {train: last-layers, layers: 2}"),
    ],
)
def test_a_lock_is_the_same_recipe(tmp_path: Path, change: tuple[str, str]) -> None:
    text = GOOD.replace(*change) if change[0] else GOOD
    text = text.replace("name: lora, rank: 8, name: adalora", "rank: 8, name: adalora")
    text = text.replace("name: lora", "name: full") if "freeze" in text else text
    (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    recipe = resolved(load_recipe(write(tmp_path, text)), task__labels=["1e-4", "yes", "三"])
    lock = Lock(base="ab", files={recipe.task.train: file_hash(tmp_path / "train.jsonl")}, libraries=library_versions())
    place = tmp_path / "elsewhere" / "recipe.lock.yaml"
    place.parent.mkdir()
    place.write_text(write_lock(recipe, lock), encoding="utf-8")
    again = load_recipe(place)
    assert again.recipe == recipe
    assert again.lock == lock
    assert again.notes == ()
    assert resolved(again) == recipe


def test_a_lock_knows_its_data_and_libraries(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("one\n", encoding="utf-8")
    recipe = resolved(load_recipe(write(tmp_path)))
    lock = Lock(files={str(data): file_hash(data)}, libraries={"torch": "0.1", "no-such-library": "2"})
    place = tmp_path / "recipe.lock.yaml"
    place.write_text(write_lock(recipe, lock), encoding="utf-8")
    assert [note.split(";")[0] for note in load_recipe(place).notes] == [
        "the lock was made with torch 0.1",
        "the lock was made with no-such-library 2",
    ]
    data.write_text("two\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"train.jsonl is not the one") as caught:
        load_recipe(place)
    assert (caught.value.where or "").startswith(f"{place}, line ")
    assert load_recipe(place, ["lock.files={}"]).recipe == recipe
    assert yaml.safe_load(place.read_text(encoding="utf-8"))["lock"]["files"]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("evaluation.every=1.5", "1.5 is no number of steps"),
        ("evaluation.log_every=2.5", "2.5 is no number of steps"),
        ("optim.batch_size=2147483648", "less than or equal to 2147483647"),
        ("optim.max_steps=99999999999", "less than or equal to"),
        ("method.rank=65537", "less than or equal to 65536"),
        ("method.rank_pattern={a: 0}", "gives 'a' the rank 0"),
        ('task.validation={"": a.jsonl}', "cannot be called ''"),
        ("task.validation={a b: a.jsonl}", "cannot be called 'a b'"),
        ("task.validation={a/b: a.jsonl}", "cannot be called 'a/b'"),
        ('task.validation={"a\\e[31m": a.jsonl}', "cannot be called 'a\\x1b[31m'"),
        ("task.validation={train: a.jsonl}", "may not be called 'train'"),
    ],
)
def test_values_that_no_run_can_have(tmp_path: Path, setting: str, told: str) -> None:
    error = fault(tmp_path, GOOD, setting)
    assert told in error.problem
    assert str(error).isprintable() or "\x1b" not in str(error)


def test_values_at_the_edge(tmp_path: Path) -> None:
    settings = ["evaluation.every=3.0", "evaluation.log_every=0.25", "task.validation={验证集_1: a.jsonl, né-2.x: b}"]
    recipe = load_recipe(write(tmp_path), settings).recipe
    assert (recipe.evaluation.every, recipe.evaluation.log_every) == (3, 0.25)
    assert list(recipe.validation_sets) == ["验证集_1", "né-2.x"]


def test_a_lock_knows_its_base(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path)).recipe
    place = tmp_path / "recipe.lock.yaml"
    place.write_text(write_lock(recipe, Lock(base="ab")), encoding="utf-8")
    prove_base(load_recipe(place), "ab")
    with pytest.raises(ConfigError, match="the base models/base is not the one") as caught:
        prove_base(load_recipe(place), "cd")
    line = next(number for number, text in enumerate(place.read_text().splitlines(), 1) if text.startswith("  base:"))
    assert caught.value.where == f"{place}, line {line}"
    prove_base(load_recipe(place, ["base=another"]), "cd")
    prove_base(load_recipe(write(tmp_path)), "cd")


def test_a_lock_keeps_the_alpha_of_each_module_where_ranks_have_a_pattern(tmp_path: Path) -> None:
    plain = {
        "version": 1, "base": "b", "out": "o", "task": {"kind": "generate", "train": "t"},
        "method": {"rank": 16, "rank_pattern": {"q_proj": 4}},
    }  # fmt: skip
    resolved = resolved_recipe(Recipe.model_validate(plain), tmp_path)
    assert resolved.method.alpha is None
    del plain["method"]["rank_pattern"]  # type: ignore[attr-defined]
    assert resolved_recipe(Recipe.model_validate(plain), tmp_path).method.alpha == 32
