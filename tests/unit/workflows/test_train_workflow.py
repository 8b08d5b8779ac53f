"""Whole runs from a recipe file to a folder that others can read, for every task, method and addition to the loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lorascope.data.recipes import load_recipe
from lorascope.errors import CheckpointError, ConfigError, DataError, EvaluationError, OutputError
from lorascope.schema.recipe import Recipe
from lorascope.training.running import TrainingOutcome
from lorascope.workflows.asking import AskingOptions
from lorascope.workflows.compare import CompareOptions, compare
from lorascope.workflows.subjects import open_all
from lorascope.workflows.tasks import Questions
from lorascope.workflows.train import train_recipe
from lorascope.workflows.watch import Silent

TOPICS = ("art", "music", "sport")
TEXTS = [
    "Question: number 0 1 2 3 4 5 6 7 8 9?\nAnswer: it is user assistant Say Add",
    "the quick brown fox jumps over the lazy dog Anna Bob Ray Paris",
]
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
Row = dict[str, Any]


def lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def question(number: int) -> Row:
    return {"prompt": f"Question: number {number}?\nAnswer:", "reference": f"it is {number}", "w": float(number % 3)}


def topics(number: int) -> list[str]:
    return [topic for bit, topic in enumerate(TOPICS) if number >> bit & 1]


def write_data(root: Path) -> None:
    asked = [question(number) for number in range(10)]
    lines(root / "q.jsonl", asked[:6])
    lines(root / "qv.jsonl", asked[6:])
    lines(root / "alpaca.jsonl", [{"instruction": f"Add {n}", "input": f"{n}", "output": f"{2 * n}"} for n in range(4)])
    turns = [[("user", f"Say {n}"), ("assistant", f"it is {n}")] for n in range(4)]
    lines(root / "chat.jsonl", [{"messages": [{"role": r, "content": c} for r, c in each]} for each in turns])
    several = [{"text": f"the quick fox {n}", "labels": topics(n), "w": n % 3 + 0.5} for n in range(8)]
    lines(root / "several.jsonl", several)
    lines(root / "severalv.jsonl", [{"text": f"lazy dog {n}", "labels": topics(n)} for n in range(6)])
    lines(root / "one.jsonl", [{"text": f"the fox {n}", "label": TOPICS[n % 3]} for n in range(6)])
    lines(
        root / "pairs.jsonl",
        [{"text": f"fox {n}", "text_pair": f"dog {n % 2}", "label": "ny"[n % 2]} for n in range(6)],
    )
    lines(root / "scores.jsonl", [{"text": f"the fox {n}", "label": n / 3} for n in range(6)])
    tagged = [{"tokens": ["fox", "Anna", "jumps"], "tags": ["O", "B-PER", "O"]}]
    lines(root / "tags.jsonl", [*tagged, {"tokens": ["Bob", "Ray"], "tags": ["B-PER", "I-PER"]}] * 3)
    lines(root / "speech.jsonl", [{"tokens": ["fox", "jumps"], "tags": ["NOUN", "VERB"]}] * 3)
    lines(root / "general.jsonl", [{"text": f"the lazy dog jumps over {n}"} for n in range(4)])


def byte_level(ending: bool) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if ending:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )
    made.chat_template = CHAT
    return made


def word_pieces() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(48, 123)]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "fox",
        "dog",
        *letters,
        *(f"##{one}" for one in letters),
    ]
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", model_input_names=inputs, **special)


def write_bases(root: Path) -> None:
    torch.manual_seed(0)
    plain, pieces = byte_level(ending=False), word_pieces()
    size = len(plain)
    small: Row = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = LlamaConfig(
        vocab_size=size, **small, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, initializer_range=0.1
    )
    gpt2 = GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=1, eos_token_id=2)
    t5 = T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0)
    bert = BertConfig(vocab_size=len(pieces), **small, max_position_embeddings=64, initializer_range=0.2)
    made = {
        "llama": (LlamaForCausalLM(llama), plain),
        "gpt2": (GPT2LMHeadModel(gpt2), plain),
        "t5": (T5ForConditionalGeneration(t5), byte_level(ending=True)),
        "bert": (BertModel(bert), pieces),
    }
    for name, (model, tokenizer) in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny bases of four families and a data file of each form."""
    folder = tmp_path_factory.mktemp("recipes")
    write_data(folder)
    write_bases(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


QUESTIONS = ("llama", "generate", "q.jsonl", {"first": "q.jsonl", "second": "qv.jsonl"})
SEVERAL = ("bert", "labels", "several.jsonl", {"first": "several.jsonl", "second": "severalv.jsonl"})
ONE = ("bert", "labels", "one.jsonl", {"first": "one.jsonl"})
SCORES = ("bert", "score", "scores.jsonl", {"first": "scores.jsonl"})
TAGS = ("bert", "tokens", "tags.jsonl", {"first": "tags.jsonl"})
Subject = tuple[str, str, str, dict[str, str]]


def over(plain: Row, changes: Row) -> Row:
    """``changes`` laid over nested blocks."""
    merged = dict(plain)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = over(merged[key], value) if nested else value
    return merged


def recipe_at(root: Path, out: str, subject: Subject, **changes: Any) -> Path:
    """A recipe of four steps as a file."""
    base, kind, train, validation = subject
    plain: Row = {
        "version": 1,
        "base": base,
        "out": f"runs/{out}",
        "task": {"kind": kind, "train": train, "validation": validation, "max_length": 64},
        "method": {"name": "full"},
        "optim": {"max_steps": 4, "learning_rate": 5e-3, "batch_size": 2},
        "evaluation": {"every": 2, "log_every": 1, "kl_to_base": 0},
        "hardware": {"device": "cpu", "threads": 1},
    }
    path = root / f"{out.replace('/', '-')}.yaml"
    path.write_text(yaml.safe_dump(over(plain, changes)), encoding="utf-8")
    return path


def loaded(root: Path, out: str, subject: Subject, **changes: Any) -> Recipe:
    return load_recipe(recipe_at(root, out, subject, **changes)).recipe


def trained(root: Path, out: str, subject: Subject, **changes: Any) -> TrainingOutcome:
    return train_recipe(loaded(root, out, subject, **changes), root=root)


def history(outcome: TrainingOutcome) -> list[Row]:
    return list(json.loads((outcome.folder / "trainer_state.json").read_text())["log_history"])


def rows_of(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


CLASSES = {
    "labels": AutoModelForSequenceClassification,
    "score": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
}


def read_again(folder: Path, subject: Subject, root: Path) -> Any:
    """The result as transformers and PEFT alone read it, on the unchanged base where it is an adapter."""
    base, kind, *_ = subject
    language = AutoModelForSeq2SeqLM if base == "t5" else AutoModelForCausalLM
    made = CLASSES.get(kind, language)
    if not (folder / "adapter_config.json").is_file():
        return made.from_pretrained(folder).eval()
    heads = {"labels": {"num_labels": 3, "problem_type": "multi_label_classification"}, "tokens": {"num_labels": 3}}
    return PeftModel.from_pretrained(made.from_pretrained(root / base, **heads.get(kind, {})), folder).eval()


@torch.no_grad()
def loss_by_hand(model: Any, tokenizer: Any, kind: str, rows: Sequence[Row], *, answer_only: bool = True) -> float:
    """The mean loss of validation rows, worked out one row at a time; of texts over all their tokens."""
    total, count = 0.0, 0
    for row in rows:
        if kind == "generate":
            loss, own = _text_loss(model, tokenizer, row, answer_only=answer_only)
        else:
            loss, own = _head_loss(model, tokenizer, kind, row)
        total, count = total + loss, count + own
    return total / count


def _text_loss(model: Any, tokenizer: Any, row: Row, *, answer_only: bool) -> tuple[float, int]:
    end = [tokenizer.eos_token_id]
    if "messages" in row:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, tokenize=False)
        whole, end = tokenizer.apply_chat_template(row["messages"], tokenize=False), []
    else:
        prompt = row["prompt"] if "prompt" in row else f"{row['instruction']}\n{row['input']}"
        whole = f"{prompt} {row['reference'] if 'reference' in row else row['output']}"
    if model.config.is_encoder_decoder:
        given = tokenizer(prompt, return_tensors="pt")["input_ids"]
        labels = tokenizer(row["reference"], return_tensors="pt")["input_ids"]
        return float(model(input_ids=given, labels=labels).loss) * labels.numel(), labels.numel()
    ids = [*tokenizer(whole, add_special_tokens=False)["input_ids"], *end]
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if answer_only else 1
    logits = model(torch.tensor([ids])).logits[0][-len(ids) :].log_softmax(-1)
    places = range(start, len(ids))
    return -sum(float(logits[place - 1, ids[place]]) for place in places), len(places)


def _head_loss(model: Any, tokenizer: Any, kind: str, row: Row) -> tuple[float, int]:
    names = {name: number for number, name in model.config.id2label.items()}
    if kind == "tokens":
        batch = tokenizer([row["tokens"]], is_split_into_words=True, return_tensors="pt")
        words = batch.word_ids(0)
        first = [place for place, word in enumerate(words) if word is not None and words[place - 1] != word]
        logits = model(**batch).logits[0].log_softmax(-1)
        return -sum(float(logits[at, names[tag]]) for at, tag in zip(first, row["tags"], strict=True)), len(first)
    logits = model(**tokenizer(row["text"], row.get("text_pair"), return_tensors="pt")).logits[0]
    if kind == "score":
        return float((logits[0] - row["label"]) ** 2), 1
    if "label" in row:
        return -float(logits.log_softmax(-1)[names[row["label"]]]), 1
    truth = torch.tensor([float(name in row["labels"]) for name in TOPICS])
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)), 1


