"""Make the logs under tests/unit/data/fixtures/imported again, with the evaluation tools themselves.

Each tool runs in a Python that has it; transformers has to be there too for the first and the third:

    python tests/reference/make_imported_fixtures.py models   WORK    # tiny random base and adapted model, and the data
    python tests/reference/make_imported_fixtures.py lm-eval  WORK    # lm_eval 0.4.13
    python tests/reference/make_imported_fixtures.py inspect  WORK    # inspect-ai 0.3.285
    python tests/reference/make_imported_fixtures.py lighteval WORK   # lighteval 0.13.0, xxhash 3.5.0

WORK is a scratch folder. What a tool wrote is copied as it is, except that WORK is written as ``/work`` in text files
and that each run's results file is cut down to what describes the run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "unit" / "data" / "fixtures" / "imported"
MODELS = ("base", "tuned")
QUESTIONS = [
    ("Which gas do plants take in?", ["carbon dioxide", "helium", "neon", "oxygen"], 0),
    ("What freezes at 0 °C?", ["iron", "water", "salt"], 1),
    ("How many legs has a spider?", ["six", "ten", "eight", "four"], 2),
    ("What is the opposite of hot?", ["cold", "wet"], 0),
    ("法国的首都是哪里？", ["柏林", "巴黎", "罗马"], 1),
    ("Which animal barks?", ["cat", "dog", "fish"], 1),
    ("What do bees make?", ["honey", "silk", "milk"], 0),
    ("水的化学式是什么？", ["CO2", "NaCl", "H2O"], 2),
    ("Which season follows winter?", ["spring", "summer", "autumn"], 0),
    ("What is 3 + 4?", ["6", "7", "8", "9"], 1),
]
PROMPT = "Question: {}\nAnswer:"


def make_models(work: Path) -> None:
    """A random Llama and the same with noise; data whose references are answers of the one or the other."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([PROMPT.format(question) for question, *_ in QUESTIONS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=192, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    answers = []
    for name in MODELS:
        model.save_pretrained(work / name)
        tokenizer.save_pretrained(work / name)
        answers.append([_said(model, tokenizer, PROMPT.format(question)) for question, *_ in QUESTIONS])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    rows = []
    for place, (question, choices, answer) in enumerate(QUESTIONS):
        reference = answers[place % 2][place] if place < 8 else choices[answer]
        rows.append({"question": question, "choices": choices, "answer": answer, "reference": reference})
    data = work / "data"
    data.mkdir(exist_ok=True)
    (data / "test.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _said(model: Any, tokenizer: Any, prompt: str) -> str:
    inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    output = model.generate(input_ids=inputs["input_ids"], do_sample=False, max_new_tokens=6)
    return str(tokenizer.decode(output[0, length:], skip_special_tokens=True)).split("\n")[0].strip() or "nothing"


LM_EVAL_TASKS = {
    "tiny_choice": """
        output_type: multiple_choice
        doc_to_text: "Question: {{question}}\\nAnswer:"
        doc_to_choice: "{{choices}}"
        doc_to_target: answer
        metric_list:
          - {metric: acc, aggregation: mean, higher_is_better: true}
          - {metric: acc_norm, aggregation: mean, higher_is_better: true}
          - {metric: exact_match, aggregation: mean, higher_is_better: true}
        """,
    "tiny_generate": """
        output_type: generate_until
        doc_to_text: "Question: {{question}}\\nAnswer:"
        doc_to_target: "{{reference}}"
        generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false, temperature: 0.0}
        metric_list:
          - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
        filter_list:
          - name: whole
            filter: [{function: remove_whitespace}, {function: take_first}]
          - name: first-word
            filter: [{function: regex, regex_pattern: "([A-Za-z]+)"}, {function: take_first}]
        """,
    "tiny_rolling": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{question}}"
        metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
        """,
}


def run_lm_eval(work: Path) -> None:
    """Samples and results of three tasks, for both models."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tasks = work / "tasks"
    tasks.mkdir(exist_ok=True)
    for name, text in LM_EVAL_TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {work}/data/test.jsonl}}}}\n"
        text = f"{head}test_split: test\n{textwrap.dedent(text)}metadata: {{version: 1.0}}\n"
        (tasks / f"{name}.yaml").write_text(text, "utf-8")
    for name in MODELS:
        out = work / "lm-eval" / name
        shutil.rmtree(out, ignore_errors=True)
        tracker = EvaluationTracker(output_path=str(out))
        results = simple_evaluate(
            model="hf", model_args=f"pretrained={work}/{name},dtype=float32", tasks=list(LM_EVAL_TASKS),
            device="cpu", batch_size=4, bootstrap_iters=0, log_samples=True, evaluation_tracker=tracker,
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        )  # fmt: skip
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
        _keep(sorted(out.rglob("*.json*")), TARGET / "lm-eval" / name, work)


