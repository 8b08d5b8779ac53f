"""The leak check on answers written by hand: what leaked, what is clean, and whose gain rests on what."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lorascope.data.tasks import LoadedTask, load_task
from lorascope.measures.overlap import Overlap
from lorascope.schema.comparison import Measurement
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsItem,
    LikelihoodItem,
    ScoreAnswer,
    ScoreItem,
    TokensItem,
)
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.leak_findings import find_leaks
from lorascope.workflows.leaks import Leaks, measure_leaks
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import Asked

PAIR = Pair("tuned", "base")
_RANDOM = random.Random(3)


def words(count: int) -> str:
    return " ".join(f"w{_RANDOM.randrange(5_000)}" for _ in range(count))


def questions(count: int, start: str = "q", groups: int = 0) -> list[GenerateItem]:
    return [
        GenerateItem(
            item_id=f"{start}{number}",
            prompt=words(30),
            references=(words(4),),
            group=f"g{number % groups}" if groups else None,
        )
        for number in range(count)
    ]


def task_of(items: Sequence[Item], train: Sequence[Item], kind: str = "generate", **settings: object) -> LoadedTask:
    spec = SuiteTask.model_validate({"name": "t", "kind": kind, "data": "x.jsonl"} | settings)
    return LoadedTask(spec, spec.kind, tuple(items), tuple(train), (), "f")


def said(texts: Sequence[str]) -> list[Answer]:
    return [GenerateAnswer(text=text, truncated=False) for text in texts]


def memorised(items: Sequence[GenerateItem], leaked: int, clean_right: int = 0) -> TaskAnswers:
    """The first ``leaked`` items stand in the training data; the subject is right on them and on some clean ones."""
    train = [*questions(20, "t"), *(replace(item, item_id=f"t{item.item_id}") for item in items[:leaked])]
    answers = TaskAnswers(task_of(items, train, metrics=["rougeL"]))
    answers.asked["base"] = Asked(items, said(["nothing like it"] * len(items)))
    right = [item.references[0] if at < leaked + clean_right else "nothing at all" for at, item in enumerate(items)]
    answers.asked["tuned"] = Asked(items, said(right))
    return answers


def found(leaks: Leaks, metric: str, by: str | None = None, value: str | None = None) -> Measurement:
    [one] = [
        row
        for row in leaks.measurements
        if row.metric == metric
        and (row.slice.by if row.slice else None) == by
        and (value is None or (row.slice is not None and row.slice.value == value))
    ]
    return one


@pytest.fixture(scope="module")
def half() -> Leaks:
    return measure_leaks(memorised(questions(80), 20, clean_right=20), [PAIR], seed=0)


def test_shares_by_kind(half: Leaks) -> None:
    whole = found(half, "leaked_fraction")
    assert whole.adapted is not None
    assert (whole.area, whole.base, whole.adapted.value, whole.adapted.n) == ("leak", None, 0.25, 80)
    assert whole.adapted.low is not None
    assert whole.adapted.low < 0.25
    assert "13-gram" in whole.signature
    for kind in ("exact", "near_duplicate", "13-gram", "8-gram"):
        assert found(half, "leaked_fraction", "category", kind).adapted.value == 0.25  # type: ignore[union-attr]
    assert [flag.leaked for flag in half.item_flags] == [True] * 20 + [False] * 60
    assert half.item_flags[4].nearest == 24


def test_metrics_on_clean_and_leaked_items(half: Leaks) -> None:
    clean, leaked = (found(half, "rougeL", "clean", value) for value in ("clean", "leaked"))
    assert clean.adapted is not None
    assert leaked.adapted is not None
    assert clean.delta is not None
    assert leaked.delta is not None
    assert (clean.adapted.n, leaked.adapted.n, clean.area) == (60, 20, "task")
    assert clean.delta.value == pytest.approx(1 / 3)
    assert leaked.delta.value == pytest.approx(1.0)
    assert clean.delta.verdict == "improved"
    assert "clean items" in clean.signature


def test_the_difference_in_gain_has_an_interval(half: Leaks) -> None:
    row = found(half, "leaked_gain")
    assert row.adapted is not None
    assert row.adapted.value == pytest.approx(0.5 - 1 / 3)
    assert row.adapted.low is not None
    assert row.adapted.high is not None
    assert 0 < row.adapted.low < row.adapted.value < row.adapted.high
    assert "rougeL" in row.signature


def test_findings_say_how_much_of_the_gain_is_left(half: Leaks) -> None:
    data, gain = half.findings
    assert (data.severity, data.subject) == ("warning", None)
    assert data.title.startswith("25.0% of the items of t")
    assert "20 exact copies" in data.evidence[1]
    assert "training record 21" in data.evidence[2]
    assert (gain.severity, gain.subject) == ("warning", "tuned")
    assert gain.title.startswith("A third of the gain of tuned")
    assert "+0.5 on all 80 items and by +0.333 on the 60 clean ones" in gain.evidence[0]


def test_a_gain_that_is_memory_alone() -> None:
    gain = measure_leaks(memorised(questions(80), 20), [PAIR], seed=0).findings[1]
    assert gain.title.startswith("All of the gain")


def test_a_gain_that_holds_without_the_leaks() -> None:
    items = questions(90)
    answers = memorised(items, 30)
    answers.asked["base"] = Asked(items, said([item.references[0] for item in items]))
    answers.asked["tuned"] = Asked(items, said([f"{item.references[0]} more" for item in items]))
    gain = measure_leaks(answers, [PAIR], seed=0).findings[1]
    assert (gain.severity, gain.advice) == ("info", None)
    few = measure_leaks(memorised(questions(12), 2, clean_right=3), [PAIR], seed=0).findings[1]
    assert "cannot be told from 12 items" in few.title


def test_no_overlap_is_good_news_without_slices() -> None:
    leaks = measure_leaks(memorised(questions(30), 0, clean_right=10), [PAIR], seed=0)
    assert found(leaks, "leaked_fraction").adapted.value == 0  # type: ignore[union-attr]
    assert {row.metric for row in leaks.measurements} == {"leaked_fraction"}
    assert [finding.severity for finding in leaks.findings] == ["good"]


def test_without_training_data_nothing_is_said() -> None:
    answers = memorised(questions(10), 3)
    answers.task = replace(answers.task, train_items=())
    assert measure_leaks(answers, [PAIR], seed=0) == Leaks()


def test_groups_that_stand_in_both() -> None:
    items = questions(40, groups=8)
    answers = memorised(items, 3)
    leaks = measure_leaks(answers, [PAIR], seed=0)
    shared = found(leaks, "leaked_fraction", "group", "shared").adapted
    assert shared is not None
    assert (shared.value, shared.n, shared.method) == (3 / 8, 8, "wilson")
    assert "3 of 8 groups (38%) stand in both" in leaks.findings[0].evidence
    assert "8 groups" in found(leaks, "leaked_fraction").adapted.method  # type: ignore[union-attr]


def test_the_same_share_is_told_once_for_each_subject_and_alone_without_a_base() -> None:
    answers = memorised(questions(40), 10)
    answers.asked["other"] = answers.asked["tuned"]
    del answers.asked["base"]
    answers.absent["base"] = "no head"
    pairs = [PAIR, Pair("other", "base"), Pair("other", "tuned")]
    leaks = measure_leaks(answers, pairs, seed=0)
    whole = [row for row in leaks.measurements if row.metric == "leaked_fraction" and row.slice is None]
    assert [(row.subject, row.reference) for row in whole] == [("tuned", "base"), ("other", "base")]
    alone = [row for row in leaks.measurements if row.metric == "rougeL" and row.reference == "base"]
    assert {(row.base, row.delta, row.missing_reason) for row in alone} == {(None, None, "base: no head")}
    same = [row.delta for row in leaks.measurements if row.metric == "rougeL" and row.reference == "tuned"]
    assert [delta.test for delta in same if delta is not None] == ["identical outputs"] * 2


def test_choices_are_compared_by_their_question() -> None:
    def choice(number: int, question: str) -> ChoiceItem:
        return ChoiceItem(item_id=str(number), question=question, context=f"Question: {question}\nAnswer:",
                          choices=("yes", "no"), answer=0)  # fmt: skip

    items = [choice(number, words(20)) for number in range(6)]
    train = [*items[:2], *(choice(number + 50, words(20)) for number in range(6))]
    answers = TaskAnswers(task_of(items, train, "choice"))
    for name in ("base", "tuned"):
        answers.asked[name] = Asked(items, [ChoiceAnswer(logprobs=(-1.0, -2.0)) for _ in items])
    leaks = measure_leaks(answers, [PAIR], seed=0)
    assert [flag.leaked for flag in leaks.item_flags] == [True, True, False, False, False, False]
    assert found(leaks, "accuracy", "clean", "clean").delta.verdict == "equivalent"  # type: ignore[union-attr]


def asks(question: str, right: str, wrong: str, number: int) -> ChoiceItem:
    return ChoiceItem(item_id=str(number), question=question, context=question, choices=(right, wrong), answer=0)


def test_a_question_with_several_right_answers_is_compared_with_its_choices() -> None:
    generic = "Which of the following is true?"
    items = [asks(generic, words(6), words(6), number) for number in range(6)]
    train = [asks(generic, words(6), words(6), number + 50) for number in range(6)]
    turned = ChoiceItem(item_id="turned", question=generic, context="", choices=items[2].choices[::-1], answer=1)
    leaks = measure_leaks(TaskAnswers(task_of(items, [*train, turned], "choice")), [], seed=0)
    assert [flag.leaked for flag in leaks.item_flags] == [number == 2 for number in range(6)]


def test_a_question_with_one_right_answer_leaks_whatever_the_wrong_ones() -> None:
    items = [asks(words(12), words(2), words(2), number) for number in range(6)]
    known = asks(items[4].question, items[4].choices[0], words(2), 70)
    leaks = measure_leaks(TaskAnswers(task_of(items, [known], "choice")), [], seed=0)
    assert [flag.leaked for flag in leaks.item_flags] == [number == 4 for number in range(6)]


def test_equal_outputs_gain_nothing_from_leaks() -> None:
    items = questions(60)
    answers = memorised(items, 20)
    answers.asked["tuned"] = answers.asked["base"]
    leaks = measure_leaks(answers, [PAIR], seed=0)
    gain = found(leaks, "leaked_gain").adapted
    assert gain is not None
    assert (gain.low, gain.value, gain.high) == (0, 0, 0)
    assert "is the same without the leaked items" in leaks.findings[1].title


def test_no_clean_items_no_advice_to_quote_them() -> None:
    advice = measure_leaks(memorised(questions(8), 8), [PAIR], seed=0).findings[0].advice or ""
    assert "Quote the metrics" not in advice
    assert "none is clean" in advice


def test_candidates_that_were_not_compared_are_told() -> None:
    task = task_of(questions(2), questions(2, "t"))
    missed = Overlap(False, None, None, None, None, 7)
    [finding] = find_leaks(task, [missed, replace(missed, uncompared=0)], None, [])
    assert "1 of 2 items resemble more than 200 training texts each" in finding.evidence[1]


@pytest.mark.parametrize("kind", ["chat", "labels", "tokens", "likelihood"])
def test_every_kind_is_compared_by_what_it_asks(kind: str) -> None:
    shared, other = words(20), words(20)
    make = {
        "chat": lambda text: GenerateItem(
            item_id=text, prompt=None, references=("r",),
            messages=({"role": "system", "content": other}, {"role": "user", "content": text}),
        ),
        "labels": lambda text: LabelsItem(item_id=text, text=text, text_pair="pair", labels=("a",), multi=True),
        "tokens": lambda text: TokensItem(item_id=text, tokens=tuple(text.split()), tags=("O",) * 20),
        "likelihood": lambda text: LikelihoodItem(item_id=text, text=text),
    }[kind]  # fmt: skip
    task = task_of([make(shared), make(words(20))], [make(words(20)), make(shared)],
                   "generate" if kind == "chat" else kind)  # fmt: skip
    leaks = measure_leaks(TaskAnswers(task), [], seed=0)
    assert [flag.exact for flag in leaks.item_flags] == [True, False]
    assert leaks.measurements == []
    assert len(leaks.findings) == 1


def test_few_shot_examples_around_a_question_are_no_leak(tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [{"prompt": words(20), "reference": words(3)} for _ in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    spec = SuiteTask(name="t", kind="generate", data="test.jsonl", train_data="train.jsonl", few_shot=2)
    task = load_task(spec, root=tmp_path)
    asked = task.items[0]
    assert isinstance(asked, GenerateItem)
    assert len((asked.prompt or "").split()) > 60
    assert not any(flag.leaked for flag in measure_leaks(TaskAnswers(task), [], seed=0).item_flags)


def test_metrics_without_sums_have_a_gain_without_an_interval() -> None:
    items = [ScoreItem(item_id=str(number), text=words(20), score=float(number % 7)) for number in range(30)]
    answers = TaskAnswers(task_of(items, items[:10], "score"))
    answers.asked["base"] = Asked(items, [ScoreAnswer(value=float(number % 5)) for number in range(30)])
    answers.asked["tuned"] = Asked(items, [ScoreAnswer(value=item.score + number % 2)
                                           for number, item in enumerate(items)])  # fmt: skip
    row = found(measure_leaks(answers, [PAIR], seed=0), "leaked_gain")
    assert row.adapted is not None
    assert (row.adapted.low, row.adapted.high) == (None, None)
    assert "no function of a sum" in row.adapted.method
