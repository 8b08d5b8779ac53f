from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.tasks import LoadedTask, infer_task, load_task, sample_items, task_fingerprint
from lorascope.errors import ConfigError, DataError, UsageError
from lorascope.schema.items import Item, LikelihoodItem
from lorascope.schema.suite import SuiteTask


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")


def texts(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": ["even", "odd"][number % 2]} for number in range(start, start + count)]


def task(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "t", "kind": "labels", "data": "a.jsonl", **more})


def ids(items: tuple[Item, ...] | list[Item]) -> list[str]:
    return [item.item_id for item in items]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", texts(40))
    write(tmp_path / "b.jsonl", texts(10, start=100))
    write(tmp_path / "train.jsonl", texts(60, start=200))
    return tmp_path


def test_a_single_file(root: Path) -> None:
    loaded = load_task(task(), root=root)
    assert (len(loaded.items), loaded.train_items, loaded.tuning_items, loaded.kind) == (40, (), (), "labels")
    assert {item.split for item in loaded.items} == {None}


def test_named_sets_keep_their_order_and_are_bounded_each_by_itself(root: Path) -> None:
    spec = task(data={"validation 2": "b.jsonl", "validation 1": "a.jsonl"}, train_data="train.jsonl")
    loaded = load_task(spec, root=root, limit=8)
    assert [item.split for item in loaded.items] == ["validation 2"] * 8 + ["validation 1"] * 8
    assert len(loaded.train_items) == 60
    assert {item.split for item in loaded.train_items} == {"train"}
    loaded = load_task(spec, root=root, fraction=0.5)
    assert [item.split for item in loaded.items] == ["validation 2"] * 5 + ["validation 1"] * 20


def test_the_command_lines_limit_wins_over_the_suites(root: Path) -> None:
    assert len(load_task(task(limit=5), root=root).items) == 5
    assert len(load_task(task(limit=5), root=root, limit=7).items) == 7


def test_where_thresholds_are_tuned(root: Path) -> None:
    sets = {"x": "a.jsonl", "y": "b.jsonl"}

    def tuned(limit: int | None = None, fraction: float | None = None, **more: Any) -> LoadedTask:
        return load_task(task(**more), root=root, limit=limit, fraction=fraction)

    by_set = tuned(data=sets, tune_on="y", fraction=0.5)
    assert ids(by_set.tuning_items) == [item.item_id for item in by_set.items if item.split == "y"]
    assert len(by_set.tuning_items) == 5
    assert len(tuned(train_data="train.jsonl", tune_on="train", limit=6).tuning_items) == 6
    assert len(tuned(tune_on="b.jsonl").tuning_items) == 10
    with pytest.raises(ConfigError, match="'z'") as caught:
        tuned(data=sets, train_data="train.jsonl", tune_on="z")
    assert "x, y, train" in (caught.value.remedy or "")


def items(count: int) -> list[LikelihoodItem]:
    return [LikelihoodItem(item_id=f"id{number}", text="x") for number in range(count)]


def test_samples_keep_order_are_nested_and_follow_the_seed() -> None:
    everything = items(200)
    small, large = (sample_items(everything, limit=limit, seed=1) for limit in (20, 50))
    assert set(ids(small)) < set(ids(large))
    assert ids(large) == [item.item_id for item in everything if item in large]
    assert sample_items(everything[::-1], limit=20, seed=1) == small[::-1]
    assert ids(sample_items(everything, limit=20, seed=2)) != ids(small)
    assert sample_items(everything, limit=500) == everything
    assert len(sample_items(everything, fraction=0.1)) == 20
    assert len(sample_items(everything, fraction=0.1, limit=5)) == 5
    assert len(sample_items(everything, fraction=1e-9)) == 1


def test_samples_are_even(root: Path) -> None:
    """Every item is drawn about as often as the others over many seeds (expected 50 ± 4 standard deviations)."""
    everything = items(20)
    drawn = [item_id for seed in range(200) for item_id in ids(sample_items(everything, limit=5, seed=seed))]
    assert all(25 <= drawn.count(item.item_id) <= 75 for item in everything)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": -1}, {"fraction": 0.0}, {"fraction": 1.5}])
def test_impossible_samples(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        sample_items(items(3), **wrong)


def test_the_fingerprint_is_of_questions_decoding_and_scoring(root: Path) -> None:
    print_of = {
        name: load_task(spec, root=root, limit=limit).fingerprint
        for name, spec, limit in (
            ("plain", task(), None),
            ("renamed", task(name="other", margin=0.1, role="retention"), None),
            ("fewer", task(), 39),
            ("prompt", task(prompt="{text}!"), None),
            ("labels", task(labels=["even", "odd"]), None),
            ("metrics", task(metrics=["f1_macro"]), None),
            ("set", task(data={"s": "a.jsonl"}), None),
        )
    }
    assert print_of.pop("renamed") == print_of["plain"]
    assert len(set(print_of.values())) == len(print_of)
    loaded = load_task(task(), root=root)
    assert task_fingerprint(loaded.spec, loaded.items[::-1]) == loaded.fingerprint


def test_a_file_without_a_suite(root: Path) -> None:
    spec = infer_task("a.jsonl", root=root)
    assert (spec.name, spec.kind, spec.role, spec.data) == ("a", "labels", "target", "a.jsonl")
    assert len(load_task(spec, root=root).items) == 40
    (root / "my data@2.jsonl").write_text('{"text": "x"}', encoding="utf-8")
    assert infer_task(root / "my data@2.jsonl").name == "my-data-2"
    with pytest.raises(DataError, match="no such data file"):
        infer_task(root / "none.jsonl")
