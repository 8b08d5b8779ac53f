"""What some methods need beside PEFT's files so that a run goes on from a checkpoint exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftType
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorascope.errors import CheckpointError
from lorascope.schema.recipe import Method
from lorascope.training.adalora import AdaLoraCallback

_ENCODER = "prompt_encoder.safetensors"


def method_callbacks(model: Any, method: Method) -> list[TrainerCallback]:
    """The callbacks that training ``model``, as :func:`prepare_model` gave it, needs by this method."""
    if method.name == "adalora":
        return [AdaLoraCallback(model)]
    return [PromptEncoderCallback(model)] if method.name == "p-tuning" else []


def restore_prompt_encoder(model: Any, folder: Path) -> None:
    """Put p-tuning's encoder back as a checkpoint of the trainer has it; nothing happens for other methods.

    To be called after PEFT has read the checkpoint, for it takes what the encoder gives for its embedding.

    Raises:
        CheckpointError: the checkpoint has none.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if config is None or config.peft_type != PeftType.P_TUNING:
        return
    encoder = model.prompt_encoder["default"]
    try:
        load_model(encoder, folder / _ENCODER, device=str(next(encoder.parameters()).device))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint lacks the prompts' encoder, so the run cannot go on from it",
            where=str(folder),
            remedy="remove this checkpoint; the run then goes on from the one before, or from the start",
        ) from error


class PromptEncoderCallback(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Keeps p-tuning's encoder in checkpoints: PEFT saves what it makes of the virtual tokens, and not itself."""

    def __init__(self, model: Any) -> None:
        """``model`` is the PEFT model."""
        self._model = model
        self._encoder = model.prompt_encoder["default"]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the checkpoint's encoder where the run goes on from one.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        if state.global_step:
            restore_prompt_encoder(self._model, Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the encoder beside the trainer's files."""
        if state.is_world_process_zero:
            save_model(self._encoder, str(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _ENCODER))
