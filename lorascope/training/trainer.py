"""transformers' ``Trainer`` with a recipe's losses, structured dropout, penalties, learning rates and live measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lorascope.errors import EvaluationError
from lorascope.schema.recipe import Recipe
from lorascope.training.collating import TOKEN_COUNTS
from lorascope.training.counting import supervised
from lorascope.training.encoding_parts import IGNORED
from lorascope.training.losses import LossFunction
from lorascope.training.optimising import build_optimizer, build_scheduler
from lorascope.training.penalties import Penalties
from lorascope.training.resuming import restore_prompt_encoder
from lorascope.training.structured_dropout.compensation import Compensation

LiveMeasure = Callable[[Any, PreTrainedTokenizerBase], Mapping[str, float]]
"""Measures the model as it stands, between two steps; the names get ``eval_`` in front in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimised: the task's loss, a consistency term of two passes, penalties on the weights.

    ``loss`` None takes the model's own (language models that divide it by the step's count), else it is given logits
    and targets, and the weights of rows that stand in the batches as ``sample_weight``. ``compensation`` is None where
    the recipe asks for no second pass.
    """

    loss: LossFunction | None = None
    compensation: Compensation | None = None
    penalties: Penalties | None = None


@dataclass(slots=True)
class _Parts:
    """Sums of the parts of the loss since the last row of the log."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, **values: torch.Tensor | None) -> None:
        for name, value in values.items():
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + value.detach().float()

    def drained(self, steps: int) -> dict[str, float]:
        """The means over ``steps`` steps, where the loss has more than one part."""
        means = {name: float(total) / steps for name, total in self.sums.items()} if len(self.sums) > 1 else {}
        self.sums.clear()
        return means


