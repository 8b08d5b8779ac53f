"""Checkpoints that many tests share: a tiny Llama with a LoRA and a full fine-tune, a tiny BERT with label heads."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TEXTS = [
    "Question: Which gas do plants take in?\nAnswer: carbon dioxide",
    "Question: How is the kiln switched off?\nAnswer: Press the red key until the display is dark.",
    "the quick brown fox jumps over the lazy dog 0 1 2 3 4 5 6 7 8 9",
]
TOPICS = ("art", "music", "sport")


@dataclass(frozen=True)
class Family:
    """Folders of one base and what was made from it."""

    base: Path
    lora: Path
    full: Path


def disturb(model: Any, scale: float, only: str = "") -> Any:
    """Add noise to every parameter whose name holds ``only``: a fine-tune without the training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.add_(scale * torch.randn_like(parameter))
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on three lines: every text in the world can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=192
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer with BERT's frame around each text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=48,
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the answers that the user keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("LORASCOPE_CACHE_DIR", raising=False)
        yield


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A random two-layer Llama; its LoRA and its full fine-tune are the base with noise added."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("llama")
    family = Family(root / "base", root / "lora", root / "full")
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(family.base)
    full = disturb(LlamaForCausalLM.from_pretrained(family.base), 0.01)
    full.save_pretrained(family.full)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    wrapped = get_peft_model(LlamaForCausalLM.from_pretrained(family.base), lora)
    disturb(wrapped, 0.05, "lora_B").save_pretrained(family.lora)
    for folder in (family.base, family.full):
        tokenizer.save_pretrained(folder)
    return family


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A random BERT encoder without a head; a LoRA and a full fine-tune with a three-label head."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("bert")
    family = Family(root / "base", root / "lora", root / "full")
    tokenizer = word_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=48,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(family.base)
    heads = {
        "num_labels": len(TOPICS),
        "id2label": dict(enumerate(TOPICS)),
        "problem_type": "multi_label_classification",
    }
    full = BertForSequenceClassification.from_pretrained(family.base, **heads)
    disturb(full, 0.05).save_pretrained(family.full)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    wrapped = get_peft_model(BertForSequenceClassification.from_pretrained(family.base, **heads), lora)
    disturb(wrapped, 0.05, "lora_B").save_pretrained(family.lora)
    for folder in (family.base, family.full):
        tokenizer.save_pretrained(folder)
    return family


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Six questions with answers."""
    rows = [{"prompt": f"Question: number {n}?\nAnswer:", "reference": f"it is {n}"} for n in range(6)]
    return write_jsonl(tmp_path / "questions.jsonl", rows)


@pytest.fixture
def topics(tmp_path: Path) -> Path:
    """Twelve texts with any number of topics each."""
    rows = [
        {"text": f"the quick fox {n} jumps", "labels": [label for bit, label in enumerate(TOPICS) if n >> bit & 1]}
        for n in range(12)
    ]
    return write_jsonl(tmp_path / "topics.jsonl", rows)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path, str], Path]:
    """``copied(folder, name)``: a copy that a test may spoil."""

    def copy(folder: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


def pytest_configure() -> None:
    """Give interrupts back to tests that send them: a shell starts what runs in its background without any."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
