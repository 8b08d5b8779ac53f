from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from lorascope.engines.base import Subject
from lorascope.engines.classification import label_order
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import ConfigError, DataError, EvaluationError
from lorascope.schema.items import Item, LabelsItem, ScoreItem, TokensAnswer, TokensItem
from lorascope.schema.suite import SuiteTask

Make = Callable[..., Subject]
TEXTS = ["the fox", "Paris is the capital of France and the dog runs away again", "a b c", "jumps over"]


def task(kind: str = "labels", **more: Any) -> SuiteTask:
    return SuiteTask.model_validate({"name": "judge", "kind": kind, "data": "x", **more})


def items(*, multi: bool = False, labels: Sequence[str] = ("joy",), pair: str | None = None) -> list[Item]:
    return [
        LabelsItem(item_id=str(n), text=text, text_pair=pair, labels=tuple(labels), multi=multi)
        for n, text in enumerate(TEXTS)
    ]


@torch.no_grad()
def logits(path: Path, text: str, pair: str | None = None) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    encoded = AutoTokenizer.from_pretrained(path)(text, pair, return_tensors="pt")
    return model(**encoded).logits[0].double()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["bert-emotions", "llama-emotions"])
def test_probabilities_are_in_the_order_of_the_suite_whatever_the_batch(
    subject: Make, checkpoints: Path, name: str
) -> None:
    order = ["fear", "anger", "joy"]
    for cap in (1, None):
        engine = TransformersEngine(device="cpu", batch_size=cap)
        for text, answer in zip(TEXTS, engine.answer(subject(name), task(labels=order), items()), strict=True):
            anger, joy, fear = torch.softmax(logits(checkpoints / name, text), 0).tolist()
            assert answer.probabilities == pytest.approx([fear, anger, joy], abs=1e-5)  # type: ignore[union-attr]


