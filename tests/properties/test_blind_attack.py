"""Nobody who holds all sheets and the source, but not the key, tells which answer is the adapted checkpoint's.

Both systems' texts are drawn from one distribution, so that the texts tell nothing and every success is a leak. Each
attacker guesses, for rows of his choice, whether A is adapted; a study counts as a hit when more of his guesses are
right than wrong. Exchanging the two systems turns every guess round and leaves the chance of a study as it is, so
without a leak the hits are tosses of a coin. The bound holds for all attackers together with 99.9 %. The same test is
then made on studies with a planted leak, which it has to find.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import pyarrow
import pytest
from scipy.stats import binomtest

import lorascope.blind.quality_rows as quality_rows
import lorascope.blind.study as study_module
from lorascope.blind import Study, StudyRequest, make_study
from lorascope.blind.assigning import Cell
from lorascope.blind.key import KeyRow, StudyKey
from lorascope.blind.quality_rows import Draft, Material
from lorascope.blind.rows import Sheet, SheetRow
from lorascope.schema.comparison import CheckpointInfo, Comparison, ParameterCounts, Provenance, TaskInfo

STUDIES = 200
WORDS = ("the", "kiln", "is", "off", "when", "its", "red", "light", "fades", "and", "no", "steam", "comes", "out")
Guesses = dict[str, bool]
"""By row id: whether A is the adapted checkpoint's."""


@dataclass(frozen=True)
class Seen:
    """What the attacker holds: every sheet, and whatever a maker of studies may tell in passing: seed and samples."""

    sheets: Mapping[str, Sheet]
    request: StudyRequest
    samples: pyarrow.Table

    @property
    def rows(self) -> list[SheetRow]:
        return [row for sheet in self.sheets.values() for row in sheet.rows]

    def by_question(self, rater: str) -> dict[str, list[SheetRow]]:
        found: dict[str, list[SheetRow]] = {}
        for row in self.sheets[rater].rows:
            found.setdefault(row.question, []).append(row)
        return found


Attacker = Callable[[Seen], Guesses]
ATTACKERS: dict[str, Attacker] = {}


def attacker(guess: Attacker) -> Attacker:
    ATTACKERS[guess.__name__] = guess
    return guess


# --- ids, order, positions -------------------------------------------------------------------------------------------


@attacker
def a_is_always_adapted(seen: Seen) -> Guesses:
    return {row.id: True for row in seen.rows}


@attacker
def id_parity(seen: Seen) -> Guesses:
    return {row.id: int(row.id[1:], 16) % 2 == 0 for row in seen.rows}


@attacker
def id_first_digit(seen: Seen) -> Guesses:
    return {row.id: row.id[1] < "8" for row in seen.rows}


@attacker
def lower_half_of_sorted_ids(seen: Seen) -> Guesses:
    guesses = {}
    for sheet in seen.sheets.values():
        ids = sorted(row.id for row in sheet.rows)
        guesses |= {name: place < len(ids) / 2 for place, name in enumerate(ids)}
    return guesses


@attacker
def lowest_id_of_all(seen: Seen) -> Guesses:
    return {min(row.id for row in seen.rows): True}


@attacker
def first_row(seen: Seen) -> Guesses:
    return {sheet.rows[0].id: True for sheet in seen.sheets.values()}


@attacker
def last_row(seen: Seen) -> Guesses:
    return {sheet.rows[-1].id: True for sheet in seen.sheets.values()}


@attacker
def every_other_row(seen: Seen) -> Guesses:
    return {row.id: place % 2 == 0 for sheet in seen.sheets.values() for place, row in enumerate(sheet.rows)}


@attacker
def first_half_of_the_rows(seen: Seen) -> Guesses:
    return {
        row.id: place < len(sheet.rows) / 2 for sheet in seen.sheets.values() for place, row in enumerate(sheet.rows)
    }


@attacker
def odd_raters(seen: Seen) -> Guesses:
    return {row.id: int(rater[-1]) % 2 == 1 for rater, sheet in seen.sheets.items() for row in sheet.rows}


