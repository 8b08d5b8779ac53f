"""Tokens a second, share of the chip's peak and GPU memory of training, on a random model of Llama-3.2-1B's shape.

    python benchmarks/gpu/training.py >> benchmarks/results/gpu-training.tsv

LoRA of rank 16 on all linear layers and the full fine-tune (AdamW, computed in bfloat16; of the full fine-tune weights
and moments are float32) on rows of 1,024 tokens, each with the largest power of two of rows that fits. The peer of LoRA
is a plain ``Trainer`` with PEFT on the same rows and batch, that of HiddenKey- is lorascope's own LoRA; ``ratio`` is
tokens a second over the peer's, null where the batches differ. Timed is from the end of the third step to the end of
the last; ``peak_gb`` is PyTorch's peak of allocated memory.

``share_of_peak`` is model FLOPs over the device's dense bfloat16 peak, null for a device whose peak is not listed here.
Model FLOPs a token are 6·N for the full fine-tune (2·N forward, 2·N for gradients of activations, 2·N for those of
weights) and 4·N + 6·A for LoRA, whose base has no gradients of weights: N the parameters that are multiplied with (of
tied embeddings the one matrix, as output layer), A the adapter's. Attention's own products and what activation
checkpointing computes twice are not counted, so the chip does more than is shown.
"""

from __future__ import annotations

import datetime
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from behaviour import SHAPE
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

from lorascope.errors import EvaluationError
from lorascope.schema.items import LikelihoodItem
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.training.loading import load_for_training
from lorascope.training.record import run_record
from lorascope.training.running import Run, run_training

RANK, NOT_TIMED = 16, 3
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "nine", "wizards", "box", "judge"]
COLUMNS = ("date", "case", "batch", "tokens_per_s", "share_of_peak", "peak_gb", "peer", "ratio", "machine")
# Dense bfloat16 FLOP/s by torch's name of the device. H200 SXM: half of the 1,979 with sparsity of NVIDIA's data sheet.
PEAKS = {"NVIDIA H200": 989e12}
PEER = "Trainer and peft"


@dataclass(frozen=True)
class Work:
    """What is trained on what: the model's shape, tokens a row, rows of the first try, timed steps, device."""

    shape: Mapping[str, Any]
    length: int = 1024
    largest_batch: int = 64
    steps: int = 10
    device: str = "cuda"


@dataclass(frozen=True)
class Case:
    """One way to train; ``peer`` is the name of the one it is held against, whose batch it then starts from."""

    name: str
    method: Mapping[str, Any]
    hardware: Mapping[str, Any] = field(default_factory=dict)
    dropout: Mapping[str, Any] | None = None
    peer: str | None = None


@dataclass(frozen=True)
class Speed:
    """What was measured of one case; None for memory where the device has no allocator that counts."""

    batch: int
    tokens_per_second: float
    peak_bytes: int | None


LORA = {"name": "lora", "rank": RANK}
CASES = (
    Case("LoRA", LORA, peer=PEER),
    Case("HiddenKey- over LoRA", LORA, dropout={"preset": "hiddenkey-minus"}, peer="LoRA"),
    Case("LoRA, compiled", LORA, {"compile": True}, peer="LoRA"),
    Case("LoRA, activation checkpointing", LORA, {"activation_checkpointing": True}),
    Case("full", {"name": "full"}),
    Case("full, compiled", {"name": "full"}, {"compile": True}, peer="full"),
    Case("full, activation checkpointing", {"name": "full"}, {"activation_checkpointing": True}),
)


class Measured(Exception):
    """Enough was timed; nothing is saved."""


