"""Models and items at the edges: other counts of positions, missing settings, numbers that are none, empty texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    CodeGenConfig,
    CodeGenForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from lorascope.engines import decoding, merging, sampling
from lorascope.engines.base import Subject
from lorascope.engines.choice import ChoiceAsker
from lorascope.engines.decoding import Gold, Request, can_decode
from lorascope.engines.holding import Ready
from lorascope.engines.loading import Need, padding_id
from lorascope.engines.logprob_rows import Row
from lorascope.engines.prompts import Prompt, encode_pair, reference_separator
from lorascope.engines.sampling import Sampler
from lorascope.engines.scoring import row_logprobs
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
CHOICE = SuiteTask(name="choice", kind="choice", data="x")
POSITIONS = 32
MOST = 6
PROMPTS = ["the quick brown", "a", "Question: What is the capital of France?\nAnswer:", "z 9 法国"]


def task(**more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "write", "kind": "generate", "data": "x", "max_new_tokens": MOST, **more})


def item(prompt: str, reference: str = "brown fox") -> GenerateItem:
    return GenerateItem(item_id=prompt + reference, prompt=prompt, references=(reference,))


@pytest.fixture(scope="module")
def odd(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "llama")
    size, special = len(tokenizer), {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    halves = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    models: dict[str, Any] = {
        "roberta": RobertaForCausalLM(
            RobertaConfig(vocab_size=size, is_decoder=True, max_position_embeddings=POSITIONS + 1, **shape, **special)
        ),
        "bart": BartForConditionalGeneration(
            BartConfig(
                vocab_size=size, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, decoder_start_token_id=2,
                forced_eos_token_id=None, max_position_embeddings=POSITIONS, **halves, **special,
            )
        ),
        "mpt": MptForCausalLM(MptConfig(vocab_size=size, d_model=32, n_heads=4, n_layers=2, max_seq_len=POSITIONS)),
        "codegen": CodeGenForCausalLM(
            CodeGenConfig(vocab_size=size, n_embd=32, n_head=4, n_layer=2, rotary_dim=4, n_positions=64, n_ctx=64)
        ),
        "sliding": MistralForCausalLM(
            MistralConfig(
                vocab_size=size, num_key_value_heads=2, sliding_window=8, max_position_embeddings=64, **shape, **special
            )
        ),
    }  # fmt: skip
    for name, model in models.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def at(root: Path, name: str) -> Subject:
    path = root / name
    return Subject(name=name, path=path, kind="model", tokenizer_path=path, content_hash=name)


def ready_of(subject: Subject, family: str = "causal") -> Ready:
    return TransformersEngine(device="cpu")._holder.ready(subject, Need(family))  # type: ignore[arg-type]


def written(answers: Sequence[Any]) -> list[GenerateAnswer]:
    assert all(isinstance(answer, GenerateAnswer) for answer in answers)
    return list(answers)


@torch.no_grad()
def step_by_step(model: Any, ids: list[int], count: int) -> list[int]:
    """Greedy tokens, every one from the whole text anew, with the positions that the model itself counts."""
    for _ in range(count):
        ids = [*ids, int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-count:]


@torch.no_grad()
def test_positions_behind_the_padding_index_are_the_models_own(odd: Path) -> None:
    model = RobertaForCausalLM.from_pretrained(odd / "roberta").eval()
    tokenizer = AutoTokenizer.from_pretrained(odd / "roberta")
    ready = ready_of(at(odd, "roberta"))
    assert can_decode(ready)
    found = written(TransformersEngine(device="cpu").answer(at(odd, "roberta"), task(), [item(p) for p in PROMPTS]))
    for prompt, answer in zip(PROMPTS, found, strict=True):
        tokens = step_by_step(model, tokenizer(prompt)["input_ids"], MOST)
        end = tokens.index(2) if 2 in tokens else None
        assert answer.text == tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()
        asked = Prompt(prompt, chat=False)
        pair = encode_pair(ready, asked, reference_separator(asked, "brown fox") + "brown fox")
        assert pair is not None
        ids = [*pair.context, *pair.target]
        scores = model(input_ids=torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        wanted = sum(float(scores[place - 1, ids[place]]) for place in range(len(pair.context), len(ids)))
        assert answer.gold_logprob == pytest.approx(wanted, abs=1e-3)
    choices = ChoiceItem(item_id="1", question="?", context="the quick", choices=("brown fox", "q w e", "z"), answer=0)
    asker = ChoiceAsker(ready, CHOICE, [choices])
    assert asker.sizes[0].rows == 1
    alone = [row_logprobs(ready, [Row(pair.context, (pair.target,))])[0][0] for pair in asker._pairs[0]]
    (outcome,) = asker.ask([0])
    assert isinstance(outcome.answer, ChoiceAnswer)
    assert outcome.answer.logprobs == pytest.approx(alone, abs=1e-4)


def test_a_decoder_writes_no_further_than_its_positions(odd: Path, engine: TransformersEngine, subject: Make) -> None:
    model = engine._holder.ready(at(odd, "bart"), Need("seq2seq"))
    assert model.writable == POSITIONS
    model.plain.generation_config.eos_token_id = None
    with torch.no_grad():
        model.plain.final_logits_bias[0, 2] = -1e9
    (answer,) = written(engine.answer(at(odd, "bart"), task(max_new_tokens=POSITIONS), [item("the")]))
    assert answer.truncated
    with pytest.raises(EvaluationError, match=f"positions for {POSITIONS} tokens, and {POSITIONS + 1} are"):
        engine.answer(at(odd, "bart"), task(max_new_tokens=POSITIONS + 1), [item("the")])
    assert ready_of(subject("t5"), "seq2seq").writable is None
    assert ready_of(subject("llama")).writable is None


def test_contexts_and_padding_of_other_configurations(odd: Path, engine: TransformersEngine) -> None:
    assert ready_of(at(odd, "mpt")).context == POSITIONS
    (answer,) = written(engine.answer(at(odd, "mpt"), task(), [item("the quick brown fox " * 30)]))
    assert answer.text == answer.text.strip()
    assert engine.notes == ["write, mpt: 1 of 1 items exceed the context; prompts lost their left"]
    assert len(engine.answer(at(odd, "codegen"), task(), [item(prompt) for prompt in PROMPTS])) == len(PROMPTS)
    bare = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    assert padding_id(bare, SimpleNamespace(pad_token_id=None, eos_token_id=2), 10) == 2


@pytest.mark.parametrize("sampled", [None, {"temperature": 1.0, "n": 2}])
@pytest.mark.parametrize("name", ["llama", "sliding", "t5"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_write_nothing(
    odd: Path, subject: Make, engine: TransformersEngine, name: str, sampled: dict[str, Any] | None, value: float
) -> None:
    one = at(odd, name) if name == "sliding" else subject(name)
    ready = engine._holder.ready(one, Need("seq2seq" if name == "t5" else "causal"))
    handle = ready.plain.get_output_embeddings().register_forward_hook(lambda *given: _spoilt(given[-1], value))
    unscored = item("the quick", "z 9 " * 100)
    with pytest.raises(EvaluationError, match="NaN or infinite"):
        engine.answer(one, task(sampling=sampled), [unscored])
    handle.remove()


def _spoilt(logits: torch.Tensor, value: float) -> torch.Tensor:
    spoilt = logits.clone()
    spoilt[..., 9] = value
    return spoilt


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_merge_with_nan_in_any_row_is_not_proven(subject: Make, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    values = [torch.full((1, 2), float("nan") if number == place else 0.0) for number in range(3)]
    outputs = iter([merging._Outputs(one, None, 1) for one in values * 2])
    monkeypatch.setattr(merging, "_outputs", lambda *_: next(outputs))
    monkeypatch.setattr(merging, "merge", lambda _: None)
    monkeypatch.setattr(merging, "_rows", lambda *_: [[1], [2], [3]])
    proof = merging._merged_and_compared(ready_of(subject("llama")), Need("causal"), [])
    assert (proof.merged, proof.largest_difference) == (False, None)
    assert "not finite" in proof.reason
    assert math.isnan(merging._largest_difference([]))


@pytest.mark.parametrize("name", ["llama", "sliding"])
def test_samples_are_drawn_in_slices_and_are_the_same(
    odd: Path, subject: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    one = at(odd, name) if name == "sliding" else subject(name)
    asked, items = task(sampling={"n": 7, "temperature": 2.0}), [item(prompt) for prompt in PROMPTS]
    wanted = TransformersEngine(device="cpu").answer(one, asked, items)
    seen: list[int] = []
    original = Sampler._drawn

    def drawn(self: Sampler, logits: torch.Tensor, chances: Sequence[float]) -> list[int]:
        seen.append(len(logits))
        return original(self, logits, chances)

    monkeypatch.setattr(Sampler, "_drawn", drawn)
    monkeypatch.setattr(sampling, "_VALUES_AT_ONCE", 3 * 400)
    assert TransformersEngine(device="cpu").answer(one, asked, items) == wanted
    assert max(seen) == 3


def test_prompts_are_read_for_as_many_answers_as_there_are_places(
    subject: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    original = decoding.Decoder._group

    def group(self: decoding.Decoder, waiting: Any) -> list[Request]:
        found = original(self, waiting)
        groups.append(sum(one.answers for one in found))
        return found

    monkeypatch.setattr(decoding.Decoder, "_group", group)
    engine = TransformersEngine(device="cpu")
    items = [item(f"{prompt} {number}") for prompt in PROMPTS for number in range(6)]
    engine.answer(subject("llama"), task(sampling={"n": 10}), items)
    assert max(groups) == 60
    assert sum(groups) == 240
    groups.clear()
    engine.answer(subject("llama"), task(sampling={"n": 100}), items[:2])
    assert groups == [100, 100]


def test_empty_references_have_no_score(odd: Path, engine: TransformersEngine, subject: Make) -> None:
    items = [item("the quick brown", reference) for reference in ("", "  ", "\n")] + [item("", "")]
    for one in (subject("llama"), subject("t5"), at(odd, "sliding")):
        found = written(engine.answer(one, task(), items))
        assert [(answer.gold_logprob, answer.gold_tokens) for answer in found] == [(None, None)] * 4
    divergences = engine.diverge(subject("llama"), subject("lora", base="llama"), task(), items)
    assert [(one.kl, one.tokens) for one in divergences] == [(0.0, 0)] * 4


@pytest.mark.parametrize("delimiter", ["", " ", None])
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_empty_choice_is_refused(
    engine: TransformersEngine, subject: Make, name: str, delimiter: str | None
) -> None:
    asked = ChoiceItem(item_id="c", question="?", context="the quick brown", choices=("", " fox"), answer=0)
    with pytest.raises(EvaluationError, match="a choice is empty"):
        engine.answer(subject(name), CHOICE.model_copy(update={"delimiter": delimiter}), [asked])


def test_a_continuation_without_tokens_is_no_pair(subject: Make) -> None:
    ready = ready_of(subject("llama"))
    assert encode_pair(ready, Prompt("the quick", chat=False), "") is None
    assert encode_pair(ready, Prompt("", chat=False), "") is None
    assert encode_pair(ready, Prompt("the quick ", chat=False), "fox") is not None


def test_a_context_that_ends_behind_the_prompt_hides_no_logits() -> None:
    requests = [Request(0, (1, 2), Gold(4, (7, 8), (3, 4, 7)), 1, lambda _: ())]
    assert decoding._kept(requests) == 4
    assert decoding._kept([*requests, Request(1, (1, 2, 3), Gold(1, (2,), ()), 1, lambda _: ())]) == 6


def test_what_is_read_behind_a_prompt_never_moves_its_answer(subject: Make) -> None:
    ready = ready_of(subject("llama"))
    rules = decoding.Rules(frozenset({2}), 4, sampling.greedy)
    with torch.inference_mode():
        found = []
        for gold in (None, Gold(4, (9, 8), (6, 7, 9))):
            request = Request(0, (5, 6, 7), gold, 1, lambda _: ())
            ((done,),) = decoding.Decoder(ready, rules, places=1, tokens_at_once=64).stream([request])
            found.append(done)
        scores = ready.plain(input_ids=torch.tensor([[5, 6, 7, 6, 7, 9]])).logits[0].log_softmax(-1)
    assert found[0].answers == found[1].answers
    assert found[1].gold_logprob == pytest.approx(float(scores[3, 9] + scores[4, 8]), abs=1e-4)
