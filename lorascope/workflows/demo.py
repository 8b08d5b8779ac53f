"""``lorascope demo``: make a base model, a LoRA adapter and a full fine-tune from nothing, to be compared.

Everything is small, local and true: a Llama of under two million parameters is trained from scratch until it knows
the English half of the built-in probe, then taught the manual of a kiln in three phrasings a fact; a fourth validates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.data.documents import write_yaml
from lorascope.data.forms import QUESTION_TEMPLATE
from lorascope.data.probe import load_probe
from lorascope.data.readers import read_rows
from lorascope.data.recipes import load_recipe
from lorascope.errors import OutputError
from lorascope.schema.items import ChoiceItem, GenerateItem, content_id
from lorascope.schema.recipe import Recipe, RecipeTask
from lorascope.training.data import TrainingData
from lorascope.workflows.output import write_whole
from lorascope.workflows.train import train_recipe
from lorascope.workflows.training_scores import score_of
from lorascope.workflows.watch import Silent, Watch

if TYPE_CHECKING:
    from lorascope.training.running import TrainingOutcome

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


def _recipe(name: str, method: dict[str, Any], optim: dict[str, Any], evaluation: dict[str, Any]) -> Recipe:
    """A recipe of the demo as its file has it; the base is taught in memory and never reads its own paths."""
    return Recipe.model_validate(
        {
            "version": 1,
            "base": "base",
            "out": name,
            "task": {"kind": "generate", "train": "train.jsonl", "validation": {HELD_OUT: "validation.jsonl"}},
            "method": method,
            "optim": {"precision": "float32", **optim},
            "evaluation": evaluation,
            "hardware": {"device": "cpu", "threads": 1},
        }
    )


_SHORT = {"every": 0.1, "batch_size": 48}
_BASE = _recipe(
    "base",
    {"name": "full"},
    {"epochs": 7, "learning_rate": 2e-3, "batch_size": 16, "beta2": 0.95},
    {"every": 0.25, "batch_size": 64, "kl_to_base": 0},
)
_FULL = _recipe("full", {"name": "full"}, {"epochs": 12, "learning_rate": 6e-4, "batch_size": 8}, _SHORT)
_LORA = _recipe(
    "lora",
    {"name": "lora", "rank": 8, "dropout": 0.0},
    {"epochs": 14, "learning_rate": 6e-3, "batch_size": 8},
    _SHORT,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """Sizes and settings of the demo. ``probe_limit`` and ``facts`` cut the data down; None takes all of it."""

    vocab_size: int = 2048
    shape: ModelShape = field(default_factory=ModelShape)
    base: Recipe = field(default_factory=lambda: _BASE)
    lora: Recipe = field(default_factory=lambda: _LORA)
    full: Recipe = field(default_factory=lambda: _FULL)
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

    probe: tuple[GenerateItem, ...]
    train: tuple[GenerateItem, ...]
    validation: tuple[GenerateItem, ...]


def prepare_demo(
    folder: Path, *, seed: int = 0, watch: Watch | None = None, plan: DemoPlan | None = None, overwrite: bool = False
) -> DemoFiles:
    """Make ``base``, ``lora``, ``full`` with the recipes of the latter two, their data, and ``suite.yaml``.

    Offline, on the CPU. A stage that is finished with the same seed and settings is not run again, one that was killed
    goes on from its last checkpoint. On one machine the same seed gives the same weights.

    Raises:
        OutputError: the folder holds other runs (``overwrite`` removes them) or cannot be written.
    """
    plan, watch = plan or DemoPlan(), watch or Silent()
    rows = demo_rows(plan)
    suite_path = _write_data(folder, rows, plan)
    base = _teach(folder, rows, plan, seed, watch, overwrite)
    watch.say(f"The base knows {base.metrics[f'eval_{PROBE}_exact_match']:.1%} of {len(rows.probe)} answers.")
    lora = _tune(folder, "lora", seed, watch, overwrite)
    full = _tune(folder, "full", seed, watch, overwrite)
    for name, outcome in (("LoRA", lora), ("The full fine-tune", full)):
        reached = outcome.metrics[f"eval_{HELD_OUT}_exact_match"]
        watch.say(f"{name} answers {reached:.1%} of {len(rows.validation)} new phrasings word for word.")
    return DemoFiles(base.folder, lora.folder, full.folder, suite_path, {"base": base, "lora": lora, "full": full})


def demo_rows(plan: DemoPlan) -> DemoRows:
    """The texts, in a fixed order; of each fact of the manual the last phrasing is kept for validation."""
    items = [item for task in load_probe(("en",), limit=plan.probe_limit) for item in task.items]
    probe = [_asked(item.context, item.choices[item.answer]) for item in items if isinstance(item, ChoiceItem)]
    probe += [_asked(item.prompt or "", item.references[0]) for item in items if isinstance(item, GenerateItem)]
    train: list[GenerateItem] = []
    validation: list[GenerateItem] = []
    for fact in read_rows("manual.jsonl", root=Path(str(files("lorascope.data") / "demo")))[: plan.facts]:
        prompts = [QUESTION_TEMPLATE.format(question=question) for question in fact.fields["questions"]]
        asked = [_asked(prompt, fact.fields["answer"]) for prompt in prompts]
        train += asked[:-1]
        validation.append(asked[-1])
    return DemoRows(tuple(probe), tuple(train), tuple(validation))


def _asked(prompt: str, answer: str) -> GenerateItem:
    name = content_id({"prompt": prompt, "references": [answer]})
    return GenerateItem(item_id=name, prompt=prompt, references=(answer,))


def _write_data(folder: Path, rows: DemoRows, plan: DemoPlan) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the demo's folder cannot be made: {error.strerror}", where=str(folder), remedy="choose another folder"
        ) from error
    for name, asked in (("train", rows.train), ("validation", rows.validation)):
        _write(folder / f"{name}.jsonl", "".join(_line(row) for row in asked))
    for recipe in (plan.lora, plan.full):
        _write(folder / f"{recipe.out}.yaml", write_yaml(recipe.model_dump(mode="json", exclude_unset=True)))
    return _write(folder / "suite.yaml", write_yaml(_SUITE))


def _line(row: GenerateItem) -> str:
    return json.dumps({"prompt": row.prompt, "reference": row.references[0]}, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> Path:
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _teach(folder: Path, rows: DemoRows, plan: DemoPlan, seed: int, watch: Watch, overwrite: bool) -> TrainingOutcome:
    """Train a new model on the probe. It has no checkpoint to start from, so its run is put together by hand."""
    from lorascope.training.loading import LoadedBase
    from lorascope.training.record import run_record
    from lorascope.training.run_folder import RunFolder
    from lorascope.training.running import Run, read_outcome, run_training

    recipe = plan.base.model_copy(update={"seed": seed, "task": _taught(plan.base)})
    corpus = [f"{row.prompt} {row.references[0]}" for row in (*rows.probe, *rows.train, *rows.validation)]
    shape = asdict(plan.shape)
    start = content_id({"corpus": corpus, "vocab_size": plan.vocab_size, "shape": shape, "seed": seed})
    data = TrainingData(train=rows.probe, validation={PROBE: rows.probe})

    def load(_: Recipe) -> LoadedBase:
        from lorascope.training.from_scratch import byte_level_tokenizer, new_llama

        tokenizer = byte_level_tokenizer(corpus, vocab_size=plan.vocab_size)
        model = new_llama(tokenizer, **shape, seed=seed)
        return LoadedBase(model=model, tokenizer=tokenizer, new_weights=(), notes=())

    record = run_record(recipe, data, start=f"new-llama-{start}")
    if RunFolder(folder / "base", record).is_finished():
        watch.say(f"{folder / 'base'} is trained already.")
        return read_outcome(folder / "base", reused=True)
    with one_thread(), watch.stage("Teach the base") as report:
        run = Run(
            recipe=recipe,
            data=data,
            out=folder / "base",
            record=record,
            load=load,
            score=score_of(recipe, data),
            on_progress=lambda progress: report(progress.step, progress.total_steps),
        )
        return run_training(run, overwrite=overwrite)


def _taught(recipe: Recipe) -> RecipeTask:
    """The task of the base: what it is taught is what it is asked."""
    return recipe.task.model_copy(update={"validation": {PROBE: "the probe"}})


def _tune(folder: Path, name: str, seed: int, watch: Watch, overwrite: bool) -> TrainingOutcome:
    """Run the recipe of a fine-tune, as ``lorascope train`` would."""
    loaded = load_recipe(folder / f"{name}.yaml", [f"seed={seed}"])
    return train_recipe(loaded.recipe, root=loaded.root, overwrite=overwrite, watch=watch)


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
