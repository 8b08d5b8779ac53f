"""Laws that every measure of the registry keeps, whatever it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lorascope.errors import LorascopeError
from lorascope.measures.choices import score_choices
from lorascope.measures.core import Scored
from lorascope.measures.forgetting import score_forgetting
from lorascope.measures.label_diagnosis import score_label_outputs, score_label_sets
from lorascope.measures.labels import score_labels
from lorascope.measures.likelihood import score_kl, score_likelihood
from lorascope.measures.registry import MEASURES, SCORED_KINDS, names_of
from lorascope.measures.regression import score_regression
from lorascope.measures.statistics import estimate, paired
from lorascope.measures.text import score_text
from lorascope.measures.tokens import score_entities

POOL = 36
Case = Callable[[Sequence[int], bool], dict[str, Scored]]
_random = np.random.default_rng(7)
_LINE = "the cat sat on a mat 猫 坐 在 垫子 上 café Привет world of small things"
_WORDS = _LINE.split()
_TEXTS = [[" ".join(_random.choice(_WORDS, size=8)) for _ in range(2)] for _ in range(POOL)]
_GUESSES = [" ".join([*_random.choice(_WORDS, size=5), *refs[0].split()[:4]]) for refs in _TEXTS]
_PROBABILITIES = np.round(_random.random((POOL, 6)), 2)
_TRUTH = _random.random((POOL, 6)) < 0.35
_TRUTH[:, 5] = False  # a label that nobody has
_CLASS = np.eye(6, dtype=bool)[_random.integers(0, 4, size=POOL)]
_TARGETS = np.round(_random.normal(size=POOL), 1)
_TAGS = [list(_random.choice(["O", "B-PER", "I-PER", "B-LOC"], size=7)) for _ in range(POOL)]
_OTHER_TAGS = [[*tags[:4], *list(_random.choice(["O", "B-PER", "I-LOC"], size=3))] for tags in _TAGS]
_LOGPROBS = -_random.gamma(3, size=(POOL, 4)) * 4
_ANSWERS = _random.integers(0, 4, size=POOL)
_CHOICES = [["yes", "perhaps not", "不知道", "never ever"]] * POOL
_TOKENS = _random.integers(3, 40, size=POOL)
_BASE_RIGHT = _random.random(POOL) < 0.8
_ADAPTED_RIGHT = _BASE_RIGHT ^ (_random.random(POOL) < 0.3)


def _texts(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    answers = [_TEXTS[i][1] if perfect else _GUESSES[i] for i in items]
    return score_text(answers, [_TEXTS[i] for i in items], names_of("text", on_request=True))


def _labels(truth: np.ndarray, multi: bool) -> Case:
    def case(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
        probabilities = truth.astype(float) if perfect else _PROBABILITIES
        index = np.asarray(items, dtype=int)
        given, true = probabilities[index], truth[index]
        scored = score_labels(given, true, multi=multi, label_names=list("abcdef"))
        scored |= score_label_outputs(given, true, multi=multi)
        sets = score_label_sets(given >= 0.5, true, decision="0.5", known_sets=_TRUTH[::2]) if multi else {}
        return scored | sets

    return case


def _scores(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    target = _TARGETS[np.asarray(items, dtype=int)]
    noise = np.round(np.cos(np.asarray(items, dtype=float) * 2.3), 1)
    return score_regression(target if perfect else target + noise, target)


def _entities(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    source = _TAGS if perfect else _OTHER_TAGS
    return score_entities([source[i] for i in items], [_TAGS[i] for i in items])


def _choice(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    rows = [np.where(np.arange(4) == _ANSWERS[i], -0.1, -50.0) if perfect else _LOGPROBS[i] for i in items]
    return score_choices(rows, [int(_ANSWERS[i]) for i in items], [_CHOICES[i] for i in items])


def _likelihood(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    tokens = [int(_TOKENS[i]) for i in items]
    logprobs = [0.0 if perfect else -1.7 * t - (i % 5) for i, t in zip(items, tokens, strict=True)]
    kl = [0.0 if perfect else 0.01 * (1 + i % 7) for i in items]
    return score_likelihood(logprobs, tokens, [4 * t + 1 for t in tokens]) | {"kl_to_base": score_kl(kl, tokens)}


def _forgetting(items: Sequence[int], perfect: bool) -> dict[str, Scored]:
    index = np.asarray(items, dtype=int)
    adapted = np.ones(len(index), dtype=bool) if perfect else _ADAPTED_RIGHT[index]
    return score_forgetting(_BASE_RIGHT[index], adapted, chance=0.25)


CASES: dict[str, Case] = {
    "text": _texts,
    "labels, multi": _labels(_TRUTH, True),
    "labels, single": _labels(_CLASS, False),
    "score": _scores,
    "tokens": _entities,
    "choice": _choice,
    "likelihood": _likelihood,
    "forgetting": _forgetting,
}
EVERYTHING = list(range(POOL))
MEASURED = [(kind, name) for kind, case in CASES.items() for name in case(EVERYTHING, False)]
# What no answer can make perfect, and what perfect answers reach where that is not an end of the scale.
WITHOUT_BEST = {"gold_margin", "retained_fraction", "empty_set_rate", "unseen_set_rate"}
BEST = {
    "perplexity": 1.0, "bits_per_byte": 0.0, "kl_to_base": 0.0,
    "cardinality_error": 0.0, "frequency_skill": 1.0, "output_spread": 1.0,
}  # fmt: skip


def _value(scored: Scored) -> float:
    assert scored.value is not None
    return scored.value


@pytest.fixture(params=MEASURED, ids=lambda pair: f"{pair[0]}: {pair[1]}")
def measured(request: pytest.FixtureRequest) -> tuple[Case, str]:
    kind, name = request.param
    return CASES[kind], name


def test_no_measure_of_the_registry_is_missing() -> None:
    in_table = {spec.name for spec in MEASURES.values() if SCORED_KINDS.intersection(spec.kinds)}
    assert in_table == {name for _, name in MEASURED}


def test_kinds_in_the_table_match_where_measures_come_from() -> None:
    for kind, name in MEASURED:
        assert kind.split(",")[0] in MEASURES[name].kinds


def test_table_row_and_measure_agree(measured: tuple[Case, str]) -> None:
    case, name = measured
    measure, spec = case(EVERYTHING, False)[name].measure, MEASURES[name]
    assert (measure.name, measure.unit, measure.scale, measure.direction) == (
        spec.name, spec.unit, spec.scale, spec.direction,
    )  # fmt: skip


def test_order_of_items_does_not_matter(measured: tuple[Case, str]) -> None:
    case, name = measured
    shuffled = np.random.default_rng(1).permutation(POOL).tolist()
    straight, mixed = case(EVERYTHING, False)[name], case(shuffled, False)[name]
    assert _value(mixed) == pytest.approx(_value(straight), abs=1e-9)
    np.testing.assert_allclose(mixed.item_values(), straight.item_values()[shuffled], atol=1e-9)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in MEASURED if pair[1] not in WITHOUT_BEST])
def test_perfect_answers_reach_the_best_value(kind: str, name: str) -> None:
    case = CASES[kind]
    low, high = case(EVERYTHING, True)[name].measure.bounds
    best = BEST.get(name, low if MEASURES[name].direction == "lower" else high)
    perfect, usual = _value(case(EVERYTHING, True)[name]), _value(case(EVERYTHING, False)[name])
    assert perfect == pytest.approx(best, abs=1e-9)
    assert usual != pytest.approx(best, abs=1e-3), "the law would hold for a constant"


def test_value_lies_on_its_scale(measured: tuple[Case, str]) -> None:
    case, name = measured
    scored = case(EVERYTHING, False)[name]
    low, high = scored.measure.bounds
    assert low <= _value(scored) <= high


def test_subset_of_statistics_equals_scoring_the_subset(measured: tuple[Case, str]) -> None:
    case, name = measured
    some = list(range(0, POOL, 2))
    assert case(EVERYTHING, False)[name].subset(some).value == pytest.approx(case(some, False)[name].value, abs=1e-9)


def test_every_item_twice_changes_nothing(measured: tuple[Case, str]) -> None:
    case, name = measured
    scored = case(EVERYTHING, False)[name]
    assert scored.subset(EVERYTHING * 2).value == pytest.approx(_value(scored), abs=1e-9)


def test_counted_rows_equal_repeated_rows(measured: tuple[Case, str]) -> None:
    case, name = measured
    scored = case(EVERYTHING, False)[name]
    counts = np.random.default_rng(3).multinomial(POOL, np.full(POOL, 1 / POOL), size=5).astype(float)
    if scored.measure.additive:
        drawn = scored.measure.aggregate(counts @ scored.statistics)
    else:
        assert scored.measure.resampled is not None
        drawn = scored.measure.resampled(scored.statistics, counts)
    repeated = [scored.subset(np.repeat(EVERYTHING, row.astype(int))).value for row in counts]
    np.testing.assert_allclose(drawn, repeated, atol=1e-9)


def test_one_item_has_no_interval(measured: tuple[Case, str]) -> None:
    case, name = measured
    one = case(EVERYTHING, False)[name].subset([0])
    found = estimate(one, seed=0, resamples=50)
    assert (found.low, found.high, found.n) == (None, None, 1)


def test_interval_holds_the_value(measured: tuple[Case, str]) -> None:
    case, name = measured
    found = estimate(case(EVERYTHING, False)[name], seed=0, resamples=200)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high or found.value in (found.low, found.high)
    assert found.low < found.high


def test_same_answers_are_equivalent(measured: tuple[Case, str]) -> None:
    case, name = measured
    same = case(EVERYTHING, False)[name]
    found = paired(same, same, margin=0.02, seed=0, resamples=50, same_outputs=True)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert found.verdict == (None if MEASURES[name].direction == "none" else "equivalent")


@pytest.mark.parametrize("kind", CASES)
def test_no_items_are_refused(kind: str) -> None:
    with pytest.raises(LorascopeError, match="no items"):
        CASES[kind]([], False)


def test_signatures_name_the_measure(measured: tuple[Case, str]) -> None:
    case, name = measured
    assert case(EVERYTHING, False)[name].signature.split("|")[0] == name
