from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lorascope.errors import DataError
from lorascope.schema.items import ChoiceItem, GenerateItem, LabelsItem, LikelihoodItem
from lorascope.schema.recipe import RecipeTask
from lorascope.training.encoding import IGNORED, encode_items
from lorascope.training.from_scratch import byte_level_tokenizer

PROMPT = "Question: Where is Oslo?\nAnswer:"
CHATML = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer([PROMPT + " Norway 问题：首都？答案：北京"] * 3, vocab_size=320)


@pytest.fixture
def chat_tokenizer(tokenizer):
    made = byte_level_tokenizer([PROMPT], vocab_size=300)
    made.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    made.chat_template = CHATML
    return made


def task(**options):
    return RecipeTask(kind="generate", train="train.jsonl", **options)


def question(prompt=PROMPT, *references, messages=None):
    return GenerateItem(item_id="x", prompt=prompt, messages=messages, references=references or ("Norway",))


def encoded(items, tokenizer, **options):
    recipe = {name: options.pop(name) for name in ("answer_only", "max_length", "too_long") if name in options}
    return encode_items(items, task(**recipe), tokenizer, name="train", **options)


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


def test_the_answer_and_its_end_are_learned_and_nothing_else(tokenizer):
    (row,) = encoded([question()], tokenizer).rows
    assert learned(tokenizer, row) == " Norway</s>"
    given = row["labels"].count(IGNORED)
    assert row["input_ids"][:given] == tokenizer(PROMPT)["input_ids"]
    assert row["labels"][given:] == row["input_ids"][given:]


def test_the_first_reference_is_learned(tokenizer):
    (row,) = encoded([question(PROMPT, "Norway", "the north")], tokenizer).rows
    assert learned(tokenizer, row) == " Norway</s>"


def test_no_space_is_put_between_cjk_texts(tokenizer):
    (row,) = encoded([question("问题：首都？答案：", "北京")], tokenizer).rows
    assert tokenizer.decode(row["input_ids"]) == "<s>问题：首都？答案：北京</s>"
    assert learned(tokenizer, row) == "北京</s>"


def test_a_token_that_reaches_over_the_border_belongs_to_the_answer(tokenizer):
    prompt = "Question: Where is Oslo? "  # with the answer, the tokenizer joins the last space to its first word
    (row,) = encoded([question(prompt, "Where")], tokenizer).rows
    given = row["labels"].count(IGNORED)
    assert given < len(tokenizer(prompt)["input_ids"])
    assert learned(tokenizer, row) == " Where</s>"


def test_without_answer_only_all_but_the_first_token_is_learned(tokenizer):
    found = encoded([question()], tokenizer, answer_only=False)
    (row,) = found.rows
    assert row["labels"] == [IGNORED, *row["input_ids"][1:]]
    assert found.supervised == len(row["input_ids"]) - 1
    assert found.tokens == len(row["input_ids"])


def test_a_prompt_that_begins_with_the_start_token_gets_no_second_one(tokenizer):
    plain, written = encoded([question(), question("<s>" + PROMPT)], tokenizer).rows
    assert plain == written


def test_running_text_is_learned_whole_and_choices_by_the_right_one(tokenizer):
    text = LikelihoodItem(item_id="t", text="Where is Oslo?")
    choice = ChoiceItem(item_id="c", question="?", context="Question: Oslo?\nAnswer:", choices=("no", "yes"), answer=1)
    whole, chosen = encoded([text, choice], tokenizer).rows
    assert learned(tokenizer, whole) == "Where is Oslo?</s>"
    assert learned(tokenizer, chosen) == " yes</s>"


def test_a_tokenizer_that_ends_texts_itself_is_not_given_a_second_end():
    made = byte_level_tokenizer([PROMPT], vocab_size=300)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    (row,) = encoded([question()], made).rows
    assert made.decode(row["input_ids"]) == f"<s>{PROMPT} Norway</s>"
    assert learned(made, row) == " Norway</s>"


