from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from lorascope.engines.base import Subject
from lorascope.engines.sampling import Sampler, greedy, uniform_numbers
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import Sampling, SuiteTask

Make = Callable[..., Subject]
PROMPTS = ["the quick brown", "Question: What is the capital?\nAnswer:", "a", "z 9 法国", "the fox"]


def task(**sampling: Any) -> SuiteTask:
    return SuiteTask.model_validate(
        {"name": "write", "kind": "generate", "data": "x", "max_new_tokens": 8, "sampling": sampling}
    )


def items() -> list[GenerateItem]:
    return [GenerateItem(item_id=str(n), prompt=prompt, references=("fox",)) for n, prompt in enumerate(PROMPTS)]


def written(engine: TransformersEngine, subject: Subject, asked: SuiteTask, of: list[GenerateItem]) -> list[Any]:
    found = engine.answer(subject, asked, of)
    return [(one.text, *one.others) for one in found if isinstance(one, GenerateAnswer)]


def test_shares_of_the_draws_are_the_probabilities() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.5]])
    count = 4000
    grid = [(place + 0.5) / count for place in range(count)]
    drawn = Sampler(Sampling(temperature=0.7))(logits.expand(count, -1), grid)
    shares = np.bincount(drawn, minlength=5) / count
    np.testing.assert_allclose(shares, (logits[0] / 0.7).softmax(dim=-1).numpy(), atol=1 / count)


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (None, 0.6), (20, 0.9), (1, 1.0), (None, 1e-9), (500, 1.0)])
def test_limits_keep_what_the_library_keeps(top_k: int | None, top_p: float) -> None:
    logits = 3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    kept = Sampler(Sampling(top_k=top_k, top_p=top_p))._kept(logits.double()) > 0
    wanted = logits.double()
    if top_k is not None:
        wanted = TopKLogitsWarper(top_k)(None, wanted)
    if top_p < 1:
        wanted = TopPLogitsWarper(top_p)(None, wanted)
    assert torch.equal(kept, wanted.isfinite())


def test_extreme_numbers_draw_tokens_that_can_be_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]] * 2)
    assert Sampler(Sampling())(logits, [0.0, np.nextafter(1.0, 0.0)]) == [1, 3]
    assert greedy(logits, [0.0, 0.0]) == [1, 1]


def test_numbers_follow_seed_content_and_answer() -> None:
    first = uniform_numbers(0, "a", 0, 5)
    assert uniform_numbers(0, "a", 0, 3).tolist() == first[:3].tolist()
    others = [uniform_numbers(1, "a", 0, 5), uniform_numbers(0, "b", 0, 5), uniform_numbers(0, "a", 1, 5)]
    assert all((other != first).all() for other in others)


@pytest.mark.parametrize(("name", "base"), [("llama", None), ("gpt2", None), ("t5", None), ("prompt", "llama")])
def test_an_item_draws_the_same_alone_and_among_others(subject: Make, name: str, base: str | None) -> None:
    asked, one = task(n=3, seed=4, temperature=0.8), subject(name, base)
    engine = TransformersEngine(device="cpu")
    whole = written(engine, one, asked, items())
    assert {len(answers) for answers in whole} == {3}
    assert written(engine, one, asked, items()[::-1]) == whole[::-1]
    assert [written(engine, one, asked, [item])[0] for item in items()] == whole
    assert written(TransformersEngine(device="cpu", batch_size=2), one, asked, items()) == whole


def test_draws_follow_the_seed_and_not_the_items_name(subject: Make, engine: TransformersEngine) -> None:
    one = subject("llama")
    first = written(engine, one, task(n=2, temperature=2.0), items())
    assert any(answers[0] != answers[1] for answers in first)
    assert written(engine, one, task(n=2, temperature=2.0, seed=1), items()) != first
    renamed = [replace(item, item_id=f"other {item.item_id}", split="test") for item in items()]
    assert written(engine, one, task(n=2, temperature=2.0), renamed) == first
    assert [answers[:1] for answers in first] == written(engine, one, task(temperature=2.0), items())


def test_hardly_any_temperature_is_greedy(subject: Make, engine: TransformersEngine) -> None:
    plain = SuiteTask.model_validate({"name": "write", "kind": "generate", "data": "x", "max_new_tokens": 8})
    wanted = written(engine, subject("llama"), plain, items())
    assert written(engine, subject("llama"), task(temperature=1e-6), items()) == wanted
    assert written(engine, subject("llama"), task(top_k=1), items()) == wanted
