"""Log-likelihoods and accuracies against lm-evaluation-harness, run on the same files and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorascope.engines.base import Subject
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.measures.choices import score_choices
from lorascope.measures.likelihood import score_likelihood
from lorascope.schema.items import ChoiceAnswer, ChoiceItem, LikelihoodAnswer, LikelihoodItem
from lorascope.schema.suite import SuiteTask

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness warns of its own use of other libraries

CONTEXT = 96
TEMPLATE = "{% for m in messages %}<s>[{{ m.content }}]{% endfor %}{% if add_generation_prompt %} >\n{% endif %}"
CORPUS = [
    "Question: What is the capital of France?\nAnswer: Paris is the capital of France.",
    "the quick brown fox jumps over the lazy dog and runs away again",
    "问题：法国的首都是哪里？\n答案：巴黎是法国的首都。",
] * 4
QUESTIONS = [
    {"context": "Question: What is the capital of France?\nAnswer:", "choices": ["Paris", "the lazy dog", "B", "a"]},
    {"context": "the quick brown", "choices": ["fox", "dog jumps over", "capital of France", "Paris is"]},
    {"context": "trailing space \n ", "choices": ["fox", "the", "brown dog"]},
    {"context": "问题：法国的首都是哪里？\n答案：", "choices": ["巴黎", "法国的首都", "在哪里", "Paris"]},
    {"context": "<s>the lazy", "choices": ["dog", "fox jumps"]},
    {"context": "", "choices": ["the quick brown fox", "首都", "a b c"]},
    {"context": "fox jumps over the " * 40 + "lazy", "choices": ["dog", "capital of France and again", "q"]},
    {"context": "Pick A, B, C or D.", "choices": ["A", "B", "C", "D"]},
]
SHOTS = "Question: the quick brown fox\nAnswer: jumps over the lazy dog\n\n" * 4
FEW_SHOT = [{**row, "context": SHOTS + str(row["context"])[:40]} for row in QUESTIONS]
TEXTS = ["the quick brown fox", "法国的首都是哪里？ z 9", "q", "the capital of France is Paris " * 4]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("parity")
    torch.manual_seed(0)
    rows = len(_tokenizer())
    shape = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": rows}
    llama = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        **shape,
    )
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **shape)
    made = {
        "llama": (LlamaForCausalLM(llama), _tokenizer()),
        "llama-bos": (LlamaForCausalLM(llama), _tokenizer("<s> $A")),
        "gpt2": (GPT2LMHeadModel(gpt2), _tokenizer()),
    }
    for name, (model, tokenizer) in made.items():
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
        model.save_pretrained(root / name)
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(root / name)
    lora = get_peft_model(LlamaForCausalLM.from_pretrained(root / "llama"), LoraConfig(target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            parameter.add_(torch.randn_like(parameter) * ("lora_B" in name))
    lora.save_pretrained(root / "lora")
    return root


def _tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if template is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of local task files, as the harness reads them."""
    folder = tmp_path_factory.mktemp("tasks")
    fields = {"doc_to_text": "context", "doc_to_choice": "choices", "doc_to_target": "answer"}
    for name, questions in (("choice", QUESTIONS), ("few", FEW_SHOT)):
        rows = [{**row, "answer": number % len(row["choices"])} for number, row in enumerate(questions)]
        _write(folder, name, rows, fields)
    _write(folder, "text", [{"text": text} for text in TEXTS], {"doc_to_text": "", "doc_to_target": "text"})
    return folder


