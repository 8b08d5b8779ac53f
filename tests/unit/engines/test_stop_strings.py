"""Stop strings at awkward places: across tokens, at the very beginning, beside split characters, in Chinese."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from lorascope.engines.base import Subject
from lorascope.engines.decoding import can_decode
from lorascope.engines.generation import StopStrings
from lorascope.engines.loading import Need
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
EMOJI = "🙂"
CASES = [
    # what the model would write, the stop strings, the answer's text, and the string that ended it
    ("the fox jumps", ["x j"], "the fo", "x j"),
    ("the fox jumps", ["qqq", "mps", "fox"], "the", "fox"),
    ("the fox\n\nQuestion: a", ["\n\n", "\n"], "the fox", "\n"),
    ("the fox\n\nQuestion: a", ["Question:", "\n\nQ"], "the fox", "\n\nQ"),
    ("fox and dog", ["fox"], "", "fox"),
    ("\nfox", ["\n"], "", "\n"),
    (f"a{EMOJI}#b", ["#"], f"a{EMOJI}", "#"),
    (f"a#{EMOJI}b", ["#"], "a", "#"),
    (f"a{EMOJI}{EMOJI}b", [f"{EMOJI}b"], f"a{EMOJI}", f"{EMOJI}b"),
    ("é#è", ["#"], "é", "#"),
    ("法国的首都是巴黎。问题", ["。"], "法国的首都是巴黎", "。"),
    ("法国的首都是巴黎。问题", ["问", "巴黎。"], "法国的首都是", "巴黎。"),
    ("鱻龘#", ["龘"], "鱻", "龘"),
    ("法国的首都", ["法"], "", "法"),
    ("the fox jumps", ["never", "首都"], "the fox jumps", None),
]


def item() -> GenerateItem:
    return GenerateItem(item_id="1", prompt="the quick", references=("fox",))


def task(stop: Sequence[str], most: int) -> SuiteTask:
    return SuiteTask.model_validate(
        {"name": "w", "kind": "generate", "data": "x", "max_new_tokens": most, "stop": list(stop)}
    )


@pytest.fixture(scope="module")
def sliding(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model that the library's ``generate`` decodes."""
    path = tmp_path_factory.mktemp("stops") / "sliding"
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Subject(name="sliding", path=path, kind="model", tokenizer_path=path, content_hash="sliding")


def dictate(engine: TransformersEngine, subject: Subject, text: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the model writes ``text`` and then repeats its last token; the text's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(subject.tokenizer_path)
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    steps = iter([*tokens, *tokens[-1:] * 200])

    def pick(logits: torch.Tensor, chances: Sequence[float]) -> list[int]:
        return [next(steps)] * len(logits)

    monkeypatch.setattr("lorascope.engines.generation.greedy", pick)
    return tokens


@pytest.mark.parametrize(("text", "stops", "wanted", "stop"), CASES)
@pytest.mark.parametrize("name", ["llama", "sliding"])
def test_an_answer_ends_before_its_first_stop_string(
    subject: Make, sliding: Subject, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch,
    name: str, text: str, stops: list[str], wanted: str, stop: str | None,
) -> None:  # fmt: skip
    one = sliding if name == "sliding" else subject(name)
    assert can_decode(engine._holder.ready(one, Need("causal"))) == (name == "llama")
    tokens = dictate(engine, one, text, monkeypatch)
    (answer,) = engine.answer(one, task(stops, len(tokens)), [item()])
    assert isinstance(answer, GenerateAnswer)
    assert (answer.text, answer.stop, answer.truncated) == (wanted, stop, stop is None)


@pytest.mark.parametrize(("text", "stops", "wanted", "stop"), CASES)
def test_the_token_that_completes_a_stop_string_is_the_last(
    checkpoints: Path, text: str, stops: list[str], wanted: str, stop: str | None
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    found = StopStrings(tokenizer, stops)
    for before in ("", "the lazy dog " * 10, "z鱻" * 9):
        tokens = tokenizer(before, add_special_tokens=False)["input_ids"]
        given = len(tokens)
        tokens += tokenizer(text, add_special_tokens=False)["input_ids"]
        reached = [count for count in range(given + 1, len(tokens) + 1) if found.reached(tokens[:count])]
        if stop is None:
            assert reached == []
            continue
        texts = [tokenizer.decode(tokens[:count]) for count in range(len(tokens) + 1)]
        assert reached[0] == next(count for count, so_far in enumerate(texts) if any(one in so_far for one in stops))
        assert found.read(tokens[: reached[0]])[0].rstrip().endswith(wanted)


def test_a_stop_string_of_an_earlier_row_ends_no_other(subject: Make, engine: TransformersEngine) -> None:
    prompts = ["the quick brown", "a", "z 9 法国", "Question: What is the capital of France?\nAnswer:", "the fox"]
    items = [GenerateItem(item_id=prompt, prompt=prompt, references=("fox",)) for prompt in prompts]
    whole = engine.answer(subject("llama"), task([], 12), items)
    texts = [answer.text for answer in whole if isinstance(answer, GenerateAnswer)]
    stops = [text[3:5] for text in texts if "\ufffd" not in text[:5] and len(text) > 6][:3]
    assert len(stops) > 1
    together = engine.answer(subject("llama"), task(stops, 12), items)
    for one, before, answer in zip(items, texts, together, strict=True):
        (alone,) = engine.answer(subject("llama"), task(stops, 12), [one])
        assert isinstance(answer, GenerateAnswer)
        assert isinstance(alone, GenerateAnswer)
        assert (answer.text, answer.stop, answer.truncated) == (alone.text, alone.stop, alone.truncated)
        first = min((before.find(stop) for stop in stops if stop in before), default=len(before))
        assert answer.text == before[:first].strip()
