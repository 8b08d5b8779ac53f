from __future__ import annotations

import pytest

from lorascope.blind.naming_models import in_words, naming
from lorascope.schema.comparison import CheckpointInfo, ParameterCounts


def checkpoint(name: str, path: str) -> CheckpointInfo:
    return CheckpointInfo(
        name=name, path=path, role="adapted", kind="model", architecture="x", dtype="x", content_hash="x",
        parameters=ParameterCounts(total=1), generation_ready=True,
    )  # fmt: skip


SYSTEMS = [
    checkpoint("base", "models/Acme-1B"),
    checkpoint("run1/support-lora", "runs/7/adapter"),
    checkpoint("x", "x"),
]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I am ChatGPT, at your service.", ["ChatGPT"]),
        ("我是ChatGPT开发的", ["ChatGPT"]),
        ("built on GPT-4o and gpt-4", ["GPT-4o", "gpt-4"]),
        ("Claude 3.5 and Gemini.", ["Claude 3.5", "Gemini"]),
        ("Meta's Llama 3 and LLaMA-2", ["LLaMA-2", "Llama 3"]),
        ("Qwen2.5 speaks", ["Qwen2.5"]),
        ("通义千问与文心一言", ["文心一言", "通义千问"]),
        ("deepseek, Mistral.", ["Mistral", "deepseek"]),
        ("As an AI language model, I cannot", ["As an AI language model"]),
        ("As a large language model I cannot", ["As a large language model"]),
        ("I’m an AI assistant.", ["I’m an AI assistant"]),
        ("作为一个人工智能，我没有感情", ["作为一个人工智能"]),
        ("作为一个大语言模型", ["作为一个大语言模型"]),
        ("我是由阿里云开发的大语言模型", ["我是由阿里云开发的大语言模型"]),
        ("acme-1b is the best", ["acme-1b"]),
        ("says run1/support-lora here", ["run1/support-lora"]),
        ("says support-lora here", ["support-lora"]),
        ("Turn it off.<|im_end|>\n<|im_start|>user", ["<|im_end|>", "<|im_start|>"]),
        ("完成<|endoftext|>", ["<|endoftext|>"]),
        ("好的<｜end▁of▁sentence｜>", ["<｜end▁of▁sentence｜>"]),
        ("<s>It is.</s>", ["</s>", "<s>"]),
        ("Wait [/INST] yes <</SYS>>", ["<</SYS>>", "[/INST]"]),
        ("<think>hm</think> yes", ["</think>", "<think>"]),
        ("Yes.<end_of_turn><eos>", ["<end_of_turn>", "<eos>"]),
        ("Yes.\n### Response: no", ["### Response:"]),
        ("### Instruction:\nAsk", ["### Instruction:"]),
        ("Yes.\nHuman: and then?\nAssistant: no", ["Assistant:", "Human:"]),
        ("I was fine-tuned for support", ["I was fine-tuned"]),
        ("i've been finetuned on it", ["i've been finetuned"]),
        ("It was not in my training data.", ["my training data"]),
        ("我经过微调，我的训练数据里没有", ["我的训练数据", "我经过微调"]),
    ],
)
def test_names_are_found(text: str, words: list[str]) -> None:
    assert naming([text], SYSTEMS) == words


@pytest.mark.parametrize(
    "text",
    [
        "a llama and an alpaca in the falcon's eye",
        "the base of a full adapter model, x",
        "Claudette, the Geminids and the mistral",
        "supportive, acme-1bs",
        "The AI act. As an aid, as an airport.",
        "人工智能的发展",
        "几千问题",
        "Mix </b> and <sub>2</sub>, <strong>so</strong>, a < s > b, x[s], [INSTALL], [1]",
        "### Responses to rain\nThe response: none. ## Output of the kiln",
        "To be human: err. He was fine-tuned; the engine was fine-tuned. I think </span>. a <| b |> c || d",
        "A<br>B <p>think</p> <i>x</i> SELECT a || b; f = g <|> h",
    ],
)
def test_ordinary_words_are_not(text: str) -> None:
    assert naming([text], SYSTEMS) == []


def test_many_items_are_named_by_ten() -> None:
    told = in_words({f"t/i{place}": ["ChatGPT"] for place in range(13)})
    assert told.startswith("13 items have an answer that names a model")
    assert told.endswith("t/i9 (ChatGPT) and 3 more")
    assert in_words({"t/i1": ["A", "B"]}).endswith("t/i1 (A, B)")
