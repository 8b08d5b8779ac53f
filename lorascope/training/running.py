"""One run from recipe and items to a finished folder: the same for every task and method."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import EvalPrediction, PrinterCallback, TrainerState, TrainingArguments, set_seed

from lorascope.errors import EvaluationError
from lorascope.schema.recipe import Recipe
from lorascope.training.arguments import training_arguments
from lorascope.training.assembly import Assembled, Surroundings, assemble
from lorascope.training.cost import TrainingCost
from lorascope.training.data import TrainingData
from lorascope.training.energy import EnergyMeter
from lorascope.training.loading import LoadedBase
from lorascope.training.memory import is_out_of_memory, memory_error, smaller_batches
from lorascope.training.methods import parameter_counts
from lorascope.training.own_replay import REPLAY_FILE
from lorascope.training.progress import LiveLog, OnProgress, ProgressCallback, quiet_transformers
from lorascope.training.run_folder import RECORD, RunFolder, unwritable, write_json
from lorascope.training.saving import save_trained
from lorascope.training.stopping import StopEarly, unbeaten_start
from lorascope.training.trainer import LiveMeasure, RecipeTrainer, StepRules

STATE = "trainer_state.json"
COST = "cost.json"
_SPEEDS = ("_runtime", "_per_second")
Rows = Sequence[Mapping[str, Any]]
Score = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
"""(predictions, targets) of one validation set as arrays → numbers by name, for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """A finished run. ``metrics`` holds every ``eval_…`` number of the weights that were kept; ``reused``: not run now.

    ``kept_step`` is the step whose weights were saved, ``notes`` what a reader of the run should know.
    """

    folder: Path
    fingerprint: str
    metrics: Mapping[str, float]
    kept_step: int
    cost: TrainingCost
    notes: tuple[str, ...]
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run needs. ``load`` brings the model and its tokenizer, anew where memory ran out and it is tried again.
    ``room`` says of these two how many tokens fit, and how many an encoder–decoder can write.

    ``score`` gives the task's metrics at evaluations; ``live`` measures of the model are taken at the same steps.
    ``extra_files`` are texts by name that the finished folder is to hold as well; ``notes`` stand before the run's own.
    """

    recipe: Recipe
    data: TrainingData
    out: Path
    record: Mapping[str, Any]
    load: Callable[[Recipe], LoadedBase]
    room: Callable[[Any, Any], tuple[int | None, int | None]] = lambda model, tokenizer: (None, None)
    score: Score | None = None
    live: Callable[[Path, Mapping[str, Rows]], Sequence[LiveMeasure]] | None = None
    extra_files: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    on_progress: OnProgress | None = None
    say: Callable[[str], None] = lambda _: None


def run_training(run: Run, *, overwrite: bool = False) -> TrainingOutcome:
    """Train, and leave the result in ``run.out``, whole or not at all.

    ``out`` gets the model or the adapter, the tokenizer, ``trainer_state.json``, ``cost.json``, ``training.json`` and
    the extra files, and ``replay.jsonl`` where the base wrote its own replay. Each validation set is evaluated by name:
    ``eval_<name>_loss`` is the mean over rows of the batch losses, beside it the task's metrics. The same call after a
    kill goes on from the last checkpoint; after the end it reads what is there. On a CPU runs repeat exactly.

    Raises:
        DataError: an item cannot be used.
        EvaluationError: the loss is no number, or memory ran out; checkpoints until there are kept.
        OutputError: ``out`` is another run's or cannot be written.
    """
    folder = RunFolder(run.out, run.record)
    arguments = training_arguments(run.recipe, folder.partial)
    with ExitStack() as held:
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                held.enter_context(folder.held())
            if folder.claim(overwrite=overwrite and arguments.process_index == 0):
                return read_outcome(run.out, reused=True)
        for note in folder.notes:
            run.say(note)
        try:
            with quiet_transformers():
                _train_until_it_fits(replace(run, notes=(*run.notes, *folder.notes)), folder, arguments)
        except (OSError, SafetensorError) as error:
            raise unwritable(run.out, error) from error
        return read_outcome(run.out, reused=False)


def _train_until_it_fits(run: Run, folder: RunFolder, arguments: TrainingArguments) -> None:
    recipe, notes = run.recipe, list(run.notes)
    while True:
        try:
            _train(replace(run, recipe=recipe), folder, arguments, notes)
            return
        except EvaluationError as error:
            if folder.resume_point() is not None:
                error.where = "; ".join(filter(None, (error.where, _last_checkpoint(folder))))
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = smaller_batches(recipe) if recipe.hardware.out_of_memory == "accumulate" else None
            if smaller is None:
                raise memory_error(recipe, where=_last_checkpoint(folder)) from error
        recipe = smaller
        notes.append(
            f"memory ran out: the batch was lowered to {recipe.optim.batch_size} and the accumulation raised to "
            f"{recipe.optim.accumulate}, which trains on the same rows"
        )
        run.say(notes[-1])
        _free()
        arguments = training_arguments(recipe, folder.partial)


def _last_checkpoint(folder: RunFolder) -> str:
    kept = folder.resume_point()
    return f"{folder.partial}; no checkpoint was written yet" if kept is None else f"the last checkpoint is {kept}"


def _free() -> None:
    """Give back what the failed attempt held, before the model is loaded again."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train(run: Run, folder: RunFolder, arguments: TrainingArguments, notes: list[str]) -> None:
    set_seed(run.recipe.seed)
    around = Surroundings(arguments=arguments, folder=folder.partial, room=run.room, say=run.say)
    job = assemble(run.recipe, run.data, run.load(run.recipe), around)
    for note in job.notes:
        if note not in notes:
            notes.append(note)
    clock, stopping = ProgressCallback(run.on_progress), StopEarly(run.recipe)
    energy = EnergyMeter([arguments.device.index or 0] if arguments.device.type == "cuda" else ())
    kept_cache = getattr(job.model.config, "use_cache", None)
    trainer = RecipeTrainer(
        recipe=run.recipe,
        objective=job.objective,
        live=run.live(folder.partial, job.validation) if run.live else (),
        sampler=job.sampler,
        tokenizer=job.tokenizer,
        new_weights=job.new_weights,
        model=job.model,
        args=arguments,
        train_dataset=job.train,
        eval_dataset=job.validation or None,
        data_collator=job.collator,
        compute_metrics=None if run.score is None else _scored(run.score, job),
        preprocess_logits_for_metrics=job.kept_of_logits,
        callbacks=[StepRules(), LiveLog(), clock, stopping, *job.callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    _go(trainer, folder, stopping)
    if stopping.reason:
        notes.append(
            f"stopped early at step {trainer.state.global_step} of {trainer.state.max_steps}: {stopping.reason}"
        )
        run.say(notes[-1])
    unbeaten = unbeaten_start(run.recipe, trainer.state.log_history)
    if unbeaten:
        notes.append(unbeaten)
        run.say(unbeaten)
    if kept_cache is not None:
        job.model.config.use_cache = kept_cache  # the trainer switches it off and would leave it so in the saved file
    job.finish()
    if job.alarm is not None:
        notes += job.alarm.notes
    facts: dict[str, Any] = {"notes": notes}
    if job.alarm is not None:
        facts["plateau_loss"] = job.alarm.plateau
    _publish(run, folder, trainer, clock, energy, facts)


def _scored(score: Score, job: Assembled) -> Callable[[EvalPrediction], dict[str, float]]:
    def computed(prediction: EvalPrediction) -> dict[str, float]:
        predictions, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if job.alarm is not None:
            job.alarm.evaluated(predictions, targets)
        return dict(score(predictions, targets))

    return computed


def _go(trainer: RecipeTrainer, folder: RunFolder, stopping: StopEarly) -> None:
    """Train from the start or from the last checkpoint, to the end or to where the run had already stopped early."""
    with trainer.args.main_process_first(local=False):
        checkpoint = folder.resume_point()  # the first process removes torn ones, before the others look
    if checkpoint is None:
        if not trainer.args.eval_on_start:
            # Measures against the base have to see it before the first step, in the precision that is trained in.
            with trainer.accelerator.autocast():
                trainer.measure_live()
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    trainer.args.eval_on_start = False  # the checkpoint's log has the evaluations until here
    if not stopping.look(state.log_history):
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = state
    # Clocks and notes go on from what the checkpoint has of them.
    trainer.callback_handler.on_train_begin(trainer.args, state, trainer.control)
    if trainer.args.load_best_model_at_end and state.best_model_checkpoint:
        trainer._load_best_model()


def _publish(
    run: Run,
    folder: RunFolder,
    trainer: RecipeTrainer,
    clock: ProgressCallback,
    energy: EnergyMeter,
    facts: Mapping[str, Any],
) -> None:
    """Write the result beside the checkpoints and give it its name; other processes wait until that is done.

    ``facts`` are to stand in the run's record, with what is found out here.
    """
    state = trainer.state
    # The trainer's last row sums up the last sitting alone; what a whole run took stands in cost.json.
    state.log_history = [row for row in state.log_history if "train_runtime" not in row]
    kept = state.best_global_step if run.recipe.evaluation.keep == "best" and state.best_global_step else None
    kept_step = kept or state.global_step
    with trainer.args.main_process_first(local=False):
        main = trainer.args.should_save
        staging = folder.staging() if main else folder.partial / "result"
    save_trained(trainer, staging)
    if main:
        state.save_to_json(str(staging / STATE))
        write_json(staging / COST, asdict(_cost(run, trainer, clock, energy)))
        for name, text in (run.extra_files or {}).items():
            (staging / name).write_text(text, encoding="utf-8")
        if (folder.partial / REPLAY_FILE).is_file():
            shutil.copyfile(folder.partial / REPLAY_FILE, staging / REPLAY_FILE)
        folder.publish({"kept_step": kept_step, "metrics": _metrics_at(state, kept_step), **facts})
    trainer.accelerator.wait_for_everyone()


def _metrics_at(state: TrainerState, step: int) -> dict[str, float]:
    """Numbers of the evaluation at a step, but for how fast it was; what is no finite number is left out."""
    rows = [row for row in state.log_history if row.get("step") == step]
    return {
        key: value
        for row in rows
        for key, value in row.items()
        if key.startswith("eval_") and not key.endswith(_SPEEDS) and np.isfinite(value)
    }


def _cost(run: Run, trainer: RecipeTrainer, clock: ProgressCallback, energy: EnergyMeter) -> TrainingCost:
    counts = parameter_counts(trainer.model)
    tokens = int(trainer.state.num_input_tokens_seen)
    peak, kind = clock.peak_memory()
    return TrainingCost(
        method=run.recipe.method.name,
        trainable_parameters=counts.trainable,
        total_parameters=counts.total,
        steps=trainer.state.global_step,
        tokens=tokens,
        train_seconds=clock.elapsed(),
        tokens_per_second=tokens / clock.step_seconds if clock.step_seconds > 0 else None,
        peak_memory_bytes=peak,
        memory_kind=kind,
        energy_joules=energy.joules() if not clock.resumed else None,
        devices=trainer.args.world_size,
    )


def read_outcome(folder: Path, *, reused: bool) -> TrainingOutcome:
    """The outcome of the finished run in a folder.

    Raises:
        EvaluationError: its record is not that of a finished run.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    cost = TrainingCost(**json.loads((folder / COST).read_text(encoding="utf-8")))
    try:
        return TrainingOutcome(
            folder=folder,
            fingerprint=record["fingerprint"],
            metrics=record["metrics"],
            kept_step=record["kept_step"],
            cost=cost,
            notes=tuple(record["notes"]),
            reused=reused,
        )
    except KeyError as error:
        raise EvaluationError(
            f"the run's record lacks {error}", where=str(folder / RECORD), remedy="train again with --overwrite"
        ) from error
