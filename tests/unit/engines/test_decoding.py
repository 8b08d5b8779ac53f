from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from lorascope.engines import decoding
from lorascope.engines.base import Subject
from lorascope.engines.decoding import can_decode, gold_behind
from lorascope.engines.generation import GenerationAsker, StopStrings
from lorascope.engines.holding import Ready
from lorascope.engines.loading import Need
from lorascope.engines.scoring import target_logprobs
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
TEXT = "the quick brown fox jumps over a lazy dog and runs away again 法国 9 z"
WORDS = TEXT.split()
PROMPTS = [" ".join(WORDS[start : start + 1 + (5 * start) % 11]) for start in range(12)] + ["the quick\n", ""]
MOST = 12


def task(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "write", "kind": "generate", "data": "x", "max_new_tokens": MOST, **more})


def items(prompts: Sequence[str] = PROMPTS) -> list[GenerateItem]:
    texts = ("brown fox", "法国的首都", " a")
    return [
        GenerateItem(item_id=str(number), prompt=prompt, references=(texts[number % 3],))
        for number, prompt in enumerate(prompts)
    ]


def many_ends(path: Path) -> None:
    """Let an eighth of the vocabulary end an answer, so that answers are of different lengths."""
    settings = path / "generation_config.json"
    ends = [2, *range(5, 400, 8)]
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": ends}))


@pytest.fixture(scope="module")
def ending(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and two of other families, with answers of different lengths."""
    root = tmp_path_factory.mktemp("ending")
    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    shared = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**shared))
    sliding = MistralForCausalLM(MistralConfig(**shared, num_key_value_heads=2, sliding_window=8))
    models = {
        "llama": AutoModelForCausalLM.from_pretrained(checkpoints / "llama"),
        "gpt2": AutoModelForCausalLM.from_pretrained(checkpoints / "gpt2"),
        "neox": neox,
        "sliding": sliding,
    }
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                if name in {"neox", "sliding"} and parameter.dim() > 1:
                    parameter.mul_(8.0)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        many_ends(root / name)
    return root


def at(root: Path, name: str) -> Subject:
    path = root / name
    return Subject(name=name, path=path, kind="model", tokenizer_path=path, content_hash=name)


def ready_of(subject: Subject) -> Ready:
    return TransformersEngine(device="cpu")._holder.ready(subject, Need("causal"))


def by_library(path: Path, *, together: bool) -> list[list[int]]:
    """Tokens up to the end by transformers' own ``generate``, each prompt alone or all left-padded."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    tokenizer.padding_side = "left"
    ends = set(model.generation_config.eos_token_id)
    prompts = [prompt or "<s>" for prompt in PROMPTS]
    found = []
    for group in [prompts] if together else [[prompt] for prompt in prompts]:
        given = tokenizer(group, return_tensors="pt", padding=True)
        given.pop("token_type_ids", None)
        out = model.generate(**given, max_new_tokens=MOST, do_sample=False, pad_token_id=0)
        for row in out[:, given["input_ids"].shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in ends), len(row))
            found.append(row[:end])
    return found


def texts(engine: TransformersEngine, subject: Subject, asked: SuiteTask, of: list[GenerateItem]) -> list[str]:
    found = engine.answer(subject, asked, of)
    assert all(isinstance(answer, GenerateAnswer) for answer in found)
    return [answer.text for answer in found]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "sliding"])