def run_inspect(work: Path) -> None:
    """Logs of a short-answer task and of a multiple-choice task, answered by a mock model."""
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import choice, includes, match
    from inspect_ai.solver import generate, multiple_choice

    free = [
        Sample(id=f"q{place}", input=question, target=choices[answer], metadata={"language": "en"})
        for place, (question, choices, answer) in enumerate(QUESTIONS)
    ]
    letters = [
        Sample(id=place, input=question, choices=choices, target="ABCD"[answer])
        for place, (question, choices, answer) in enumerate(QUESTIONS)
    ]
    for shift, name in enumerate(MODELS):
        short = [
            choices[answer] if (place + shift) % 3 else f"I believe it is {choices[answer]}, yes."
            for place, (_, choices, answer) in enumerate(QUESTIONS)
        ]
        chosen = [
            f"ANSWER: {'ABCD'[answer if (place + shift) % 4 else 0]}" for place, (_, _, answer) in enumerate(QUESTIONS)
        ]
        for task, said in (
            (Task(dataset=free, solver=generate(), scorer=[match(location="exact"), includes()], name="facts"), short),
            (Task(dataset=letters, solver=multiple_choice(), scorer=choice(), name="letters"), chosen),
        ):
            outputs = [ModelOutput.from_content("mockllm/model", text) for text in said]
            for output in outputs:
                output.usage = ModelUsage(input_tokens=9, output_tokens=3, total_tokens=12)  # else it is looked up
            model = get_model("mockllm/model", custom_outputs=iter(outputs), memoize=False)
            folder = work / "inspect" / name
            [log] = evaluate(
                task,
                model=model,
                log_dir=str(folder),
                display="none",
                max_samples=1,
                max_connections=1,
                log_format="eval",
            )
            target = TARGET / "inspect" / name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log.location.removeprefix("file://"), target / f"{task.name}.eval")


LIGHTEVAL_TASKS = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc

def choice(line, task_name=None):
    return Doc(task_name=task_name, query=f"Question: {line['question']}\\nAnswer:",
               choices=[f" {choice}" for choice in line["choices"]], gold_index=line["answer"])

def generate(line, task_name=None):
    return Doc(task_name=task_name, query=f"Question: {line['question']}\\nAnswer:",
               choices=[line["reference"]], gold_index=0)

def config(name, prompt, metrics):
    return LightevalTaskConfig(
        name=name, prompt_function=prompt, hf_repo="WORK/data", hf_subset="default", hf_avail_splits=["test"],
        evaluation_splits=["test"], metrics=metrics, generation_size=6, stop_sequence=["\\n"],
    )

TASKS_TABLE = [
    config("tiny_choice", choice, [Metrics.loglikelihood_acc]),
    config("tiny_generate", generate, [Metrics.exact_match]),
]
"""


def run_lighteval(work: Path) -> None:
    """Details of a choice and a generation task, for both models."""
    import huggingface_hub
    import requests

    # Two of its built-in tasks ask the network when they are imported, one of them in the words of an older library.
    requests.get = lambda *_, **__: requests.Response()
    huggingface_hub.HfApi.list_models = lambda *_, **__: ["found"]
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.transformers.transformers_model import TransformersModelConfig
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters

    tasks = work / "lighteval_tasks.py"
    tasks.write_text(LIGHTEVAL_TASKS.replace("WORK", str(work)), "utf-8")
    for name in MODELS:
        out = work / "lighteval" / name
        shutil.rmtree(out, ignore_errors=True)
        pipeline = Pipeline(
            tasks="tiny_choice|0,tiny_generate|0",
            pipeline_parameters=PipelineParameters(
                launcher_type=ParallelismManager.ACCELERATE, custom_tasks_directory=str(tasks)
            ),
            evaluation_tracker=EvaluationTracker(output_dir=str(out), save_details=True),
            model_config=TransformersModelConfig(
                model_name=str(work / name), dtype="float32", batch_size=4, max_length=180, device="cpu"
            ),
        )
        pipeline.evaluate()
        pipeline.save_and_push_results()
        found = sorted([*out.rglob("details_*.parquet"), *out.rglob("results_*.json")])
        _keep(found, TARGET / "lighteval" / name, work)


def _keep(files: list[Path], target: Path, work: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in files:
        if file.suffix == ".parquet":
            shutil.copyfile(file, target / file.name.replace("|", "-"))  # no file name everywhere
            continue
        text = file.read_text("utf-8").replace(str(work), "/work").replace(str(work).replace("/", "__"), "__work")
        if file.suffix == ".json":
            document = json.loads(text)
            for name in ("pretty_env_info", "upper_git_hash", "git_hash", "lm_eval_environment"):
                document.pop(name, None)
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (target / file.name).write_text(text, "utf-8")


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": f"{sys.argv[2]}/cache"}
    folder = Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    steps = {"models": make_models, "lm-eval": run_lm_eval, "inspect": run_inspect, "lighteval": run_lighteval}
    steps[sys.argv[1]](folder)
