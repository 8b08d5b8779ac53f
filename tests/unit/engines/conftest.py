"""Tiny random checkpoints, made once per session from configuration classes alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.engines.base import Subject
from lorascope.engines.transformers_engine import TransformersEngine

CORPUS = [
    "Question: What is the capital of France?\nAnswer: Paris is the capital of France.",
    "the quick brown fox jumps over the lazy dog and runs away again",
    "问题：法国的首都是哪里？\n答案：巴黎是法国的首都。",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
] * 4
CONTEXT = 64
EMOTIONS = ("anger", "joy", "fear")
TAGS = ("O", "B-PER", "I-PER")


def byte_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; ``template`` places special tokens, as in ``<s> $A``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )


def word_piece() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of some words and all letters, so that other words fall into pieces."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["the", "fox", "dog", "quick", "brown", "lazy", "capital", "France", "Paris", "jump", "over"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = [f"##{letter}" for letter in letters] + ["##s", "##over", "##ing", "##dog"]
    vocabulary = list(dict.fromkeys([*special, *words, *letters, *pieces]))
    numbered = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(vocab=numbered, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _llama(vocabulary: int, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        **more,
    )


def _bert(vocabulary: int, labels: tuple[str, ...] = ()) -> BertConfig:
    names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}} if labels else {}
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        **names,
    )


def _save(folder: Path, model: Any, tokenizer: Any, *, sharpen: float = 8.0) -> None:
    """``sharpen`` scales the weights, for fresh ones of most architectures give nearly uniform outputs."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(sharpen)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    plain, pieces = byte_level(), word_piece()
    vocabulary = len(plain)
    _save(root / "llama", LlamaForCausalLM(_llama(vocabulary)), plain)
    _save(root / "llama-bos", LlamaForCausalLM(_llama(vocabulary)), byte_level("<s> $A"))
    gpt2 = GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, bos_token_id=1, eos_token_id=2
    )
    _save(root / "gpt2", GPT2LMHeadModel(gpt2), plain)
    t5 = T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
        n_positions=CONTEXT,
    )
    _save(root / "t5", T5ForConditionalGeneration(t5), byte_level("$A </s>"), sharpen=1.0)
    _save(root / "bert", BertForMaskedLM(_bert(len(pieces))), pieces)
    _save(root / "bert-emotions", BertForSequenceClassification(_bert(len(pieces), EMOTIONS)), pieces)
    _save(root / "bert-generic", BertForSequenceClassification(_bert(len(pieces), ("LABEL_0", "LABEL_1"))), pieces)
    _save(root / "bert-score", BertForSequenceClassification(_bert(len(pieces), ("LABEL_0",))), pieces)
    _save(root / "bert-tags", BertForTokenClassification(_bert(len(pieces), TAGS)), pieces, sharpen=1.0)
    classes = {"id2label": dict(enumerate(EMOTIONS)), "label2id": {n: i for i, n in enumerate(EMOTIONS)}}
    _save(root / "llama-emotions", LlamaForSequenceClassification(_llama(vocabulary, **classes)), plain)
    _save_adapters(root)
    return root


def _save_adapters(root: Path) -> None:
    attention = ["q_proj", "v_proj"]
    _adapter(root, "lora", LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=attention))
    _adapter(
        root,
        "lora-head",
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=attention, modules_to_save=["lm_head", "embed_tokens"]),
    )
    _adapter(root, "pissa", LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=attention, init_lora_weights="pissa"))
    _adapter(root, "prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))


def _adapter(root: Path, name: str, config: Any) -> None:
    model = get_peft_model(LlamaForCausalLM.from_pretrained(root / "llama"), config)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(root / name)


@pytest.fixture
def subject(checkpoints: Path) -> Callable[..., Subject]:
    """``subject("bert")`` is a model, ``subject("lora", base="llama")`` an adapter."""

    def make(name: str, base: str | None = None, **more: Any) -> Subject:
        return Subject(
            name=name,
            path=checkpoints / name,
            kind="model" if base is None else "adapter",
            tokenizer_path=checkpoints / (base or name),
            content_hash=f"hash-of-{name}",
            base_path=None if base is None else checkpoints / base,
            base_hash=None if base is None else f"hash-of-{base}",
            **more,
        )

    return make


@pytest.fixture
def engine() -> Iterator[TransformersEngine]:
    made = TransformersEngine(device="cpu")
    yield made
    made.close()


@pytest.fixture(autouse=True, scope="session")
def _quick() -> Iterator[None]:
    """One thread, and a collector that does not look again and again through what the imports have left."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