class RecipeTrainer(Trainer):  # type: ignore[misc]  # untyped base
    """The trainer of a recipe. What is not overridden here is transformers' own."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        objective: Objective,
        live: Sequence[LiveMeasure] = (),
        sampler: Callable[[], torch.utils.data.Sampler[int] | None] | None = None,
        tokenizer: PreTrainedTokenizerBase,
        new_weights: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """``live`` is asked at every evaluation; ``sampler`` makes the order of training rows, None: shuffled.

        ``new_weights`` are the parameters that the base did not bring, the head's among them.
        """
        super().__init__(**options)
        self.recipe = recipe
        self.objective = objective
        self._live = tuple(live)
        self._make_sampler = sampler
        self._new_weights = tuple(new_weights)
        self.tokenizer_to_save = tokenizer
        self._parts = _Parts()
        # Each loss below is divided as it has to be before it is returned.
        self.loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch; those of one step's batches, over all processes, add up to the step's mean.

        That is the mean over all its supervised tokens or rows, so how they are divided into batches changes nothing.
        """
        batch = dict(inputs)
        batch.pop(TOKEN_COUNTS, None)
        labels, weights = batch["labels"], batch.pop("sample_weight", None)
        if not model.training:
            outputs = model(**self._asked(batch, None))
            loss = self._task_loss(outputs, labels, weights)
            return (loss, outputs) if return_outputs else loss
        counted = self._get_num_items_in_batch([batch]) if num_items_in_batch is None else num_items_in_batch
        asked = self._asked(batch, counted)
        compensation = self.objective.compensation
        graded, divergence = (
            ([model(**asked)], None)
            if compensation is None
            else compensation.passes(lambda: model(**asked), model, labels, self._terms(labels, counted))
        )
        # Counted over all processes, whose gradients are averaged, a sum has to be made up for that.
        scale = float(self.accelerator.num_processes)
        task = torch.stack([self._task_loss(each, labels, weights, counted) for each in graded]).mean() * scale
        further = None if divergence is None else divergence * scale
        penalty = self.objective.penalties
        added = None if penalty is None else penalty() / max(1, self.current_gradient_accumulation_steps)
        self._parts.add(loss_task=task, loss_consistency=further, loss_penalty=added)
        loss = sum((part for part in (further, added) if part is not None), start=task)
        return (loss, graded[0]) if return_outputs else loss

    @property
    def _is_text(self) -> bool:
        return self.recipe.task.kind == "generate"

    @property
    def _is_encoder_decoder(self) -> bool:
        return bool(self.accelerator.unwrap_model(self.model).config.is_encoder_decoder)

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, Any]], device: Any = None) -> Any:
        """What a step of these batches is divided by, over all processes: see :func:`supervised`; at least 1."""
        if not batch_samples:
            return None
        kind, encoder_decoder = self.recipe.task.kind, self._is_encoder_decoder
        own = sum(supervised(batch["labels"], kind, encoder_decoder=encoder_decoder) for batch in batch_samples)
        return self.accelerator.gather(torch.tensor(own, device=self.args.device)).sum().clamp(min=1)

    def _terms(self, labels: torch.Tensor, counted: torch.Tensor | int) -> torch.Tensor | int:
        """Terms of the consistency loss in a step: one for each label of a row where a row can have several."""
        several = self.recipe.task.kind == "labels" and labels.dim() == 2
        return counted * labels.shape[1] if several else counted

    def _asked(self, batch: Mapping[str, Any], counted: torch.Tensor | int | None) -> dict[str, Any]:
        """What the model is given: with the labels where its own loss, or a decoder's input, is made of them."""
        if not self._is_text:
            return {name: value for name, value in batch.items() if name != "labels"}
        own = self.objective.loss is None and counted is not None
        return {**batch, "num_items_in_batch": counted} if own else dict(batch)

    def _task_loss(
        self,
        outputs: Any,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
        counted: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        if self.objective.loss is None:
            own: torch.Tensor = outputs["loss"]
            return own
        logits = outputs["logits"]
        if self._is_text:
            logits = logits[:, -labels.shape[1] :]  # a prompt method's virtual tokens stand in front
        return self.objective.loss(logits, labels, weights=weights, count=counted)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser with the recipe's groups of parameters."""
        if self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = build_optimizer(
                self.model if model is None else model,
                self.recipe.optim,
                self.recipe.hardware,
                self.args.device,
                new_weights=self._new_weights,
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the learning rate."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            self.lr_scheduler = build_scheduler(optimizer or self.optimizer, self.recipe.optim, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        made = self._make_sampler() if self._make_sampler is not None else None
        return made if made is not None else super()._get_train_sampler(train_dataset)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a row of the log; a training row gets the parts of its loss, as means over all processes."""
        if "loss" in logs:
            parts = self._parts.drained(max(1, self.state.global_step - self._logged_before()))
            names, values = list(parts), torch.tensor(list(parts.values()), device=self.args.device)
            means = self.accelerator.reduce(values, reduction="mean").tolist() if names else []
            logs = {**logs, **dict(zip(names, means, strict=True))}
        super().log(logs)  # with the start time it would add the speed of this sitting to every row

    def _logged_before(self) -> int:
        return next((row["step"] for row in reversed(self.state.log_history) if "loss" in row), 0)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """An evaluation at which the judged number is undefined is no new best."""
        judged = self.args.metric_for_best_model
        if judged is not None and judged not in metrics:
            return False
        return bool(super()._determine_best_metric(metrics=metrics, trial=trial))

    def _track_num_input_tokens(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Count the tokens of a batch: those read, padding left out, and those that an encoder–decoder writes."""
        if TOKEN_COUNTS in inputs:
            tokens = int(inputs[TOKEN_COUNTS].sum())
        else:
            tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        if self._is_text and self._is_encoder_decoder:
            tokens += int((inputs["labels"] != IGNORED).sum())
        over_all = self.accelerator.gather(torch.tensor(tokens, device=self.args.device)).sum()
        self.state.num_input_tokens_seen += int(over_all)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        restore_prompt_encoder(self.accelerator.unwrap_model(self.model), Path(self.state.best_model_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint of weights that are numbers: a run that came apart must not be gone on with.

        Raises:
            EvaluationError: a trained weight is NaN or infinite.
        """
        for name, parameter in self.model.named_parameters():
            own = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # divided among processes
            if parameter.requires_grad and not bool(own.isfinite().all()):
                raise EvaluationError(
                    f"training came apart: weights of {name} are NaN or infinite",
                    where=f"step {self.state.global_step} of {self.state.max_steps}, {self.args.output_dir}",
                    remedy="lower optim.learning_rate or lengthen optim.warmup",
                )
        super()._save_checkpoint(model, trial)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        metrics: dict[str, float] = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        measured = self.measure_live()
        if measured:
            self.log(measured)
        return {**metrics, **measured}

    def measure_live(self) -> dict[str, float]:
        """What the live measures say of the model now, under the log's names."""
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        found = {
            f"eval_{name}": value for live in self._live for name, value in live(model, self.tokenizer_to_save).items()
        }
        model.train(was_training)
        return found


class StepRules(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Logs where a checkpoint is written, and evaluates after the last step: a resumed run then logs the same rows."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the flags of the step."""
        if state.global_step >= state.max_steps:
            control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"
        if control.should_save:
            control.should_log = True
