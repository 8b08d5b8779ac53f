"""Each cause is claimed on its evidence alone: false claims hide losses or accuse the wrong thing."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any, get_args

import pytest

from lorascope.measures.answer_forms import answer_key, given_form
from lorascope.measures.causes import BrokenText, cause_of_choice, cause_of_text, label_changes
from lorascope.measures.repetition import ending_loop
from lorascope.measures.writing import main_writing
from lorascope.schema.flips import CauseName

LOST: dict[str, Any] = {"gold_before": -2.0, "gold_after": -9.0}


def broken(reference: str, adapted: str, **known: Any) -> BrokenText:
    return BrokenText(**{"references": [reference], "base": reference, "adapted": adapted} | LOST | known)


def name_of(reference: str, adapted: str, **known: Any) -> str:
    return cause_of_text(broken(reference, adapted, **known)).name


SAME_BUT_FOR_FORM = [
    ("1000", "1,000"),
    ("1,000", "1000"),
    ("1000", "１０００"),
    ("3.5", "3.50"),
    ("Paris", "“Paris”"),
    ("Paris", "Paris."),
    ("Paris", "**Paris**"),
    ("Paris", "Answer: Paris"),
    ("Eiffel Tower", "The Eiffel Tower"),
    ("twenty one", "twenty-one"),
    ("3", "three"),
    ("三", "3"),
    ("北京", "北京。"),
    ("北京", "《北京》"),
    ("B", "答案：B"),
    ("return x + 1", "```python\nreturn x + 1\n```"),
    ("B", "(B)"),
    ("42", "\\boxed{42}"),
]
GIVEN_IN_MORE_WORDS = [
    ("Paris", "The capital of France is Paris."),
    ("Paris", "Paris, the capital of France."),
    ("Paris", "Paris\nQ: What is the capital of Italy?\nA: Rome"),
    ("42", "It costs 42 dollars."),
    ("42", '{"answer": 42}'),
    ("1000", "Adding them up, the answer is 1,000."),
    ("no", "No, it is not."),
    ("yes", "I checked twice.\nYes"),
    ("B", "B) Lyon"),
    ("B", "The answer is B because A is wrong."),
    ("B", "我选B"),
    ("B", "答案是B，因为A不对。"),
    ("北京", "中国的首都是北京。"),
    ("北京", "答案是北京。"),
    ("是", "是，没错。"),
    ("positive", "The review is clearly positive."),
    ("the order can be returned within thirty days", "Yes: the order can be returned within thirty days."),
    ("Java", "我认为答案是Java"),
    ("处理文本的库", "这个软件包是处理文本的库。"),
    ("GNOME mail client", "It is the GNOME mail client."),
    ("GNOME mail client", "This package is called GNOME mail client"),
    ("Paris", "Answer: London\nNo, wait. Answer: Paris"),
    ("Paris", "Paris is the capital of France."),
    ("42", "The answer is 42 apples."),
    ("Paris", "The answer is Paris, not London."),
    ("Paris", "It is not London, it is Paris."),
    ("Paris", "I'm sorry, but I cannot be sure: the answer is Paris."),
]
NOT_GIVEN = [
    ("no", "I know nothing of it."),
    ("no", "There is no doubt."),
    ("no", "No one knows."),
    ("no", "No. 5 is the best."),
    ("yes", "Yesterday it rained."),
    ("A", "A man walks."),
    ("A", "Vitamin A is a vitamin, but the answer is C."),
    ("C", "C++"),
    ("C", "C#"),
    ("4", "In step 4 we get 7."),
    ("5", "-5"),
    ("5", "5%"),
    ("10", "10-12"),
    ("42", "42 + x"),
    ("10", "100"),
    ("1.2", "version 1.2.3"),
    ("Paris", "It is not Paris but London."),
    ("Paris", "Paris or London"),
    ("Paris", "Paris is not the capital."),
    ("3", "Version 3 doesn't exist."),
    ("1", "1. First we look at it."),
    ("4", "In step 4 it stops."),
    ("4", "第4步是检查。"),
    ("Paris", "Paris, or maybe London"),
    ("42", "42, then more: 43"),
    ("Paris", "Unlike Paris, London is the capital."),
    ("Paris", "The answer is London. Paris is the capital of France."),
    ("Paris", "He met Paris Hilton."),
    ("York", "I live in New York"),
    ("Vitamin A", "Vitamin C"),
    ("x + 1", "x - 1"),
    ("a == b", "a != b"),
    ("x2 = 4", "x² = 4"),
    ("positive", "The review is negative, despite positive aspects."),
    ("positive", "positive or negative"),
    ("是", "不是"),
    ("是", "这是一个问题。"),
    ("北京", "我在北京大学读书。"),
    ("北京", "首都不是北京。"),
    ("北京", "北京不是首都。"),
    ("正面", "评价是负面的，没有正面内容。"),
    ("café", "caf"),
    ("!", "?"),
    ("Paris", "Answer: Paris\nNo, wait. Answer: London"),
    ("Paris", "Paris\nActually it's London"),
    ("42", "The answer is 42. Wait, actually 43"),
    ("Paris", "Berlin, Paris, London"),
    ("Paris", "Paris, London, Berlin"),
    ("Paris", "The answer is Paris, London"),
    ("Paris", "Paris\nLondon\nBerlin"),
    ("Paris", "London\nBerlin\nParis"),
    ("Paris", "London\nParis\nBerlin"),
    ("A", "A, B"),
    ("A", "(A), (B)"),
    ("A", "A and B"),
    ("Paris", "Anything but Paris"),
    ("Paris", "I doubt it is Paris"),
    ("Paris", "I doubt the answer is Paris"),
    ("Paris", "I don't think that it could be Paris"),
    ("Paris", "He hates Paris"),
    ("Paris", "Paris is wrong."),
    ("5", "5 million"),
    ("5", "The answer is 5 million."),
    ("5", "It costs 5 million dollars."),
    ("5", "The answer is 5 percent"),
    ("5", "5 万"),
    ("5", "5 and a half"),
    ("GNU C preprocessor", "GNU C preprocessor (cpp) for the mips64 architecture"),
    ("GNU C preprocessor", "The answer is GNU C preprocessor for mips64"),
    ("GNOME mail client", "GNOME mail client (old version)"),
    ("GNOME mail client", "GNOME mail client - documentation"),
    ("GNOME mail client", "GNOME mail client, old version"),
    ("GNOME mail client", "GNOME mail client development files"),
    ("GNOME mail client", "alternative to the GNOME mail client"),
    ("mail client", "The answer is mail client documentation"),
    ("处理文本的库", "处理文本的库的文档"),
]


@pytest.mark.parametrize(("reference", "adapted"), [*SAME_BUT_FOR_FORM, *GIVEN_IN_MORE_WORDS])
def test_the_right_answer_in_another_form_is_format_even_where_its_probability_fell(
    reference: str, adapted: str
) -> None:
    assert name_of(reference, adapted) == "format"


@pytest.mark.parametrize(("reference", "adapted"), SAME_BUT_FOR_FORM)
def test_forms_of_one_answer_are_equal(reference: str, adapted: str) -> None:
    assert given_form(adapted, reference) == "equal"


@pytest.mark.parametrize(("reference", "adapted"), NOT_GIVEN)
def test_a_wrong_answer_is_never_called_a_matter_of_format(reference: str, adapted: str) -> None:
    assert given_form(adapted, reference) is None
    assert name_of(reference, adapted, prompt=adapted) == "knowledge_loss"


def test_other_labels_of_the_task_are_rivals() -> None:
    said = "Mostly games of all kinds; it is about sound."
    assert given_form(said, "sound") == "inside"
    assert given_form(said, "sound", ["games", "mail"]) is None
    assert given_form("Sound: it is not for games.", "sound", ["games"]) is None
    assert given_form("very positive", "positive", ["very positive"]) is None
    assert given_form("It is very positive.", "very positive", ["positive"]) == "inside"


def test_keys_keep_what_tells_answers_apart() -> None:
    assert answer_key("The 1,000.0 'cats'") == ("1000", "cats")
    assert answer_key("vitamin A") == ("vitamin", "a")
    assert answer_key("-5") != answer_key("5")
    assert answer_key("…!?") == ()


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b\ufeff "])
def test_nothing_but_white_space_is_empty(text: str) -> None:
    assert name_of("Paris", text) == "empty"


def test_an_answer_that_a_stop_string_ended_at_once_is_empty_and_says_so() -> None:
    cause = cause_of_text(broken("Paris", "", stop="\n"))
    assert cause.name == "empty"
    assert "'\\n'" in cause.evidence


LOOPS = [
    ("the cat sat on the mat. " * 4, 4),
    ("Paris Paris Paris Paris Paris Paris Paris Paris Paris Paris Paris Paris", 12),
    ("我不知道。我不知道。我不知道。我不知道。", 4),
    ("It begins well, then a b c a b c a b c a b c a b", 4),
    ("hahahahahahahaha", 8),
    ("!" * 60, 60),
]
NO_LOOPS = [
    "no no no",
    "Paris, London, Rome, Paris, London, Rome",
    "1. a thing 2. a thing 3. a thing 4. a thing 5. a thing",
    "def f():\n    if x:\n        if y:\n            return {{{}}}",
    "1000000000000000000",
    "| --- | --- | --- |",
    "Mississippi",
    "x",
    "",
]


@pytest.mark.parametrize(("text", "times"), LOOPS)
def test_loops_at_the_end(text: str, times: int) -> None:
    loop = ending_loop(text)
    assert loop is not None
    assert loop.times == times
    assert name_of("42", text) == "repetition"


@pytest.mark.parametrize("text", NO_LOOPS)
def test_lists_and_code_are_no_loops(text: str) -> None:
    assert ending_loop(text) is None


def test_a_loop_that_the_base_ends_in_too_is_no_cause() -> None:
    song = "la la la la la la la la la la la la la"
    assert name_of(song, song + " la") != "repetition"


def test_a_loop_comes_before_the_cut_that_ended_it() -> None:
    assert name_of("Paris", "I think that " * 20, truncated=True) == "repetition"


def test_cut_by_the_limit_while_the_base_finished() -> None:
    cause = cause_of_text(broken("Paris", "Let us think about France and its", truncated=True))
    assert cause.name == "truncated"
    assert "33 characters" in cause.evidence


@pytest.mark.parametrize(
    ("reference", "adapted"),
    [
        ("the order can be returned within thirty days", "The order can be returned within th"),
        ("42", "There are some apples in the basket and"),
        ("Paris", "<think>\nIt is London. Therefore"),
        ("Paris", "Okay, let me think. France is a country. It"),
        ("巴黎", "首先，我们看一下法国的"),
    ],
)
def test_a_text_that_was_cut_before_it_came_to_an_answer(reference: str, adapted: str) -> None:
    assert name_of(reference, adapted, truncated=True) == "truncated"


@pytest.mark.parametrize(
    ("reference", "adapted"),
    [
        ("Paris", "London. London is the capital of England and it has many museums, and the river"),
        ("Paris", "London is a big city and it has many"),
        ("GNOME mail client", "KDE office suite\n\nThis package provides the office suite for"),
        ("42", "There are 17 apples in the basket and"),
        ("42", "There are seventeen apples in the basket and"),
        ("Paris", "Let us think. The answer is London and"),
        ("Paris", "<think>\nhm\n</think>\nLondon is"),
    ],
)
def test_a_wrong_answer_that_rambles_to_the_limit_is_not_truncated(reference: str, adapted: str) -> None:
    assert name_of(reference, adapted, truncated=True) == "knowledge_loss"


def test_an_extracted_wrong_answer_before_a_cut_is_not_truncated() -> None:
    known = {"extracts": True, "base_part": "42", "adapted_part": "17", "base": "#### 42", "truncated": True}
    assert name_of("42", "#### 17\nLet us go on and", **known) == "knowledge_loss"


def test_a_cut_after_the_answer_is_format_and_a_cut_of_both_is_not_the_cause() -> None:
    assert name_of("Paris", "The answer is Paris. Let us now think", truncated=True) == "format"
    assert name_of("Paris", "Let us think about", truncated=True, base_truncated=True) == "knowledge_loss"


def test_a_cut_before_the_pattern_came_is_the_cause_even_if_the_answer_stands_in_the_reasoning() -> None:
    known = {"extracts": True, "base_part": "42", "adapted_part": None, "base": "#### 42"}
    assert name_of("42", "6 times 7 is 42, and so", truncated=True, **known) == "truncated"


@pytest.mark.parametrize(
    ("reference", "adapted", "known"),
    [
        ("Paris", "My answer is (", {"stop": "\n"}),
        ("Paris", "Here is the answer:", {"stop": "\n"}),
        ("print(1)", "```python", {"stop": "\n"}),
        ("巴黎", "答案如下：", {"stop": "\n"}),
        ("42", "Six times seven", {"stop": "\n", "extracts": True, "base_part": "42", "base": "#### 42"}),
    ],
)
def test_stop_strings_that_cut_an_answer(reference: str, adapted: str, known: dict[str, Any]) -> None:
    assert name_of(reference, adapted, **known) == "stop_string"


def test_a_stop_string_that_ends_a_finished_answer_is_not_the_cause() -> None:
    assert name_of("Paris", "London", stop="\n") == "knowledge_loss"
    assert name_of("New York City", "New York", stop="\n") == "knowledge_loss"
    known = {"extracts": True, "base_part": "42", "base": "#### 42", "stop": "\n"}
    assert name_of("42", "It is 17", **known, base_stop="\n") == "knowledge_loss"
    assert name_of("42", "It is 42", **known) == "format"
    assert name_of("Paris", "It is Paris", stop="\n") == "format"


@pytest.mark.parametrize(
    ("reference", "adapted", "prompt"),
    [
        ("该订单可在七天内退货。", "The order can be returned within seven days.", "如何退货？"),
        ("The order can be returned.", "该订单可以在七天内退货。", "How do I return it?"),
        ("Hello, how are you?", "你好，你怎么样？", "翻译成英文：你好，你怎么样？"),
        ("北京", "Beijing", "中国的首都是哪里？"),
        ("yes", "是", "Is the sky blue?"),
        ("The answer is simple enough.", "Ответ достаточно прост.", "Why?"),
        ("软件包提供了工具。", "このパッケージはツールを提供します。", "这是什么？"),
    ],
)
def test_another_script_than_reference_and_base(reference: str, adapted: str, prompt: str) -> None:
    assert name_of(reference, adapted, prompt=prompt) == "language_switch"


@pytest.mark.parametrize(
    ("reference", "adapted", "prompt"),
    [
        ("Java", "我认为是另一种语言", "哪种编程语言？"),
        ("42", "四十三只猫在这里", "多少？"),
        ("pi", "π", "Which number?"),
        ("北京市", "GDP", "哪里？"),
        ("使用Python编程的方法", "使用Java编程的办法", "怎么做？"),
        ("The sum of the parts", "La somme des parties", "What?"),
        ("東京大学", "大阪です", "どこですか"),
        ("软件包说明", "Noto 字体集合: Noto Sans, Noto Serif, Noto Mono, Noto Kufi", "字体？"),
        ("软件包说明", "https://example.com/a/page <b></b>", "链接？"),
    ],
)
def test_names_signs_and_languages_of_one_script_are_no_switch(reference: str, adapted: str, prompt: str) -> None:
    assert name_of(reference, adapted, prompt=prompt) == "knowledge_loss"


def test_the_script_of_a_text() -> None:
    chinese = main_writing("使用Python 3编程")
    assert chinese is not None
    assert chinese.script == "Chinese characters"
    assert main_writing("123 …") is None
    assert main_writing("我 am 你 is") is None


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I am sorry, I cannot answer this question.",
    "Sorry, I can't.",
    "I cannot assist with this request.",
    "I’m unable to provide that.",
    "As an AI language model, I have no opinions.",
    "I apologize, but I am not able to provide this information.",
    "I must respectfully decline.",
    "很抱歉，我无法回答这个问题。",
    "对不起，我不能提供该信息。",
    "作为一个人工智能语言模型，我没有个人观点。",
    "我无法回答您的问题。",
]
NO_REFUSALS = [
    "I cannot recommend this film enough.",
    "I'm sorry for your loss.",
    "I can help with that.",
    "The user cannot answer this question.",
    "It said: I cannot help with that.",
    "我不能确定是哪一条河。",
    "I don't know.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals(text: str) -> None:
    assert name_of("42", text, prompt=text) == "refusal"


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_sentences_that_only_look_like_refusals(text: str) -> None:
    assert name_of("42", text, prompt=text) == "knowledge_loss"


def test_a_refusal_that_the_base_gives_too_is_no_cause() -> None:
    right = "I'm sorry, but I can't help with orders; please call us."
    assert name_of(right, "I'm sorry, but I can't help with that.") == "knowledge_loss"


def test_a_right_long_answer_with_a_refusing_sentence_is_format() -> None:
    said = "The river is the Nile. I cannot answer more than that."
    assert name_of("the river is the nile", said) == "format"


def test_a_pattern_that_finds_nothing_is_format_only_where_the_text_gives_the_answer() -> None:
    known = {"extracts": True, "base_part": "42", "base": "#### 42"}
    given = cause_of_text(broken("42", "The result is 42.", adapted_part=None, **known))
    assert (given.name, "does not match" in given.evidence) == ("format", True)
    wrong = cause_of_text(broken("42", "The result is 17.", adapted_part=None, **known))
    assert (wrong.name, "does not match; it found “42”" in wrong.evidence) == ("knowledge_loss", True)
    dark = cause_of_text(broken("42", "The result is 17.", adapted_part=None, **known, gold_before=None))
    assert (dark.name, "does not match" in dark.evidence) == ("unexplained", True)
    assert name_of("42", "I get #### 17", adapted_part="17", **known) == "knowledge_loss"
    assert name_of("1000", "#### 1,000", adapted_part="1,000", **known) == "format"
    assert name_of("42", "42 is not it: #### 17", adapted_part="17", **known) == "knowledge_loss"


def test_knowledge_loss_needs_a_noticeable_fall_for_each_token() -> None:
    numbers = {"gold_before": -2.0, "gold_after": -2.5}
    assert name_of("Paris", "London", **numbers) == "knowledge_loss"
    assert name_of("Paris", "London", **numbers, gold_tokens=5) == "unexplained"
    assert name_of("one two three four five six", "seven", **numbers) == "unexplained"
    cause = cause_of_text(broken("Paris", "London", **numbers, gold_tokens=2))
    assert cause.evidence == "log-probability of the reference -2.00 → -2.50 nats, 0.25 less per token"


def test_what_is_not_known_is_unexplained() -> None:
    cause = cause_of_text(broken("Paris", "London", gold_before=None, gold_after=-3.0))
    assert (cause.name, "not known" in cause.evidence) == ("unexplained", True)
    assert name_of("Paris", "London", gold_before=-2.0, gold_after=-1.5) == "unexplained"


def test_any_reference_counts() -> None:
    known = broken("Paris", "The city is Lutetia.")
    several = BrokenText(references=["Paris", "Lutetia"], base="Paris", adapted=known.adapted, **LOST)
    assert cause_of_text(several).name == "format"


def test_choices_lose_their_margin() -> None:
    cause = cause_of_choice([-1.0, -2.0, -3.0], [-2.0, -1.5, -3.0], 0, ["Paris", "Rome", "Bonn"])
    assert cause.name == "knowledge_loss"
    assert "+1.00 → -0.50 nats" in cause.evidence
    assert "Rome" in cause.evidence
    tie = cause_of_choice([-1.0, -1.03], [-1.0, -0.98], 0, ["Paris", "Rome"])
    assert (tie.name, tie.evidence.startswith("a near tie")) == ("unexplained", True)


def test_a_choice_that_a_rival_overtook_is_no_loss_of_knowledge() -> None:
    overtaken = cause_of_choice([-10.0, -11.0], [-5.0, -4.0], 0, ["Paris", "Rome"])
    assert overtaken.name == "unexplained"
    assert overtaken.evidence.startswith("a rival's log-probability rose more")


def test_labels_lost_and_added() -> None:
    assert label_changes(["a", "b"], ["a", "b"], ["a", "c"]) == "lost: b; added: c"
    assert label_changes(["a"], ["a"], ["a", "c"]) == "added: c"
    assert label_changes([], [], []) == ""


def test_every_cause_occurs_and_every_evidence_is_short() -> None:
    long = " ".join("w" + "abcdefghij"[number // 10 % 10] + "klmnopqrst"[number % 10] for number in range(100))
    found = [
        cause_of_text(broken("42", "")),
        cause_of_text(broken("42", "I think " * 30)),
        cause_of_text(broken("42", long, truncated=True)),
        cause_of_text(broken("42", f"{long} Answer:", stop="\n")),
        cause_of_text(broken("the answer to it", "".join(map(chr, range(0x4E00, 0x4F00))), prompt="why")),
        cause_of_text(broken("42", REFUSALS[0] + long)),
        cause_of_text(broken("the answer", f"{long}. It is the answer.")),
        cause_of_text(broken("42", long)),
        cause_of_text(broken("42", long, gold_before=None)),
    ]
    assert [cause.name for cause in found] == list(get_args(CauseName))
    assert all(10 < len(cause.evidence) < 260 for cause in found)


def test_two_thousand_broken_answers_take_a_second_or_two() -> None:
    words = " ".join(f"reading{number} and writing files" for number in range(12))
    items = [broken(f"the package number {at} has tools", f"A library {at} for " + words) for at in range(2_000)]
    started = time.process_time()
    assert {cause_of_text(item).name for item in items} == {"knowledge_loss"}
    assert time.process_time() - started < 2.0


def test_long_texts_leave_nothing_in_memory_and_take_linear_time() -> None:
    tracemalloc.start()
    for number in range(100):
        given_form(f"{number} " + "word number of this text " * 200 + " Paris", "Paris")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 12 * 2**20
    started = time.process_time()
    assert main_writing("描述软件包，" * 10_000) is not None
    assert main_writing("ab" * 30_000 + " c") is not None
    assert given_form("结果" + " " * 20_000 + "x", "y x") is None
    assert time.process_time() - started < 2.0


def test_addresses_are_no_language() -> None:
    found = main_writing("联系a.person@mail.example.org谢谢")
    assert found is not None
    assert (found.script, found.share) == ("Chinese characters", 1.0)
