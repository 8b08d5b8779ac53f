"""Ledgers count every item once, causes sum to the broken ones, and samples.parquet says the same item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
    LikelihoodAnswer,
    LikelihoodItem,
    TokensAnswer,
    TokensItem,
)
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.flips import chosen_labels, explain, flip_ledger, flip_ledgers
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.samples import asked_text, sample_rows, write_samples
from lorascope.workflows.scoring import Asked

CONTRACT = [
    "subject", "task", "item_id", "group", "category", "prompt", "references", "base_output", "adapted_output",
    "exact_match_adapted", "exact_match_base", "gold_logprob_base", "gold_logprob_adapted", "flip", "cause",
]  # fmt: skip


def task_of(items: Sequence[Item], kind: str = "generate", **settings: object) -> LoadedTask:
    spec = SuiteTask.model_validate({"name": "t", "kind": kind, "data": "x.jsonl"} | settings)
    return LoadedTask(spec, spec.kind, tuple(items), (), (), "f")


def answers_of(task: LoadedTask, labels: tuple[str, ...] = (), **said: Sequence[Answer]) -> TaskAnswers:
    asked = {name: Asked(task.items, answers, labels) for name, answers in said.items()}
    return TaskAnswers(task, labels, asked)


def questions(*references: str) -> list[Item]:
    return [GenerateItem(item_id=str(at), prompt=f"Q{at}?", references=(text,)) for at, text in enumerate(references)]


def texts(*said: str, gold: float | None = -1.0, cut: bool = False) -> list[Answer]:
    return [GenerateAnswer(text=text, truncated=cut, gold_logprob=gold) for text in said]


CAPITALS = ("Paris", "Rome", "Bonn", "Oslo", "Bern", "Lima")


def capitals() -> TaskAnswers:
    base = texts("Paris", "Rome", "Bonn", "Oslo", "wrong", "wrong")
    adapted = texts("It is Paris.", "", "Vaduz", "Oslo", "Bern", "Quito", gold=-4.0)
    return answers_of(task_of(questions(*CAPITALS), metrics=["exact_match"]), base=base, x=adapted)


def test_every_item_is_counted_once_and_causes_sum_to_the_broken_ones() -> None:
    ledger = flip_ledger(capitals(), "x", "base")
    assert ledger is not None
    assert ledger.model_dump(exclude={"subject", "reference", "task"}) == {
        "items": 6, "fixed": 1, "broken": 3, "both_right": 1, "both_wrong": 1, "noise": None,
        "causes": {"format": 1, "empty": 1, "knowledge_loss": 1},
    }  # fmt: skip


def test_turned_round_fixed_and_broken_change_places() -> None:
    there, back = (flip_ledger(capitals(), *names) for names in (("x", "base"), ("base", "x")))
    assert there is not None
    assert back is not None
    assert (there.fixed, there.broken) == (back.broken, back.fixed)


def test_a_checkpoint_against_itself_turns_nothing() -> None:
    ledger = flip_ledger(capitals(), "x", "x")
    assert ledger is not None
    assert (ledger.fixed, ledger.broken, ledger.causes) == (0, 0, {})


def test_no_ledger_where_nothing_is_right_or_wrong_or_somebody_was_not_asked() -> None:
    running = task_of([LikelihoodItem(item_id="1", text="a")], "likelihood")
    likelihood = [LikelihoodAnswer(logprob=-1.0, tokens=1, bytes=1)]
    assert flip_ledger(answers_of(running, base=likelihood, x=likelihood), "x", "base") is None
    assert flip_ledger(capitals(), "x", "nobody") is None
    pairs = [Pair("x", "base"), Pair("y", "base"), Pair("x", "x")]
    assert [ledger.reference for ledger in flip_ledgers(capitals(), pairs)] == ["base", "x"]


def test_the_pattern_and_stop_strings_of_the_task_are_known() -> None:
    task = task_of(questions("42", "7"), extract=r"#### (\d+)")
    adapted: list[Answer] = [
        GenerateAnswer(text="It is 42.", truncated=False),
        GenerateAnswer(text="Seven is", truncated=False, stop="\n\n"),
    ]
    explained = explain(task, Asked(task.items, texts("#### 42", "so #### 7")), Asked(task.items, adapted))
    assert explained is not None
    assert explained.causes is not None
    assert [cause.name for cause in explained.causes.values()] == ["format", "stop_string"]


def test_the_tasks_own_labels_are_rivals() -> None:
    references = ["sound", "games", "mail"] * 3
    task = task_of(questions(*references))
    adapted = ["games, less of sound", *references[1:]]
    explained = explain(task, Asked(task.items, texts(*references)), Asked(task.items, texts(*adapted, gold=-3.0)))
    assert explained is not None
    assert explained.causes is not None
    assert explained.causes[0].name == "knowledge_loss"


def test_choices_lose_by_their_margin() -> None:
    item = ChoiceItem(item_id="1", question="?", context="Q", choices=("Paris", "Rome"), answer=0)
    answers = answers_of(
        task_of([item], "choice"), base=[ChoiceAnswer(logprobs=(-1.0, -2.0))], x=[ChoiceAnswer(logprobs=(-2.0, -1.0))]
    )
    ledger = flip_ledger(answers, "x", "base")
    assert ledger is not None
    assert ledger.causes == {"knowledge_loss": 1}


def test_labels_and_tags_have_no_causes_but_labels_say_what_was_lost() -> None:
    item = LabelsItem(item_id="1", text="t", labels=("a", "b"), multi=True)
    labels = ("a", "b", "c")
    task = task_of([item], "labels", labels=list(labels))
    before, after = LabelsAnswer(probabilities=(0.9, 0.6, 0.1)), LabelsAnswer(probabilities=(0.9, 0.4, 0.7))
    assert chosen_labels(item, before, labels) == ["a", "b"]
    answers = answers_of(task, labels, base=[before], x=[after])
    ledger = flip_ledger(answers, "x", "base")
    assert ledger is not None
    assert (ledger.broken, ledger.causes) == (1, None)
    [row] = sample_rows(task, "x", answers.asked["base"], answers.asked["x"])
    assert (row["cause"], row["cause_evidence"]) == (None, "lost: b; added: c")
    tags = task_of([TokensItem(item_id="1", tokens=("A",), tags=("B-P",))], "tokens")
    turned = answers_of(tags, base=[TokensAnswer(tags=("B-P",))], x=[TokensAnswer(tags=("O",))])
    ledger = flip_ledger(turned, "x", "base")
    assert ledger is not None
    assert (ledger.broken, ledger.causes) == (1, None)


def test_samples_say_the_cause_of_broken_items_alone(tmp_path: Path) -> None:
    answers = capitals()
    rows = sample_rows(answers.task, "x", answers.asked["base"], answers.asked["x"])
    write_samples(rows, tmp_path / "samples.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "samples.parquet")
    assert table.column_names == [*CONTRACT, "cause_evidence", "gold_logprob_change"]
    found = table.to_pylist()
    assert [row["cause"] for row in found] == ["format", "empty", "knowledge_loss", None, None, None]
    assert [row["cause_evidence"] is None for row in found] == [False, False, False, True, True, True]
    assert {row["gold_logprob_change"] for row in found} == {-3.0}


def test_without_a_base_nothing_turns_and_nothing_is_invented() -> None:
    answers = capitals()
    rows = sample_rows(answers.task, "x", None, answers.asked["x"])
    assert {(row["flip"], row["cause"], row["cause_evidence"], row["gold_logprob_change"]) for row in rows} == {
        (None, None, None, None)
    }


@pytest.mark.parametrize("kind", ["generate", "choice"])
def test_chats_are_shown_with_their_roles(kind: str) -> None:
    messages = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"})
    item: Item = GenerateItem(item_id="1", prompt=None, messages=messages, references=("x",))
    if kind == "choice":
        item = ChoiceItem(item_id="1", question="Why?", context="", messages=messages, choices=("x", "y"), answer=0)
    assert asked_text(item) == "system: Be short.\nuser: Why?"
