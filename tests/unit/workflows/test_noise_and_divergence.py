"""What repeating a run shows, and how far distributions moved: on an engine that says what it is told to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorascope.data.tasks import LoadedTask
from lorascope.engines.base import Subject
from lorascope.errors import EvaluationError
from lorascope.schema.flips import FlipLedger
from lorascope.schema.items import Answer, DivergenceAnswer, GenerateAnswer, GenerateItem, Item, LikelihoodItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.behaviour import Behaviour, ask_all
from lorascope.workflows.divergence import measure_divergence
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.noise import noise_measurements, other_batch_size, repeat_all, with_noise
from lorascope.workflows.scoring import Asked
from lorascope.workflows.watch import Silent


class Told:
    """An engine whose answers are a function of the checkpoint's name."""

    def __init__(self, say: Callable[[str], Sequence[Answer]], moved: Callable[[str], Any] | None = None) -> None:
        self.notes: list[str] = []
        self.hashes: list[str] = []
        self._say, self._moved = say, moved

    def answer(self, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Any = None) -> list[Answer]:
        self.hashes.append(subject.content_hash)
        return list(self._say(subject.name))

    def diverge(self, base: Subject, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Any) -> Any:
        assert base.name == "base"
        assert self._moved is not None
        return self._moved(subject.name)


def asker(name: str) -> Subject:
    return Subject(name=name, path=Path(name), kind="model", tokenizer_path=Path(name), content_hash=f"hash of {name}")


def texts(*said: str) -> list[Answer]:
    return [GenerateAnswer(text=text, truncated=False) for text in said]


