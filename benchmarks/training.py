"""Training side by side with a plain ``Trainer`` and peft script, in one run on the same work, five pairs in turn.

    python benchmarks/training.py >> benchmarks/results/training.tsv

A random Llama with 4 layers of width 256 learns 8 texts of 128 tokens a step, by LoRA of rank 16 on all linear layers.
Both are timed alike: from the end of the first step to the end of the last, in tokens a second. ``ratio`` is the median
of the pairs' ratios, ours over the peer's (1 is as fast), beside their smallest and largest. For the structured
dropouts the peer is lorascope's own plain LoRA run: what they cost.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lorascope.schema.items import LikelihoodItem
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.from_scratch import byte_level_tokenizer
from lorascope.training.loading import LoadedBase
from lorascope.training.record import run_record
from lorascope.training.running import Run, run_training

ROUNDS, STEPS, BATCH, LENGTH, RANK = 5, 12, 8, 128, 16
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "nine", "wizards", "box", "judge"]
COLUMNS = ("date", "case", "ours_tokens_per_s", "peer", "peer_tokens_per_s", "ratio", "lowest", "highest", "machine")
DROPOUTS: dict[str, dict[str, Any] | None] = {
    "HiddenKey-": {"preset": "hiddenkey-minus"},
    "HiddenKey, KL with one branch": {"preset": "hiddenkey", "branches": "one"},
}


def texts() -> list[str]:
    """One batch a step of texts with more tokens than are read of them, so that every row is full."""
    return [
        " ".join(WORDS[(row * 7 + place * (row % 5 + 1)) % len(WORDS)] for place in range(LENGTH))
        for row in range(BATCH * STEPS)
    ]


def tokenizer() -> Any:
    """Made from the texts."""
    return byte_level_tokenizer(texts(), vocab_size=1024)


def model(made: Any) -> LlamaForCausalLM:
    """The same random weights each time."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=8,
        pad_token_id=made.pad_token_id, bos_token_id=made.bos_token_id, eos_token_id=made.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Clock:
    """Tokens a second between the first and the last of the steps that it is told of."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def tick(self) -> None:
        """A step has ended."""
        self.times.append(time.perf_counter())

    @property
    def tokens_per_second(self) -> float:
        """All rows are full, so each step has the same number of tokens."""
        return (len(self.times) - 1) * BATCH * LENGTH / (self.times[-1] - self.times[0])


def plain(folder: Path) -> float:
    """What a careful script does: the same optimiser, schedule, clipping and logging."""
    made, clock = tokenizer(), Clock()

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick()

    ids = [made(text, truncation=True, max_length=LENGTH)["input_ids"] for text in texts()]
    rows = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row} for row in ids]
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, lora_dropout=0.1, target_modules="all-linear"
    )
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=1e-4,
        lr_scheduler_type="cosine", warmup_steps=0.1, logging_steps=10, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=get_peft_model(model(made), config), args=arguments, train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(made, label_pad_token_id=-100), callbacks=[Ticking()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.tokens_per_second


def ours(folder: Path, dropout: dict[str, Any] | None = None) -> float:
    """A recipe of the same run."""
    made, clock = tokenizer(), Clock()
    recipe = Recipe.model_validate(
        {
            "version": 1, "base": "random", "out": "run",
            "task": {"kind": "generate", "train": "texts", "answer_only": False, "max_length": LENGTH},
            "method": {"rank": RANK}, "structured_dropout": dropout,
            "optim": {"max_steps": STEPS, "batch_size": BATCH}, "evaluation": {"every": 10 * STEPS},
            "hardware": {"device": "cpu"},
        }
    )  # fmt: skip
    data = TrainingData(
        train=tuple(LikelihoodItem(item_id=str(place), text=text) for place, text in enumerate(texts()))
    )
    run = Run(
        recipe=recipe, data=data, out=folder / "run", record=run_record(recipe, data, start="random"),
        load=lambda _: LoadedBase(model=model(made), tokenizer=made, new_weights=(), notes=()),
        on_progress=lambda progress: clock.tick() if not progress.values else None,
    )  # fmt: skip
    outcome = run_training(run)
    assert outcome.cost.tokens == STEPS * BATCH * LENGTH, "the rows are not full"
    return clock.tokens_per_second


def measured(work: Callable[[Path], float]) -> float:
    """One timing in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return work(Path(folder))


def row(case: str, mine: list[float], peer: str, theirs: list[float]) -> str:
    """One line of the results."""
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    cells = (
        datetime.date.today().isoformat(), case, f"{statistics.median(mine):.0f}", peer,
        f"{statistics.median(theirs):.0f}", f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}",
        f"{max(ratios):.3f}", f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    )  # fmt: skip
    return "\t".join(cells)


def main() -> None:
    """Five rounds of all cases in turn, after one that is not counted."""
    works: dict[str, Callable[[Path], float]] = {"plain": plain, "LoRA": ours}
    works |= {name: lambda folder, chosen=dropout: ours(folder, chosen) for name, dropout in DROPOUTS.items()}
    found: dict[str, list[float]] = {name: [] for name in works}
    for counted in range(ROUNDS + 1):
        for name, work in works.items():
            speed = measured(work)
            if counted:
                found[name].append(speed)
    print("\t".join(COLUMNS))
    print(row("LoRA", found["LoRA"], "Trainer and peft", found["plain"]))
    for name in DROPOUTS:
        print(row(name, found[name], "LoRA", found["LoRA"]))


if __name__ == "__main__":
    main()
