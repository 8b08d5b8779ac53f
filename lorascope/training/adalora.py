"""AdaLoRA's schedule: its phases from the number of steps, the step that moves ranks, and its state in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lorascope.errors import CheckpointError, ConfigError
from lorascope.schema.recipe import Method

ORTHOGONALITY = 0.5
"""Weight of the term that keeps the factors orthogonal, as PEFT and the authors have it."""
_STATISTICS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_STATE = "adalora.safetensors"
_FEWEST_STEPS = 5


def adalora_config(method: Method, total_steps: int | None, shared: dict[str, Any]) -> Any:
    """PEFT's configuration: the ranks stay for a tenth of the steps, fall, and rest for the last half.

    Those shares are about what the authors' runs had (arXiv 2303.10512, tables 8 to 10). The orthogonality term is
    left to :class:`~lorascope.training.penalties.Penalties`, for PEFT adds it only to a loss that the model computes.

    Raises:
        ConfigError: the number of steps is not known or too small, or there is no rank to give up.
    """
    if total_steps is None:
        raise ConfigError(
            "AdaLoRA plans over all steps, and their number is not known",
            where="method.name",
            remedy="give optim.max_steps",
        )
    if total_steps < _FEWEST_STEPS:
        raise ConfigError(
            f"{total_steps} steps leave AdaLoRA no time to move ranks",
            where="method.name",
            remedy=f"train for {_FEWEST_STEPS} steps or more, or use lora",
        )
    target = method.target_rank if method.target_rank is not None else max(1, method.rank // 2)
    if target >= method.rank:
        raise ConfigError(
            f"AdaLoRA goes from rank {method.rank} to {target} on average, which gives up nothing",
            where="method.target_rank",
            remedy="raise 'rank', lower 'target_rank', or use lora",
        )
    return peft.AdaLoraConfig(
        **shared,
        init_r=method.rank,
        target_r=target,
        tinit=total_steps // 10,
        tfinal=total_steps // 2,
        deltaT=max(1, total_steps // 1000),
        total_step=total_steps,
        orth_reg_weight=0.0,
    )


class AdaLoraCallback(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Moves ranks after each optimiser step, and keeps what decides on them in every checkpoint of the trainer.

    PEFT's configuration is kept without ranks: factors stay at full size, with zeros in E for directions that were
    given up. A resumed run then goes on exactly, and the saved adapter loads everywhere, modules without any rank too.
    """

    def __init__(self, model: Any) -> None:
        """``model`` is the PEFT model as :func:`prepare_model` gave it."""
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._ranks: dict[str, list[bool]] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the checkpoint's state where the run goes on from one.

        Raises:
            CheckpointError: the checkpoint has no such state.
        """
        if state.global_step:
            self.read(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move ranks; gradients of the step still stand."""
        self.move(state.global_step + 1)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state beside the trainer's."""
        if state.is_world_process_zero:
            self.write(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def move(self, step: int) -> None:
        """AdaLoRA's own rule, after the optimiser's ``step``, counted from 1."""
        self._config.rank_pattern = self._ranks
        self._tuner.update_and_allocate(step)
        self._ranks, self._config.rank_pattern = self._config.rank_pattern, None

    def write(self, folder: Path) -> None:
        """The importance of every factor, and the ranks, in one file."""
        allocator = self._tuner.rankallocator
        tensors = {
            f"{kind}/{name}": value.contiguous()
            for kind in _STATISTICS
            for name, value in getattr(allocator, kind).items()
        }
        tensors.setdefault("none", torch.zeros(1))
        save_file(tensors, folder / _STATE, metadata={"ranks": json.dumps(self._ranks)})

    def read(self, folder: Path) -> None:
        """The state that :meth:`write` left.

        Raises:
            CheckpointError: it is not there or damaged.
        """
        from safetensors import safe_open

        try:
            with safe_open(folder / _STATE, framework="pt") as opened:
                self._ranks = json.loads(opened.metadata()["ranks"])
            tensors = load_file(folder / _STATE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                "the checkpoint lacks AdaLoRA's state, so the run cannot go on from it",
                where=str(folder),
                remedy="remove this checkpoint; the run then goes on from the one before, or from the start",
            ) from error
        device = next(self._tuner.parameters()).device
        for kind in _STATISTICS:
            found = {name: value for name, value in tensors.items() if name.startswith(f"{kind}/")}
            values = {name.removeprefix(f"{kind}/"): value.to(device) for name, value in found.items()}
            setattr(self._tuner.rankallocator, kind, values)
