"""Text metrics, multiple choice and generation side by side with other programs, in one run on the same work.

    python benchmarks/behaviour.py text choice generation auto >> benchmarks/results/behaviour.tsv

``text``: ROUGE, BLEU and chrF of 10,000 pairs against a loop over ``rouge_score.RougeScorer`` and sacrebleu's corpus
calls, one thread, minimum of the rounds. ``choice`` and ``generation``: a small random Llama and two LoRA adapters
against lm-evaluation-harness's ``hf`` model, which is run once for the base and once more per adapter with ``peft=``;
same items, same batch size, float32, CPU. ``auto``: multiple choice once more, both at their own automatic batch size.

Each side answers in a process of its own. Its seconds are from after the imports to the last answer, loading included;
its memory is the peak of anonymous memory beyond what stands after the imports. ``agreement`` compares every number or
text. Texts come from the package's own general text and probe. ``--items N`` makes everything smaller or larger.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ADAPTERS = ("first", "second")
ITEMS, BATCH, CONTEXT_TOKENS, NEW_TOKENS, POSITIONS = 32, 8, 300, 64, 512
STOP = "ch"  # letters that random text meets sooner or later: answers end after 43 of 64 tokens on average
COLUMNS = (
    "date", "case", "ours_s", "peer", "peer_s", "ratio", "ours_mb", "peer_mb", "agreement", "note", "machine",
)  # fmt: skip
Answers = dict[str, list[Any]]


def print_row(
    case: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    memory: tuple[float, float] | None = None,
    agreement: str,
    note: str = "",
) -> None:
    """One line of the results, at once."""
    sizes = [f"{size / 1e6:.0f}" for size in memory] if memory else ["", ""]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    numbers = [f"{ours:.3f}", peer, f"{theirs:.3f}", f"{theirs / ours:.2f}"]
    cells = [datetime.date.today().isoformat(), case, *numbers, *sizes, agreement, note, machine]
    print("\t".join(cells), flush=True)


# Texts


def passages() -> list[str]:
    """The package's English passages."""
    from lorascope.data.general import load_general_text

    return [item.text for item in load_general_text(("en",))[0].items]  # type: ignore[attr-defined]


def altered_pairs(count: int) -> list[tuple[str, str]]:
    """(answer, reference): three sentences of the passages, 30–90 words, and the same with a third of words changed."""
    source = random.Random(0)
    sentences = [f"{one}." for text in passages() for one in text.rstrip(".").split(". ")]
    words = " ".join(sentences).split()
    pairs = []
    for _ in range(count):
        lines = source.sample(sentences, 3)
        said = [" ".join(w if source.random() < 0.67 else source.choice(words) for w in line.split()) for line in lines]
        pairs.append(("\n".join(said), "\n".join(lines)))
    return pairs


# Text metrics


def text(items: int) -> None:
    """ROUGE, BLEU and chrF: 10,000 pairs where ``items`` is the default."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    pairs = altered_pairs(10_000 * items // ITEMS)
    answers, truths = [answer for answer, _ in pairs], [truth for _, truth in pairs]
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names)

    def their_rouge() -> list[float]:
        rows = [scorer.score(truth, answer) for answer, truth in pairs]
        return [row[name].fmeasure for name in names for row in rows]

    _text_row(f"ROUGE-1/2/L/Lsum, {len(pairs)} pairs", names, pairs, "rouge_score loop", their_rouge, rounds=1)
    for name, metric in (("bleu", partial(BLEU, force=True)), ("chrf", CHRF)):
        theirs = partial(_corpus_score, metric, answers, truths)
        _text_row(f"{name}, {len(pairs)} pairs", [name], pairs, "sacrebleu corpus_score", theirs, rounds=2)


def _corpus_score(metric: Callable[[], Any], answers: list[str], truths: list[str]) -> list[float]:
    return [metric().corpus_score(answers, [truths]).score]


def _text_row(
    case: str,
    names: list[str],
    pairs: list[tuple[str, str]],
    peer: str,
    theirs: Callable[[], list[float]],
    *,
    rounds: int,
) -> None:
    from lorascope.measures.text import score_text

    answers, truths = [answer for answer, _ in pairs], [[truth] for _, truth in pairs]

    def ours() -> list[float]:
        scored = score_text(answers, truths, names)
        if len(names) == 1:
            value = scored[names[0]].value
            assert value is not None
            return [value]
        return [float(value) for name in names for value in scored[name].item_values()]

    times: dict[bool, list[float]] = {True: [], False: []}
    found: dict[bool, list[float]] = {}
    for _ in range(rounds):
        for mine, work in ((True, ours), (False, theirs)):
            started = time.perf_counter()
            found[mine] = work()
            times[mine].append(time.perf_counter() - started)
    gap = max(abs(one - other) for one, other in zip(found[True], found[False], strict=True))
    print_row(case, min(times[True]), peer, min(times[False]), agreement=f"largest difference {gap:.0e}")


# Models: what both sides are given


def write_models(folder: Path) -> None:
    """``base`` (a Llama of four layers with its tokenizer) and two adapters of rank 16 on every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model

    from lorascope.training.from_scratch import byte_level_tokenizer, new_llama

    tokenizer = byte_level_tokenizer(passages(), vocab_size=4096)
    shape = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = new_llama(tokenizer, **shape, initializer_range=0.08, max_position_embeddings=POSITIONS)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    for number, name in enumerate(ADAPTERS):
        torch.manual_seed(number)
        tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        tuned.save_pretrained(folder / name)
        model = tuned.unload()