def test_every_batch_and_order_gives_what_the_library_generates(ending: Path, name: str) -> None:
    alone, together = by_library(ending / name, together=False), by_library(ending / name, together=True)
    assert alone == together
    assert len({len(row) for row in alone}) > 3
    tokenizer = AutoTokenizer.from_pretrained(ending / name)
    wanted = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in alone]
    for size in (1, 2, 7, None):
        engine = TransformersEngine(device="cpu", batch_size=size)
        assert texts(engine, at(ending, name), task(), items()) == wanted
    assert texts(engine, at(ending, name), task(), items()[::-1]) == wanted[::-1]
    assert texts(TransformersEngine(device="cpu", token_budget=40), at(ending, name), task(), items()) == wanted


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_rows_that_reach_the_end_of_the_cache_are_moved(
    ending: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = texts(TransformersEngine(device="cpu", batch_size=1), at(ending, name), task(), items())
    moves: list[int] = []
    original = decoding._Places.make_room

    def make_room(places: decoding._Places) -> None:
        before = places.end
        original(places)
        moves.append(before - places.end)

    monkeypatch.setattr(decoding, "_SPARE_COLUMNS", 1)
    monkeypatch.setattr(decoding._Places, "make_room", make_room)
    assert texts(TransformersEngine(device="cpu", batch_size=3), at(ending, name), task(), items()) == wanted
    assert max(moves) > 0


def test_eager_attention_writes_the_same(ending: Path, engine: TransformersEngine) -> None:
    wanted = texts(TransformersEngine(device="cpu"), at(ending, "llama"), task(), items())
    ready = engine._holder.ready(at(ending, "llama"), Need("causal"))
    ready.plain.set_attn_implementation("eager")
    assert can_decode(ready)
    assert texts(engine, at(ending, "llama"), task(), items()) == wanted


def test_what_is_decoded_here_and_what_by_the_library(ending: Path, checkpoints: Path, subject: Make) -> None:
    assert all(can_decode(ready_of(at(ending, name))) for name in ("llama", "gpt2", "neox"))
    assert can_decode(ready_of(subject("lora", base="llama")))
    assert not can_decode(ready_of(at(ending, "sliding")))
    assert not can_decode(ready_of(subject("prompt", base="llama")))
    assert not can_decode(TransformersEngine(device="cpu")._holder.ready(subject("t5"), Need("seq2seq")))


@pytest.mark.parametrize("name", ["llama", "llama-bos", "gpt2", "lora"])
def test_references_read_with_their_prompts_score_as_alone(subject: Make, name: str) -> None:
    ready = ready_of(subject(name, "llama" if name == "lora" else None))
    asker = GenerationAsker(ready, task(), items())
    with torch.inference_mode():
        found = asker.ask(range(len(PROMPTS)))
        alone = target_logprobs(ready, [pair for pair in asker._gold if pair is not None])
    assert len(alone) == len(PROMPTS)
    assert [one.answer.gold_logprob for one in found] == pytest.approx(alone, abs=1e-4)  # type: ignore[union-attr]


def test_a_reference_behind_its_prompt() -> None:
    assert gold_behind([1, 2, 3], [1, 2, 3], [4, 5]) == decoding.Gold(3, (4, 5), (4,))
    assert gold_behind([1, 2, 3], [1, 2], [3, 4]) == decoding.Gold(2, (3, 4), ())
    assert gold_behind([1, 2, 3], [1, 2], [3]) == decoding.Gold(2, (3,), ())
    assert gold_behind([1, 2, 3], [1, 2], [9, 4]) is None
    assert gold_behind([1, 2, 3], [1], [2]) is None


def test_columns_before_a_row_hold_nothing_of_others(ending: Path) -> None:
    ready = ready_of(at(ending, "llama"))
    with torch.inference_mode():
        read = ready.model(input_ids=torch.tensor([[5, 6, 7, 8], [9, 9, 9, 9]]), use_cache=True).past_key_values
        for layer in read.layers:
            layer.keys[0, :, 0] = float("nan")
        places = decoding._Places(2, 20)
        places.admit(decoding._Prompt(read, 0, 4, 4))
        places.admit(decoding._Prompt(read, 1, 2, 4))
        places.leave(0)
        assert (places.begin, places.end, places.starts) == (2, 4, [2])
        for layer, source in zip(places.layers, read.layers, strict=True):
            assert not layer.keys[0, :, :2].any()
            assert torch.equal(layer.keys[0, :, 2:4], source.keys[1, :, 2:4])
        places.admit(decoding._Prompt(read, 0, 1, 4))
        assert not any(layer.keys[1, :, :3].any() for layer in places.layers)


def test_stop_strings_are_found_in_the_newest_tokens_alone(checkpoints: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    stops = StopStrings(tokenizer, ["首都", "\n", "\nAnswer"])
    tokens = tokenizer("the fox " * 20 + "法国的首都是哪里")["input_ids"]
    first = next(count for count in range(1, len(tokens) + 1) if stops.reached(tokens[:count]))
    assert "首都" in tokenizer.decode(tokens[:first])
    assert "首都" not in tokenizer.decode(tokens[: first - 1])
    assert stops.cut("a\nAnswer 首都") == ("a", "\n")
    assert stops.cut("a") == ("a", None)


def test_a_stop_string_may_name_a_special_token(checkpoints: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    fox, dog = (tokenizer(text)["input_ids"] for text in ("the fox", " the dog"))
    tokens = [0, *fox, 1, *dog]
    stops = StopStrings(tokenizer, ["<s>", "dog"])
    assert [stops.reached(tokens[:count]) for count in (len(fox) + 1, len(fox) + 2)] == [False, True]
    assert stops.read(tokens) == ("the fox", "<s>")
    assert StopStrings(tokenizer, ["dog"]).read(tokens) == ("the fox the ", "dog")
    assert StopStrings(tokenizer, []).read(tokens) == ("the fox the dog", None)


def test_an_answer_names_the_stop_string_that_ended_it(ending: Path, engine: TransformersEngine) -> None:
    whole = texts(engine, at(ending, "llama"), task(), items())
    stop = next(text for text in whole if len(text) > 3)[1:3]
    found = engine.answer(at(ending, "llama"), task(stop=[stop, "never"]), items())
    named = [answer.stop for answer in found if isinstance(answer, GenerateAnswer)]
    assert [one == stop for one in named] == [stop in text for text in whole]
    assert set(named) == {stop, None}


def test_only_one_pass_reads_the_prompts_of_a_batch(ending: Path, engine: TransformersEngine) -> None:
    ready = engine._holder.ready(at(ending, "llama"), Need("causal"))
    lengths: list[int] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        lengths.append(options["input_ids"].shape[1])

    ready.model.register_forward_pre_hook(note, with_kwargs=True)
    texts(engine, at(ending, "llama"), task(), [replace(one, references=("brown fox",)) for one in items()[:12]])
    assert sum(length > 1 for length in lengths) == 1
    assert len(lengths) <= MOST
