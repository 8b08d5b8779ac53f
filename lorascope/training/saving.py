"""Writing what was trained: a model, or an adapter that stands on its unchanged base; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorascope.training.keeping import save_trained as keep


def save_trained(trainer: Any, folder: Path) -> None:
    """Save the trainer's model and its tokenizer; every process has to call it, the first one writes.

    Raises:
        OSError, SafetensorError: the disk is full or the folder cannot be written.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    state = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if not trainer.args.should_save:
        return
    keep(model, folder, state=state)
    trainer.tokenizer_to_save.save_pretrained(folder)
