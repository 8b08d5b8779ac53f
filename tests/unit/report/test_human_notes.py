"""Sentences that scoring writes into a result, recognised and said in the report's language."""

from __future__ import annotations

import numpy as np
import pytest

from lorascope.blind.plan import Exclusions
from lorascope.blind.quality import apply_exclusions, quality_warnings
from lorascope.measures.agreement import alpha_interval, kendall_tau_b
from lorascope.measures.preference_models import length_adjusted_win_rate
from lorascope.report.human_notes import stratum_name, told
from lorascope.report.texts import load_texts
from lorascope.schema.human import RaterQuality

EN, ZH = load_texts("en"), load_texts("zh")


def test_in_english_nothing_changes() -> None:
    assert told("one side does not vary", EN) == ("one side does not vary", "en")
    assert stratum_name("qa, short, not flipped", EN) == "qa, short, not flipped"


@pytest.mark.parametrize("key", EN.group("human.note"))
def test_every_sentence_is_recognised_as_itself(key: str) -> None:
    places = {
        "reason": ("length parts wins from losses", ZH("human.note.length_parts")),
        "dimensions": ("accuracy, logic", "准确性、逻辑性"),
    }
    names = ("rater", "side", "count", "rows", "silent", "drawn", "size", "all", "most", "items", "passed", "checks",
             "same", "repeats", "votes", "decided", "p", "good", "of", "share", "least")  # fmt: skip
    english = dict.fromkeys(names, "7") | {name: each[0] for name, each in places.items()}
    chinese = dict.fromkeys(names, "7") | {name: each[1] for name, each in places.items()}
    found = told(EN(f"human.note.{key}", **english), ZH)
    assert found == (ZH(f"human.note.{key}", **chinese), "zh")


def test_what_scoring_writes_is_recognised() -> None:
    bad = RaterQuality(rater="rater-1", present=True, checks=4, checks_passed=1, repeats=10, repeats_consistent=3,
                       identical=3, identical_tied=1, left=40, right=2)  # fmt: skip
    (excluded,) = apply_exclusions([bad], Exclusions(min_checks_passed=0.5, min_repeat_consistency=0.6))
    assert excluded.excluded is not None
    votes, lengths = np.ones((2, 30)), np.linspace(-1.0, 1.0, 30)
    mixed = np.tile([0.0, 1.0], (2, 15))
    undefined = [
        length_adjusted_win_rate(votes, lengths),
        length_adjusted_win_rate(mixed, np.ones(30)),
        length_adjusted_win_rate(mixed, np.linspace(0.1, 1.0, 30)),
        length_adjusted_win_rate((lengths > 0)[None, :].astype(float), lengths),
        length_adjusted_win_rate(votes[:, :5], lengths[:5]),
        kendall_tau_b(np.ones(9), np.arange(9.0), seed=0),
        kendall_tau_b(np.ones(1), np.ones(1), seed=0),
        alpha_interval(np.ones((2, 9)), level="nominal", seed=0),
        alpha_interval(np.ones((1, 9)), level="nominal", seed=0),
    ]
    reasons = [each.method.removeprefix("none: ") for each in undefined if each.value is None]
    assert len(reasons) == len(undefined)
    lengthy = [f"no length-adjusted win rate: {each}" for each in reasons[:5]]
    warnings = quality_warnings([bad])
    assert len(warnings) == 4
    for note in (*warnings, *lengthy, *reasons[5:], excluded.excluded):
        text, language = told(note, ZH)
        assert language == "zh", note
        assert not any(word in text for word in ("checks", "items", "the ", "side ")), text


def test_a_free_sentence_stays_as_it_is() -> None:
    for note in ("Somebody wrote this.", "no length-adjusted win rate: for a reason of its own",
                 "one side does not vary; and more"):  # fmt: skip
        assert told(note, ZH) == (note, "en")


def test_kinds_of_strata_are_named_and_tasks_kept() -> None:
    assert stratum_name("all items", ZH) == "全部样本"
    assert stratum_name("short, short and middle, not flipped + law, long", ZH) == "short, 短、中, 未翻转 + law, 长"
    assert stratum_name("law, en, flipped", ZH) == "law, en, 翻转"