@attacker
def shorter_text(seen: Seen) -> Guesses:
    return {row.id: len(row.answer_a) < len(row.answer_b) for row in seen.rows if row.answer_a != row.answer_b}


@attacker
def text_that_sorts_first(seen: Seen) -> Guesses:
    return {row.id: row.answer_a < row.answer_b for row in seen.rows if row.answer_a != row.answer_b}


# --- the pattern over raters, repeats and checks ---------------------------------------------------------------------


@attacker
def text_that_is_left_with_most_raters(seen: Seen) -> Guesses:
    left = Counter((row.question, row.answer_a) for row in seen.rows)
    return {
        row.id: left[row.question, row.answer_a] > left[row.question, row.answer_b]
        for row in seen.rows
        if left[row.question, row.answer_a] != left[row.question, row.answer_b]
    }


@attacker
def as_the_first_rater_sees_it(seen: Seen) -> Guesses:
    first = {(row.question, row.answer_a) for row in seen.sheets["rater-1"].rows}
    return {row.id: (row.question, row.answer_a) in first for row in seen.rows}


@attacker
def first_view_of_a_repeat(seen: Seen) -> Guesses:
    guesses = {}
    for rater in seen.sheets:
        for rows in seen.by_question(rater).values():
            for row in rows[1:]:
                if (row.answer_a, row.answer_b) == (rows[0].answer_b, rows[0].answer_a):
                    guesses |= {rows[0].id: True, row.id: False}
    return guesses


@attacker
def sides_of_repeated_items(seen: Seen) -> Guesses:
    return {rows[0].id: True for rater in seen.sheets for rows in seen.by_question(rater).values() if len(rows) > 1}


def checks(seen: Seen) -> Iterator[tuple[SheetRow, str, str]]:
    """Rows of an item with the own answer of a check and the answer that does not belong there."""
    answers: Counter[tuple[str, str]] = Counter()
    for row in seen.rows:
        answers.update({(row.question, row.answer_a), (row.question, row.answer_b)})
    for check in seen.rows:
        texts = sorted((check.answer_a, check.answer_b), key=lambda text: answers[check.question, text])
        if answers[check.question, texts[0]] == 1 < answers[check.question, texts[1]]:
            yield check, texts[1], texts[0]


@attacker
def own_answer_of_a_check(seen: Seen) -> Guesses:
    own = {(check.question, right) for check, right, _ in checks(seen)}
    return {
        row.id: (row.question, row.answer_a) in own
        for row in seen.rows
        if ((row.question, row.answer_a) in own) != ((row.question, row.answer_b) in own)
    }


@attacker
def answer_that_does_not_belong(seen: Seen) -> Guesses:
    strangers = {wrong for _, _, wrong in checks(seen)}
    return {
        row.id: row.answer_a in strangers
        for row in seen.rows
        if (row.answer_a in strangers) != (row.answer_b in strangers)
    }


@attacker
def text_of_an_identical_row(seen: Seen) -> Guesses:
    twice = {row.answer_a for row in seen.rows if row.answer_a == row.answer_b}
    return {row.id: row.answer_a in twice for row in seen.rows if (row.answer_a in twice) != (row.answer_b in twice)}


# --- replays of the seed, and the commitment -------------------------------------------------------------------------


@attacker
def replayed_shuffle_of_sides(seen: Seen) -> Guesses:
    guesses = {}
    for sheet in seen.sheets.values():
        sides = [place % 2 == 0 for place in range(len(sheet.rows))]
        random.Random(seen.request.seed).shuffle(sides)
        guesses |= {row.id: side for row, side in zip(sheet.rows, sides, strict=True)}
    return guesses


@attacker
def replayed_coin_by_question(seen: Seen) -> Guesses:
    chance = random.Random(seen.request.seed)
    coin = {question: chance.random() < 0.5 for question in sorted({row.question for row in seen.rows})}
    return {row.id: coin[row.question] for row in seen.rows}


