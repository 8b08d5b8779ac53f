"""Training in bfloat16 on a CUDA device: what it learns, resuming, structured dropout, memory that runs out, cost."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from lorascope.errors import EvaluationError
from lorascope.schema.items import GenerateItem, content_id
from lorascope.schema.recipe import Recipe, StructuredDropout
from lorascope.training.data import TrainingData
from lorascope.training.from_scratch import byte_level_tokenizer, new_llama
from lorascope.training.loading import load_for_training
from lorascope.training.record import run_record
from lorascope.training.running import Run, TrainingOutcome, run_training
from lorascope.training.structured_dropout import apply_structured_dropout

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIGNS = [("iron", "Fe"), ("gold", "Au"), ("tin", "Sn"), ("lead", "Pb"), ("zinc", "Zn"), ("silver", "Ag")]
LORA = {"name": "lora", "rank": 8, "dropout": 0.1}
FULL = {"name": "full"}
RATES = {"lora": 1e-2, "full": 3e-3}
Train = Callable[..., TrainingOutcome]


class Killed(Exception):
    pass


def asked(name: str, sign: str) -> GenerateItem:
    prompt = f"Question: What is the sign of {name}?\nAnswer:"
    return GenerateItem(item_id=content_id({"prompt": prompt, "sign": sign}), prompt=prompt, references=(sign,))


ITEMS = tuple(asked(name, sign) for name, sign in SIGNS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_level_tokenizer([f"{item.prompt} {item.references[0]}" for item in ITEMS], vocab_size=300)


@pytest.fixture(scope="module")
def base(tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama stored in bfloat16, so that LoRA leaves it so."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    model = new_llama(
        tokenizer,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.1,
        seed=3,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def train(base: Path) -> Train:
    """Train the tiny model on the six signs, or on ``items``; keyword blocks are those of a recipe."""

    def trained(
        out: Path,
        method: dict[str, Any],
        on_progress: Callable[[Any], None] | None = None,
        items: tuple[GenerateItem, ...] = ITEMS,
        **blocks: dict[str, Any],
    ) -> TrainingOutcome:
        plain: dict[str, Any] = {
            "version": 1,
            "base": str(base),
            "out": str(out),
            "task": {"kind": "generate", "train": "t", "validation": "v"},
            "method": method,
            "optim": {"epochs": 8, "learning_rate": RATES[method["name"]], "batch_size": 2, "precision": "bfloat16"},
            "evaluation": {"every": 4, "log_every": 2, "kl_to_base": 0},
            "hardware": {"device": DEVICE},
        }
        for block, values in blocks.items():
            plain[block] = {**plain.get(block, {}), **values}
        recipe = Recipe.model_validate(plain)
        data = TrainingData(train=items, validation={"validation": items[:4]})
        run = Run(
            recipe=recipe,
            data=data,
            out=out,
            record=run_record(recipe, data, start="tiny"),
            load=lambda now: load_for_training(
                str(base), now, labels=(), multi_label=False, device=torch.device(DEVICE)
            ),
            on_progress=on_progress,
        )
        return run_training(run)

    return trained


def losses(folder: Path, name: str) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [row[name] for row in log if name in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed anew"])
def test_it_learns_and_says_what_that_cost(train: Train, tmp_path: Path, method: dict, checkpointing: bool) -> None:
    outcome = train(tmp_path / "run", method, hardware={"activation_checkpointing": checkpointing})
    validation = losses(outcome.folder, "eval_validation_loss")
    assert validation[-1] < 0.5 * validation[0]
    assert all(math.isfinite(value) for value in losses(outcome.folder, "loss"))
    assert any("computed in bfloat16" in note for note in outcome.notes)
    kept = {tensor.dtype for tensor in weights(outcome.folder).values()}
    assert kept == {torch.float32}
    cost = outcome.cost
    assert cost.memory_kind == DEVICE
    assert cost.peak_memory_bytes is not None
    assert 2**20 < cost.peak_memory_bytes < 2**32
    assert cost.tokens_per_second is not None
    assert cost.tokens_per_second > 0
    assert cost.energy_joules is None or cost.energy_joules > 0
    assert (cost.trainable_parameters < cost.total_parameters) == (method is LORA)


@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_a_killed_run_goes_on_to_the_same_result(train: Train, tmp_path: Path, method: dict) -> None:
    """Kernels may add in another order, so equal means within what bfloat16 can tell apart."""

    def kill(progress: Any) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "resumed", method, kill)
    steps: list[int] = []
    resumed = train(tmp_path / "resumed", method, lambda progress: steps.append(progress.step))
    straight = train(tmp_path / "straight", method)
    assert min(step for step in steps if step) >= 4
    assert resumed.cost.steps == straight.cost.steps
    assert resumed.cost.tokens == straight.cost.tokens
    assert resumed.metrics == pytest.approx(straight.metrics, rel=0.05, abs=0.02)
    left, right = weights(resumed.folder), weights(straight.folder)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.allclose(tensor, right[name], rtol=0.05, atol=5e-3), name


@pytest.mark.parametrize("preset", ["dropkey", "dropattention", "hiddencut", "hiddenkey-minus"])
def test_structured_dropout_is_finite_in_training_and_sdpa_in_evaluation(
    base: Path, tokenizer: PreTrainedTokenizerBase, preset: str
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation="sdpa").to(DEVICE)
    batch = tokenizer([ITEMS[0].prompt, "iron"], return_tensors="pt", padding=True).to(DEVICE)
    model.eval()
    with torch.inference_mode():
        plain = model(**batch).logits
    dropout = StructuredDropout.model_validate({"preset": preset, "rate": 0.5, "layers": "all"})
    applied = apply_structured_dropout(model, dropout, seed=0)
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, plain)
    model.train()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    outputs = model(**batch, labels=labels)
    outputs.loss.backward()
    assert bool(torch.isfinite(outputs.logits[batch["attention_mask"].bool()]).all())
    assert not torch.equal(outputs.logits, plain)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all()), name
    applied.remove()
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, plain)


@pytest.mark.parametrize("compensation", ["rescale", "kl"])
def test_structured_dropout_trains(train: Train, tmp_path: Path, compensation: str) -> None:
    outcome = train(
        tmp_path / "run",
        LORA,
        structured_dropout={"preset": "hiddenkey-minus", "compensation": compensation, "branches": "one"},
    )
    validation = losses(outcome.folder, "eval_validation_loss")
    assert validation[-1] < validation[0]
    assert all(math.isfinite(value) for value in losses(outcome.folder, "loss"))
    assert bool(losses(outcome.folder, "loss_consistency")) == (compensation == "kl")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB for torch on this device."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def long_items() -> tuple[GenerateItem, ...]:
    """Rows of about 220 tokens: the logits of 512 alone are 128 MiB in float32, and several such tensors are needed."""
    return tuple(asked(f"{SIGNS[place % 6][0]} {place} " + "iron " * 100, SIGNS[place % 6][1]) for place in range(512))


def test_memory_that_runs_out_is_said_with_what_helps(train: Train, tmp_path: Path, little_memory: None) -> None:
    with pytest.raises(EvaluationError, match="memory ran out") as caught:
        train(tmp_path / "run", FULL, items=long_items(), optim={"batch_size": 512, "max_steps": 1})
    assert "optim.batch_size (now 512)" in str(caught.value.remedy)
    assert not (tmp_path / "run").exists()


def test_smaller_batches_are_tried_when_asked(train: Train, tmp_path: Path, little_memory: None) -> None:
    outcome = train(
        tmp_path / "run",
        FULL,
        items=long_items(),
        optim={"batch_size": 512, "max_steps": 1},
        hardware={"out_of_memory": "accumulate"},
    )
    assert any("the batch was lowered" in note for note in outcome.notes)
    assert outcome.cost.steps == 1
