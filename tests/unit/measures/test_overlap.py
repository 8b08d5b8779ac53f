"""Overlap with training texts: each kind by an example of its own, and what must not count."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from lorascope.measures.overlap import MOST_COMPARED, Overlap, find_overlaps

_RANDOM = random.Random(5)
_VOCABULARY = [f"w{number}" for number in range(2_000)]


def sentence(words: int) -> list[str]:
    return [_RANDOM.choice(_VOCABULARY) for _ in range(words)]


def text(*parts: Sequence[str]) -> str:
    return " ".join(word for part in parts for word in part)


POOL = [text(sentence(40)) for _ in range(60)]


def only(evaluated: str, training: Sequence[str] = POOL) -> Overlap:
    return find_overlaps([evaluated], training)[0]


def test_new_texts_are_clean() -> None:
    found = only(text(sentence(40)))
    assert (found.exact, found.long_share, found.short_share, found.similarity) == (False, 0.0, 0.0, None)
    assert (found.kinds, found.leaked, found.nearest) == ((), False, None)


def test_copies_up_to_case_and_white_space() -> None:
    found = only("  " + POOL[17].upper().replace(" ", "\n "))
    assert found.kinds == ("exact", "near_duplicate", "13-gram", "8-gram")
    assert (found.nearest, found.similarity, found.long_share) == (17, 1.0, 1.0)


def test_other_punctuation_is_a_near_duplicate_and_no_copy() -> None:
    found = only(POOL[3] + "!")
    assert (found.exact, found.similarity, found.nearest) == (False, 1.0, 3)


def test_one_word_in_forty_changed_is_a_near_duplicate() -> None:
    words = POOL[8].split()
    words[20] = "changed"
    found = only(" ".join(words))
    assert "near_duplicate" in found.kinds
    assert found.similarity == pytest.approx(35 / 41)
    assert found.nearest == 8


@pytest.mark.parametrize(("shared", "kinds"), [(12, ()), (13, ("13-gram",))])
def test_a_shared_run_of_thirteen_words(shared: int, kinds: tuple[str, ...]) -> None:
    run = POOL[30].split()[5 : 5 + shared]
    found = only(text(sentence(15), run, sentence(15)))
    assert found.kinds == kinds
    assert found.nearest == 30
    assert (found.short_share or 0) == pytest.approx((shared - 7) / (30 + shared - 7))


def test_most_eight_grams_may_come_from_several_texts() -> None:
    found = only(text(POOL[1].split()[:12], POOL[2].split()[:12], POOL[4].split()[:12]), POOL)
    assert found.long_share == 0.0
    assert found.short_share == pytest.approx(15 / 29)
    assert found.kinds == ()
    pieces = [text(sentence(3), POOL[1].split()[at : at + 12], sentence(3)) for at in (0, 5, 10, 15)]
    assert only(" ".join(POOL[1].split()[:27]), pieces).kinds == ("8-gram",)


def test_templates_do_not_count() -> None:
    head = "please read the following text carefully and then answer the question that stands below it"
    tail = "give your answer in one short sentence and do not add anything else to it at all"
    evaluated = [f"{head} {text(sentence(9))} {tail}" for _ in range(5)]
    training = [f"{head} {text(sentence(9))} {tail}" for _ in range(30)]
    assert [found.leaked for found in find_overlaps(evaluated, training)] == [False] * 5
    leaked = find_overlaps([*evaluated, training[7]], training)[-1]
    assert (leaked.exact, leaked.nearest) == (True, 7)


def test_templates_in_the_middle_are_set_phrases() -> None:
    middle = "now consider all of the facts above and answer the question that stands right here below"
    evaluated = [text(sentence(20), middle.split(), sentence(20)) for _ in range(5)]
    training = [text(sentence(20), middle.split(), sentence(20)) for _ in range(30)]
    assert not any(found.leaked for found in find_overlaps(evaluated, training))
    assert all(found.leaked for found in find_overlaps(evaluated, training[:10]))


CHINESE = "这是一款功能全面并且跨越多个平台的图形界面客户端程序它可以在后台运行并通过网页远程控制下载任务的进度和速度"


def test_chinese_counts_by_character_at_twice_the_length() -> None:
    other = "另外一个完全不同的说明文字用于描述科学计算所需要的各种数值方法库以及它们的命令行工具和文档内容"
    for shared, leaked in ((25, False), (26, True)):
        found = only(other[:20] + CHINESE[:shared] + other[20:], [other[::-1], CHINESE])
        assert found.leaked is leaked
        assert found.nearest == 1
    near = only(CHINESE[:25] + "新" + CHINESE[26:], [other, CHINESE])
    assert "near_duplicate" in near.kinds
    assert only(CHINESE, [other]).kinds == ()


def test_of_short_texts_only_copies_count() -> None:
    found = find_overlaps(["two words", "what is 3 - 4?", "猫"], ["Two  words", "what is 3 + 4?", "猫"])
    assert [each.kinds for each in found] == [("exact",), (), ("exact",)]
    assert [each.short_share for each in found] == [None] * 3


def test_nothing_to_compare_with() -> None:
    assert find_overlaps([], POOL) == []
    assert only("a text", []) == Overlap(False, None, None, None, None)
    assert only("???", ["???"]).exact
    assert not only("", ["", "x"]).similarity


def test_seed_and_order_do_not_change_what_is_found() -> None:
    evaluated = [POOL[5] + " more words", text(sentence(30)), POOL[9]]
    straight = find_overlaps(evaluated, POOL, seed=0)
    assert find_overlaps(evaluated, POOL, seed=3) == straight
    turned = find_overlaps(evaluated[::-1], POOL[::-1], seed=0)[::-1]
    assert [each.kinds for each in turned] == [each.kinds for each in straight]
    assert [len(POOL) - 1 - (each.nearest or 0) for each in turned if each.leaked] == [5, 9]


def test_near_duplicates_are_those_that_comparing_every_pair_finds() -> None:
    evaluated = []
    for place, original in enumerate(POOL):
        changed = original.split()
        for at in range(place % 8):
            changed[5 * at] = f"changed{at}"
        evaluated.append(" ".join(changed))

    def shingles(one: str) -> set[tuple[str, ...]]:
        listed = one.split()
        return {tuple(listed[at : at + 3]) for at in range(len(listed) - 2)}

    for one, found in zip(evaluated, find_overlaps(evaluated, POOL), strict=True):
        similar = {
            place: len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))
            for place, other in enumerate(POOL)
        }
        nearest = max(similar, key=lambda place: similar[place])
        assert found.nearest == nearest
        assert found.similarity == (pytest.approx(similar[nearest]) if similar[nearest] >= 0.7 else None)


def test_several_templates_are_set_phrases_for_near_duplicates_too() -> None:
    heads = [text(sentence(50)) for _ in range(3)]

    def filled(place: int, sign: str) -> str:
        return " ".join([heads[place % 3], *(f"{sign}{place}x{at}" for at in range(8))])

    evaluated = [filled(place, "e") for place in range(30)]
    training = [filled(place, "t") for place in range(300)]
    assert not any(found.leaked for found in find_overlaps(evaluated, training))
    copied = find_overlaps([*evaluated, training[17] + "!"], training)[-1]
    assert ("near_duplicate" in copied.kinds, copied.nearest) == (True, 17)


def test_a_text_that_is_nothing_but_set_phrases_is_compared_whole() -> None:
    original = [f"o{place}" for place in range(60)]

    def altered(tag: str, count: int) -> str:
        changed = list(original)
        for place in _RANDOM.sample(range(3, 57, 3), count):
            changed[place] = f"{tag}{place}"
        return " ".join(changed)

    alike = [altered(f"d{number}x", 4) for number in range(MOST_COMPARED + 60)]
    near = altered("n", 2)
    for training in ([near, *alike], [*alike, near]):
        found = only(" ".join(original), [*training, *POOL])
        assert found.similarity == pytest.approx(52 / 64)
        assert training[found.nearest or 0] == near


def test_more_candidates_than_are_compared_are_counted() -> None:
    original = [f"o{place}" for place in range(60)]
    alike = []
    for number in range(MOST_COMPARED + 100):
        changed = list(original)
        for place in _RANDOM.sample(range(3, 57, 3), 2):
            changed[place] = f"d{number}x{place}"
        alike.append(" ".join(changed))
    found = only(" ".join(original), [*alike, *POOL])
    assert found.similarity == pytest.approx(52 / 64)
    assert found.uncompared >= 50


def test_a_text_many_times_in_the_training_file_is_no_set_phrase() -> None:
    found = only(POOL[3] + "!", [*POOL, *([POOL[3]] * 30)])
    assert (found.kinds, found.nearest) == (("near_duplicate", "13-gram", "8-gram"), 3)


def test_a_few_texts_that_are_alike_have_no_template() -> None:
    same = text(sentence(60))
    assert only(f"{same} first", [f"{same} second"]).kinds == ("near_duplicate", "13-gram", "8-gram")
    pairs = find_overlaps([f"{same} one", f"{same} two"], [f"{same} three", f"{same} four"])
    assert all("near_duplicate" in found.kinds for found in pairs)


def test_an_empty_text_hides_no_template() -> None:
    head = text(sentence(20))
    evaluated = [f"{head} {text(sentence(9))}" for _ in range(4)]
    training = [f"{head} {text(sentence(9))}" for _ in range(6)]
    assert not any(found.leaked for found in find_overlaps(evaluated, [*training, ""]))
    assert not any(found.leaked for found in find_overlaps(evaluated, [*training, head]))
