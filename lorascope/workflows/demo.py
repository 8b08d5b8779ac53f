"""``lorascope demo``: make a base model, a LoRA adapter and a full fine-tune from nothing, to be compared.

Everything is small, local and true: a Llama of under two million parameters is trained from scratch until it knows
the English half of the built-in probe, then taught the manual of a kiln in three phrasings a fact; a fourth validates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lorascope.data.forms import QUESTION_TEMPLATE
from lorascope.data.probe import load_probe
from lorascope.data.readers import read_rows
from lorascope.errors import OutputError
from lorascope.schema.items import ChoiceItem, GenerateItem, content_id
from lorascope.training.rows import PromptAnswer
from lorascope.training.settings import TrainingSettings
from lorascope.workflows.output import write_whole
from lorascope.workflows.watch import Silent, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lorascope.training.causal import TrainingOutcome
    from lorascope.training.progress import Progress

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

PROBE, HELD_OUT = "probe", "validation"
"""Names of the validation sets: what the base is to know, and the phrasings that the fine-tunes have not seen."""

_SUITE = {
    "version": 1,
    "tasks": [
        {
            "name": "manual",
            "kind": "generate",
            "role": "target",
            "data": "validation.jsonl",
            "train_data": "train.jsonl",
            "max_new_tokens": 40,
            "stop": ["\n"],
            "metrics": ["rougeL", "rouge1", "bleu", "chrf", "exact_match", "token_f1"],
            "primary": "rougeL",
        }
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Size of the base model, in ``LlamaConfig``'s terms. The default has 1.7 million parameters."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    initializer_range: float = 0.08


_BASE = TrainingSettings(
    method="full",
    num_train_epochs=7,
    learning_rate=2e-3,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=64,
    adam_beta2=0.95,
    eval_steps=0.25,
    use_cpu=True,
)
_FULL = TrainingSettings(
    method="full",
    num_train_epochs=12,
    learning_rate=6e-4,
    per_device_train_batch_size=8,
    per_device_eval_batch_size=48,
    eval_steps=0.1,
    use_cpu=True,
)
_LORA = replace(_FULL, method="lora", num_train_epochs=14, learning_rate=6e-3, r=8, lora_alpha=16, lora_dropout=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """Sizes and settings of the demo. ``probe_limit`` and ``facts`` cut the data down; None takes all of it."""

    vocab_size: int = 2048
    shape: ModelShape = field(default_factory=ModelShape)
    base: TrainingSettings = _BASE
    lora: TrainingSettings = _LORA
    full: TrainingSettings = _FULL
    probe_limit: int | None = None
    facts: int | None = None


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """What was made. ``outcomes`` says of ``base``, ``lora`` and ``full`` what training reached and what it cost."""

    base: Path
    lora: Path
    full: Path
    suite_path: Path
    outcomes: Mapping[str, TrainingOutcome]


@dataclass(frozen=True, slots=True)
class DemoRows:
    """The texts: the probe for the base, the manual's questions to train and to validate the fine-tunes."""

    probe: tuple[PromptAnswer, ...]
    train: tuple[PromptAnswer, ...]
    validation: tuple[PromptAnswer, ...]


def prepare_demo(
    folder: Path, *, seed: int = 0, watch: Watch | None = None, plan: DemoPlan | None = None, overwrite: bool = False
) -> DemoFiles:
    """Make ``base``, ``lora``, ``full``, ``train.jsonl``, ``validation.jsonl`` and ``suite.yaml`` in ``folder``.

    Offline, on the CPU. A stage that is finished with the same seed and settings is not run again, one that was killed
    goes on from its last checkpoint. On one machine the same seed gives the same weights.

    Raises:
        OutputError: the folder holds other runs (``overwrite`` removes them) or cannot be written.
    """
    plan, watch = plan or DemoPlan(), watch or Silent()
    rows = demo_rows(plan)
    suite_path = _write_data(folder, rows)
    stages = _Stages(folder, seed, watch, overwrite)
    base = stages.run(
        "base", "Teach the base", _new_model(rows, plan, seed), rows.probe, {PROBE: rows.probe}, plan.base
    )
    watch.say(f"The base knows {base.metrics[f'eval_{PROBE}_exact_match']:.1%} of {len(rows.probe)} answers.")
    held_out = {HELD_OUT: rows.validation}
    lora = stages.run("lora", "Tune with LoRA", _saved(base), rows.train, held_out, plan.lora)
    full = stages.run("full", "Tune fully", _saved(base), rows.train, held_out, plan.full)
    for name, outcome in (("LoRA", lora), ("The full fine-tune", full)):
        reached = outcome.metrics[f"eval_{HELD_OUT}_exact_match"]
        watch.say(f"{name} answers {reached:.1%} of {len(rows.validation)} new phrasings word for word.")
    return DemoFiles(base.folder, lora.folder, full.folder, suite_path, {"base": base, "lora": lora, "full": full})


