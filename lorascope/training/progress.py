"""What a running training tells its caller, step by step, instead of drawing bars of its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from lorascope.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: ``step`` of ``total_steps`` is done; ``values`` is a row of the training log, or empty."""

    step: int
    total_steps: int
    values: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and from advising what a run's own notes say better."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


class ProgressCallback(TrainerCallback, ExportableState):  # type: ignore[misc]  # untyped bases
    """Reports every step and every row of the log, keeps the clock, and stops a run whose loss is no number.

    The clocks and the peak of memory are saved in each checkpoint: a resumed run goes on counting from there.
    ``resumed`` says whether it did.
    """

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.on_progress = on_progress
        self.seconds = 0.0
        self.step_seconds = 0.0
        self.resumed = False
        self._largest = 0
        self._process = psutil.Process()
        self._started = time.perf_counter()
        self._step_started = self._started

    def state(self) -> dict[str, Any]:
        """The clocks, in the form that the trainer saves."""
        clocks = {"seconds": self.elapsed(), "step_seconds": self.step_seconds, "largest": self.peak_memory()[0]}
        return {"args": {}, "attributes": clocks}

    def peak_memory(self) -> tuple[int | None, str | None]:
        """Bytes and what they are of: ``cuda``, the allocator's peak, or ``process``, resident at the end of a step."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return max(self._largest, torch.cuda.max_memory_allocated()), "cuda"
        return (self._largest, "process") if self._largest else (None, None)

    def elapsed(self) -> float:
        """Wall seconds of this run, with those before the checkpoint that it was resumed from."""
        return self.seconds + time.perf_counter() - self._started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clocks at what the checkpoint says, at zero without one."""
        self.resumed = state.global_step > 0
        saved = state.stateful_callbacks.get(type(self).__name__, {}) if self.resumed else {}
        self.seconds = saved.get("attributes", {}).get("seconds", 0.0)
        self.step_seconds = saved.get("attributes", {}).get("step_seconds", 0.0)
        self._largest = saved.get("attributes", {}).get("largest") or 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note when the step began."""
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step's time and report it."""
        self.step_seconds += time.perf_counter() - self._step_started
        if not torch.cuda.is_available():
            self._largest = max(self._largest, self._process.memory_info().rss)
        self._report(state, {})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report the row.

        Raises:
            EvaluationError: a loss in it is NaN or infinite.
        """
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not math.isfinite(value):
                raise EvaluationError(
                    f"training came apart: {name} is {value}",
                    where=f"step {state.global_step} of {state.max_steps}; checkpoints until then are in "
                    f"{args.output_dir}",
                    remedy="lower optim.learning_rate or lengthen optim.warmup; with optim.precision: float16, try "
                    "bfloat16",
                )
        self._report(state, logs or {})

    def _report(self, state: TrainerState, values: Mapping[str, float]) -> None:
        if self.on_progress is not None:
            self.on_progress(Progress(state.global_step, state.max_steps, dict(values)))


LIVE_LOG = "trainer_log.jsonl"


class LiveLog(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Writes every row of the log to a file as it comes, for whoever looks on; a resumed run begins it anew.

    It lies in the folder of the unfinished run; the finished one has all rows in ``trainer_state.json``.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The rows of the checkpoint that the run goes on from, or none."""
        if state.is_world_process_zero:
            rows = (json.dumps({**row, "max_steps": state.max_steps}) + "\n" for row in state.log_history)
            (Path(args.output_dir) / LIVE_LOG).write_text("".join(rows), encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the row."""
        if state.is_world_process_zero and logs:
            row = {"step": state.global_step, "max_steps": state.max_steps, "epoch": state.epoch, **logs}
            with (Path(args.output_dir) / LIVE_LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
