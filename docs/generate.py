"""Write what is generated in ``docs/``: the JSON Schema, the metric glossary, the command and recipe references.

``python docs/generate.py`` writes; with ``--check`` nothing is written and the exit code is 1 where a file is old.
"""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH = 100


def schema() -> str:
    """The JSON Schema of ``result.json``, from the models that write it."""
    from lorascope.schema.comparison import Comparison

    return json.dumps(Comparison.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def glossary() -> str:
    """Every metric with unit, scale, direction and default margin, from the table that the code itself uses."""
    from lorascope.measures.registry import MEASURES

    lines = [
        "# Metrics",
        "",
        "Generated from `lorascope/measures/registry.py`. The margin is the default; a suite may set its own.",
        "",
        "| metric | for | unit | scale | better | margin | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for spec in MEASURES.values():
        margin = "" if spec.margin is None else f"{spec.margin:g}"
        kinds = ", ".join(spec.kinds)
        cells = (f"`{spec.name}`", kinds, spec.unit, spec.scale, spec.direction, margin, spec.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The ``--help`` text of every command."""
    import click
    from click.testing import CliRunner

    from lorascope.cli.main import main

    lines = ["# Commands", "", "Generated from the `--help` texts.", ""]
    paths: list[list[str]] = [[]]
    for name, command in sorted(main.commands.items()):
        paths.append([name])
        if isinstance(command, click.Group):
            paths += [[name, inner] for inner in sorted(command.commands)]
    for path in paths:
        shown = CliRunner(env={"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERMINAL_WIDTH": str(WIDTH)}).invoke(
            main, [*path, "--help"], prog_name="lorascope"
        )
        text = "\n".join(line.rstrip() for line in shown.output.strip("\n").split("\n"))
        lines += [f"## lorascope {' '.join(path)}".rstrip(), "", "```text", text, "```", ""]
    return "\n".join(lines)


# What the schema's own words leave out or say only beside other keys; a key without any words is refused.
MEANINGS = {
    "version": "of the form of the file",
    "base": "the model that is trained: a folder, or a name on the hub; no adapter",
    "out": "the run's folder, relative to the recipe's folder",
    "task": "what is learned, from which data",
    "method": "what of the model is trained",
    "freeze": "what stays as it is; `head-only` and a list of patterns may stand here without a block",
    "model_dropout": "the model's own dropout of hidden states and attention; null: as in the checkpoint",
    "loss": "what is minimised",
    "structured_dropout": "dropout of whole keys, spans or hidden units; null: none",
    "replay": "general texts among the training rows; null: none",
    "optim": "optimiser, schedule, penalties",
    "evaluation": "when and by what the run is judged, and where it can be resumed",
    "hardware": "where it is computed",
    "seed": "of weights that start at random, order, dropout and samples",
    "task.kind": "text, one or several labels, a number, or a tag for each word",
    "task.train": "training data: JSONL, CSV, Parquet or `hf:NAME@SPLIT`, in the forms of a suite",
    "task.validation": "a file, or a mapping of set names to files; each set is evaluated by its name",
    "task.fraction": "share of the training items, drawn with the seed; a smaller sample lies within a larger one",
    "task.limit": "training items at most, drawn in the same way",
    "task.prompt": "template of the question; any field of a row in braces",
    "task.messages": "templates of chat messages, for the tokenizer's chat template",
    "task.chat": "puts the prompt through the tokenizer's chat template",
    "task.system": "a system message before the prompt",
    "task.references": "the field with the answers; the first one is learned",
    "task.answer_only": "the loss is over the answer and the end of text alone",
    "task.labels": "a list, or the file of one; null: the training data's, sorted",
    "task.multi_label": "null: what the form of the labels says",
    "task.max_length": "tokens of a row at most",
    "task.too_long": "what becomes of an item above `max_length`",
    "task.packing": "several items in one row of at most `max_length` tokens; they do not see each other",
    "method.name": "see [methods](training.md#methods)",
    "method.rank": "rank of ΔW; of `bottleneck` its units; of `adalora` the rank at the start",
    "method.alpha": "lora_alpha, ΔW = α/rank · BA (rsLoRA: α/√rank); null: twice the rank",
    "method.dropout": "of the adapter's input (lora_dropout)",
    "method.target_modules": "every linear layer but the head, or names",
    "method.rank_pattern": "ranks by module name or pattern",
    "method.modules_to_save": "modules that are trained fully beside the adapter",
    "method.virtual_tokens": "of prompt-tuning, prefix-tuning and p-tuning",
    "method.target_rank": "adalora: the average rank a module keeps; null: half of `rank`",
    "loss.name": "null: cross entropy; BCE for several labels; mean squared error for scores",
    "loss.pos_weight": "bce: weight of positives; `balanced` is negatives over positives of each label in training",
    "loss.pos_weight_cap": "the largest weight that `balanced` gives",
    "loss.class_weights": "one label an item: inverse frequency, mean 1",
    "loss.gamma": "focal, distribution_balanced: the power of what is missed",
    "loss.gamma_negative": "asymmetric: the power for labels that are false",
    "loss.gamma_positive": "asymmetric: the power for labels that are true",
    "loss.clip": "asymmetric: false labels below this probability cost nothing",
    "loss.smoothing": "label_smoothing: the share that is spread over all classes or tokens",
    "loss.sample_weights": "a field of the training data with a number from 0 up",
    "loss.sampler": "`balanced` draws items by the inverse frequency of their rarest label",
    "structured_dropout.preset": "see [structured dropout](training.md#structured-dropout)",
    "structured_dropout.rate": "share that is dropped, where a part has no rate of its own",
    "structured_dropout.attention": "dropout in attention; null: the preset's",
    "structured_dropout.hidden": "dropout of the feed-forward's output; null: the preset's",
    "structured_dropout.compensation": "`kl`: symmetric divergence of two training passes; `js`: against a pass in "
    "inference mode; null: the preset's, else `rescale`",
    "structured_dropout.branches": "kl: passes that get gradients",
    "structured_dropout.weight": "α of the kl or js term",
    "structured_dropout.layers": "`auto`: the later half of a decoder's layers, all of an encoder's",
    "structured_dropout.other_dropouts": "whether the model's and the adapter's own dropouts are set to 0",
    "structured_dropout.attention.kind": "dropkey before the softmax, dropattention after it",
    "structured_dropout.attention.structure": "`column`: one draw of keys for a whole row; `span`: neighbouring keys",
    "structured_dropout.hidden.structure": "`column`: a unit for all tokens of a row; `span`: neighbouring tokens",
    "structured_dropout.hidden.rate": "null: the section's rate",
    "structured_dropout.hidden.span": "length of a span as a share of the row",
    "replay.data": "general data; null: the base writes it before training",
    "replay.ratio": "share of replay among the rows trained on",
    "replay.prompts": "prompts after which the base writes; null: the start of a text",
    "replay.max_new_tokens": "of each text the base writes",
    "replay.temperature": "of the base's sampling",
    "replay.top_p": "of the base's sampling",
    "optim.epochs": "passes over the training rows",
    "optim.max_steps": "optimiser steps; goes before `epochs`",
    "optim.learning_rate": "at its peak",
    "optim.head_learning_rate": "of a new head; null: the same",
    "optim.lora_plus_ratio": "learning rate of LoRA's B over that of A (LoRA+, arXiv 2402.12354)",
    "optim.accumulate": "batches that make one step",
    "optim.warmup": "steps; below 1 a share of all steps",
    "optim.scheduler": "of the learning rate, by transformers' names",
    "optim.scheduler_options": "what the scheduler takes beside warm-up and steps, such as `num_cycles`",
    "optim.optimizer": "torch's AdamW and SGD, transformers' Adafactor",
    "optim.beta1": "AdamW; SGD's momentum",
    "optim.beta2": "AdamW",
    "optim.weight_decay": "not of biases and norms",
    "optim.l1": "weight of ‖θ‖₁ of what is trained",
    "optim.l2_sp": "weight of ½‖θ − θ₀‖² (arXiv 1802.01483); of an adapter, of ½‖ΔW‖²",
    "optim.ewc": "elastic weight consolidation; methods full and bitfit",
    "optim.neftune": "noise α on the embeddings (NEFTune, arXiv 2310.05914)",
    "optim.early_stopping": "null: none; a number is `patience`",
    "optim.precision": "`auto`: bfloat16 on CUDA that computes in it, else float32",
    "optim.ewc.weight": "of ½ Σ F (θ − θ₀)², F the diagonal Fisher information",
    "optim.ewc.items": "items that F is computed from, at most",
    "optim.early_stopping.rule": "`gl` and `pq` are Prechelt's (1998)",
    "optim.early_stopping.patience": "evaluations without a new best",
    "optim.early_stopping.threshold": "of GL in per cent, of PQ without a unit",
    "evaluation.every": "steps; below 1 a share of all steps. A checkpoint is written at the same steps",
    "evaluation.at_start": "evaluate before the first step as well",
    "evaluation.batch_size": "items a device",
    "evaluation.keep": "the weights that are saved: of the best evaluation by `metric`, or of the end",
    "evaluation.metric": "what `keep: best` and patience go by, as the log names it; null: the loss",
    "evaluation.set": "the validation set that they look at; null: the first",
    "evaluation.kl_to_base": "items of the first validation set on which KL(adapted‖base) is measured; 0: none",
    "evaluation.probe": "languages of the built-in probe, asked at every evaluation",
    "evaluation.probe_items": "of each task of the probe",
    "hardware.device": "`auto`, `cpu`, `cuda` or `cuda:1`",
    "hardware.attention": "attention of the model, by transformers' names; `auto`: transformers' choice",
    "hardware.activation_checkpointing": "compute activations anew in the backward pass: less memory, more time",
    "hardware.compile": "torch.compile",
    "hardware.fused_optimizer": "null: on CUDA",
    "hardware.sharding": "of several processes: copies of the model, or its parameters divided (FSDP2)",
    "hardware.out_of_memory": "`accumulate` halves the batch and doubles the accumulation until it fits, and says so",
}


SWEEP_MEANINGS = {
    "version": "of the form of the file",
    "out": "the sweep's folder, relative to the sweep's file: runs and report",
    "recipe": "the recipe's file, relative to the sweep's; null: its keys stand in this one. Beside a file, a recipe's "
    "keys that stand here replace the file's",
    "preset": "see [presets](sweeps.md#presets)",
    "grid": "dotted key to a list of values; every combination of the lists is a point",
    "zip": "as grid, but the lists go together, value by value; several such blocks as a list",
    "seeds": "every point is trained once with each; empty: the recipe's seed alone",
    "points": "named points, each with the dotted keys that it sets; null leaves out the preset's of that name",
    "choose": "a first stage: one setting is chosen on validation before seeds are spent; null: the preset's",
    "reference": "the point that the others are compared with; null: the preset's, else the first",
    "sequence": "stages by name, each trained from the last, with the dotted keys that each sets",
    "compare": "how finished runs are compared with the base",
    "choose.key": "the dotted key that is chosen",
    "choose.values": "what is tried: one list for all, or a list for each method or point by name",
    "choose.by": "`loss`, or a metric as the run's log names it; its last validation numbers count",
    "choose.set": "the validation set that is looked at; null: the first",
    "choose.for": "`method`: tried at the first point of each method, for all its points; `point`: at every point",
    "compare.suite": "a suite's file, relative to the sweep's; null: the points' own validation sets",
    "compare.metric": "what points are judged by; null: the task's leading metric",
    "compare.margin": "the difference that matters in that metric; null: the suite's or the metric's default",
    "compare.limit": "items of each set at most; null: all, or `task.validation_limit`",
    "compare.probe": "languages of the built-in probe; `[]`: it is not asked",
    "compare.weights": "whether the weights of every run are analysed",
    "compare.train_gap": "ask training items as well, for the gap of the metric",
    "compare.max_new_tokens": "of each answer, for tasks of kind generate made of validation sets",
}


def recipe() -> str:
    """Every key of a recipe and of a sweep with type, default and meaning, from the schemas that read them."""
    from lorascope.schema.recipe import Recipe
    from lorascope.schema.sweep import SweepPlan

    lines = [
        "# Recipe keys",
        "",
        "Generated from `lorascope/schema/recipe.py` and `sweep.py`; [training](training.md) says when to use what, "
        "[sweeps](sweeps.md) what a sweep is. A key that is left out has its default; `recipe.lock.yaml` in a run's "
        "folder has all of them. The keys of a sweep's file are [at the end](#a-sweeps-file).",
        "",
        *_key_tables(Recipe, MEANINGS, "The file"),
        *_key_tables(SweepPlan, SWEEP_MEANINGS, "A sweep's file", "A sweep's "),
    ]
    return "\n".join(lines)


def _key_tables(top: Any, meanings: dict[str, str], whole: str, before: str = "") -> list[str]:
    """One table for the file itself, titled ``whole``, and one for every block, its title after ``before``."""
    lines: list[str] = []
    unused = set(meanings)
    for prefix, model in _blocks(top, ""):
        title = f"{before}`{prefix.rstrip('.')}`" if prefix else whole
        lines += [f"## {title}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            key = field.alias or name
            meaning = meanings.get(prefix + key) or _schema_words(name, field, model)
            if not meaning:
                raise ValueError(f"nothing says what the key '{prefix}{key}' means; add it to the meanings")
            unused.discard(prefix + key)
            cells = (f"`{key}`", _value(field), _default(field), meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    if unused:
        raise ValueError(f"there are meanings of what is no key: {', '.join(sorted(unused))}")
    return lines


def _blocks(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Key prefix and schema of the file itself and of every block in it."""
    yield prefix, model
    for name, field in model.model_fields.items():
        for inner in _members(field.annotation):
            if _is_block(inner):
                yield from _blocks(inner, f"{prefix}{name}.")


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and hasattr(annotation, "model_fields")


def _schema_words(name: str, field: Any, model: Any) -> str:
    """The field's description, else the sentences of the block's docstring that name it."""
    if field.description:
        return str(field.description)
    sentences = re.split(r"(?<=\.) (?=[A-Z`])", " ".join((model.__doc__ or "").split()))
    return " ".join(one for one in sentences if f"``{name}``" in one).replace("``", "`")


def _value(field: Any) -> str:
    return " or ".join(dict.fromkeys(_type(one) for one in _members(field.annotation))) + _bounds(field.metadata)


def _type(annotation: Any) -> str:
    if _is_block(annotation):
        return "a block"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is typing.Annotated:
        return _type(inner[0])
    if origin is list and inner[0] is Any:
        return "list"
    if origin is list:
        return f"list of {'(' + _type(inner[0]) + ')' if typing.get_origin(inner[0]) else _type(inner[0])}"
    if origin is dict and typing.get_origin(inner[1]) is list:
        return "mapping to lists"
    if origin is dict and (typing.get_origin(inner[1]) or inner[1] is Any):
        return "mapping"
    if origin is dict:
        return f"mapping to {' or '.join(map(_type, _members(inner[1])))}"
    return {int: "integer", float: "number", str: "text", bool: "true, false", types.NoneType: "null"}[annotation]


def _bounds(metadata: list[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [f"{sign} {getattr(one, key)}" for one in metadata for key, sign in signs.items() if hasattr(one, key)]
    return f", {', '.join(found)}" if found else ""


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if _is_block(type(value)):
        return "its defaults"
    shown = json.dumps(f"{value:g}" if isinstance(value, float) else value, ensure_ascii=False).strip('"')
    return f"`{shown}`"


FILES: dict[str, Callable[[], str]] = {
    "schema/result-v1.json": schema,
    "metrics.md": glossary,
    "commands.md": commands,
    "recipe.md": recipe,
}


def main(arguments: list[str]) -> int:
    """Write or check all generated files."""
    old = []
    for name, make in FILES.items():
        path = HERE / name
        text = make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if old and "--check" in arguments:
        print(f"out of date, run 'make docs': {', '.join(old)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
