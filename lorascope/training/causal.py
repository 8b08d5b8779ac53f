"""Training of causal language models on prompts with answers: fully, or by a LoRA adapter."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    DataCollatorForSeq2Seq,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from lorascope.training.cost import TrainingCost
from lorascope.training.progress import OnProgress, ProgressCallback, without_bars
from lorascope.training.rows import IGNORED, PromptAnswer, encode_rows
from lorascope.training.run_folder import RunFolder, run_record, unwritable, write_json
from lorascope.training.settings import TrainingSettings

_STATE = "trainer_state.json"
_COST = "cost.json"


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """A finished run. ``metrics`` holds the last value of every ``eval_…`` number; ``reused`` when nothing was run."""

    folder: Path
    fingerprint: str
    metrics: Mapping[str, float]
    cost: TrainingCost
    reused: bool


def finished_run(out: Path, record: Mapping[str, Any], *, overwrite: bool = False) -> TrainingOutcome | None:
    """The run with this record if it is already whole in ``out``; None makes the folder ready for it.

    Raises:
        OutputError: as :meth:`RunFolder.claim`.
    """
    return _outcome(out, record, reused=True) if RunFolder(out, record).claim(overwrite=overwrite) else None


def train_causal_lm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[PromptAnswer],
    validation: Mapping[str, Sequence[PromptAnswer]],
    settings: TrainingSettings,
    out: Path,
    *,
    start: str,
    on_progress: OnProgress | None = None,
    overwrite: bool = False,
) -> TrainingOutcome:
    """Train ``model`` (changed in place) and leave the result in ``out``, whole or not at all.

    ``out`` gets the model or the adapter, the tokenizer, ``trainer_state.json``, ``cost.json`` and ``training.json``.
    Each validation set is evaluated by name, before the first step, at every ``eval_steps`` and after the last:
    ``eval_<name>_loss`` is the mean over batches of the loss per token (nats), ``eval_<name>_exact_match`` the share of
    rows whose answer greedy decoding would give token for token, its end included (only with ``answer_only``).
    ``start`` names the weights that the run starts from, see :func:`run_record`. The same call after a kill goes on
    from the last checkpoint; after the end it reads what is there. Runs repeat exactly on one machine and its CPU.

    Raises:
        DataError: a row that cannot be used.
        EvaluationError: the loss became NaN or infinite; checkpoints until there are kept.
        OutputError: ``out`` is another run's or cannot be written.
    """
    record = run_record(settings, train, validation, start=start)
    folder = RunFolder(out, record)
    data = encode_rows(train, tokenizer, settings, name="train")
    held_out = {name: encode_rows(rows, tokenizer, settings, name=name) for name, rows in validation.items()}
    if folder.claim(overwrite=overwrite):
        return _outcome(out, record, reused=True)
    clock = ProgressCallback(on_progress)
    kept = model.config.use_cache  # the trainer switches it off and would leave it so in the saved configuration
    try:
        trainer = _trainer(_prepared(model, settings), tokenizer, data, held_out, settings, folder.partial, clock)
        with without_bars():
            _run(trainer, folder.resume_point())
            model.config.use_cache = kept
            _save(trainer, tokenizer, settings, folder.staging(), clock)
        folder.publish()
    except (OSError, SafetensorError) as error:
        raise unwritable(out, error) from error
    return _outcome(out, record, reused=False)


def _prepared(model: PreTrainedModel, settings: TrainingSettings) -> PreTrainedModel | PeftModel:
    set_seed(settings.seed)
    if settings.method == "full":
        return model
    modules = settings.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers 5 by the attribute's former name
        return get_peft_model(model, config)


def _arguments(settings: TrainingSettings, folder: Path, *, validated: bool) -> TrainingArguments:
    shared = (
        "num_train_epochs learning_rate per_device_train_batch_size per_device_eval_batch_size "
        "gradient_accumulation_steps warmup_steps lr_scheduler_type weight_decay adam_beta2 max_grad_norm "
        "logging_steps eval_steps seed use_cpu"
    )
    return TrainingArguments(
        output_dir=str(folder),
        **{name: getattr(settings, name) for name in shared.split()},
        eval_strategy="steps" if validated else "no",
        eval_on_start=validated,
        save_strategy="steps",
        save_steps=settings.eval_steps,
        save_total_limit=1,
        include_num_input_tokens_seen="non_padding",
        logging_nan_inf_filter=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not settings.use_cpu,
    )


def _trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: list[dict[str, list[int]]],
    held_out: dict[str, list[dict[str, list[int]]]],
    settings: TrainingSettings,
    folder: Path,
    clock: ProgressCallback,
) -> Trainer:
    trainer = Trainer(
        model=model,
        args=_arguments(settings, folder, validated=bool(held_out)),
        train_dataset=data,
        eval_dataset=held_out or None,
        data_collator=DataCollatorForSeq2Seq(_padding(tokenizer), label_pad_token_id=IGNORED),
        compute_metrics=_exact_match if settings.answer_only else None,
        preprocess_logits_for_metrics=_best_tokens,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that can pad. Padding is masked, so any token does where the tokenizer has none of its own."""
    padding = copy.deepcopy(tokenizer)
    if padding.pad_token is None:
        padding.pad_token = padding.eos_token
    padding.padding_side = "right"
    return padding


def _best_tokens(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    first = logits[0] if isinstance(logits, tuple) else logits
    return first.argmax(dim=-1)


def _exact_match(prediction: EvalPrediction) -> dict[str, float]:
    """Greedy decoding gives an answer exactly when, fed that answer, the best token is the right one everywhere."""
    best, labels = np.asarray(prediction.predictions)[:, :-1], np.asarray(prediction.label_ids)[:, 1:]
    return {"exact_match": float(((best == labels) | (labels == IGNORED)).all(axis=1).mean())}


def _run(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        trainer.args.eval_on_start = False  # the checkpoint's log has an evaluation at this very step
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    evaluated = [row["step"] for row in trainer.state.log_history if any(key.startswith("eval_") for key in row)]
    if trainer.eval_dataset is not None and evaluated[-1] != trainer.state.global_step:
        trainer.evaluate()


def _save(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainingSettings,
    folder: Path,
    clock: ProgressCallback,
) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a model card, with nothing filled in
    tokenizer.save_pretrained(folder)
    trainer.state.save_to_json(str(folder / _STATE))
    write_json(folder / _COST, asdict(_cost(trainer, settings, clock)))


def _cost(trainer: Trainer, settings: TrainingSettings, clock: ProgressCallback) -> TrainingCost:
    parameters = list(trainer.model.parameters())
    tokens = int(trainer.state.num_input_tokens_seen)
    return TrainingCost(
        method=settings.method,
        trainable_parameters=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        total_parameters=sum(parameter.numel() for parameter in parameters),
        steps=trainer.state.global_step,
        tokens=tokens,
        train_seconds=clock.elapsed(),
        tokens_per_second=tokens / clock.step_seconds if clock.step_seconds > 0 else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if parameters[0].is_cuda else None,
    )


def _outcome(out: Path, record: Mapping[str, Any], *, reused: bool) -> TrainingOutcome:
    history = json.loads((out / _STATE).read_text(encoding="utf-8"))["log_history"]
    last = {key: value for row in history for key, value in row.items() if key.startswith("eval_")}
    cost = TrainingCost(**json.loads((out / _COST).read_text(encoding="utf-8")))
    return TrainingOutcome(out, record["fingerprint"], last, cost, reused)
