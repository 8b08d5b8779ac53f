from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lorascope.errors import CheckpointError, ConfigError, DataError
from lorascope.schema.items import LabelsItem, ScoreItem, TokensItem
from lorascope.schema.recipe import RecipeTask
from lorascope.training.encoding import IGNORED, encode_items

LABELS = ("art", "music", "sport")
TAGS = ("O", "B-LOC", "I-LOC")


@pytest.fixture(scope="module")
def tokenizer():
    """BERT's frame around texts and pairs, few whole words and all single letters."""
    words = ["the", "quick", "fox", "in", "new", "york", "a"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *"bcdefghijklmnopqrstuvwxyz"]
    vocabulary += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.WordPiece({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def labelled(*labels, text="the quick fox", pair=None, multi=False):
    return LabelsItem(item_id="x", text=text, text_pair=pair, labels=labels, multi=multi)


def encoded(items, tokenizer, kind="labels", *, labels=LABELS, multi_label=False, context_length=None, **recipe):
    return encode_items(
        items,
        RecipeTask(kind=kind, train="t.jsonl", **recipe),
        tokenizer,
        name="train",
        labels=labels,
        multi_label=multi_label,
        context_length=context_length,
    )


def test_a_single_label_is_its_place_in_the_list(tokenizer):
    found = encoded([labelled("sport"), labelled("art")], tokenizer)
    assert [row["labels"] for row in found.rows] == [2, 0]
    assert found.rows[0]["input_ids"] == tokenizer("the quick fox")["input_ids"]
    assert found.supervised == 2
    assert "attention_mask" not in found.rows[0]


def test_several_labels_are_a_vector_and_none_is_one_of_zeros(tokenizer):
    items = [labelled("sport", "art", multi=True), labelled(multi=True)]
    found = encoded(items, tokenizer, multi_label=True)
    assert [row["labels"] for row in found.rows] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert found.supervised == 2


def test_pairs_and_single_texts_keep_their_order_and_their_segments(tokenizer):
    items = [labelled("art", pair="new york"), labelled("music"), labelled("art", pair="the fox")]
    rows = encoded(items, tokenizer).rows
    assert rows[0]["input_ids"] == tokenizer("the quick fox", "new york")["input_ids"]
    assert rows[0]["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert rows[1]["token_type_ids"] == [0] * 5
    assert [row["labels"] for row in rows] == [0, 1, 0]


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer):
    found = encoded([labelled("art", text="fox " * 30, pair="new york")], tokenizer, max_length=12)
    (row,) = found.rows
    assert len(row["input_ids"]) == 12
    assert tokenizer.decode(row["input_ids"]).endswith("[SEP] new york [SEP]")
    assert found.cut == 1


def test_unknown_labels_are_named_with_their_place_and_the_nearest(tokenizer):
    with pytest.raises(DataError) as caught:
        encoded([labelled("art"), labelled("musik"), labelled("zz")], tokenizer)
    assert "musik, zz" in caught.value.problem
    assert caught.value.where == "train, item 2"
    assert "did you mean 'music'?" in str(caught.value.remedy)


def test_two_labels_where_each_item_has_one_are_refused(tokenizer):
    with pytest.raises(DataError, match="has 2 labels"):
        encoded([labelled("art", "music", multi=True)], tokenizer)


def test_scores_are_floats_and_have_to_be_finite(tokenizer):
    scores = [ScoreItem(item_id="s", text="the fox", text_pair="new york", score=score) for score in (3, -0.5)]
    assert [row["labels"] for row in encoded(scores, tokenizer, "score").rows] == [3.0, -0.5]
    assert all(isinstance(row["labels"], float) for row in encoded(scores, tokenizer, "score").rows)
    with pytest.raises(DataError, match="the score is nan"):
        encoded([ScoreItem(item_id="s", text="a", score=float("nan"))], tokenizer, "score")


def test_items_of_another_kind_are_refused(tokenizer):
    with pytest.raises(DataError, match="LabelsItem stands where the task needs a ScoreItem"):
        encoded([labelled("art")], tokenizer, "score")


def test_long_texts_are_cut_left_out_or_refused(tokenizer):
    items = [labelled("art", text="fox " * 30), labelled("music")]
    cut = encoded(items, tokenizer, max_length=8)
    assert [len(row["input_ids"]) for row in cut.rows] == [8, 5]
    assert cut.rows[0]["labels"] == 0
    assert encoded(items, tokenizer, max_length=8, too_long="leave_out").kept == (1,)
    with pytest.raises(DataError, match="32 tokens, more than max_length = 8"):
        encoded(items, tokenizer, max_length=8, too_long="refuse")
    with pytest.raises(DataError, match="the shortest has 5 tokens"):
        encoded(items, tokenizer, max_length=4, too_long="leave_out")


def test_a_length_without_room_beside_the_special_tokens_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="no room for text"):
        encoded([labelled("art", pair="the fox")], tokenizer, context_length=3)


def tagged(words, tags):
    return TokensItem(item_id="t", tokens=tuple(words.split()), tags=tuple(tags.split()))


def test_the_first_sub_token_of_a_word_carries_its_tag(tokenizer):
    found = encoded([tagged("fox in foxes york", "O O B-LOC I-LOC")], tokenizer, "tokens", labels=TAGS)
    (row,) = found.rows
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == [
        "[CLS]", "fox", "in", "fox", "##e", "##s", "york", "[SEP]",
    ]  # fmt: skip
    assert row["labels"] == [IGNORED, 0, 0, 1, IGNORED, IGNORED, 2, IGNORED]
    assert found.supervised == 4


def test_words_that_the_tokenizer_drops_or_cuts_are_not_learned(tokenizer):
    dropped = encoded([tagged("fox \u00ad york", "O B-LOC I-LOC")], tokenizer, "tokens", labels=TAGS)
    assert dropped.rows[0]["labels"] == [IGNORED, 0, 2, IGNORED]
    cut = encoded([tagged("fox in new york the", "O O B-LOC I-LOC O")], tokenizer, "tokens", labels=TAGS, max_length=5)
    assert cut.rows[0]["labels"] == [IGNORED, 0, 0, 1, IGNORED]
    assert cut.cut == 1
    with pytest.raises(DataError, match="has a token to learn from"):
        encoded([tagged("\u00ad", "O")], tokenizer, "tokens", labels=TAGS)


def test_unknown_tags_and_slow_tokenizers_are_refused(tokenizer):
    with pytest.raises(DataError, match="does not have B-PER"):
        encoded([tagged("fox", "B-PER")], tokenizer, "tokens", labels=TAGS)

    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="maps sub-tokens to words"):
        encoded([tagged("fox", "O")], Slow(), "tokens", labels=TAGS)