def test_text_without_a_prompt_begins_after_the_start_token_else_the_end_token():
    made = byte_level_tokenizer([PROMPT], vocab_size=300)
    made.backend_tokenizer.post_processor = processors.ByteLevel()  # as GPT-2's, which frames nothing
    text = LikelihoodItem(item_id="t", text="Oslo")
    whole, asked, bare = encoded([text, question(), question("")], made).rows
    assert made.decode(whole["input_ids"]) == "<s>Oslo</s>"
    assert learned(made, whole) == "Oslo</s>"
    assert made.decode(asked["input_ids"]) == f"{PROMPT} Norway</s>"
    assert learned(made, bare) == "Norway</s>"
    made.bos_token = None
    assert made.decode(encoded([text], made).rows[0]["input_ids"]) == "</s>Oslo</s>"


def test_without_an_end_token_a_note_says_so():
    made = byte_level_tokenizer([PROMPT], vocab_size=300)
    made.eos_token = None
    found = encoded([question()], made)
    assert learned(made, found.rows[0]) == " Norway"
    assert any("no end-of-text token" in note for note in found.notes)


def conversation(*turns):
    return tuple({"role": role, "content": content} for role, content in turns)


def test_chats_learn_the_last_answer_with_the_templates_own_end(chat_tokenizer):
    turns = conversation(("user", "Hi"), ("assistant", "Hello"), ("user", "Where is Oslo?"))
    (row,) = encoded([question(None, "Norway", messages=turns)], chat_tokenizer).rows
    assert learned(chat_tokenizer, row) == "Norway<|end|>"
    asked = chat_tokenizer.apply_chat_template([*turns], tokenize=False, add_generation_prompt=True)
    given = row["labels"].count(IGNORED)
    assert chat_tokenizer.decode(row["input_ids"][:given]) == asked
    assert row["input_ids"].count(chat_tokenizer.bos_token_id) == 1


def test_an_answer_that_looks_like_the_templates_end_is_found_all_the_same(chat_tokenizer):
    (row,) = encoded([question(None, "end", messages=conversation(("user", "the end?")))], chat_tokenizer).rows
    assert learned(chat_tokenizer, row) == "end<|end|>"