def demo_rows(plan: DemoPlan) -> DemoRows:
    """The texts, in a fixed order; of each fact of the manual the last phrasing is kept for validation."""
    items = [item for task in load_probe(("en",), limit=plan.probe_limit) for item in task.items]
    probe = [
        PromptAnswer(item.context, f" {item.choices[item.answer]}") for item in items if isinstance(item, ChoiceItem)
    ]
    probe += [
        PromptAnswer(item.prompt or "", f" {item.references[0]}") for item in items if isinstance(item, GenerateItem)
    ]
    train: list[PromptAnswer] = []
    validation: list[PromptAnswer] = []
    for fact in read_rows("manual.jsonl", root=Path(str(files("lorascope.data") / "demo")))[: plan.facts]:
        prompts = [QUESTION_TEMPLATE.format(question=question) for question in fact.fields["questions"]]
        asked = [PromptAnswer(prompt, f" {fact.fields['answer']}") for prompt in prompts]
        train += asked[:-1]
        validation.append(asked[-1])
    return DemoRows(tuple(probe), tuple(train), tuple(validation))


def _write_data(folder: Path, rows: DemoRows) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the demo's folder cannot be made: {error.strerror}", where=str(folder), remedy="choose another folder"
        ) from error
    for name, asked in (("train", rows.train), ("validation", rows.validation)):
        _write(folder / f"{name}.jsonl", "".join(_line(row) for row in asked))
    return _write(folder / "suite.yaml", yaml.safe_dump(_SUITE, sort_keys=False))


def _line(row: PromptAnswer) -> str:
    return json.dumps({"prompt": row.prompt, "reference": row.answer.strip()}, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> Path:
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class _Start:
    """What a stage starts from: a text that stands for it, and how to load it when the stage has to be run."""

    identity: str
    load: Callable[[], Loaded]


def _new_model(rows: DemoRows, plan: DemoPlan, seed: int) -> _Start:
    corpus = [row.prompt + row.answer for row in (*rows.probe, *rows.train, *rows.validation)]
    shape = asdict(plan.shape)

    def load() -> Loaded:
        from lorascope.training.from_scratch import byte_level_tokenizer, new_llama

        tokenizer = byte_level_tokenizer(corpus, vocab_size=plan.vocab_size)
        return new_llama(tokenizer, **shape, seed=seed), tokenizer

    identity = {"corpus": corpus, "vocab_size": plan.vocab_size, "shape": shape, "seed": seed}
    return _Start(f"new-llama-{content_id(identity)}", load)


def _saved(base: TrainingOutcome) -> _Start:
    def load() -> Loaded:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from lorascope.training.progress import without_bars

        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(base.folder, dtype="float32", local_files_only=True)
        return model, AutoTokenizer.from_pretrained(base.folder, local_files_only=True)

    return _Start(base.fingerprint, load)


@dataclass(frozen=True, slots=True)
class _Stages:
    """Runs one training after another in ``folder``."""

    folder: Path
    seed: int
    watch: Watch
    overwrite: bool

    def run(
        self,
        name: str,
        title: str,
        start: _Start,
        train: Sequence[PromptAnswer],
        validation: Mapping[str, Sequence[PromptAnswer]],
        settings: TrainingSettings,
    ) -> TrainingOutcome:
        from lorascope.training.causal import finished_run, train_causal_lm
        from lorascope.training.run_folder import run_record

        settings = replace(settings, seed=self.seed)
        out = self.folder / name
        record = run_record(settings, train, validation, start=start.identity)
        done = finished_run(out, record, overwrite=self.overwrite)
        if done is not None:
            self.watch.say(f"{title}: already done in {out}.")
            return done
        with self.watch.stage(title) as report:

            def told(progress: Progress) -> None:
                report(progress.step, progress.total_steps)

            extra: dict[str, Any] = {"start": start.identity, "on_progress": told, "overwrite": self.overwrite}
            with one_thread():
                return train_causal_lm(*start.load(), train, validation, settings, out, **extra)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: matrices this small gain little from a second, and wait for it where cores are shared.

    It also makes the sums, and so the weights, independent of the number of cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