def _write(folder: Path, name: str, rows: list[dict[str, Any]], fields: dict[str, str]) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    kind, metrics = ("multiple_choice", ("acc", "acc_norm", "acc_bytes"))
    if name == "text":
        kind, metrics = ("loglikelihood_rolling", ("bits_per_byte",))
    task = {
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": kind,
        **fields,
        "metric_list": [{"metric": metric} for metric in metrics],
    }
    (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")


@pytest.fixture(scope="module")
def harness(tasks: Path, checkpoints: Path) -> Any:
    """``harness(name, task)``: what lm-evaluation-harness gives for a local task."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    def run(name: str, task: str, *, chat: bool = False, **settings: Any) -> dict[str, Any]:
        model = HFLM(pretrained=str(checkpoints / name), device="cpu", dtype="float32", batch_size=4, **settings)
        found = simple_evaluate(
            model=model, tasks=[f"local_{task}"], task_manager=manager, apply_chat_template=chat, bootstrap_iters=0
        )
        return {"results": found["results"][f"local_{task}"], "samples": found["samples"][f"local_{task}"]}

    return run


@pytest.fixture
def engine() -> Iterator[TransformersEngine]:
    made = TransformersEngine(device="cpu", dtype="float32")
    yield made
    made.close()


def subject(checkpoints: Path, name: str) -> Subject:
    path = checkpoints / name
    if name == "lora":
        base = checkpoints / "llama"
        shared = {"tokenizer_path": base, "base_path": base, "base_hash": "hash-of-llama"}
        return Subject(name=name, path=path, kind="adapter", content_hash="hash-of-lora", **shared)
    return Subject(name=name, path=path, kind="model", tokenizer_path=path, content_hash=f"hash-of-{name}")


def items(questions: list[dict[str, Any]], *, chat: bool = False) -> list[ChoiceItem]:
    return [
        ChoiceItem(
            item_id=str(number),
            question="?",
            context="" if chat else row["context"],
            messages=({"role": "user", "content": row["context"]},) if chat else None,
            choices=tuple(row["choices"]),
            answer=number % len(row["choices"]),
        )
        for number, row in enumerate(questions)
    ]


@pytest.mark.parametrize(
    ("name", "file", "chat"),
    [
        ("llama", "choice", False),
        ("llama-bos", "choice", False),
        ("gpt2", "choice", False),
        ("lora", "choice", False),
        ("llama", "choice", True),
        ("llama-bos", "choice", True),
        ("llama-bos", "few", False),
        ("gpt2", "few", False),
    ],
)
def test_choices(harness: Any, engine: TransformersEngine, checkpoints: Path, name: str, file: str, chat: bool) -> None:
    asked = items(FEW_SHOT if file == "few" else QUESTIONS, chat=chat)
    task = SuiteTask(name="choice", kind="choice", data="x.jsonl", delimiter=None if chat else " ")
    answers = engine.answer(subject(checkpoints, name), task, asked)
    adapter = {"peft": str(checkpoints / "lora")} if name == "lora" else {}
    theirs = harness("llama" if name == "lora" else name, file, chat=chat, **adapter)
    by_document = {sample["doc_id"]: sample for sample in theirs["samples"]}
    ours = []
    for number, answer in enumerate(answers):
        assert isinstance(answer, ChoiceAnswer)
        wanted = [float(logprob) for logprob, _ in by_document[number]["filtered_resps"]]
        assert answer.logprobs == pytest.approx(wanted, abs=1e-4), asked[number]
        ours.append(answer.logprobs)
    scored = score_choices(ours, [item.answer for item in asked], [item.choices for item in asked])
    for metric, name_there in (("accuracy", "acc"), ("accuracy_norm", "acc_norm"), ("accuracy_bytes", "acc_bytes")):
        right = [float(by_document[number][name_there]) for number in range(len(asked))]
        assert scored[metric].statistics[:, 0].tolist() == right
        assert sum(right) / len(right) == pytest.approx(theirs["results"][f"{name_there},none"])


@pytest.mark.parametrize(("name", "settings"), [("llama", {}), ("gpt2", {}), ("llama-bos", {"add_bos_token": False})])
def test_running_text_within_one_window(
    harness: Any, engine: TransformersEngine, checkpoints: Path, name: str, settings: dict[str, Any]
) -> None:
    """The harness predicts the beginning-of-text token that a tokenizer adds, unless told not to add it; here never.

    Texts beyond a window differ on purpose: the harness starts each window with one token of context, here half a
    window stands before what is predicted.
    """
    asked = [LikelihoodItem(item_id=str(number), text=text) for number, text in enumerate(TEXTS)]
    answers = engine.answer(subject(checkpoints, name), SuiteTask(name="t", kind="likelihood", data="x.jsonl"), asked)
    theirs = harness(name, "text", **settings)
    wanted = {sample["doc_id"]: float(sample["filtered_resps"][0]) for sample in theirs["samples"]}
    logprobs, tokens, byte_counts = [], [], []
    for number, answer in enumerate(answers):
        assert isinstance(answer, LikelihoodAnswer)
        assert answer.tokens < CONTEXT
        assert answer.logprob == pytest.approx(wanted[number], abs=1e-4)
        logprobs.append(answer.logprob)
        tokens.append(answer.tokens)
        byte_counts.append(answer.bytes)
    value = score_likelihood(logprobs, tokens, byte_counts)["bits_per_byte"].value
    assert value == pytest.approx(theirs["results"]["bits_per_byte,none"], abs=1e-6)