@attacker
def replayed_coin_by_row(seen: Seen) -> Guesses:
    chance = random.Random(seen.request.seed)
    return {row.id: chance.random() < 0.5 for row in seen.rows}


@attacker
def replayed_study(seen: Seen) -> Guesses:
    """The whole of this program once more with the seed for its chance: with the samples, the strongest of replays."""
    made = made_with(lambda: random.Random(seen.request.seed), seen.samples, seen.request)
    rows = {row.id: row for sheet in made.sheets.values() for row in sheet.rows}
    left = {(row.rater, rows[row.id].question): row.a == "adapted" for row in made.key.rows if row.kind == "rated"}
    return {
        row.id: left[rater, row.question]
        for rater, sheet in seen.sheets.items()
        for row in sheet.rows
        if (rater, row.question) in left
    }


@attacker
def commitment_bits(seen: Seen) -> Guesses:
    digits = seen.sheets["rater-1"].commitment.removeprefix("hmac-")
    return {row.id: int(digits[place % 64], 16) % 2 == 0 for place, row in enumerate(seen.rows)}


@attacker
def study_name(seen: Seen) -> Guesses:
    even = int(seen.sheets["rater-1"].study[-1], 16) % 2 == 0
    return {row.id: even for row in seen.sheets["rater-1"].rows[:5]}


# --- the test --------------------------------------------------------------------------------------------------------


def comparison() -> Comparison:
    def checkpoint(name: str) -> CheckpointInfo:
        return CheckpointInfo(
            name=name, path=name, role="base" if name == "base" else "adapted", kind="model", architecture="x",
            dtype="x", content_hash=name, parameters=ParameterCounts(total=1), generation_ready=True,
        )  # fmt: skip

    return Comparison(
        created="", command=[], seed=0, lorascope_version="0", checkpoints=[checkpoint("base"), checkpoint("adapted")],
        provenance=Provenance(libraries={}, device="cpu", dtype="x", timings={}),
        tasks=[TaskInfo(name="t", kind="generate", role="target", items=1, fingerprint="f", metrics=[])],
    )  # fmt: skip


COMPARISON = comparison()


@cache
def samples_of(number: int) -> pyarrow.Table:
    """18 items; both answers are words of one kind and number, one in six pairs is identical; flips go both ways."""
    chance = random.Random(f"texts of {number}")

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randrange(4, 12)))

    rows = []
    for place in range(18):
        base = text()
        said = {"base_output": base, "adapted_output": base if place < 3 else text()}
        flip = chance.choice(["fixed", "broken", "both_right", None])
        rows.append(
            {"subject": "adapted", "task": "t", "item_id": f"{place}", "prompt": f"question {place}", "flip": flip}
        )
        rows[-1] |= said
    return pyarrow.Table.from_pylist(rows)


def request_of(number: int) -> StudyRequest:
    """Every rater all items, or a shared core; many checks and identical pairs, to have something to attack."""
    shared = None if number % 2 else 6
    return StudyRequest(items=14, raters=3 + number % 3, shared=shared, repeats=4, checks=3, identical=5, seed=number)


