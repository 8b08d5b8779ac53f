"""Tiny random checkpoints of four architectures, and adapters on them that PEFT itself writes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

SIZES = {
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "bert": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    "t5": {"d_model": 16, "d_ff": 24, "d_kv": 8, "num_layers": 2, "num_heads": 2},
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "bert": "BertModel",
    "t5": "T5ForConditionalGeneration",
}
CONFIGS = {"llama": "LlamaConfig", "gpt2": "GPT2Config", "bert": "BertConfig", "t5": "T5Config"}

Build = Callable[..., Any]
Save = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def build() -> Build:
    """``build(architecture, class name, **config)``: a fresh model, the same weights for the same arguments."""

    def make(architecture: str, class_name: str | None = None, seed: int = 0, **config: Any) -> Any:
        settings = {"vocab_size": 40, **SIZES[architecture], **config}
        torch.manual_seed(seed)
        cls = getattr(transformers, class_name or CLASSES[architecture])
        return cls(getattr(transformers, CONFIGS[architecture])(**settings)).eval()

    return make


@pytest.fixture(scope="session")
def base_of(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Save:
    """``base_of(architecture)``: the folder of its base, written once."""
    written: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in written:
            path = tmp_path_factory.mktemp("bases") / f"tiny-{architecture}"
            build(architecture).save_pretrained(path)
            written[architecture] = path
        return written[architecture]

    return folder


@pytest.fixture
def adapt(build: Build, base_of: Save, tmp_path: Path) -> Save:
    """``adapt(architecture, PEFT config)``: the folder of an adapter with random non-zero weights."""

    def folder(
        architecture: str, config: PeftConfig, name: str = "adapter", trained: bool = True, model: Any = None
    ) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = get_peft_model(model if model is not None else build(architecture), config)
            if trained:
                disturb(wrapped)
            wrapped.peft_config["default"].base_model_name_or_path = str(base_of(architecture))
            wrapped.save_pretrained(tmp_path / name)
        return tmp_path / name

    return folder


@pytest.fixture(scope="session")
def attach() -> Build:
    """``attach(model, folder)``: the model with the adapter on it, as PEFT loads it."""

    def attached(model: Any, folder: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(model, folder).eval()

    return attached


@pytest.fixture
def copied(tmp_path: Path) -> Save:
    """``copied(folder)``: a copy of a checkpoint that a test may damage."""

    def copy(folder: Path, name: str = "copy") -> Path:
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    return copy


@pytest.fixture
def rewrite() -> Callable[..., None]:
    """``rewrite(file, function)``: read a safetensors file, let the function change its dictionary, write it."""

    def change(file: Path, function: Callable[[dict[str, torch.Tensor]], None]) -> None:
        tensors = load_file(file)
        function(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, file, metadata={"format": "pt"})

    return change


@pytest.fixture
def reconfigure() -> Callable[..., None]:
    """``reconfigure(json file, key=value …)``: change entries of a configuration; None removes one."""

    def change(file: Path, **entries: Any) -> None:
        raw = json.loads(file.read_text())
        raw |= entries
        file.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))

    return change


def disturb(model: Any, size: float = 0.05, seed: int = 1) -> None:
    """Add noise to every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


@pytest.fixture(scope="session")
def disturbed(build: Build) -> Build:
    """``disturbed(architecture …)``: the base after a pretended full fine-tune."""

    def make(architecture: str, class_name: str | None = None, **config: Any) -> Any:
        model = build(architecture, class_name, **config)
        disturb(model)
        return model

    return make
