from __future__ import annotations

from lorascope.workflows.weight_modules import _pairs


def test_few_subjects_are_compared_pair_by_pair_many_with_the_first():
    assert list(_pairs(["a", "b", "c"])) == [("a", "b"), ("a", "c"), ("b", "c")]
    many = [str(number) for number in range(30)]
    assert list(_pairs(many)) == [("0", name) for name in many[1:]]
    assert list(_pairs([])) == []