def made_with(chance: Callable[[], random.Random], samples: pyarrow.Table, request: StudyRequest) -> Study:
    """A study whose secret chance is replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module.secrets, "SystemRandom", chance)
        return make_study(samples, COMPARISON, request)


def hits(name: str, made: list[Study]) -> tuple[int, int]:
    """Studies in which the attacker is right more often than wrong, and those in which he is not as often both."""
    right = decided = 0
    for number, study in enumerate(made):
        truth = {row.id: row.a == "adapted" for row in study.key.rows if row.kind in ("rated", "repeat")}
        guesses = ATTACKERS[name](Seen(study.sheets, request_of(number), samples_of(number)))
        score = sum(1 if guess == truth[row] else -1 for row, guess in guesses.items() if row in truth)
        right += score > 0
        decided += score != 0
    return right, decided


def leaks(name: str, made: list[Study]) -> bool:
    """Whether the hits are outside of chance. Too few guesses decide nothing, which is a fault of the test itself."""
    right, decided = hits(name, made)
    assert decided >= 30, f"{name} decides {decided} studies only"
    return bool(binomtest(right, decided).pvalue < 0.001 / len(ATTACKERS))


def studies(count: int = STUDIES) -> list[Study]:
    return [make_study(samples_of(number), COMPARISON, request_of(number)) for number in range(count)]


@pytest.fixture(scope="module")
def honest() -> list[Study]:
    return studies()


@pytest.mark.parametrize("name", ATTACKERS)
def test_no_attacker_does_better_than_chance(name: str, honest: list[Study]) -> None:
    assert not leaks(name, honest), hits(name, honest)


# --- planted leaks ---------------------------------------------------------------------------------------------------

Leak = Callable[[pytest.MonkeyPatch, list[Study]], list[Study]]
LEAKY = 80


def remade(study: Study, rows: Callable[[str, list[tuple[KeyRow, SheetRow]]], list[tuple[KeyRow, SheetRow]]]) -> Study:
    """The same study with every sheet's rows put differently."""
    known: list[KeyRow] = []
    sheets = {}
    for rater, sheet in study.sheets.items():
        shown = {row.id: row for row in sheet.rows}
        changed = rows(rater, [(row, shown[row.id]) for row in study.key.rows if row.rater == rater])
        known += [row for row, _ in changed]
        sheets[rater] = replace(sheet, rows=tuple(row for _, row in changed))
    return Study(study.key.model_copy(update={"rows": known}), sheets, ())


def turned(row: KeyRow, shown: SheetRow) -> tuple[KeyRow, SheetRow]:
    return row.model_copy(update={"a": row.b, "b": row.a}), replace(
        shown, answer_a=shown.answer_b, answer_b=shown.answer_a
    )