def test_a_template_without_an_end_of_its_own_gets_the_end_of_text(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (row,) = encoded([question(None, "Norway", messages=conversation(("user", "Oslo?")))], chat_tokenizer).rows
    assert learned(chat_tokenizer, row).endswith("Norway\n</s>")


def test_a_template_that_changes_earlier_turns_is_learned_as_it_is_asked(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{% if not loop.last or m.role == 'assistant' %}[{{ m.content }}]"
        "{% else %}({{ m.content }}){% endif %}{% endfor %}<|end|>"
    )
    turns = conversation(("user", "Oslo?"))
    (row,) = encoded([question(None, "Norway", messages=turns)], chat_tokenizer).rows
    asked = chat_tokenizer.apply_chat_template([*turns], tokenize=False, add_generation_prompt=True)
    assert chat_tokenizer.decode(row["input_ids"]) == asked + "Norway]<|end|>"


def test_messages_without_a_template_or_refused_by_it_name_the_item(chat_tokenizer):
    items = [question(), question(None, messages=conversation(("user", "Hi")))]
    chat_tokenizer.chat_template = "{{ raise_exception('only pairs') }}"
    with pytest.raises(DataError, match="only pairs") as caught:
        encoded(items, chat_tokenizer)
    assert caught.value.where == "train, item 2"
    chat_tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        encoded(items, chat_tokenizer)


LONG = question("Where is Oslo? " * 20 + "\nAnswer:", "Norway")


def test_a_long_prompt_loses_its_beginning_and_the_answer_nothing(tokenizer):
    found = encoded([question(), LONG], tokenizer, max_length=32)
    row = found.rows[1]
    assert len(row["input_ids"]) == 32
    assert row["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(row["input_ids"]).endswith("Answer: Norway</s>")
    assert learned(tokenizer, row) == " Norway</s>"
    assert (found.cut, found.left_out, found.kept) == (1, 0, (0, 1))
    assert found.notes == ("train: 1 of 2 items are longer than max_length = 32 and were cut",)


def test_an_answer_without_room_is_left_out_rather_than_cut(tokenizer):
    found = encoded([question(PROMPT, "Oslo " * 40), question()], tokenizer, max_length=32)
    assert (found.cut, found.left_out, found.kept) == (0, 1, (1,))
    assert "1 of 2 items were left out: their answer alone fills max_length = 32" in found.notes[0]


def test_a_long_running_text_loses_its_end(tokenizer):
    (row,) = encoded([LikelihoodItem(item_id="t", text="Where is Oslo? " * 20)], tokenizer, max_length=16).rows
    assert len(row["input_ids"]) == 16
    assert row["input_ids"] == tokenizer("Where is Oslo? " * 20)["input_ids"][:16]


def test_long_items_are_left_out_or_refused_where_asked(tokenizer):
    found = encoded([LONG, question()], tokenizer, max_length=32, too_long="leave_out")
    assert (found.left_out, found.kept) == (1, (1,))
    with pytest.raises(DataError, match="more than max_length = 32") as caught:
        encoded([question(), LONG], tokenizer, max_length=32, too_long="refuse")
    assert caught.value.where == "train, item 2"


def test_if_all_items_are_too_long_the_shortest_says_what_to_set(tokenizer):
    with pytest.raises(DataError) as caught:
        encoded([LONG, question()], tokenizer, max_length=4, too_long="leave_out")
    shortest = len(encoded([question()], tokenizer).rows[0]["input_ids"])
    assert f"the shortest has {shortest} tokens" in caught.value.problem
    assert f"set task.max_length to {shortest} or more" in str(caught.value.remedy)


def test_the_models_context_goes_before_a_larger_max_length(tokenizer):
    found = encoded([LONG], tokenizer, context_length=24)
    assert len(found.rows[0]["input_ids"]) == 24
    assert found.notes[0] == "max_length 1024 is above the model's context; 24 tokens hold"
    with pytest.raises(DataError) as caught:
        encoded([LONG], tokenizer, context_length=24, too_long="leave_out")
    assert "max_length" not in str(caught.value.remedy)


def test_empty_data_answers_and_foreign_items_are_refused_by_their_place(tokenizer):
    with pytest.raises(DataError, match="nothing to train"):
        encoded([], tokenizer)
    with pytest.raises(DataError, match="the answer is empty") as caught:
        encoded([question(), question(PROMPT, "  ")], tokenizer)
    assert caught.value.where == "train, item 2"
    with pytest.raises(DataError, match="LabelsItem holds no text"):
        encoded([LabelsItem(item_id="l", text="a", labels=("b",), multi=False)], tokenizer)


@pytest.fixture(scope="module")
def t5_like():
    """Unigram pieces with an end behind every text, as T5 has them, and no start token."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Nmt()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([PROMPT + " Norway"] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def test_an_encoder_decoder_reads_the_prompt_and_learns_the_answer(t5_like):
    found = encoded([question("Where is Oslo?")], t5_like, encoder_decoder=True, answer_only=False)
    (row,) = found.rows
    assert row["input_ids"] == t5_like("Where is Oslo?")["input_ids"]
    assert t5_like.decode(row["labels"]) == "Norway</s>"
    assert found.tokens == len(row["input_ids"]) + len(row["labels"])
    assert found.supervised == len(row["labels"])
    assert any("answer_only: false changes nothing" in note for note in found.notes)


def test_an_encoders_prompt_loses_its_beginning_but_not_its_end_token(t5_like):
    found = encoded([LONG], t5_like, encoder_decoder=True, max_length=12)
    (row,) = found.rows
    assert len(row["input_ids"]) == 12
    assert row["input_ids"][-1] == t5_like.eos_token_id
    assert t5_like.decode(row["input_ids"], skip_special_tokens=True).endswith("Answer:")
    assert found.cut == 1


def test_what_a_decoder_cannot_write_is_left_out(t5_like):
    items = [question("Oslo?", "Where is Oslo? " * 9), question("Oslo?")]
    found = encoded(items, t5_like, encoder_decoder=True, target_length=10)
    assert found.kept == (1,)
    with pytest.raises(DataError, match=r"the answer has .* the model's context of 10 tokens"):
        encoded(items, t5_like, encoder_decoder=True, target_length=10, too_long="refuse")
    with pytest.raises(DataError, match="running text cannot be learned"):
        encoded([LikelihoodItem(item_id="t", text="a")], t5_like, encoder_decoder=True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ 'a' * 10 ** 15 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_cannot_be_worked_out_is_named(chat_tokenizer, template):
    chat_tokenizer.chat_template = template
    messages = ({"role": "user", "content": "Hi"},)
    with pytest.raises(DataError, match="chat template") as caught:
        encoded([question(None, "Hello", messages=messages)], chat_tokenizer)
    assert caught.value.where == "train, item 1"