KINDS: dict[str, tuple[Subject, Row]] = {
    "plain": (QUESTIONS, {}),
    "gpt2": (("gpt2", *QUESTIONS[1:]), {}),
    "chat": (("llama", "generate", "chat.jsonl", {"first": "chat.jsonl"}), {}),
    "alpaca": (("llama", "generate", "alpaca.jsonl", {"first": "alpaca.jsonl"}), {}),
    "packing": (QUESTIONS, {"task": {"packing": True}}),
    "whole": (QUESTIONS, {"task": {"answer_only": False}}),
    "encoder-decoder": (("t5", *QUESTIONS[1:]), {}),
    "several": (SEVERAL, {}),
    "one": (ONE, {}),
    "pairs": (("bert", "labels", "pairs.jsonl", {"first": "pairs.jsonl"}), {}),
    "score": (SCORES, {}),
    "tokens": (TAGS, {}),
}


def agrees_with_its_log(root: Path, outcome: TrainingOutcome, subject: Subject, **options: Any) -> None:
    """The saved result, read by others, has the validation losses that the log gives for it."""
    model, tokenizer = read_again(outcome.folder, subject, root), AutoTokenizer.from_pretrained(outcome.folder)
    for name, file in subject[3].items():
        found = loss_by_hand(model, tokenizer, subject[1], rows_of(root / file), **options)
        assert outcome.metrics[f"eval_{name}_loss"] == pytest.approx(found, rel=2e-4, abs=1e-5), name