def ids_that_tell(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def rows(rater: str, pairs: list[tuple[KeyRow, SheetRow]]) -> list[tuple[KeyRow, SheetRow]]:
        found = []
        for row, shown in pairs:
            name = f"{row.id[:-1]}{'0' if row.a == 'adapted' else '1'}"
            found.append((row.model_copy(update={"id": name}), replace(shown, id=name)))
        return found

    return [remade(study, rows) for study in honest[:LEAKY]]


def rows_sorted_by_side(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    return [
        remade(study, lambda rater, pairs: sorted(pairs, key=lambda pair: pair[0].a != "adapted"))
        for study in honest[:LEAKY]
    ]


def first_rows_that_are_never_turned(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def rows(rater: str, pairs: list[tuple[KeyRow, SheetRow]]) -> list[tuple[KeyRow, SheetRow]]:
        return [pairs[0] if pairs[0][0].a == "adapted" else turned(*pairs[0]), *pairs[1:]]

    return [remade(study, rows) for study in honest[:LEAKY]]


def sides_of_the_seed(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    return [
        made_with(lambda number=number: random.Random(number), samples_of(number), request_of(number))  # type: ignore[misc]
        for number in range(LEAKY)
    ]


def a_sheet_turned_for_odd_raters(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def sides(shares: list[list[int]], items: object, chance: object) -> dict[Cell, bool]:
        return {(rater, place): rater % 2 == 0 for rater, places in enumerate(shares) for place in places}

    patch.setattr(study_module, "balanced_sides", sides)
    return studies(LEAKY)


def checks_with(own: bool) -> Leak:
    """Checks in which the answer that belongs (or the other one) is always the base's."""

    def leak(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
        honest_row = quality_rows._mismatched_row

        def row(place: int, material: Material) -> Draft | None:
            while (found := honest_row(place, material)) is not None:
                right, wrong = (found.b, found.a) if found.wrong == "A" else (found.a, found.b)
                if (right if own else wrong).system == "base":
                    break
            return found

        patch.setattr(quality_rows, "_mismatched_row", row)
        return studies(LEAKY)

    return leak


def identical_rows_of_the_base(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def material(
        items: object, candidates: object, turns: object, turned: Mapping[tuple[str, str], int], chance: random.Random
    ) -> Material:
        return Material(items, candidates, iter(lambda: 1, 0), dict.fromkeys(turned, 0), chance)  # type: ignore[arg-type]

    patch.setattr(study_module, "Material", material)
    return studies(LEAKY)


def repeats_that_come_second_turned(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def rows(rater: str, pairs: list[tuple[KeyRow, SheetRow]]) -> list[tuple[KeyRow, SheetRow]]:
        seen: set[int] = set()
        found = []
        for row, shown in pairs:
            again = row.item in seen
            wanted = "base" if again else "adapted"
            seen.add(row.item)
            known = row.kind in ("rated", "repeat")
            found.append(turned(row, shown) if known and row.a != wanted else (row, shown))
        return found

    return [remade(study, rows) for study in honest[:LEAKY]]


def a_commitment_that_tells(patch: pytest.MonkeyPatch, honest: list[Study]) -> list[Study]:
    def told(study: Study) -> Study:
        sides = {row.id: row.a == "adapted" for row in study.key.rows}
        ids = [row.id for sheet in study.sheets.values() for row in sheet.rows][:64]
        digits = "".join("0" if sides[name] else "1" for name in ids)
        sheets = {name: replace(sheet, commitment=f"hmac-{digits:0<64}") for name, sheet in study.sheets.items()}
        return replace(study, sheets=sheets)

    return [told(study) for study in honest[:LEAKY]]


@pytest.mark.parametrize(
    ("leak", "finder"),
    [
        (ids_that_tell, "id_parity"),
        (rows_sorted_by_side, "first_half_of_the_rows"),
        (first_rows_that_are_never_turned, "first_row"),
        (sides_of_the_seed, "replayed_study"),
        (a_sheet_turned_for_odd_raters, "odd_raters"),
        (a_sheet_turned_for_odd_raters, "as_the_first_rater_sees_it"),
        (checks_with(own=True), "own_answer_of_a_check"),
        (checks_with(own=False), "answer_that_does_not_belong"),
        (identical_rows_of_the_base, "text_of_an_identical_row"),
        (repeats_that_come_second_turned, "first_view_of_a_repeat"),
        (a_commitment_that_tells, "commitment_bits"),
    ],
)
def test_the_same_test_finds_planted_leaks(
    leak: Leak, finder: str, honest: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = leak(monkeypatch, honest)
    monkeypatch.undo()
    assert leaks(finder, made), hits(finder, made)


def test_kinds_of_rows_have_one_shape_and_stand_anywhere(honest: list[Study]) -> None:
    places: dict[str, list[float]] = {"rated": [], "repeat": [], "mismatched": [], "identical": []}
    for study in honest:
        for rater, sheet in study.sheets.items():
            kinds = {row.id: row.kind for row in study.key.rows if row.rater == rater}
            for place, row in enumerate(sheet.rows):
                assert len(row.id) == 17
                places[kinds[row.id]].append((place + 0.5) / len(sheet.rows))
    for kind, found in places.items():
        mean = sum(found) / len(found)
        assert abs(mean - 0.5) < 5 * 0.35 / len(found) ** 0.5, kind


def test_the_key_alone_unblinds(honest: list[Study]) -> None:
    """The attackers' opposite: with the key every row is known, so the test's truth is the sheets' truth."""
    for number, study in enumerate(honest[:20]):
        own = {row["item_id"]: row for row in samples_of(number).to_pylist()}
        rows = {row.id: row for sheet in study.sheets.values() for row in sheet.rows}
        assert isinstance(study.key, StudyKey)
        for row in study.key.rows:
            if row.kind in ("rated", "repeat"):
                given = own[study.key.items[row.item].item_id]
                texts = {"adapted": given["adapted_output"], "base": given["base_output"]}
                assert (rows[row.id].answer_a, rows[row.id].answer_b) == (texts[row.a], texts[row.b])
