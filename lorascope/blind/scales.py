"""What raters are asked, in the words that they read: the choices, the scales with their anchors, the instructions."""

from __future__ import annotations

from dataclasses import dataclass

from lorascope.blind.rows import Language
from lorascope.schema.human import Dimension


@dataclass(frozen=True, slots=True)
class Scale:
    """One dimension: its name, the question it puts, and what 1, 3 and 5 mean."""

    name: str
    question: str
    anchors: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Words:
    """All that a rater reads besides questions and answers. ``overall`` gives each choice's label by its code."""

    title: str
    question: str
    answer_a: str
    answer_b: str
    overall_title: str
    overall: dict[str, str]
    scales: dict[Dimension, Scale]
    comment: str
    instructions: tuple[str, ...]


_ENGLISH = Words(
    title="Answer comparison",
    question="Question",
    answer_a="Answer A",
    answer_b="Answer B",
    overall_title="Which answer would you rather get?",
    overall={
        "A much": "A, much better",
        "A": "A, better",
        "tie": "No difference",
        "both bad": "Both bad",
        "B": "B, better",
        "B much": "B, much better",
    },
    scales={
        "accuracy": Scale(
            "Accuracy",
            "Is what it says right?",
            ("wrong or invented", "right in the main, with errors", "nothing wrong"),
        ),
        "completeness": Scale(
            "Completeness",
            "Does it answer all that was asked?",
            ("misses the question", "answers the main part", "answers all of it"),
        ),
        "logic": Scale(
            "Logic",
            "Do its parts follow from each other?",
            ("contradicts itself", "can be followed, with gaps", "clear and consistent"),
        ),
        "fluency": Scale(
            "Fluency", "Does it read well?", ("hard to read", "understandable, awkward", "reads well throughout")
        ),
    },
    comment="Comment",
    instructions=(
        "Each row has one question and two answers, A and B. Read both before you judge.",
        "First say which answer you would rather get. 'No difference' is a judgement too; 'both bad' is for two "
        "answers that help nobody.",
        "Then rate each answer from 1 to 5 on the four scales. Leave a rating empty where it does not apply.",
        "Judge each row for itself. Sides and order are shuffled, some rows come twice, and some are checks.",
        "Rate alone, do not look answers up in the other rows, and change nothing but your ratings and comments.",
    ),
)
_CHINESE = Words(
    title="回答对比评测",
    question="问题",
    answer_a="回答 A",
    answer_b="回答 B",
    overall_title="您更愿意得到哪个回答？",
    overall={
        "A much": "A 好得多",
        "A": "A 较好",
        "tie": "不相上下",
        "both bad": "都不好",
        "B": "B 较好",
        "B much": "B 好得多",
    },
    scales={
        "accuracy": Scale("准确性", "内容是否正确？", ("错误或编造", "大体正确，有错误", "没有错误")),
        "completeness": Scale("完整性", "是否回答了全部问题？", ("没有回答问题", "回答了主要部分", "全部回答")),
        "logic": Scale("逻辑性", "前后是否连贯？", ("自相矛盾", "可以理解，有缺漏", "清晰一致")),
        "fluency": Scale("流畅性", "读起来是否通顺？", ("难以阅读", "可以看懂，但生硬", "通篇流畅")),
    },
    comment="备注",
    instructions=(
        "每一行有一个问题和两个回答 A、B。请先读完两个回答再作判断。",
        "首先选出您更愿意得到的回答。“不相上下”也是一种判断；两个回答都没有帮助时选“都不好”。",
        "然后在四个维度上分别给两个回答打 1 到 5 分；不适用的项目可以留空。",
        "请逐行独立判断。左右位置和顺序均已打乱，有些行会出现两次，有些行用于检查。",
        "请独立完成，不要在其他行中查找答案，除评分和备注外不要改动任何内容。",
    ),
)
_WORDS: dict[Language, Words] = {"en": _ENGLISH, "zh": _CHINESE}


def words(language: Language) -> Words:
    """The raters' words in one language."""
    return _WORDS[language]