@pytest.mark.parametrize("name", KINDS)
def test_every_task_is_trained_evaluated_by_name_and_read_again(root: Path, name: str) -> None:
    subject, changes = KINDS[name]
    outcome = trained(root, name, subject, **changes)
    logged = history(outcome)
    for split in subject[3]:
        assert [row["step"] for row in logged if f"eval_{split}_loss" in row] == [0, 2, 4]
    assert [row["step"] for row in logged if "loss" in row] == [1, 2, 3, 4]
    agrees_with_its_log(root, outcome, subject, **({"answer_only": False} if name == "whole" else {}))


ON_LLAMA = (
    "lora", "rslora", "dora", "adalora", "pissa", "prompt-tuning", "prefix-tuning", "p-tuning", "ia3", "bottleneck",
)  # fmt: skip
ON_BERT = ("lora", "adalora", "pissa", "bitfit", "ia3", "bottleneck")
SMALL = {"rank": 4, "virtual_tokens": 4}


@pytest.fixture(scope="module")
def by_method(root: Path) -> Callable[[str, Subject], TrainingOutcome]:
    def made(method: str, subject: Subject) -> TrainingOutcome:
        # Steps enough for AdaLoRA to move ranks; a finished run is read, not trained again.
        name = f"{method}-{subject[0]}"
        return trained(root, name, subject, method={"name": method, **SMALL}, optim={"max_steps": 5})

    return made