def asked_once(**said: Sequence[str]) -> Behaviour:
    items = tuple(GenerateItem(item_id=str(n), prompt="?", references=("yes",), group=str(n // 2)) for n in range(4))
    spec = SuiteTask(name="t", kind="generate", data="x", metrics=["exact_match"])
    answers = TaskAnswers(LoadedTask(spec, "generate", items, (), (), "f"))
    answers.asked = {name: Asked(items, texts(*row)) for name, row in said.items()}
    return Behaviour({"t": answers})


def ledger(broken: int, fixed: int) -> FlipLedger:
    counts = {"fixed": fixed, "broken": broken, "both_right": 4 - fixed - broken, "both_wrong": 0}
    return FlipLedger(subject="x", reference="base", task="t", items=4, **counts)


def test_flips_on_items_that_flip_by_themselves_are_noise() -> None:
    """Items 0 and 3 broke; 0 is unstable in the base, 1 in the subject, 3 in neither: one flip of two is noise."""
    first = asked_once(base=["yes", "yes", "no", "yes"], x=["no", "yes", "no", "no"])
    again = {"base": texts("no", "yes", "no", "yes"), "x": texts("no", "no", "no", "never")}
    noise = repeat_all(Told(again.__getitem__), [asker("base"), asker("x")], first, "batches of 3", watch=Silent())
    assert noise.unstable == {("t", "base"): [True, False, False, False], ("t", "x"): [False, True, False, False]}
    [found] = noise_measurements(noise, first.tasks["t"], [Pair("x", "base")], "batches of 3", seed=0)
    assert found.adapted is not None
    assert found.adapted.value == 0.5
    assert found.base is None
    assert "batches of 3" in found.signature
    assert "2 groups" in found.adapted.method
    assert [each.noise for each in with_noise([ledger(2, 0)], noise, first.tasks)] == [1]


def test_a_repeated_answer_is_never_taken_from_the_first_pass() -> None:
    first = asked_once(base=["yes"] * 4, x=["yes"] * 4)
    engine = Told(lambda name: texts("yes", "yes", "yes", "yes"))
    repeat_all(engine, [asker("base"), asker("x")], first, "batches of 3", watch=Silent())
    repeat_all(engine, [asker("base")], first, "batches of 4", watch=Silent())
    assert len(set(engine.hashes)) == 3
    assert not {"hash of base", "hash of x"} & set(engine.hashes)


def test_what_cannot_be_repeated_has_no_noise() -> None:
    first = asked_once(base=["yes"] * 4, x=["no"] * 4)

    def fail(name: str) -> Sequence[Answer]:
        raise EvaluationError("memory runs out")

    noise = repeat_all(Told(fail), [asker("base"), asker("x")], first, "batches of 3", watch=Silent())
    assert list(noise_measurements(noise, first.tasks["t"], [Pair("x", "base")], "batches of 3", seed=0)) == []
    assert [each.noise for each in with_noise([ledger(4, 0)], noise, first.tasks)] == [None]
    assert [(each.subject, "memory runs out" in each.reason) for each in noise.missing] == [("base", True), ("x", True)]


def test_without_a_base_the_noise_is_the_subjects_own() -> None:
    first = asked_once(x=["yes", "no", "no", "no"])
    engine = Told(lambda name: texts("no", "no", "no", "no"))
    noise = repeat_all(engine, [asker("base"), asker("x")], first, "batches of 3", watch=Silent())
    [found] = noise_measurements(noise, first.tasks["t"], [Pair("x", "base")], "batches of 3", seed=0)
    assert found.adapted is not None
    assert found.adapted.value == 0.25
    assert "the subject alone" in found.signature


@pytest.mark.parametrize("given", [None, 1, 2, 3, 16])
def test_the_other_batch_size_is_another_one(given: int | None) -> None:
    assert other_batch_size(given) != given
    assert other_batch_size(given) >= 1


def likelihoods(count: int, *names: str) -> Behaviour:
    items = tuple(LikelihoodItem(item_id=str(n), text="some text") for n in range(count))
    spec = SuiteTask(name="text", kind="likelihood", role="retention", data="x")
    answers = TaskAnswers(LoadedTask(spec, "likelihood", items, (), (), "f"))
    answers.asked = {name: Asked(items, []) for name in names}
    return Behaviour({"text": answers})


def test_divergence_weighs_items_by_their_tokens_and_has_an_interval() -> None:
    moved = [DivergenceAnswer(kl=1.0, tokens=10), DivergenceAnswer(kl=9.0, tokens=10), DivergenceAnswer(kl=0, tokens=0)]
    engine: Any = Told(lambda name: [], lambda name: moved)
    behaviour = likelihoods(3, "base", "x")
    [found], missing = measure_divergence(engine, [asker("base"), asker("x")], behaviour, seed=0, watch=Silent())
    assert missing == []
    assert found.adapted is not None
    assert (found.metric, found.area, found.direction) == ("kl_to_base", "forgetting", "none")
    assert (found.adapted.value, found.adapted.n) == (0.5, 2)
    assert found.adapted.low is not None
    assert found.base is None
    assert found.missing_reason is not None


def test_without_a_token_to_predict_there_is_no_divergence() -> None:
    engine: Any = Told(lambda name: [], lambda name: [DivergenceAnswer(kl=0.0, tokens=0)] * 2)
    behaviour = likelihoods(2, "base", "x")
    [found], _ = measure_divergence(engine, [asker("base"), asker("x")], behaviour, seed=0, watch=Silent())
    assert found.adapted is None
    assert "no item" in str(found.missing_reason)


def test_divergence_that_cannot_be_had_is_named() -> None:
    def moved(name: str) -> Any:
        raise EvaluationError("the vocabularies differ")

    engine: Any = Told(lambda name: [], moved)
    known = [asker("base"), asker("x"), asker("silent")]
    found, missing = measure_divergence(engine, known, likelihoods(2, "base", "x"), seed=0, watch=Silent())
    assert found == []
    assert [(each.subject, each.reason) for each in missing] == [("x", "kl_to_base on text: the vocabularies differ")]


def test_a_note_of_the_engine_names_the_set_it_is_about() -> None:
    class Noting(Told):
        def answer(self, subject: Subject, task: SuiteTask, items: Sequence[Item], on_progress: Any = None) -> Any:
            self.notes += [f"t, {subject.name}: 3 of 4 items exceed the context; prompts lost their left", "other"]
            return super().answer(subject, task, items, on_progress)

    task = asked_once(base=["yes"] * 4).tasks["t"].task
    engine = Noting(lambda name: texts("yes", "yes", "yes", "yes"))
    ask_all(engine, [replace(task, train_items=task.items)], [asker("base"), asker("x")], seed=0, watch=Silent())
    about = [note.partition(" items:")[0] for note in engine.notes if note != "other"]
    assert about == ["t, base, evaluation", "t, base, training", "t, x, evaluation", "t, x, training"]
