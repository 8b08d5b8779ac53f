from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from lorascope.engines.base import Subject
from lorascope.engines.choice import ChoiceAsker, may_share, shares_exactly
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import Need
from lorascope.engines.logprob_reading import applies_head_alone
from lorascope.engines.logprob_rows import Row, shared_rows
from lorascope.engines.prefix import common_beginning, read_prefix
from lorascope.engines.scoring import row_logprobs
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import ChoiceAnswer, ChoiceItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
VOCABULARY = 120
TASK = SuiteTask(name="choice", kind="choice", data="x.jsonl")
ROW = Row(tuple(range(5, 25)), ((1, 2, 3), (4,), (7, 8, 9, 10), (11, 12)))


def ready_of(model: Any) -> Ready:
    """A model that was never saved, with the weights of a trained one's size."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    subject = Subject(name="m", path=Path("m"), kind="model", tokenizer_path=Path("m"), content_hash="h")
    return Ready(
        subject=subject,
        model=model.eval(),
        plain=model,
        tokenizer=None,
        device=torch.device("cpu"),
        context=128,
        virtual=0,
        rows=VOCABULARY,
        pad_id=0,
    )


def mistral(**more: Any) -> Ready:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ready_of(MistralForCausalLM(MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **shape, **more)))


@torch.no_grad()
def direct(ready: Ready, context: Sequence[int], target: Sequence[int]) -> float:
    """Whole logits of one unpadded sequence."""
    scores = ready.plain(input_ids=torch.tensor([[*context, *target]])).logits[0].double().log_softmax(-1)
    return sum(float(scores[len(context) - 1 + step, token]) for step, token in enumerate(target))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[int, ...]]]:
    """``read(model)``: from now on, the shapes of the token ids that a model reads."""

    def watch(model: Any) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        forward = model.forward

        def seen(*inputs: Any, **named: Any) -> Any:
            shapes.append(tuple(named["input_ids"].shape))
            return forward(*inputs, **named)

        seen.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
        monkeypatch.setattr(model, "forward", seen)
        return shapes

    return watch


@pytest.mark.parametrize("name", ["llama", "llama-bos", "gpt2", "lora"])
def test_choices_share_their_context(subject: Make, name: str, read: Callable[[Any], list[tuple[int, ...]]]) -> None:
    holder = Holder(device=torch.device("cpu"), dtype="auto")
    ready = holder.ready(subject(name, "llama" if name == "lora" else None), Need("causal"))
    item = ChoiceItem(item_id="1", question="?", context="Question:", choices=("the fox", "q w e", "z"), answer=0)
    asker = ChoiceAsker(ready, TASK, [item, item])
    shapes = read(ready.plain)
    with torch.inference_mode():
        (outcome, again) = asker.ask([0, 1])
    contexts = {pair.context for pair in asker._pairs[0]}
    assert len(contexts) == 1
    length = len(next(iter(contexts))) + sum(len(pair.target) - 1 for pair in asker._pairs[0])
    assert shapes == [(2, length)]
    assert asker.sizes[0].rows == 1
    assert isinstance(outcome.answer, ChoiceAnswer)
    with torch.inference_mode():
        apart = [row_logprobs(ready, [Row(pair.context, (pair.target,))])[0][0] for pair in asker._pairs[0]]
    assert outcome.answer.logprobs == pytest.approx(apart, abs=1e-5)
    assert again == outcome


def test_choices_of_one_token_cost_nothing_beside_the_context(
    subject: Make, read: Callable[[Any], list[tuple[int, ...]]]
) -> None:
    ready = Holder(device=torch.device("cpu"), dtype="auto").ready(subject("llama"), Need("causal"))
    short = Row(ROW.context, ((1,), (2,), (3,), (4,)))
    shapes = read(ready.plain)
    with torch.inference_mode():
        ((*found,),) = row_logprobs(ready, [short])
    assert shapes[-1] == (1, len(ROW.context))
    assert found == pytest.approx([direct(ready, short.context, target) for target in short.targets], abs=1e-5)


def test_only_asked_places_reach_the_head(subject: Make) -> None:
    ready = Holder(device=torch.device("cpu"), dtype="auto").ready(subject("llama"), Need("causal"))
    assert applies_head_alone(ready)
    seen: list[int] = []
    handle = ready.plain.lm_head.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1]).shape[0])
    )
    with torch.inference_mode():
        row_logprobs(ready, [ROW, ROW])
    handle.remove()
    asked = sum(len(target) for target in ROW.targets)
    assert seen == [2, 2 * asked]  # one last place of each row, which the model itself keeps; then what was asked


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_window_as_long_as_the_text_does_not_hinder(attention: str) -> None:
    ready = mistral(sliding_window=64, attn_implementation=attention)
    assert may_share(ready, 24)
    assert shares_exactly(ready, ROW)
    with torch.inference_mode():
        found = row_logprobs(ready, [ROW, Row((3, 4), ((5, 6), (7, 8, 9)))])
    assert found[0] == pytest.approx([direct(ready, ROW.context, target) for target in ROW.targets], abs=1e-5)
    assert found[1] == pytest.approx([direct(ready, (3, 4), target) for target in ((5, 6), (7, 8, 9))], abs=1e-5)


def test_shorter_windows_and_positions_that_are_not_taken_have_rows_of_their_own() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    assert not may_share(mistral(sliding_window=8), 24)
    assert not may_share(ready_of(bloom), 24)


def test_a_model_that_mixes_choices_up_is_found_out() -> None:
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    )
    ready = ready_of(GPTNeoForCausalLM(config))
    assert may_share(ready, 24)
    assert not shares_exactly(ready, ROW)


def test_half_precision_shares_too() -> None:
    ready = mistral()
    ready.plain.to(torch.bfloat16)
    assert shares_exactly(ready, ROW)
    ready = mistral(attn_implementation="eager")
    ready.plain.to(torch.bfloat16)
    assert shares_exactly(ready, ROW)


def test_a_model_that_scales_or_caps_its_logits_gives_them_itself() -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    scaled = ready_of(CohereForCausalLM(CohereConfig(vocab_size=VOCABULARY, eos_token_id=2, **shape)))
    capped = ready_of(
        Gemma2ForCausalLM(Gemma2Config(vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=8, **shape))
    )
    for ready in (scaled, capped):
        assert not applies_head_alone(ready)
        with torch.inference_mode():
            (found,) = row_logprobs(ready, [ROW])
        assert found == pytest.approx([direct(ready, ROW.context, target) for target in ROW.targets], abs=1e-5)


def test_models_that_cannot_share_still_answer(engine: TransformersEngine, subject: Make) -> None:
    item = ChoiceItem(item_id="1", question="?", context="Answer:", choices=("the fox", "q w e", "z"), answer=0)
    for name, base in (("t5", None), ("prompt", "llama")):
        (answer,) = engine.answer(subject(name, base), TASK, [item])
        ready = engine._holder.ready(subject(name, base), Need("seq2seq" if name == "t5" else "causal"))
        assert ChoiceAsker(ready, TASK, [item]).sizes[0].rows == 3
        assert isinstance(answer, ChoiceAnswer)


def test_a_stated_delimiter_stands_before_each_choice(engine: TransformersEngine, subject: Make) -> None:
    item = ChoiceItem(item_id="1", question="?", context="答案：", choices=("巴黎", "狐狸"), answer=0)
    spaced = ChoiceItem(item_id="2", question="?", context="答案：", choices=(" 巴黎", " 狐狸"), answer=0)
    (ours, by_hand) = engine.answer(subject("llama"), TASK, [item, spaced])
    (stated,) = engine.answer(subject("llama"), TASK.model_copy(update={"delimiter": " "}), [item])
    assert stated == by_hand
    assert stated != ours


def test_rows_are_made_of_equal_contexts_and_not_too_long() -> None:
    pairs = [((1, 2), (3, 4)), ((1, 2), (5,)), ((9,), (3, 4)), ((1, 2), tuple(range(200))), ((1, 2), tuple(range(99)))]
    rows = shared_rows(pairs)
    assert [numbers for _, numbers in rows] == [[0, 1, 3], [4], [2]]
    assert [row.context for row, _ in rows] == [(1, 2), (1, 2), (9,)]
    assert rows[0][0].length == 2 + 1 + 199
    assert rows[0][0].branches
    assert not rows[1][0].branches


@pytest.mark.parametrize(("name", "base"), [("llama", None), ("gpt2", None), ("lora", "llama")])
def test_batch_size_padding_and_order_move_nothing(subject: Make, name: str, base: str | None) -> None:
    contexts = ["Question: What is the capital of France?\nAnswer:", "the quick", "", "问题：法国的首都是哪里？"]
    asked = [
        ChoiceItem(item_id=str(number), question="?", context=context, choices=("the fox", "q w", "法国"), answer=0)
        for number, context in enumerate(contexts * 2)
    ]
    single = TransformersEngine(device="cpu", batch_size=1).answer(subject(name, base), TASK, asked)
    engine = TransformersEngine(device="cpu", token_budget=10**6)
    engine._holder.ready(subject(name, base), Need("causal")).tokenizer.padding_side = "left"
    together = engine.answer(subject(name, base), TASK, asked[::-1])[::-1]
    for one, other in zip(single, together, strict=True):
        assert isinstance(one, ChoiceAnswer)
        assert isinstance(other, ChoiceAnswer)
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-5)


FEW_SHOT = "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8"


def few_shot_items() -> list[ChoiceItem]:
    contexts = [f"{FEW_SHOT}{ending}" for ending in (" x", " 0 1 2", " z 9 z", " q")]
    return [
        ChoiceItem(item_id=str(number), question="?", context=context, choices=("fox", "q w", "法国", "0"), answer=0)
        for number, context in enumerate(contexts)
    ]


def test_a_common_beginning_leaves_each_context_a_token_of_its_own() -> None:
    start = tuple(range(40))
    assert common_beginning([(*start, 1, 5), (*start, 1, 7), (*start, 1)]) == start
    assert common_beginning([start, start]) == ()
    assert common_beginning([start[:20], start[:30]]) == ()
    assert common_beginning([]) == ()


@pytest.mark.parametrize(("name", "base"), [("llama", None), ("gpt2", None), ("lora", "llama")])
def test_few_shot_examples_are_read_once(
    subject: Make, name: str, base: str | None, read: Callable[[Any], list[tuple[int, ...]]]
) -> None:
    ready = Holder(device=torch.device("cpu"), dtype="auto").ready(subject(name, base), Need("causal"))
    items = few_shot_items()
    asker = ChoiceAsker(ready, TASK, items)
    assert asker._prefix is not None
    contexts = [pairs[0].context for pairs in asker._pairs]
    known = len(asker._prefix.tokens)
    assert 32 <= known < min(len(context) for context in contexts)
    shapes = read(ready.plain)
    with torch.inference_mode():
        together, single = asker.ask([0, 1, 2, 3]), [asker.ask([number])[0] for number in range(4)]
        apart = [
            [row_logprobs(ready, [Row(pair.context, (pair.target,))])[0][0] for pair in pairs] for pairs in asker._pairs
        ]
    assert shapes[0][1] == max(row.length for pairs in asker._pairs for row, _ in asker._rows(pairs)) - known
    for one, other, wanted in zip(together, single, apart, strict=True):
        assert isinstance(one.answer, ChoiceAnswer)
        assert isinstance(other.answer, ChoiceAnswer)
        assert one.answer.logprobs == pytest.approx(wanted, abs=1e-5)
        assert other.answer.logprobs == pytest.approx(wanted, abs=1e-5)


def test_an_item_that_was_cut_is_read_beside_the_others(engine: TransformersEngine, subject: Make) -> None:
    long = ChoiceItem(
        item_id="long", question="?", context=FEW_SHOT + " fox" * 60, choices=("fox", "q w", "法国", "0"), answer=0
    )
    items = [*few_shot_items()[:2], long, *few_shot_items()[2:]]
    together = engine.answer(subject("llama"), TASK, items)
    for item, answer in zip(items, together, strict=True):
        (alone,) = engine.answer(subject("llama"), TASK, [item])
        assert isinstance(answer, ChoiceAnswer)
        assert isinstance(alone, ChoiceAnswer)
        assert answer.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


@pytest.mark.parametrize(("attention", "window"), [("sdpa", None), ("sdpa", 64), ("eager", None)])
def test_a_prefix_with_either_attention_and_with_logits_given(
    attention: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = mistral(sliding_window=window, attn_implementation=attention)
    prefix = read_prefix(ready, tuple(range(3, 40)))
    assert prefix is not None
    rows = [Row((*range(3, 40), *own), ROW.targets) for own in ((50, 51, 52), (60,))]
    wanted = [[direct(ready, row.context, target) for target in row.targets] for row in rows]
    with torch.inference_mode():
        by_head = row_logprobs(ready, rows, prefix)
        monkeypatch.setattr("lorascope.engines.logprob_reading.applies_head_alone", lambda _: False)
        given = row_logprobs(ready, rows, prefix)
    for found in (by_head, given):
        for row, one in zip(found, wanted, strict=True):
            assert row == pytest.approx(one, abs=1e-5)


def test_windows_keep_no_whole_prefix() -> None:
    assert read_prefix(mistral(sliding_window=8), tuple(range(40))) is None
