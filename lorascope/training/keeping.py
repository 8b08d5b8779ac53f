"""Saving what was trained, so that it loads on the base as it is published."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from lorascope.training.pissa import against_base


def save_trained(model: Any, folder: Path, *, state: dict[str, Any] | None = None) -> None:
    """Write the adapter, or the whole model where there is none, as safetensors; the tokenizer is the caller's.

    ``state`` is the gathered state of a model whose parameters are divided among processes.
    """
    if hasattr(model, "peft_config"):
        save_adapter(model, folder, state=state)
    else:
        model.save_pretrained(folder, state_dict=state)


def save_adapter(model: Any, folder: Path, *, state: dict[str, Any] | None = None) -> None:
    """Write the adapter with its head. ``PeftModel.from_pretrained`` on the unchanged base gives the trained model.

    A PiSSA adapter is written as the plain LoRA of twice its rank that it is against the base (arXiv 2404.02948, app.
    C), as otherwise every use of it would have to repeat the decomposition of the base's weights.
    """
    config = model.peft_config["default"]
    if config.peft_type == "LORA" and config.init_lora_weights == "pissa":
        _save_as_lora(model, folder, state)
    else:
        model.save_pretrained(folder, state_dict=state)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template of a model card, with nothing filled in


def _save_as_lora(model: Any, folder: Path, state: dict[str, Any] | None) -> None:
    config = copy.deepcopy(model.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: 2 * alpha for name, alpha in config.alpha_pattern.items()}
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    tensors = against_base(get_peft_model_state_dict(model, state_dict=state), model)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config.save_pretrained(str(folder))