class Clock:
    """Ends a run after the last timed step. The device has done its work when a step's end is noted."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.ends: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        if self.work.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) == NOT_TIMED + self.work.steps:
            raise Measured

    def speed(self, batch: int) -> Speed:
        """All rows are full, so each step has the same number of tokens."""
        took = self.ends[-1] - self.ends[NOT_TIMED - 1]
        peak = torch.cuda.max_memory_allocated() if self.work.device == "cuda" else None
        return Speed(batch, self.work.steps * batch * self.work.length / took, peak)


def texts(work: Work, batch: int) -> list[str]:
    """Texts with at least as many tokens as are read of them."""
    count = batch * (NOT_TIMED + work.steps)
    return [
        " ".join(WORDS[(row * 7 + place * (row % 5 + 1)) % len(WORDS)] for place in range(work.length))
        for row in range(count)
    ]


def write_base(work: Work, folder: Path) -> None:
    """A random model in bfloat16 with a tokenizer of the texts; ids that it never writes are just not trained on."""
    tokenizer = byte_level_tokenizer(texts(work, 1), vocab_size=512)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    set_seed(0)
    with torch.device(work.device):
        config = LlamaConfig(**work.shape, **special, pad_token_id=tokenizer.pad_token_id, dtype=torch.bfloat16)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(case: Case, work: Work, base: Path, batch: int) -> Recipe:
    """The case as a recipe without validation and with no checkpoint before its end."""
    steps = NOT_TIMED + work.steps + 1
    return Recipe.model_validate(
        {
            "version": 1, "base": str(base), "out": "run",
            "task": {"kind": "generate", "train": "texts", "answer_only": False, "max_length": work.length},
            "method": dict(case.method), "structured_dropout": case.dropout and dict(case.dropout),
            "optim": {"max_steps": steps, "batch_size": batch}, "evaluation": {"every": 10 * steps},
            "hardware": {"device": work.device, **case.hardware},
        }
    )  # fmt: skip


def ours(case: Case, work: Work, base: Path, batch: int) -> Speed:
    """One run by lorascope.

    Raises:
        EvaluationError: memory ran out.
    """
    chosen = recipe(case, work, base, batch)
    items = [LikelihoodItem(item_id=str(place), text=text) for place, text in enumerate(texts(work, batch))]
    data, clock = TrainingData(train=tuple(items)), Clock(work)
    device = torch.device(work.device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            recipe=chosen, data=data, out=Path(folder) / "run", record=run_record(chosen, data, start="random"),
            load=lambda now: load_for_training(str(base), now, labels=(), multi_label=False, device=device),
            on_progress=lambda progress: clock.tick() if not progress.values else None,
        )  # fmt: skip
        try:
            run_training(run)
        except Measured:
            return clock.speed(batch)
    raise AssertionError("the run ended before it was timed")


def plain(work: Work, base: Path, batch: int) -> Speed:
    """What a careful script does on the same rows: the same optimiser, schedule, clipping and logging."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    clock, on_gpu = Clock(work), work.device == "cuda"

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick()

    made = AutoTokenizer.from_pretrained(base)
    ids = [made(text, truncation=True, max_length=work.length)["input_ids"] for text in texts(work, batch)]
    rows = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row} for row in ids]
    adapter = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, lora_dropout=0.1, target_modules="all-linear"
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto" if on_gpu else torch.float32).to(work.device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            output_dir=folder, per_device_train_batch_size=batch, max_steps=NOT_TIMED + work.steps + 1,
            learning_rate=1e-4, lr_scheduler_type="cosine", warmup_steps=0.1, logging_steps=10, save_strategy="no",
            report_to="none", disable_tqdm=True, bf16=on_gpu, use_cpu=not on_gpu, dataloader_pin_memory=on_gpu,
            optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        )  # fmt: skip
        trainer = Trainer(
            model=get_peft_model(model, adapter), args=arguments, train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(made, label_pad_token_id=-100), callbacks=[Ticking()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            trainer.train()
        except Measured:
            return clock.speed(batch)
    raise AssertionError("the run ended before it was timed")


def freed() -> None:
    """Give back what the last run held."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fitted(case: Case, work: Work, base: Path, largest: int) -> Speed | None:
    """The case with the largest batch that fits, from ``largest`` down by halves; None where one row does not."""
    batch = largest
    while batch:
        try:
            return ours(case, work, base, batch)
        except EvaluationError as error:
            print(f"{case.name}, {batch} rows: {error.problem}", file=sys.stderr)
        freed()
        batch //= 2
    return None


def fitting(work: Work, base: Path, batch: int) -> Speed | None:
    """The plain script with this batch; None where it does not fit there."""
    try:
        return plain(work, base, batch)
    except torch.OutOfMemoryError:
        print(f"{PEER}, {batch} rows: memory ran out", file=sys.stderr)
        return None


def flops_a_token(case: Case, shape: Mapping[str, Any]) -> float:
    """Model FLOPs of training on one token, as the module's text says."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape))
    head = model.get_output_embeddings()
    multiplied = sum(parameter.numel() for parameter in model.parameters())
    if not model.config.tie_word_embeddings:
        multiplied -= model.get_input_embeddings().weight.numel()
    if case.method["name"] == "full":
        return 6.0 * multiplied
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    adapter = sum(RANK * (layer.in_features + layer.out_features) for layer in layers)
    return 4.0 * multiplied + 6.0 * adapter


def row(name: str, speed: Speed | None, share: float | None, against: tuple[str, Speed | None] | None) -> str:
    """One line of the results; what is not known is null."""

    def told(value: float | None, digits: int) -> str:
        return "null" if value is None else f"{value:.{digits}f}"

    peer, other = against or (None, None)
    same = speed is not None and other is not None and speed.batch == other.batch
    ratio = speed.tokens_per_second / other.tokens_per_second if speed and other and same else None
    peak = speed.peak_bytes if speed else None
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    cells = (
        datetime.date.today().isoformat(), name, str(speed.batch) if speed else "null",
        told(speed and speed.tokens_per_second, 0), told(share, 3), told(None if peak is None else peak / 1e9, 2),
        peer or "null", told(ratio, 3), machine,
    )  # fmt: skip
    return "\t".join(cells)


def measured(work: Work, cases: tuple[Case, ...] = CASES) -> Iterator[str]:
    """A row for each case, and for the peer of LoRA."""
    peak = PEAKS.get(torch.cuda.get_device_name()) if work.device == "cuda" else None
    found: dict[str, Speed | None] = {}

    def share(case: Case, speed: Speed | None) -> float | None:
        return (
            None if peak is None or speed is None else speed.tokens_per_second * flops_a_token(case, work.shape) / peak
        )

    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        write_base(work, base)
        for case in cases:
            freed()
            other = found.get(case.peer or "")
            speed = found[case.name] = fitted(case, work, base, other.batch if other else work.largest_batch)
            if case.peer == PEER and speed is not None:
                freed()
                found[PEER] = fitting(work, base, speed.batch)
                yield row(PEER, found[PEER], share(case, found[PEER]), None)
            against = None if case.peer is None else (case.peer, found.get(case.peer))
            yield row(case.name, speed, share(case, speed), against)


def main() -> int:
    """All cases on the GPU."""
    if not torch.cuda.is_available():
        print("there is no CUDA device to measure", file=sys.stderr)
        return 2
    print("\t".join(COLUMNS), flush=True)
    for line in measured(Work(SHAPE)):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