@pytest.mark.parametrize("method", ON_LLAMA)
def test_every_method_of_a_language_model_loads_on_the_unchanged_base(root: Path, by_method, method: str) -> None:
    outcome = by_method(method, QUESTIONS)
    agrees_with_its_log(root, outcome, QUESTIONS)
    start = next(row["eval_first_loss"] for row in history(outcome) if "eval_first_loss" in row)
    assert outcome.metrics["eval_first_loss"] != pytest.approx(start, rel=1e-6)


@pytest.mark.parametrize("method", ON_BERT)
def test_every_method_of_an_encoder_loads_with_its_head(root: Path, by_method, method: str) -> None:
    agrees_with_its_log(root, by_method(method, SEVERAL), SEVERAL)


@pytest.mark.parametrize(
    ("freeze", "trained_names"),
    [
        ("head-only", {"classifier.weight", "classifier.bias"}),
        ({"train": "last-layers", "layers": 1}, {"classifier.weight", "bert.encoder.layer.1.output.dense.weight"}),
        (["*layer.1.attention*"], {"bert.encoder.layer.1.attention.self.query.weight"}),
    ],
    ids=["head", "last", "patterns"],
)
def test_what_is_frozen_stays_as_it_was(root: Path, freeze: Any, trained_names: set[str]) -> None:
    outcome = trained(root, f"freeze-{len(str(freeze))}", SEVERAL, freeze=freeze)
    agrees_with_its_log(root, outcome, SEVERAL)
    base = BertModel.from_pretrained(root / "bert").state_dict()
    after = read_again(outcome.folder, SEVERAL, root).state_dict()
    moved = {f"bert.{name}" for name in base if not torch.equal(base[name], after[f"bert.{name}"])}
    assert {name for name in trained_names if name.startswith("bert.")} <= moved
    assert not any("layer.0" in name or "embeddings" in name for name in moved)


def test_a_comparison_opens_every_result(root: Path, by_method) -> None:
    results = {"llama": [by_method(method, QUESTIONS) for method in ON_LLAMA]}
    results["bert"] = [by_method(method, SEVERAL) for method in ON_BERT]
    for base, outcomes in results.items():
        opened = open_all(str(root / base), [str(each.folder) for each in outcomes], allow_pickle=False, watch=Silent())
        assert len(opened.subjects) == len(outcomes)


def test_a_comparison_gives_the_numbers_that_training_logged(root: Path) -> None:
    watched = {"probe": ["en"], "probe_items": 4, "kl_to_base": 2}
    outcome = trained(root, "watched", QUESTIONS, evaluation=watched)
    found = compare(
        CompareOptions(
            base=str(root / "llama"),
            adapted=(str(outcome.folder),),
            questions=Questions(probe=("en",), limit=4),
            asking=AskingOptions(device="cpu", measure_cost=False),
            weights=False,
            out=root / "compared",
            command=("lorascope", "compare"),
        )
    )
    measured = json.loads(found.read_text())["measurements"]
    for name in ("accuracy", "gold_margin"):
        whole = [each["adapted"]["value"] for each in measured if each["metric"] == name and not each.get("slice")]
        assert len(whole) == 1
        assert outcome.metrics[f"eval_probe_en_{name}"] == pytest.approx(whole[0], abs=1e-4)
    kept = [row["eval_kl_to_base"] for row in history(outcome) if "eval_kl_to_base" in row]
    assert kept[0] == 0 < kept[-1]
    assert len(kept) == 3


@pytest.mark.parametrize("at_start", [True, False])
def test_the_distance_is_that_from_the_base(root: Path, at_start: bool) -> None:
    asked = {"kl_to_base": 2, "at_start": at_start}
    for method in ("lora", "prompt-tuning"):
        made = trained(root, f"far-{method}-{at_start}", QUESTIONS, evaluation=asked, method={"name": method, **SMALL})
        found = {row["step"]: row["eval_kl_to_base"] for row in history(made) if "eval_kl_to_base" in row}
        assert found[2] > 0
        if at_start:
            # Virtual tokens move the base before they are trained; other adapters start as the base.
            assert (found[0] > 0) is (method == "prompt-tuning")


