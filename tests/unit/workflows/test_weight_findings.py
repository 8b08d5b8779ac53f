"""Sentences about weights follow from the totals, and are silent where there is nothing to say."""

from __future__ import annotations

import pytest

from lorascope.schema.comparison import (
    CheckpointInfo,
    Comparison,
    Finding,
    ModuleWeights,
    ParameterCounts,
    Provenance,
    WeightReport,
)
from lorascope.workflows.weight_findings import find_in_weights, other_changes_note

TOTALS = {
    "modules": 4.0, "changed_modules": 4.0, "judged_vectors": 40.0, "intruder_count": 6.0, "intruder_new": 4.0,
    "intruder_rotations": 2.0, "intruder_energy": 0.25, "null_intruder_count": 1.0, "saturated_modules": 0.0,
    "undecided": 0.0,
}  # fmt: skip


def checkpoint(name: str, role: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=name, path=name, role=role, kind="model", architecture="Llama", dtype="F32", content_hash="0",
        parameters=ParameterCounts(total=1), generation_ready=True,
    )  # fmt: skip


def findings(notes: tuple[str, ...] = (), **totals: float | None) -> dict[str, Finding]:
    report = WeightReport(modules=[ModuleWeights(name="m", shape=(4, 4), method="lora", frobenius=1.0)],
                          totals=TOTALS | totals, notes=list(notes))  # fmt: skip
    comparison = Comparison(
        created="now", command=[], seed=0, lorascope_version="0", weights={"lora": report},
        provenance=Provenance(libraries={}, device="cpu", dtype="float32", timings={}),
        checkpoints=[checkpoint("base", "base"), checkpoint("lora", "adapted")],
    )  # fmt: skip
    return {finding.id.removesuffix(":lora"): finding for finding in find_in_weights(comparison)}


def test_intruders_stand_beside_new_directions_rotations_and_chance():
    found = findings()
    assert set(found) == {"intruders"}
    assert found["intruders"].title == "lora has 6 intruder dimensions in 1 modules"
    said = " | ".join(found["intruders"].evidence)
    assert "25 %" in said
    assert "new directions: 4; rotations" in said
    assert "random updates of the same norm and rank have 1" in said


@pytest.mark.parametrize(("null", "ordinary"), [(5.0, False), (6.0, True), (9.0, True), (None, False)])
def test_no_more_than_chance_is_said_only_when_it_was_measured(null, ordinary):
    found = findings(null_intruder_count=null)["intruders"]
    assert ("no more than random updates" in found.title) is ordinary
    assert any("random updates" in line for line in found.evidence) is (null is not None)


def test_the_advice_is_a_command_that_runs_as_it_stands():
    assert findings()["intruders"].advice.endswith("lorascope repair base lora --scan")
    assert findings(null_intruder_count=9.0)["intruders"].advice is None


def test_nothing_is_said_without_intruders():
    assert findings(intruder_count=0.0) == {}
    assert findings(intruder_count=None, saturated_modules=None, undecided=None) == {}


@pytest.mark.parametrize(("full", "warned"), [(1.0, False), (2.0, True), (4.0, True)])
def test_saturation_is_a_warning_from_half_of_the_modules_on(full, warned):
    found = findings(saturated_modules=full)
    assert ("saturated" in found) is warned
    if warned:
        assert found["saturated"].severity == "warning"


def test_undecided_vectors_and_other_changes_are_named():
    note = other_changes_note("norm", 3, "model.norm.weight", 0.0123)
    found = findings((note, "something else"), undecided=5.0)
    assert found["undecided"].title == "5 of 40 vectors of lora are undecided"
    assert found["other-changes"].evidence == ["3 norms, most in model.norm.weight, the relative change is 0.0123"]


@pytest.mark.parametrize(
    ("kind", "count", "words"),
    [("bias", 1, "1 bias,"), ("bias", 2, "2 biases,"), ("embedding", 1, "1 embedding,"),
     ("rounded", 7, "7 parameters only by rounding to the stored type,")],
)  # fmt: skip
def test_other_changes_in_words(kind, count, words):
    line = other_changes_note(kind, count, "a.b", None)
    assert words in line
    assert "relative change" not in line