def test_several_labels_per_item_are_sigmoids_and_may_be_some_of_the_heads(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    found = engine.answer(subject("bert-emotions"), task(labels=["fear", "anger"]), items(multi=True, labels=["fear"]))
    anger, _, fear = torch.sigmoid(logits(checkpoints / "bert-emotions", TEXTS[1])).tolist()
    assert found[1].probabilities == pytest.approx([fear, anger], abs=1e-5)  # type: ignore[union-attr]


def test_the_suite_can_say_that_items_have_several_labels(engine: TransformersEngine, subject: Make) -> None:
    (first, *_) = engine.answer(subject("bert-emotions"), task(multi_label=True), items(multi=False))
    assert sum(first.probabilities) != pytest.approx(1.0, abs=1e-3)  # type: ignore[union-attr]
    mixed = [*items(multi=True), *items(multi=False)]
    with pytest.raises(DataError, match="only some"):
        engine.answer(subject("bert-emotions"), task(), mixed)


def test_pairs_and_long_texts(engine: TransformersEngine, subject: Make, checkpoints: Path) -> None:
    found = engine.answer(subject("bert-emotions"), task(), items(pair="the lazy dog"))
    wanted = torch.softmax(logits(checkpoints / "bert-emotions", TEXTS[2], "the lazy dog"), 0).tolist()
    assert found[2].probabilities == pytest.approx(wanted, abs=1e-5)  # type: ignore[union-attr]
    assert engine.notes == []
    engine.answer(subject("bert-emotions"), task(), [replace(items()[0], text="q x " * 60), *items()])
    assert engine.notes == ["judge, bert-emotions: 1 of 5 items exceed the context; texts lost their right"]


def test_labels_that_the_model_does_not_know_are_refused_by_name(engine: TransformersEngine, subject: Make) -> None:
    strange = [*items(), LabelsItem(item_id="odd", text="x", labels=("boredom",), multi=False)]
    with pytest.raises(DataError, match="boredom") as caught:
        engine.answer(subject("bert-emotions"), task(), strange)
    assert "odd" in (caught.value.where or "")
    with pytest.raises(ConfigError, match=r"does not know the labels boredom \(the list has 2 labels, the head 3"):
        engine.answer(subject("bert-emotions"), task(labels=["joy", "boredom"]), items())
    with pytest.raises(ConfigError) as meant:
        engine.answer(subject("bert-emotions"), task(labels=["joy", "feer", "anger"]), items())
    assert (meant.value.problem, meant.value.remedy) == (
        "the head does not know the labels feer", "did you mean 'fear'?",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="also knows fear"):
        engine.answer(subject("bert-emotions"), task(labels=["joy", "anger"]), items())


def test_generic_label_names_need_the_suites_list(engine: TransformersEngine, subject: Make, checkpoints: Path) -> None:
    with pytest.raises(ConfigError, match="does not say what its labels are") as unnamed:
        engine.answer(subject("bert-generic"), task(), items())
    assert "--labels FILE" in (unnamed.value.remedy or "")
    with pytest.raises(ConfigError, match="3 labels, the head 2"):
        engine.answer(subject("bert-generic"), task(labels=["joy", "fear", "anger"]), items())
    found = engine.answer(subject("bert-generic"), task(labels=["joy", "fear"]), items())
    wanted = torch.softmax(logits(checkpoints / "bert-generic", TEXTS[0]), 0).tolist()
    assert found[0].probabilities == pytest.approx(wanted, abs=1e-5)  # type: ignore[union-attr]


def test_label_order(subject: Make) -> None:
    named = subject("bert-emotions", labels=("anger", "joy", "fear"))
    assert label_order(named, task()) == ("anger", "joy", "fear")
    assert label_order(named, task(labels=["joy", "fear"])) == ("joy", "fear")
    for labels in (None, ("LABEL_0", "LABEL_1")):
        with pytest.raises(ConfigError, match="suite"):
            label_order(subject("bert-generic", labels=labels), task())


def test_scores(engine: TransformersEngine, subject: Make, checkpoints: Path) -> None:
    asked = [ScoreItem(item_id=str(n), text=text, score=0.5) for n, text in enumerate(TEXTS)]
    for text, answer in zip(TEXTS, engine.answer(subject("bert-score"), task("score"), asked), strict=True):
        wanted = float(logits(checkpoints / "bert-score", text)[0])
        assert answer.value == pytest.approx(wanted, abs=1e-5)  # type: ignore[union-attr]
    with pytest.raises(EvaluationError, match="exactly one"):
        engine.answer(subject("bert-emotions"), task("score"), asked)
    with pytest.raises(EvaluationError, match="no choice among labels"):
        engine.answer(subject("bert-score"), task(labels=["joy"]), items())


@torch.no_grad()
def first_piece_tags(path: Path, words: Sequence[str]) -> list[str]:
    """Each word encoded by itself, so that the place of its first piece is known without an alignment."""
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    ids, firsts = [tokenizer.cls_token_id], []
    for word in words:
        firsts.append(len(ids))
        ids += tokenizer(word, add_special_tokens=False)["input_ids"]
    best = model(input_ids=torch.tensor([[*ids, tokenizer.sep_token_id]])).logits[0].argmax(-1)
    return [model.config.id2label[int(best[first])] for first in firsts]


def test_tags_are_read_at_the_first_piece_of_each_word(
    engine: TransformersEngine, subject: Make, checkpoints: Path
) -> None:
    sentences = [("Paris", "jumpsover", "the", "lazydogs"), ("xylophones", "fox"), ("capitals",) * 7]
    asked = [TokensItem(item_id=str(n), tokens=words, tags=("O",) * len(words)) for n, words in enumerate(sentences)]
    found = engine.answer(subject("bert-tags"), task("tokens"), asked)
    assert [list(answer.tags) for answer in found] == [  # type: ignore[union-attr]
        first_piece_tags(checkpoints / "bert-tags", words) for words in sentences
    ]
    assert len({tag for answer in found for tag in answer.tags}) > 1  # type: ignore[union-attr]


def test_words_beyond_the_context_are_counted(engine: TransformersEngine, subject: Make) -> None:
    words = ("fox", "\u200b") * 50  # one piece each, between [CLS] and [SEP], in a context of 64
    item = TokensItem(item_id="1", tokens=words, tags=("O",) * 100)
    (answer,) = engine.answer(subject("bert-tags"), task("tokens"), [item])
    assert isinstance(answer, TokensAnswer)
    assert (len(answer.tags), answer.cut) == (100, 38)
    assert set(answer.tags[-38:]) == {"O"}
    assert engine.notes == [
        "judge, bert-tags: 1 of 1 items exceed the context; items lost their last words, which count as O"
    ]


def test_tags_that_the_model_does_not_know(engine: TransformersEngine, subject: Make) -> None:
    item = TokensItem(item_id="1", tokens=("Paris",), tags=("B-LOC",))
    with pytest.raises(DataError, match="B-LOC"):
        engine.answer(subject("bert-tags"), task("tokens"), [item])


def test_byte_level_tokenizers_take_words(
    engine: TransformersEngine, subject: Make, checkpoints: Path, tmp_path: Path
) -> None:
    """A tokenizer that marks words by the space before them puts one before the first word too."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "gpt2")
    tokenizer.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**stored, "tokenizer_class": "GPT2Tokenizer"}))
    config = AutoModelForTokenClassification.from_pretrained(checkpoints / "bert-tags").config
    config.vocab_size = len(tokenizer)
    torch.manual_seed(1)
    model = AutoModelForTokenClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    words = ("the", "quick", "brown", "fox")
    item = TokensItem(item_id="1", tokens=words, tags=("O",) * 4)
    tagger = replace(subject("bert-tags"), path=tmp_path, tokenizer_path=tmp_path)
    (answer,) = engine.answer(tagger, task("tokens"), [item])
    ids, firsts = [], []
    for word in words:
        firsts.append(len(ids))
        ids += tokenizer(f" {word}")["input_ids"]
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1)
    assert list(answer.tags) == [config.id2label[int(best[first])] for first in firsts]  # type: ignore[union-attr]