ADDITIONS: dict[str, tuple[Subject, Row, set[str]]] = {
    "two branches": (QUESTIONS, {"structured_dropout": {"preset": "hiddenkey", "rate": 0.2}}, {"consistency"}),
    "one branch": (
        SEVERAL, {"structured_dropout": {"preset": "dropkey", "compensation": "kl", "branches": "one"}}, {"consistency"}
    ),
    "js": (TAGS, {"structured_dropout": {"preset": "hiddencut", "compensation": "js"}}, {"consistency"}),
    "minus": (QUESTIONS, {"structured_dropout": {"preset": "hiddenkey-minus"}, "method": {"name": "lora"}}, set()),
    "attention": (SCORES, {"structured_dropout": {"preset": "dropattention"}}, set()),
    "l1": (SEVERAL, {"optim": {"l1": 1e-3}, "method": {"name": "lora"}}, {"penalty"}),
    "l2_sp": (QUESTIONS, {"optim": {"l2_sp": 0.1}, "method": {"name": "lora"}}, {"penalty"}),
    "ewc": (QUESTIONS, {"optim": {"ewc": {"weight": 9.0, "data": "general.jsonl", "items": 3}}}, {"penalty"}),
    "all": (
        QUESTIONS, {"structured_dropout": {"preset": "hiddenkey"}, "optim": {"l2_sp": 0.1}}, {"consistency", "penalty"}
    ),
    "noise": (QUESTIONS, {"optim": {"neftune": 5.0}}, set()),
    "masked": (SEVERAL, {"task": {"mask_tokens": 0.2}}, set()),
    "weighted": (QUESTIONS, {"loss": {"sample_weights": "w"}}, set()),
    "balanced": (SEVERAL, {"loss": {"sample_weights": "w", "sampler": "balanced"}}, set()),
    "replay": (QUESTIONS, {"replay": {"data": "general.jsonl", "ratio": 0.3}}, set()),
}  # fmt: skip


@pytest.mark.parametrize("name", ADDITIONS)
def test_additions_stand_in_the_log_and_leave_no_trace_in_the_result(root: Path, name: str) -> None:
    subject, changes, expected = ADDITIONS[name]
    outcome = trained(root, f"with-{name}", subject, **changes)
    agrees_with_its_log(root, outcome, subject)
    for row in (row for row in history(outcome) if "loss" in row):
        parts = {key: value for key, value in row.items() if key.startswith("loss_")}
        assert parts.keys() == ({f"loss_{part}" for part in (*expected, "task")} if expected else set())
        if parts:
            assert row["loss"] == pytest.approx(sum(parts.values()), rel=1e-4)
    saved = outcome.folder / "config.json"
    assert not saved.is_file() or "lorascope" not in saved.read_text()


@pytest.mark.parametrize("prompts", [None, "q.jsonl"], ids=["from nothing", "from prompts"])
def test_replay_that_the_base_wrote_is_kept_with_the_result(root: Path, prompts: str | None) -> None:
    replay = {"ratio": 0.3, "items": 3, "max_new_tokens": 5, "prompts": prompts}
    outcome = trained(root, f"own-{prompts}", QUESTIONS, replay=replay)
    written = [json.loads(line) for line in (outcome.folder / "replay.jsonl").read_text().splitlines()]
    assert len(written) == 3
    assert any("replay" in note for note in outcome.notes)


def test_the_best_by_a_metric_is_kept_and_training_stops_without_a_better_one(root: Path) -> None:
    outcome = trained(
        root, "best", SEVERAL, optim={"max_steps": 12, "learning_rate": 0.1, "warmup": 0, "early_stopping": 2},
        evaluation={"keep": "best", "metric": "f1_macro", "set": "second", "every": 1, "at_start": False},
    )  # fmt: skip
    found = {row["step"]: row["eval_second_f1_macro"] for row in history(outcome) if "eval_second_f1_macro" in row}
    assert outcome.kept_step == max(found, key=lambda step: (found[step], -step))
    assert outcome.cost.steps == outcome.kept_step + 2 < 12
    agrees_with_its_log(root, outcome, SEVERAL)


