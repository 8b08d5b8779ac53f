"""Write ``llamafactory_pins.jsonl``: what LLaMA-Factory's metric says, from the packages that it calls itself.

    pip download --no-deps --no-binary :all: rouge_chinese==1.0.3 && tar xzf rouge_chinese-1.0.3.tar.gz
    PYTHONPATH=rouge_chinese-1.0.3 python tests/reference/make_llamafactory_pins.py

LLaMA-Factory's own class needs its whole package; its arithmetic is short: jieba's words joined by spaces go to
``rouge_chinese.Rouge().get_scores``, characters to nltk's ``sentence_bleu`` with smoothing method 3, an item without
words on either side has ROUGE 0, each value is multiplied by 100 and rounded to four decimals.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jieba
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

ODD = [
    ("今天天气很好", "今天天气很好"),
    ("", "空的回答"),
    ("   ", "只有空格"),
    ("答案", ""),
    ("北京", "北京大学"),
    ("真的吗？？真的！他说：“好。”然后走了。", "真的吗？他说：“好！”然后就走了……后来呢？"),
    ("等等……再说。…… 好", "等等……再说。好"),
    ("wait......what? yes? no", "wait......what? no? yes"),
    ("第一行\n第二行\n\n第三行。 \n", "第一行\n第三行。\n第二行"),
    ("好。  \n\n 好", "好。好"),
    ("the cat the cat the cat", "the cat sat on the mat"),
    ("Use Python 3.11, not 3.10!", "使用 Python 3.11，不要用 3.10！"),
    ("a", "a"),
    ("ab", "ab"),
    ("我我我我我", "我"),
]


def changed(text: str, source: random.Random) -> str:
    """The text with characters lost, doubled and moved."""
    signs = [sign * source.choice((0, 1, 1, 1, 1, 1, 1, 2)) for sign in text]
    for _ in range(len(signs) // 10):
        one, other = source.randrange(len(signs)), source.randrange(len(signs))
        signs[one], signs[other] = signs[other], signs[one]
    return "".join(signs)


def real_pairs() -> list[tuple[str, str]]:
    """Passages of the built-in general text against changed ones."""
    source = random.Random(0)
    folder = Path(__file__).parents[2] / "lorascope" / "data" / "general_text"
    pairs = []
    for language in ("en", "zh"):
        lines = (folder / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"][:160] for line in lines]
        pairs += [(changed(text, source), text) for text in texts[::2]]
    return pairs


def scores(prediction: str, reference: str) -> dict[str, float]:
    """The four numbers of one item."""
    from rouge_chinese import Rouge

    said, wanted = (" ".join(jieba.cut(text)) for text in (prediction, reference))
    found: dict[str, Any] = {"rouge-1": {"f": 0.0}, "rouge-2": {"f": 0.0}, "rouge-l": {"f": 0.0}}
    if said.split() and wanted.split():
        found = Rouge().get_scores(said, wanted)[0]
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    return {name: round(value["f"] * 100, 4) for name, value in found.items()} | {"bleu-4": round(bleu * 100, 4)}


def main() -> None:
    """Write the file beside this script."""
    rows = [
        {"prediction": prediction, "reference": reference, **scores(prediction, reference)}
        for prediction, reference in [*ODD, *real_pairs()]
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(__file__).with_name("llamafactory_pins.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
