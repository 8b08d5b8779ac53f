from __future__ import annotations

import json

import pytest

from lorascope.workflows.behaviour import _recorded_labels


def record(folder, labels):
    (folder / "training.json").write_text(json.dumps({"settings": {"task": {"labels": labels}}}))


def test_an_adapter_of_ours_knows_the_order_of_its_outputs(tmp_path):
    record(tmp_path, ["b", "a", "中文"])
    assert _recorded_labels(tmp_path) == ("b", "a", "中文")


@pytest.mark.parametrize("labels", [None, [], "ab", [1, 2], {"a": 1}])
def test_what_names_no_labels_is_passed_over(tmp_path, labels):
    record(tmp_path, labels)
    assert _recorded_labels(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}', '{"settings": {"task": []}}'])
def test_records_of_others_are_passed_over(tmp_path, text):
    assert _recorded_labels(tmp_path) is None
    (tmp_path / "training.json").write_text(text)
    assert _recorded_labels(tmp_path) is None
