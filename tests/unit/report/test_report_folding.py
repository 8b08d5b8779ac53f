"""What is equal for several checkpoints is said once, with all of them named, and nothing that differs is joined."""

from __future__ import annotations

import io
from types import ModuleType

import pytest
from rich.console import Console

from lorascope.report import folding
from lorascope.report.html import render_html
from lorascope.report.sentences import subject_verdicts
from lorascope.report.terminal import print_summary
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison, Finding, Missing

WORDS = load_texts("en")
NAMES = ("run/step-40", "run/step-80", "run/step-120")


def finding(subject: str | None, **values: object) -> Finding:
    parts = {"id": f"intruders:{subject}", "severity": "info", "area": "weights", "subject": subject}
    return Finding(**{**parts, "title": f"{subject} has 2 intruders", "evidence": ["they carry 0.31%"], **values})


@pytest.fixture
def run(factory: ModuleType) -> Comparison:
    comparison = factory.traced_weights_comparison(NAMES)
    comparison.missing = [Missing(area="curves", subject=name, reason="no validation loss") for name in NAMES]
    return comparison


def test_equal_notes_become_one_with_all_subjects() -> None:
    (folded,) = folding.folded_findings([finding(name) for name in NAMES])
    (told,) = folded.told
    assert told.subjects == NAMES
    assert told.title == "each has 2 intruders"


def test_notes_of_one_kind_share_their_advice_and_keep_what_differs() -> None:
    notes = [finding(NAMES[0], evidence=["they carry 0.28%"]), finding(NAMES[1]), finding(NAMES[2])]
    (folded,) = folding.folded_findings([note.model_copy(update={"advice": "scan"}) for note in notes])
    assert [told.subjects for told in folded.told] == [NAMES[:1], NAMES[1:]]
    assert folded.told[0].title == "run/step-40 has 2 intruders"
    assert folded.told[0].evidence == ("they carry 0.28\u00a0%",)
    assert folded.advice == "scan"


def test_urgent_findings_are_joined_only_when_every_word_is_equal() -> None:
    urgent = [finding(name, severity="warning") for name in NAMES]
    assert len(folding.folded_findings(urgent)) == 1
    urgent[1].evidence = ["they carry 0.9%"]
    assert [len(each.told[0].subjects) for each in folding.folded_findings(urgent)] == [2, 1]


@pytest.mark.parametrize("changed", [{"severity": "good"}, {"area": "curves"}, {"advice": "x"}, {"id": "other:x"}])
def test_findings_of_another_kind_stand_apart(changed: dict[str, str]) -> None:
    assert len(folding.folded_findings([finding(NAMES[0]), finding(NAMES[1], **changed)])) == 2


def test_findings_without_a_subject_are_never_joined() -> None:
    assert len(folding.folded_findings([finding(None), finding(None)])) == 2


def test_a_name_inside_another_word_is_no_name() -> None:
    first = finding("a", title="a: a-b moved, a stays", evidence=["layer a/b of a"])
    second = finding("c", title="c: a-b moved, c stays", evidence=["layer a/b of c"])
    ((told,),) = (each.told for each in folding.folded_findings([first, second]))
    assert (told.title, told.evidence) == ("a-b moved, each stays", ("layer a/b of each",))


@pytest.mark.parametrize(
    ("plain", "set_well"),
    [
        ("difference -21.35 [-22.39, -20.31]", "difference −21.35 [−22.39, −20.31]"),
        ("they carry 89.49% of it", "they carry 89.49\u00a0% of it"),
        ("changes by -0.72 %.", "changes by −0.72\u00a0%."),
        (
            "checkpoint-40, 1-5 % data, --k 4, 2026-03-02, 1e-3",
            "checkpoint-40, 1-5\u00a0% data, --k 4, 2026-03-02, 1e-3",
        ),
        ("run/-3 and layer.-3", "run/-3 and layer.-3"),
    ],
)
def test_numbers_are_set_well_and_names_stay(plain: str, set_well: str) -> None:
    assert folding.typographic(plain) == set_well


def test_what_is_missing_for_all_is_one_line(run: Comparison) -> None:
    run.missing.append(Missing(area="curves", reason="no validation loss"))
    run.missing.append(Missing(area="leak", subject=NAMES[0], reason="no validation loss"))
    assert folding.folded_missing(run) == [
        ("curves", NAMES, "no validation loss"),
        ("curves", (), "no validation loss"),
        ("leak", NAMES[:1], "no validation loss"),
    ]


def test_labels_count_all_and_name_some(run: Comparison) -> None:
    assert folding.subjects_label(NAMES, run, WORDS) == "3 checkpoints"
    assert folding.subjects_label(NAMES[:2], run, WORDS) == "2 checkpoints (run/step-40, run/step-80)"
    assert folding.subjects_label(NAMES[:1], run, WORDS) == "run/step-40"
    assert folding.subjects_label((), run, WORDS) == ""


def test_a_training_sentence_of_all_leaves_the_cards(run: Comparison) -> None:
    verdicts = subject_verdicts(run)
    (shared,) = folding.shared_sentences(verdicts)
    assert shared.text == "Training was not diagnosed. No validation loss."
    assert folding.shared_sentences(verdicts[:1]) == []
    html = render_html(run, None)
    assert html.count("Training was not diagnosed") == 1
    assert "<strong>Training, 3 checkpoints:</strong>" in html
    run.missing.pop()
    assert folding.shared_sentences(subject_verdicts(run)) == []


def test_the_terminal_says_it_once(run: Comparison) -> None:
    run.findings = [finding(name, severity="warning") for name in NAMES]
    stream = io.StringIO()
    print_summary(run, Console(file=stream, width=100))
    text = stream.getvalue()
    assert text.count("Training was not diagnosed") == 1
    assert "3 checkpoints: each has 2 intruders" in text
    assert "Training curves, 3 checkpoints: no validation loss" in text
    assert text.index("Weights\n".rstrip()) < text.index("Training was not diagnosed")