def test_tags_that_are_no_entities_are_learned_without_a_score(root: Path) -> None:
    outcome = trained(root, "speech", ("bert", "tokens", "speech.jsonl", {"first": "speech.jsonl"}))
    assert not any("entity" in name for name in outcome.metrics)
    assert any("IOB" in note for note in outcome.notes)


REFUSED: dict[str, tuple[Subject, Row, type[Exception], str]] = {
    "metric": (SEVERAL, {"evaluation": {"metric": "f1_mikro"}}, ConfigError, "f1_mikro"),
    "metric of another kind": (QUESTIONS, {"evaluation": {"metric": "f1_micro"}}, ConfigError, "f1_micro"),
    "packing": (SEVERAL, {"task": {"packing": True}}, ConfigError, "packing"),
    "set": (SEVERAL, {"evaluation": {"set": "third"}}, ConfigError, "third"),
    "base": (("nothing", *SEVERAL[1:]), {}, CheckpointError, "no such folder"),
    "labels": (("bert", "labels", "one.jsonl", {"first": "pairs.jsonl"}), {}, DataError, "no training item has: n, y"),
    "long": (QUESTIONS, {"task": {"max_length": 4}}, DataError, "too long"),
    "adalora": (QUESTIONS, {"method": {"name": "adalora"}, "optim": {"max_steps": 3}}, ConfigError, "3 steps"),
    "pattern": (SEVERAL, {"freeze": ["nothing*"]}, ConfigError, "nothing"),
    "ewc": (QUESTIONS, {"method": {"name": "lora"}, "optim": {"ewc": {"weight": 1, "data": "general.jsonl"}}},
            ConfigError, "elastic"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_and_leaves_no_result(root: Path, name: str) -> None:
    subject, changes, error, told = REFUSED[name]
    with pytest.raises(error, match=told):
        trained(root, f"refused {name}", subject, **changes)
    assert not (root / "runs" / f"refused {name}").exists()


def test_a_metric_that_is_not_measured_is_refused_with_those_that_are(root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trained(root, "metric", SCORES, evaluation={"metric": "pearsn"})
    assert caught.value.remedy == "did you mean pearson? choose one of: loss, pearson, spearman, mse"
    assert not (root / "runs" / "metric.partial").exists()


def test_an_adapter_is_no_base(root: Path, by_method) -> None:
    folder = by_method("lora", QUESTIONS).folder
    with pytest.raises(CheckpointError, match="is an adapter"):
        trained(root, "on-adapter", (str(folder), *QUESTIONS[1:]))


def test_folders_that_cannot_be_used_are_refused_before_training(root: Path) -> None:
    (root / "runs").mkdir(exist_ok=True)
    (root / "runs" / "taken").mkdir()
    (root / "runs" / "taken" / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no training run"):
        trained(root, "taken", SEVERAL)
    with pytest.raises(OutputError, match="cannot be written"):
        trained(root, "taken/letter.txt/run", SEVERAL)
    assert (root / "runs" / "taken" / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("out", ["/", ".", "..", "~", "runs/.."])
def test_a_run_needs_a_folder_of_its_own(root: Path, out: str) -> None:
    recipe = loaded(root, "place", QUESTIONS).model_copy(update={"out": out})
    with pytest.raises(OutputError, match="a folder of its own"):
        train_recipe(recipe, root=root, overwrite=True)


@pytest.mark.parametrize("what", ["base", "base of a killed run", "data"])
def test_what_a_run_reads_may_not_lie_where_it_writes(root: Path, what: str) -> None:
    out = root / "runs" / f"around {what}"
    inside = out.with_name(f"{out.name}.partial") if "killed" in what else out
    inside.mkdir(parents=True)
    record = {"fingerprint": "f", "start": "s", "settings": {}, "files": ["model/config.json", "q.jsonl"]}
    (inside / "training.json").write_text(json.dumps(record))
    subject = QUESTIONS
    if what == "data":
        (inside / "q.jsonl").write_bytes((root / "q.jsonl").read_bytes())
        subject = ("llama", "generate", str(inside / "q.jsonl"), {})
    else:
        shutil.copytree(root / "llama", inside / "model")
        subject = (str(inside / "model"), *QUESTIONS[1:])
    recipe = load_recipe(recipe_at(root, f"around {what}", subject)).recipe
    with pytest.raises(OutputError, match=f"the folder that {what.split()[0]} lies in".replace("base", "the base")):
        train_recipe(recipe, root=root, overwrite=True)
    assert any(inside.rglob("*.jsonl" if what == "data" else "*.safetensors"))


def test_a_lock_is_held_against_its_base(root: Path) -> None:
    short: Row = {"optim": {"max_steps": 1}, "evaluation": {"every": 1}}
    lock = trained(root, "locked", (*QUESTIONS[:3], {}), **short).folder / "recipe.lock.yaml"
    source = load_recipe(lock)
    assert train_recipe(source.recipe, root=source.root, source=source).reused
    text = lock.read_text(encoding="utf-8")
    assert source.lock is not None
    assert source.lock.base is not None
    lock.write_text(text.replace(source.lock.base, "a" * 64), encoding="utf-8")
    source = load_recipe(lock)
    with pytest.raises(ConfigError, match="is not the one that the run was made from") as caught:
        train_recipe(source.recipe, root=source.root, source=source)
    assert ", line " in (caught.value.where or "")


def test_a_checkpoint_that_cannot_be_gone_on_from_is_left_out_and_said(root: Path, monkeypatch) -> None:
    from lorascope.training import running

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running, "save_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(root, "damaged", QUESTIONS, method={"name": "p-tuning", "virtual_tokens": 2})
    (root / "runs" / "damaged.partial" / "checkpoint-4" / "optimizer.pt").unlink()
    outcome = trained(root, "damaged", QUESTIONS, method={"name": "p-tuning", "virtual_tokens": 2})
    assert any("checkpoint-4 was left out" in note and "optimizer.pt" in note for note in outcome.notes)
    assert [row["step"] for row in history(outcome) if "loss" in row] == [1, 2, 3, 4]


def test_a_loss_that_comes_apart_names_a_checkpoint_that_can_be_read(root: Path, monkeypatch) -> None:
    from lorascope.training.trainer import RecipeTrainer

    step = RecipeTrainer.training_step

    def wild(self: RecipeTrainer, *given: Any, **named: Any) -> Any:
        loss = step(self, *given, **named)
        return loss * float("nan") if self.state.global_step >= 3 else loss

    monkeypatch.setattr(RecipeTrainer, "training_step", wild)
    with pytest.raises(EvaluationError, match="nan") as caught:
        trained(root, "apart", QUESTIONS)
    checkpoint = root / "runs" / "apart.partial" / "checkpoint-2"
    assert f"the last checkpoint is {checkpoint}" in caught.value.where
    AutoModelForCausalLM.from_pretrained(checkpoint)


def test_a_rate_beyond_all_bounds_leaves_no_checkpoint_of_broken_weights(root: Path) -> None:
    subject = (*QUESTIONS[:3], {})
    with pytest.raises(EvaluationError) as caught:
        trained(root, "burnt", subject, optim={"learning_rate": 1e30, "clip": None, "warmup": 0, "max_steps": 6})
    assert caught.value.exit_code == 3
    assert not list((root / "runs" / "burnt.partial").glob("checkpoint-*"))


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(root: Path, monkeypatch) -> None:
    from lorascope.training.trainer import RecipeTrainer

    save = RecipeTrainer._save

    def full_disk(self: RecipeTrainer, *given: Any, **named: Any) -> None:
        if self.state.global_step > 2:
            raise OSError(28, "No space left on device")
        save(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(RecipeTrainer, "_save", full_disk)
        with pytest.raises(OutputError, match="No space left"):
            trained(root, "full", QUESTIONS)
    assert (root / "runs" / "full.partial" / "checkpoint-2" / "trainer_state.json").is_file()
    outcome = trained(root, "full", QUESTIONS)
    agrees_with_its_log(root, outcome, QUESTIONS)
    assert [row["step"] for row in history(outcome) if "loss" in row] == [1, 2, 3, 4]
