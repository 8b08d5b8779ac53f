"""What a training run is told, under the names that transformers and peft use for the same things."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lorascope.errors import ConfigError

Method = Literal["full", "lora"]
_POSITIVE = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "r",
    "lora_alpha",
    "max_length",
    "logging_steps",
    "eval_steps",
)
_NOT_NEGATIVE = ("warmup_steps", "weight_decay")
_SHARES = ("adam_beta2", "lora_dropout")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings of one run; each has the meaning of the argument of that name in ``TrainingArguments``/``LoraConfig``.

    ``method`` 'full' trains every parameter, 'lora' an adapter by ``r`` … ``target_modules``, which 'full' ignores.
    ``answer_only`` takes the loss over the answer's tokens and the end of text; otherwise the prompt's count as well.
    ``warmup_steps`` and ``eval_steps`` below 1 are shares of all steps, from 1 on steps; a checkpoint to resume from
    is written at every evaluation. ``max_length`` is in tokens, of prompt and answer together.

    Raises:
        ConfigError: a value outside its range, with the setting's name.
    """

    method: Method = "lora"
    num_train_epochs: float = 5.0
    learning_rate: float = 1e-4
    per_device_train_batch_size: int = 2
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    warmup_steps: float = 0.1
    lr_scheduler_type: str = "cosine"
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    target_modules: str | tuple[str, ...] = "all-linear"
    answer_only: bool = True
    max_length: int = 1024
    logging_steps: int = 10
    eval_steps: float = 0.1
    seed: int = 0
    use_cpu: bool = False

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(
                f"'{self.method}' is no training method", where="method", remedy=f"use {' or '.join(get_args(Method))}"
            )
        for name in _POSITIVE:
            self._demand(name, "above 0", getattr(self, name) > 0)
        for name in _NOT_NEGATIVE:
            self._demand(name, "0 or more", getattr(self, name) >= 0)
        for name in _SHARES:
            self._demand(name, "from 0 to below 1", 0 <= getattr(self, name) < 1)

    def _demand(self, name: str, wanted: str, holds: bool) -> None:
        value = getattr(self, name)
        if not holds or not math.isfinite(value):
            raise ConfigError(f"{value!r} is out of range", where=name, remedy=f"give a number {wanted}")
