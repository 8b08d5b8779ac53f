"""Tokens per second and GPU memory of answering, on a random model of the shape of Llama-3.2-1B in bf16.

    python benchmarks/gpu/behaviour.py >> benchmarks/results/gpu-behaviour.tsv

One model and one adapter of rank 16 are written to a temporary folder and asked three kinds of task: multiple choice
with contexts of about 1,000 tokens, the likelihood of running text, and generation of 128 tokens. ``tokens_per_s``
counts what the items hold (a context once, each choice, each text, what is generated) over the wall time from the
first item to the last answer, loading left out; so work that is saved shows as speed. ``peak_gb`` is PyTorch's peak of
allocated memory, the weights included, ``weights_gb`` what the weights alone take.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lorascope.data.general import load_general_text
from lorascope.engines.base import Subject
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.schema.items import ChoiceItem, GenerateAnswer, GenerateItem, Item, LikelihoodItem
from lorascope.schema.suite import SuiteTask
from lorascope.training.from_scratch import byte_level_tokenizer

ITEMS, CONTEXT_TOKENS, NEW_TOKENS = 256, 1000, 128
SHAPE = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 4096, "tie_word_embeddings": True,
}  # fmt: skip
COLUMNS = ("date", "case", "items", "tokens", "seconds", "tokens_per_s", "weights_gb", "peak_gb", "machine")


def full_tokenizer() -> Any:
    """A tokenizer of the built-in texts, filled up with unused words so that every id of the model can be read."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    texts = [item.text for task in load_general_text(("en", "zh")) for item in task.items]  # type: ignore[attr-defined]
    small = byte_level_tokenizer(texts, vocab_size=8192)
    written = json.loads(small.backend_tokenizer.to_str())
    vocabulary = written["model"]["vocab"]
    vocabulary |= {f"unused{number}": number for number in range(len(vocabulary), SHAPE["vocab_size"])}
    special = {"bos_token": small.bos_token, "eos_token": small.eos_token, "pad_token": small.pad_token}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)), **special)


def write_model(folder: Path, device: str) -> Any:
    """``base`` with its tokenizer, which is returned, and ``lora``."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = full_tokenizer()
    torch.manual_seed(0)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, **special, dtype=torch.bfloat16)).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for key, parameter in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.01)
    tuned.save_pretrained(folder / "lora")
    return tokenizer


def long_texts(tokenizer: Any) -> list[str]:
    """One text of at least the wanted number of tokens per item, each beginning differently."""
    passages = [item.text for item in load_general_text(("en",))[0].items]  # type: ignore[attr-defined]
    found = []
    for number in range(ITEMS):
        text, place = f"{number}. ", number
        while len(tokenizer(text)["input_ids"]) < CONTEXT_TOKENS:
            text += passages[place % len(passages)] + "\n\n"
            place += 7
        found.append(text)
    return found


def tasks(texts: Sequence[str]) -> list[tuple[SuiteTask, list[Item]]]:
    """The three tasks with their items."""
    choices = ("the first of them", "the second one", "none of all these", "what was said before")
    choice: list[Item] = [
        ChoiceItem(item_id=str(n), question="", context=f"{text}Answer:", choices=choices, answer=0)
        for n, text in enumerate(texts)
    ]
    likelihood: list[Item] = [LikelihoodItem(item_id=str(n), text=text) for n, text in enumerate(texts)]
    generate: list[Item] = [
        GenerateItem(item_id=str(n), prompt=text[:1000], references=("yes",)) for n, text in enumerate(texts)
    ]
    writing = SuiteTask(name="generation", kind="generate", data="here", max_new_tokens=NEW_TOKENS)
    return [
        (SuiteTask(name="choice", kind="choice", data="here"), choice),
        (SuiteTask(name="likelihood", kind="likelihood", data="here"), likelihood),
        (writing, generate),
    ]


def token_count(tokenizer: Any, items: Sequence[Item], answers: Sequence[object]) -> int:
    """Tokens that the items hold, and that were generated for them."""
    count = 0
    for item, answer in zip(items, answers, strict=True):
        texts = [item.text] if isinstance(item, LikelihoodItem) else []
        texts += [item.context, *item.choices] if isinstance(item, ChoiceItem) else []
        texts += [item.prompt or ""] if isinstance(item, GenerateItem) else []
        count += sum(len(tokenizer(text)["input_ids"]) for text in texts)
        if isinstance(answer, GenerateAnswer):
            count += NEW_TOKENS if answer.truncated else len(tokenizer(answer.text)["input_ids"])
    return count


def main() -> None:
    """Base, then the adapter on it."""
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    print("\t".join(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = write_model(folder, "cuda")
        torch.cuda.empty_cache()
        asked = tasks(long_texts(tokenizer))
        shared: dict[str, Any] = {"tokenizer_path": folder / "base"}
        base = Subject(name="base", path=folder / "base", kind="model", content_hash="base", **shared)
        lora = Subject(
            name="lora", path=folder / "lora", kind="adapter", content_hash="lora", base_path=folder / "base",
            base_hash="base", **shared,
        )  # fmt: skip
        engine = TransformersEngine(device="cuda", dtype="bfloat16", cache=None)
        for subject in (base, lora):
            for task, items in asked:
                measure(engine, subject, task, items, tokenizer)


def measure(engine: TransformersEngine, subject: Subject, task: SuiteTask, items: list[Item], tokenizer: Any) -> None:
    """One row, after two items that load the model and warm the device up."""
    engine.answer(subject, task, items[:2])
    torch.cuda.synchronize()
    weights = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    answers = engine.answer(subject, task, items)
    torch.cuda.synchronize()
    took = time.perf_counter() - started
    tokens = token_count(tokenizer, items, answers)
    cells = (
        datetime.date.today().isoformat(), f"{task.name}, {subject.name}", str(len(items)), str(tokens), f"{took:.2f}",
        f"{tokens / took:.0f}", f"{weights / 1e9:.2f}", f"{torch.cuda.max_memory_allocated() / 1e9:.2f}",
        torch.cuda.get_device_name(),
    )  # fmt: skip
    print("\t".join(cells), flush=True)


if __name__ == "__main__":
    main()