def write_items(folder: Path, items: int) -> None:
    """The questions of both kinds as JSONL, and the task files that lm-evaluation-harness reads."""
    from transformers import AutoTokenizer

    from lorascope.data.probe import load_probe

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    source, texts = random.Random(1), passages()
    questions = list(load_probe(("en",), limit=items)[0].items)
    rows = []
    for question in questions:
        before = ""
        while len(tokenizer(before)["input_ids"]) < CONTEXT_TOKENS:
            before += source.choice(texts) + "\n\n"
        context = before + question.context  # type: ignore[attr-defined]
        rows.append({"context": context, "choices": list(question.choices), "answer": question.answer})  # type: ignore[attr-defined]
    prompts = [{"prompt": source.choice(texts)[: source.randint(80, 300)].rstrip(), "answer": "yes"} for _ in questions]
    for name, lines in (("choice", rows), ("generation", prompts), ("stopping", prompts)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        (folder / f"{name}.yaml").write_text(json.dumps(_harness_task(folder, name)), encoding="utf-8")


def _harness_task(folder: Path, name: str) -> dict[str, Any]:
    """A task of lm-evaluation-harness (JSON is YAML too)."""
    metric = {"aggregation": "mean", "higher_is_better": True}
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        "doc_to_target": "answer",
    }
    if name == "choice":
        names = [{"metric": one, **metric} for one in ("acc", "acc_norm")]
        return task | {
            "output_type": "multiple_choice",
            "doc_to_text": "context",
            "doc_to_choice": "choices",
            "metric_list": names,
        }
    until = [STOP] if name == "stopping" else ["<never>"]
    return task | {
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "generation_kwargs": {"until": until, "max_gen_toks": NEW_TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match", **metric}],
    }


# The two sides, each in a process of its own


def ours(kind: str, folder: Path, batch: int | None) -> Callable[[], Answers]:
    """lorascope: the base is loaded once, adapters are attached in turn."""
    from lorascope.engines.base import Subject
    from lorascope.engines.transformers_engine import TransformersEngine
    from lorascope.schema.items import ChoiceAnswer, ChoiceItem, GenerateAnswer, GenerateItem, Item
    from lorascope.schema.suite import SuiteTask

    rows = [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]
    items: list[Item]
    if kind == "choice":
        task = SuiteTask(name=kind, kind="choice", data="here")
        items = [
            ChoiceItem(item_id=str(n), question="", context=row["context"], choices=tuple(row["choices"]),
                       answer=row["answer"]) for n, row in enumerate(rows)
        ]  # fmt: skip
    else:
        stop = [STOP] if kind == "stopping" else ["<never>"]
        task = SuiteTask(name=kind, kind="generate", data="here", max_new_tokens=NEW_TOKENS, stop=stop)
        items = [GenerateItem(item_id=str(n), prompt=row["prompt"], references=("yes",)) for n, row in enumerate(rows)]

    def subject(name: str) -> Subject:
        shared: dict[str, Any] = {
            "name": name,
            "path": folder / name,
            "tokenizer_path": folder / "base",
            "content_hash": name,
        }
        if name == "base":
            return Subject(kind="model", **shared)
        return Subject(kind="adapter", base_path=folder / "base", base_hash="base", **shared)

    def work() -> Answers:
        engine = TransformersEngine(device="cpu", dtype="float32", batch_size=batch, cache=None)
        found: Answers = {}
        for name in ("base", *ADAPTERS):
            answers = engine.answer(subject(name), task, items)
            found[name] = [one.logprobs for one in answers if isinstance(one, ChoiceAnswer)]
            found[name] += [one.text for one in answers if isinstance(one, GenerateAnswer)]
        return found

    return work


def theirs(kind: str, folder: Path, batch: int | None) -> Callable[[], Answers]:
    """lm-evaluation-harness: one evaluation for the base, one per adapter, its bootstrap switched off."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def work() -> Answers:
        found: Answers = {}
        for name in ("base", *ADAPTERS):
            model = HFLM(
                pretrained=str(folder / "base"),
                peft=None if name == "base" else str(folder / name),
                device="cpu",
                dtype="float32",
                batch_size="auto" if batch is None else batch,
            )
            done = simple_evaluate(
                model, tasks=[kind], task_manager=manager, log_samples=True, bootstrap_iters=0, verbosity="ERROR"
            )
            samples = sorted(done["samples"][kind], key=lambda sample: int(sample["doc_id"]))
            found[name] = [
                [float(logprob) for logprob, _ in sample["filtered_resps"]]
                if kind == "choice"
                else sample["filtered_resps"][0].strip()
                for sample in samples
            ]
        return found

    return work


def child(side: str, kind: str, folder: Path, batch: int | None, out: Path) -> None:
    """Answer as one side and write down what was said, how long it took and what stood in memory before."""
    work = {"ours": ours, "theirs": theirs}[side](kind, folder, batch)
    import peft  # noqa: F401 - both sides pay for it before the clock starts

    before = anonymous_bytes(os.getpid())
    started = time.perf_counter()
    answers = work()
    took = time.perf_counter() - started
    out.write_text(json.dumps({"seconds": took, "before": before, "answers": answers}), encoding="utf-8")


def anonymous_bytes(process: int) -> float:
    """Resident anonymous memory of a process."""
    return int(Path(f"/proc/{process}/status").read_text().split("RssAnon:")[1].split()[0]) * 1024.0


def run_side(side: str, kind: str, folder: Path, batch: int | None) -> tuple[dict[str, Any], float]:
    """What a child wrote, and its peak memory beyond the imports; raises where it fails."""
    out = folder / f"{side}.json"
    command = [sys.executable, __file__, "--child", side, kind, str(folder), str(batch or "auto"), str(out)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peaks = [0.0]
    watcher = threading.Thread(target=lambda: peaks.extend(_watched(process)))
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{errors[-2000:]}")
    found = json.loads(out.read_text(encoding="utf-8"))
    return found, max(peaks) - found["before"]


def _watched(process: subprocess.Popen[str]) -> Iterator[float]:
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            yield anonymous_bytes(process.pid)
        time.sleep(0.02)


def compare(kind: str, case: str, folder: Path, batch: int | None, note: str = "") -> None:
    """One row: ours, then theirs, and what they agree on."""
    mine, my_peak = run_side("ours", kind, folder, batch)
    other, other_peak = run_side("theirs", kind, folder, batch)
    agreed = agreement(mine["answers"], other["answers"])
    print_row(
        case, mine["seconds"], "lm_eval hf", other["seconds"], memory=(my_peak, other_peak), agreement=agreed, note=note
    )


def agreement(mine: Answers, other: Answers) -> str:
    """Largest difference of log-probabilities, or how many texts differ, over all models."""
    pairs = [pair for name in mine for pair in zip(mine[name], other[name], strict=True)]
    if isinstance(pairs[0][0], str):
        differing = sum(one != theirs for one, theirs in pairs)
        return f"{differing} of {len(pairs)} texts differ"
    gap = max(abs(a - b) for one, theirs in pairs for a, b in zip(one, theirs, strict=True))
    return f"largest difference {gap:.0e} nats of {len(pairs)} items"


def with_models(parts: Sequence[str], items: int) -> None:
    """The rows of ``choice``, ``generation`` and ``auto``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        write_items(folder, items)
        models = "base and two adapters"
        if "choice" in parts:
            case = f"choice, {items} items of 4 choices, {CONTEXT_TOKENS}+ tokens, {models}"
            compare("choice", case, folder, BATCH, f"batch size {BATCH}: contexts here, single choices there")
        if "generation" in parts:
            note = f"batch size {BATCH}; ours also scores the reference of each item"
            compare("generation", f"generation, {items} items, {NEW_TOKENS} tokens each, {models}", folder, BATCH, note)
            compare("stopping", f"generation, {items} items, up to {NEW_TOKENS} tokens, {models}", folder, BATCH, note)
        if "auto" in parts:
            note = "both at their automatic batch size; without CUDA lm_eval tries 64 and keeps it unless memory ends"
            compare("choice", f"choice, {items} items, automatic batches, {models}", folder, None, note)


def main() -> None:
    """The parts that are named, all of them by default."""
    known = ("text", "choice", "generation", "auto")
    parser = argparse.ArgumentParser(description="Side by side with other programs; see the file's first lines.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(known)}; default: all")
    parser.add_argument("--items", type=int, default=ITEMS, help=f"questions of each kind (default {ITEMS})")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        side, kind, folder, batch, out = given.child
        child(side, kind, Path(folder), None if batch == "auto" else int(batch), Path(out))
        return
    if set(given.parts) - set(known):
        parser.error(f"there is no part {', '.join(set(given.parts) - set(known))}")
    parts = given.parts or known
    print("\t".join(COLUMNS), flush=True)
    if "text" in parts:
        text(given.items)
    if set(parts) - {"text"}:
        with_models(parts, given.items)


if __name__ == "__main__":
    main()
