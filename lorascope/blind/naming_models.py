"""Answers that give their author away.

They name a model, say that a language model is speaking, or show the markers of a template of chats or instructions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from lorascope.schema.comparison import CheckpointInfo

# Versions may follow a name: GPT-4o, Qwen2.5, Llama 3. Names that are words too are taken as they are written.
_ANY_CASE = ("chatgpt", r"gpt-?\d\w*", "openai", "anthropic", "deepseek", "qwen", "tongyi qianwen", "chatglm", "vicuna")
_AS_WRITTEN = (
    "GPT", "Claude", "Gemini", "Bard", "Copilot", "Grok", "Gemma", "Llama", "LLaMA", "LLAMA", "Alpaca", "Mistral",
    "Mixtral", "Phi-\\d", "Falcon", "ERNIE", "Ernie Bot", "Kimi", "Doubao", "Baichuan", "InternLM", "GLM-\\d",
)  # fmt: skip
_CHINESE = "通义千问|文心一言|豆包|讯飞星火|智谱清言|混元|百川大模型"
_SPEAKING = (
    r"as an? (?:ai|artificial intelligence|large language|language)(?: language)? (?:model|assistant)",
    r"as an ai",
    r"i(?: am|['’]m) an? (?:ai|artificial intelligence|large language|language)(?: language)? (?:model|assistant)",
    r"i(?: was|['’]ve been| have been| am|['’]m) (?:further )?(?:fine|instruction)[- ]?tuned",
    r"my (?:training data|fine-?tuning|knowledge cut-?off)",
)
_SPEAKING_CHINESE = (
    r"我(?:是?经过|被|接受过)了?(?:指令)?微调|我的(?:训练数据|训练语料|知识截止)"
    r"|(?:作为|我是)(?:一个|一名|一种|一款)?(?:由[^，。]{1,12}(?:开发|训练)的)?(?:人工智能|AI|大?语言模型|大模型)"
)
# Where generation did not stop, or a template was not followed, its signs stand in the text.
_MARKERS = (
    r"<[|｜]\w(?:[\w▁ .:-]{0,40}\w)?[|｜]>",  # <|im_end|>, <|eot_id|>, <|endoftext|>; DeepSeek's have full-width bars
    r"</?s>", r"<(?:bos|eos|pad|unk|sop|eop)>", r"</?(?:start|end)_of_(?:turn|text|image)>", r"<reserved_\d+>",
    r"\[/?INST\]", r"<</?SYS>>", r"\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    r"\[(?:BOS|EOS|PAD|UNK|CLS|SEP|[gs]?MASK)\]", r"</?(?:think|thinking|thought|tool_call|tool_response)>",
    r"^ {0,3}#{2,3} ?(?:Instructions?|Response|Input|Output|Assistant|Human|User|System):",
    r"^(?:Human|Assistant|ASSISTANT):",
)  # fmt: skip
_COMMON = {"adapter", "base", "best", "checkpoint", "final", "full", "last", "latest", "lora", "model", "tuned"}
_SHORTEST = 3


def naming(answers: Iterable[str], systems: Iterable[CheckpointInfo]) -> list[str]:
    """Words in the answers that tell of a model or system, as they stand there, each once, sorted.

    Looked for as whole words: the compared checkpoints' names and the last parts of their paths (not single words
    such as "base" or "model", nor names under three letters), well-known assistants, and phrases such as "as an AI
    language model". A Chinese sign beside a Latin name ends the word too. Looked for as they are: markers of templates,
    such as ``<|im_end|>``, ``</s>``, ``[/INST]``, ``<think>``, or "### Response:" where a line begins.
    """
    patterns = _patterns(systems)
    return sorted({found.group() for text in answers for pattern in patterns for found in pattern.finditer(text)})


def _patterns(systems: Iterable[CheckpointInfo]) -> list[re.Pattern[str]]:
    names = {name for each in systems for name in (each.name, PurePath(each.path).name, PurePath(each.name).name)}
    own = [re.escape(name) for name in sorted(names) if len(name) >= _SHORTEST and name.lower() not in _COMMON]
    return [
        re.compile(_word((*own, *_ANY_CASE, *_SPEAKING)), re.IGNORECASE),
        re.compile(_word(_AS_WRITTEN)),
        re.compile(f"{_CHINESE}|{_SPEAKING_CHINESE}", re.IGNORECASE),
        re.compile("|".join(_MARKERS), re.MULTILINE),
    ]


def _word(alternatives: Iterable[str]) -> str:
    # Not \b: to it a Chinese character is a part of the word beside it.
    longest_first = sorted(alternatives, key=len, reverse=True)
    return rf"(?<![A-Za-z0-9])(?:{'|'.join(longest_first)})(?:[-. ]?\d[\w.]*(?<![.]))?(?![A-Za-z])"


def in_words(found: Mapping[str, list[str]]) -> str:
    """A warning about items, by id, and the words that their answers hold."""
    listed = [f"{item_id} ({', '.join(words)})" for item_id, words in list(found.items())[:10]]
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    says = "1 item has an answer that names" if len(found) == 1 else f"{len(found)} items have an answer that names"
    what = "a model or system or shows a template's markers"
    return f"{says} {what}, which may tell raters who wrote it: {', '.join(listed)}{more}"
