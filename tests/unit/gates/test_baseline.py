"""Blessed baselines: what is in them, what can be paired with them, how small they are, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from lorascope.errors import (
    DataError,
    EvaluationError,
    InvalidComparison,
    LorascopeError,
    OutputError,
    UsageError,
)
from lorascope.gates.blessing import bless, comparison_of, table_of
from lorascope.gates.judging import Absent, Reading
from lorascope.gates.labelled import LabelSets, score_sets
from lorascope.gates.packing import pack, pack_bits, unpack, unpack_bits
from lorascope.gates.pairing import Baseline, baseline_warnings, paired_reading
from lorascope.measures.core import Scored
from lorascope.measures.text import score_text
from lorascope.schema.baseline import BaselineFile, PackedNumbers
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.gates import GateReport
from lorascope.schema.items import (
    Answer,
    ChoiceAnswer,
    ChoiceItem,
    GenerateAnswer,
    GenerateItem,
    Item,
    LabelsAnswer,
    LabelsItem,
    LikelihoodAnswer,
    LikelihoodItem,
    ScoreAnswer,
    ScoreItem,
    TokensAnswer,
    TokensItem,
)
from lorascope.workflows.gate_baseline import bless as pin
from lorascope.workflows.gate_baseline import document, read_baseline
from lorascope.workflows.publish import document as result_document

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "green",
    "birds",
    "sing",
    "in",
    "old",
    "trees",
    "你",
    "好",
]
FOUR = ("yes", "no", "maybe", "never")
TAGS = ("B-PER", "I-PER", "O", "B-LOC", "O")
Run = Any
Made = tuple[list[Item], Callable[[float, int], list[Answer]], dict[str, Any]]


def texts(n: int) -> Made:
    rng = np.random.default_rng(1)
    truth = [" ".join(rng.choice(WORDS, size=rng.integers(5, 12))) for _ in range(n)]
    items: list[Item] = [
        GenerateItem(item_id=f"{place:016x}", prompt=f"q{place}", references=(text,), category=f"c{place % 2}")
        for place, text in enumerate(truth)
    ]

    def said(wrong: float, seed: int) -> list[Answer]:
        own = np.random.default_rng(seed)
        return [
            GenerateAnswer(
                text=" ".join(str(own.choice(WORDS)) if own.random() < wrong else word for word in text.split()),
                truncated=False,
            )
            for text in truth
        ]

    return items, said, {"task": {"role": "target"}}


def choices(n: int) -> Made:
    items: list[Item] = [
        ChoiceItem(
            item_id=f"{place:016x}",
            question="q",
            context=f"q{place}",
            choices=("yes", "no", "maybe", "never"),
            answer=1,
        )
        for place in range(n)
    ]

    def said(wrong: float, seed: int) -> list[Answer]:
        own = np.random.default_rng(seed)
        found: list[Answer] = []
        for _ in range(n):
            values = own.normal(size=4)
            values[1] += 3 - 6 * wrong
            found.append(ChoiceAnswer(logprobs=tuple(float(value) - 5 for value in values)))
        return found

    return items, said, {"task": {"role": "retention"}}


def labelled(n: int, names: tuple[str, ...], *, multi: bool = True) -> Made:
    rng = np.random.default_rng(2)
    shares = np.linspace(0.4, 0.05, len(names))
    truth = rng.random((n, len(names))) < shares
    classes = rng.integers(0, len(names), size=n)
    items: list[Item] = [
        LabelsItem(
            item_id=f"{place:016x}", text=f"t{place}", multi=multi,
            labels=tuple(name for name, has in zip(names, row, strict=True) if has) if multi else (names[one],),
        )
        for place, (row, one) in enumerate(zip(truth, classes, strict=True))
    ]  # fmt: skip

    def said(wrong: float, seed: int) -> list[Answer]:
        own = np.random.default_rng(seed)
        hot = truth if multi else np.arange(len(names)) == classes[:, None]
        flipped = own.random(hot.shape) < wrong / 2
        sure = np.where(hot ^ flipped, 0.9, 0.1) + own.uniform(-0.05, 0.05, size=hot.shape)
        if not multi:
            sure = sure / sure.sum(axis=1, keepdims=True)
        return [LabelsAnswer(probabilities=tuple(map(float, row))) for row in sure]

    return items, said, {"labels": names}


def scores(n: int) -> Made:
    true = np.round(np.random.default_rng(3).uniform(0, 5, size=n), 2)
    items: list[Item] = [
        ScoreItem(item_id=f"{place:016x}", text="t", score=float(one)) for place, one in enumerate(true)
    ]

    def said(wrong: float, seed: int) -> list[Answer]:
        noise = np.random.default_rng(seed).normal(size=n)
        return [ScoreAnswer(value=float(np.float32(value))) for value in true + 2 * wrong * noise]

    return items, said, {}


def tagged(n: int) -> Made:
    items: list[Item] = [
        TokensItem(item_id=f"{place:016x}", tokens=("a", "b", "c", "d", str(place)), tags=TAGS) for place in range(n)
    ]

    def said(wrong: float, seed: int) -> list[Answer]:
        own = np.random.default_rng(seed)
        return [TokensAnswer(tags=tuple("O" if own.random() < wrong else tag for tag in TAGS)) for _ in range(n)]

    return items, said, {}


def running(n: int) -> Made:
    lines = [" ".join(WORDS[: 2 + place % 9]) for place in range(n)]
    items: list[Item] = [LikelihoodItem(item_id=f"{place:016x}", text=text) for place, text in enumerate(lines)]

    def said(wrong: float, seed: int) -> list[Answer]:
        own = np.random.default_rng(seed)
        return [
            LikelihoodAnswer(
                logprob=-float(own.uniform(1, 2 + wrong)) * len(text.split()),
                tokens=len(text.split()) + 1,
                bytes=len(text.encode()),
            )
            for text in lines
        ]

    return items, said, {}


KINDS: dict[str, tuple[str, Made, set[str]]] = {
    "text": ("generate", texts(50), {"bleu", "chrf", "bleu_nltk", "rougeL", "exact_match", "token_f1"}),
    "choice": ("choice", choices(120), {"accuracy", "gold_margin", "forgotten_rate", "retained_fraction"}),
    "multi": ("labels", labelled(60, ("a", "b", "c, d", "d")), {"f1_micro", "f1_macro", "f1_weighted", "lrap"}),
    "single": ("labels", labelled(60, ("a", "b, c", "c"), multi=False), {"accuracy", "f1_macro", "mcc"}),
    "score": ("score", scores(90), {"pearson", "spearman", "mse"}),
    "tokens": ("tokens", tagged(60), {"entity_f1"}),
    "likelihood": ("likelihood", running(60), {"bits_per_byte", "perplexity"}),
}  # fmt: skip


@pytest.fixture(scope="session")
def runs(run: Callable[..., Run]) -> Callable[[str, float, int], Run]:
    """A result of each kind of task, whose adapted checkpoint is wrong in a share of what it says."""
    known: dict[tuple[str, float, int], Run] = {}

    def made(kind: str, wrong: float, seed: int) -> Run:
        if (kind, wrong, seed) not in known:
            form, (items, said, settings), _ = KINDS[kind]
            hashes = {"lora": f"h-{wrong}-{seed}"}
            known[kind, wrong, seed] = run(
                form, items, said(0.3, 99), {"lora": said(wrong, seed)}, hashes=hashes, **settings
            )
        return known[kind, wrong, seed]

    return made


def blessed(old: Run, new: Run) -> Baseline:
    file = BaselineFile.model_validate_json(document(bless(old.comparison, old.samples).file))
    return Baseline(comparison_of(file), None, new.samples, blessed=file)


def sampled(found: Run) -> list[Measurement]:
    return [each for each in found.comparison.measurements if each.adapted is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_and_blessed_baselines_pair_alike_and_give_the_results_own_difference(
    kind: str, runs: Callable[[str, float, int], Run]
) -> None:
    old, new = runs(kind, 0.2, 1), runs(kind, 0.35, 2)
    plain, pinned = Baseline(old.comparison, old.samples, new.samples), blessed(old, new)
    before = {(each.area, each.metric, str(each.slice)): each for each in sampled(old)}
    paired = set()
    for found in sampled(new):
        one = paired_reading(found, new.comparison, plain, 0.95)
        assert one == paired_reading(found, new.comparison, pinned, 0.95), found.metric
        if isinstance(one, Absent):
            assert one.outcome == "INCONCLUSIVE", (found.metric, found.slice, one)
            continue
        other = before[found.area, found.metric, str(found.slice)].adapted
        assert found.adapted is not None
        assert other is not None
        assert one.value == pytest.approx(found.adapted.value - other.value, abs=1e-4), found.metric
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high
        paired |= {found.metric} if found.slice is None else set()
    assert KINDS[kind][2] <= paired


def test_probabilities_are_not_in_the_samples(runs: Callable[[str, float, int], Run]) -> None:
    old, new = runs("multi", 0.2, 1), runs("multi", 0.35, 2)
    reasons = {
        (found.metric, found.slice and found.slice.by): paired_reading(
            found, new.comparison, Baseline(old.comparison, old.samples, new.samples), 0.95
        )
        for found in sampled(new)
    }
    for metric, part in (("ece", None), ("average_precision_macro", None), ("f1_macro", "label_group")):
        found = reasons[metric, part]
        assert isinstance(found, Absent)
        assert (found.outcome, "cannot be paired" in found.reason) == ("INCONCLUSIVE", True)
    assert isinstance(reasons["f1_micro", "label"], Reading)
    assert isinstance(reasons["f1_macro", "threshold"], Absent | Reading)


def test_labels_that_can_be_read_in_two_ways_are_not_guessed(run: Callable[..., Run]) -> None:
    items, said, settings = labelled(60, ("a", "a, b", "b"))
    new = run("labels", items, said(0.3, 9), {"lora": said(0.2, 1)}, **settings)
    old = run("labels", items, said(0.3, 9), {"lora": said(0.2, 2)}, **settings)
    found = next(each for each in sampled(new) if each.metric == "f1_macro" and each.slice is None)
    reading = paired_reading(found, new.comparison, Baseline(old.comparison, old.samples, new.samples), 0.95)
    assert isinstance(reading, Absent)
    assert (reading.outcome, "two ways" in reading.reason) == ("INCONCLUSIVE", True)


def test_extracted_answers_pair_and_several_samples_do_not(run: Callable[..., Run]) -> None:
    items, said, _ = texts(24)

    def result(seed: int, **task: object) -> Run:
        answers = [
            GenerateAnswer(text=f"so: {each.text}!", truncated=False, others=("x",) if "sampling" in task else ())
            for each in said(0.3, seed)
            if isinstance(each, GenerateAnswer)
        ]
        settings = {"metrics": ["bleu", "rougeL"], **task}
        return run(
            "generate", items, answers, {"lora": answers[1:] + answers[:1] if seed == 2 else answers}, task=settings
        )

    for task, pairs in (
        ({"extract": {"pattern": r"SO: (.*)!", "match": "last", "ignore_case": True}}, True),
        ({"sampling": {"n": 2, "temperature": 1.0}}, False),
    ):
        old, new = result(1, **task), result(2, **task)
        baseline = Baseline(old.comparison, old.samples, new.samples)
        found = {each.metric: paired_reading(each, new.comparison, baseline, 0.95) for each in sampled(new)}
        assert isinstance(found["rougeL"], Reading)
        assert isinstance(found["bleu"], Reading) == pairs, found["bleu"]


def test_parts_in_another_script_are_not_scored_by_the_wholes_tokens(run: Callable[..., Run]) -> None:
    texts = ["the (brown) dogs' song, no. 7!" if place % 2 else "你好, 世界; 再见" for place in range(24)]
    items: list[Item] = [
        GenerateItem(item_id=str(place), prompt="q", references=(text,), category="en" if place % 2 else "zh")
        for place, text in enumerate(texts)
    ]

    def result(seed: int) -> Run:
        ends = np.random.default_rng(seed).choice([" dogs.", "你", ""], size=24)
        said = [GenerateAnswer(text=f"{text}{end}", truncated=False) for text, end in zip(texts, ends, strict=True)]
        return run("generate", items, said[::-1], {"lora": said}, task={"metrics": ["bleu", "rougeL"]})

    old, new = result(1), result(2)
    assert bless(old.comparison, old.samples).paired >= 5
    baseline = Baseline(old.comparison, old.samples, new.samples)
    found = {str(each.slice and each.slice.value): each for each in sampled(new) if each.metric == "bleu"}
    readings = {name: paired_reading(each, new.comparison, baseline, 0.95) for name, each in found.items()}
    assert isinstance(readings["None"], Reading)
    assert isinstance(readings["zh"], Reading)
    assert isinstance(readings["en"], Reading) or readings["en"].outcome == "INCONCLUSIVE"


def test_order_of_items_does_not_matter(runs: Callable[[str, float, int], Run]) -> None:
    for kind in ("text", "multi"):
        old, new = runs(kind, 0.2, 1), runs(kind, 0.35, 2)
        shuffled = new.samples.take(np.random.default_rng(4).permutation(new.samples.num_rows))
        turned = old.samples.take(np.random.default_rng(5).permutation(old.samples.num_rows))
        for found in sampled(new)[:12]:
            one = paired_reading(found, new.comparison, Baseline(old.comparison, old.samples, new.samples), 0.95)
            two = paired_reading(found, new.comparison, Baseline(old.comparison, turned, shuffled), 0.95)
            assert one == two


def test_file_holds_what_made_it_and_no_text(runs: Callable[[str, float, int], Run]) -> None:
    old = runs("text", 0.2, 1)
    made = bless(old.comparison, old.samples)
    text = document(made.file)
    again = BaselineFile.model_validate_json(text)
    assert again == made.file
    assert [each.content_hash for each in again.checkpoints] == ["h-base", "h-0.2-1"]
    assert again.tasks[0].fingerprint == old.comparison.tasks[0].fingerprint
    assert again.measurements[0].signature == old.comparison.measurements[0].signature
    assert made.paired == len(sampled(old))
    for word in WORDS[:12]:
        assert f"{word} " not in text
    assert json.loads(text)["baseline_version"] == 1
    assert text.count("\n") > len(again.measurements)


def many(n: int) -> tuple[list[dict[str, Any]], dict[str, list[tuple[str, float, str]]]]:
    """Rows of a text task and of a task with 91 labels, and (metric, value, signature) of both."""
    rng = np.random.default_rng(6)
    words = [f"word{place}" for place in range(400)]
    truth = [list(rng.choice(words, size=rng.integers(8, 25))) for _ in range(n)]
    said = [[word if rng.random() < 0.7 else str(rng.choice(words)) for word in text] for text in truth]
    answers, references = [" ".join(text) for text in said], [[" ".join(text)] for text in truth]
    right, overlap = (rng.random(n) < 0.4).astype(float), rng.integers(0, 60, n) / rng.integers(60, 120, n)
    bleu = score_text(answers, references, ["bleu"])["bleu"]
    names = tuple(f"label-{place:02}" for place in range(91))
    true, given = (rng.random((n, 91)) < np.linspace(0.2, 0.002, 91) for _ in range(2))
    rank = rng.integers(1, 91, n) / rng.integers(1, 91, n)
    sums = score_sets(LabelSets(names, true, given, True), "f1_macro", None)
    assert isinstance(sums, Scored)
    ids = [hashlib.sha256(str(place).encode()).hexdigest()[:16] for place in range(n)]

    def joined(row: np.ndarray) -> str:
        return ", ".join(name for name, has in zip(names, row, strict=True) if has)

    rows = [
        {"subject": "lora", "task": "support", "item_id": ids[at], "references": references[at],
         "adapted_output": answers[at], "exact_match_adapted": right[at], "rougeL_adapted": overlap[at]}
        for at in range(n)
    ] + [
        {"subject": "lora", "task": "tags", "item_id": ids[at], "references": [joined(true[at])],
         "adapted_output": joined(given[at]), "lrap_adapted": rank[at]}
        for at in range(n)
    ]  # fmt: skip
    macro = "f1_macro|labels:91|supported:91|decision:probability>=0.5"
    values = [("exact_match", float(right.mean()), "e"), ("rougeL", float(overlap.mean()), "r")]
    assert bleu.value is not None
    assert sums.value is not None
    return rows, {
        "support": [*values, ("bleu", bleu.value, bleu.signature)],
        "tags": [("f1_macro", sums.value, macro), ("lrap", float(rank.mean()), "l")],
    }


def test_two_thousand_items_of_five_metrics_take_less_than_their_share_of_a_megabyte(
    measured: Callable[..., Measurement], result: Callable[..., Comparison]
) -> None:
    n = 2_000
    rows, values = many(n)
    measurements = [
        measured(metric, task=task, n=n, own=(value, None, None)).model_copy(update={"signature": signature})
        for task, found in values.items()
        for metric, value, signature in found
    ]
    made = bless(result(*measurements), _table(rows))
    assert (made.paired, made.unpaired) == (5, {})
    assert len(document(made.file).encode()) < 1_000_000 * n / 10_000


def _table(rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])


def test_numbers_come_back_as_they_were() -> None:
    rng = np.random.default_rng(7)
    for values in (
        rng.random((50, 1)), rng.integers(0, 3, (50, 4)), rng.integers(0, 70_000, (50, 2)), rng.normal(size=(50, 2)),
        np.array([[0.25], [math.nan], [0.25], [1e-300]]), rng.integers(0, 5, (90, 1)) / 7,
    ):  # fmt: skip
        shape = np.asarray(values).shape
        back = unpack(PackedNumbers.model_validate_json(pack(values).model_dump_json()), (shape[0], shape[1]))
        assert back.tobytes() == np.asarray(values, dtype=np.float64).tobytes()
    flags = rng.random((30, 91)) < 0.1
    assert (unpack_bits(pack_bits(flags), (30, 91)) == flags).all()


def test_packed_numbers_of_another_size_are_refused() -> None:
    packed = pack(np.zeros((100_000, 1)))
    for change in (
        {"shape": (10, 1)}, {"shape": (200_000, 1)}, {"shape": (2_000_000_000, 8)}, {"shape": (0, 1)},
        {"data": packed.data[:-8]}, {"data": "!"}, {"data": "AAAA"}, {"distinct": pack([0.5]).model_copy()},
    ):  # fmt: skip
        broken = packed.model_copy(update=change)
        if "distinct" in change:
            broken = pack([1, 2, 3]).model_copy(update=change)
        with pytest.raises(InvalidComparison, match="baseline"):
            unpack(broken, broken.shape)


def test_damaged_items_are_noticed(runs: Callable[[str, float, int], Run]) -> None:
    old = runs("multi", 0.2, 1)
    file = bless(old.comparison, old.samples).file
    (items,) = file.items
    assert items.labels is not None
    for change in (
        {"ids": items.ids[:-8]}, {"items": items.items - 1}, {"scores": {"lrap": pack([1.0])}},
        {"ids": (items.ids[:8] * (len(items.ids) // 8))[: len(items.ids)]},
    ):  # fmt: skip
        broken = file.model_copy(update={"items": [items.model_copy(update=change)]})
        with pytest.raises(InvalidComparison):
            table_of(broken, "lora", "support")
    named = items.labels.model_copy(update={"names": ["a"] * len(items.labels.names)})
    broken = file.model_copy(update={"items": [items.model_copy(update={"labels": named})]})
    table = table_of(broken, "lora", "support")
    assert table is not None
    with pytest.raises(InvalidComparison, match="twice"):
        table.labels()


def test_ids_are_longer_where_short_ones_would_not_tell_items_apart(
    runs: Callable[[str, float, int], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.gates import blessing

    old, new = runs("choice", 0.2, 1), runs("choice", 0.35, 2)
    assert bless(old.comparison, old.samples).file.items[0].id_bytes == 6
    real = blessing.shortened
    monkeypatch.setattr(blessing, "shortened", lambda key, size: "0" * 12 if size == 6 else real(key, size))
    file = bless(old.comparison, old.samples).file
    assert file.items[0].id_bytes == 8
    found = next(each for each in sampled(new) if each.metric == "accuracy")
    baseline = Baseline(comparison_of(file), None, new.samples, blessed=file)
    assert isinstance(paired_reading(found, new.comparison, baseline, 0.95), Reading)


def test_what_may_not_be_blessed(runs: Callable[[str, float, int], Run], run: Callable[..., Run]) -> None:
    old = runs("text", 0.2, 1)
    with pytest.raises(EvaluationError, match=r"no samples\.parquet"):
        bless(old.comparison, None)
    failed = old.comparison.model_copy(update={"gates": GateReport(policy="gates.toml", passed=False, rows=[])})
    with pytest.raises(EvaluationError, match=r"did not pass gates\.toml, .*compare --gates") as caught:
        bless(failed, old.samples)
    assert caught.value.exit_code == 3
    assert bless(failed, old.samples, allow_failing=True).paired
    with pytest.raises(UsageError, match="no adapted checkpoint 'other'"):
        bless(old.comparison, old.samples, ["other"])
    with pytest.raises(EvaluationError, match="where the result counts 50"):
        bless(old.comparison, old.samples.slice(0, 40))
    with pytest.raises(EvaluationError, match="no measurement"):
        bless(old.comparison.model_copy(update={"measurements": []}), old.samples)
    items, said, settings = texts(20)
    dead = run("generate", items, said(0.3, 1), {"lora": said(0.3, 1)}, **settings)
    with pytest.raises(EvaluationError, match="no answer of lora differs"):
        bless(dead.comparison, dead.samples, allow_failing=True)


def test_chosen_subjects_alone_are_blessed(run: Callable[..., Run]) -> None:
    items, said, settings = choices(30)
    both = run("choice", items, said(0.3, 1), {"one": said(0.2, 2), "two": said(0.2, 3)}, **settings)
    file = bless(both.comparison, both.samples, ["two"]).file
    assert [each.name for each in file.checkpoints] == ["base", "two"]
    assert {each.subject for each in file.measurements} == {each.subject for each in file.items} == {"two"}


def test_other_checkpoint_with_the_same_answers_is_suspicious(run: Callable[..., Run]) -> None:
    items, said, settings = texts(20)
    old = run("generate", items, said(0.3, 1), {"lora": said(0.2, 2)}, **settings)
    new = run("generate", items, said(0.3, 1), {"lora": said(0.2, 2)}, hashes={"lora": "h-new"}, **settings)
    baseline = blessed(old, new)
    found = next(each for each in sampled(new) if each.metric == "rougeL")
    reading = paired_reading(found, new.comparison, baseline, 0.95)
    assert isinstance(reading, Reading)
    assert reading.suspicious_because is not None
    assert "whose weights are others" in reading.suspicious_because
    assert any("every answer of lora" in warning for warning in baseline_warnings(new.comparison, baseline))
    same = blessed(old, old)
    reading = paired_reading(found, old.comparison, same, 0.95)
    assert isinstance(reading, Reading)
    assert (reading.suspicious_because, reading.constant) == (None, True)
    assert "byte for byte" in (reading.unchanged_because or "")
    assert baseline_warnings(old.comparison, same) == []


def test_shape_is_looked_at_before_anything_is_decoded(
    runs: Callable[[str, float, int], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.gates import packing

    monkeypatch.setattr(packing, "_decode", lambda packed: pytest.fail("decoded"))
    wide = pack(np.zeros((50, 2)))
    with pytest.raises(InvalidComparison, match=r"shape \(50, 2\) where \(50, 1\) belong"):
        unpack(wide, (50, 1))
    long = pack([1, 2, 3]).model_copy(update={"distinct": pack(np.zeros((100, 1)))})
    with pytest.raises(InvalidComparison, match="damaged"):
        unpack(long, (3, 1))
    file = bless(runs("text", 0.2, 1).comparison, runs("text", 0.2, 1).samples).file
    (items,) = file.items
    huge = wide.model_copy(update={"shape": (50, 1_000_000)})
    many = items.model_copy(update={"scores": items.scores | {f"m{place}": huge for place in range(5)}})
    with pytest.raises(InvalidComparison, match="more than 200,000,000 packed numbers"):
        comparison_of(file.model_copy(update={"items": [many]}))
    two = items.model_copy(update={"scores": {"rougeL": wide}})
    with pytest.raises(InvalidComparison, match="belong"):
        table_of(file.model_copy(update={"items": [two]}), "lora", "support")


@pytest.mark.parametrize("rows", [np.ones((50, 1)), np.ones((50, 50)), -np.ones((50, 10)), np.full((50, 10), math.nan)])
def test_damaged_statistics_are_no_comparison(rows: Any, runs: Callable[[str, float, int], Run]) -> None:
    old, new = runs("text", 0.2, 1), runs("text", 0.35, 2)
    file = bless(old.comparison, old.samples).file
    (items,) = file.items
    broken = items.model_copy(update={"statistics": items.statistics | {"bleu": pack(rows)}})
    file = file.model_copy(update={"items": [broken]})
    found = next(each for each in sampled(new) if each.metric == "bleu")
    with pytest.raises(InvalidComparison, match="baseline"):
        paired_reading(found, new.comparison, Baseline(comparison_of(file), None, new.samples, blessed=file), 0.95)


def test_flips_that_are_none_are_no_comparison(runs: Callable[[str, float, int], Run]) -> None:
    file = bless(runs("choice", 0.2, 1).comparison, runs("choice", 0.2, 1).samples).file
    (items,) = file.items
    broken = items.model_copy(update={"flips": pack(np.full((items.items, 1), 7))})
    with pytest.raises(InvalidComparison, match="flips are damaged"):
        table_of(file.model_copy(update={"items": [broken]}), "lora", "support")


def test_item_data_that_one_side_lost_are_no_comparison(runs: Callable[[str, float, int], Run]) -> None:
    old, new = runs("text", 0.2, 1), runs("text", 0.35, 2)

    def read(metric: str, baseline: Baseline) -> Absent | Reading:
        found = next(each for each in sampled(new) if each.metric == metric and each.slice is None)
        return paired_reading(found, new.comparison, baseline, 0.95)

    def without(table: pyarrow.Table, name: str) -> pyarrow.Table:
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pyarrow.nulls(table.num_rows, table.schema.field(name).type))

    for metric, column in (("rougeL", "rougeL_adapted"), ("bleu", "adapted_output")):
        for one, other, lost in (
            (old.samples, without(new.samples, column), "the result"),
            (without(old.samples, column), new.samples, "the baseline"),
        ):
            reading = read(metric, Baseline(old.comparison, one, other))
            assert isinstance(reading, Absent)
            assert (reading.outcome, reading.reason.startswith(lost)) == ("INVALID", True), reading
        cut = Baseline(old.comparison, without(old.samples, column), without(new.samples, column))
        reading = read(metric, cut)
        assert isinstance(reading, Absent)
        assert reading.outcome == "INCONCLUSIVE"
    file = bless(old.comparison, old.samples).file
    (items,) = file.items
    file = file.model_copy(update={"items": [items.model_copy(update={"statistics": {}})]})
    reading = read("bleu", Baseline(comparison_of(file), None, new.samples, blessed=file))
    assert isinstance(reading, Absent)
    assert (reading.outcome, "keeps no item statistics" in reading.reason) == ("INVALID", True)


def test_undefined_measurements_are_kept_with_their_reason(runs: Callable[[str, float, int], Run]) -> None:
    old = runs("choice", 0.2, 1)
    rates = [each for each in old.comparison.measurements if each.metric == "gained_rate"]
    null = [each.model_copy(update={"adapted": None, "missing_reason": "no item to count"}) for each in rates]
    others = [each for each in old.comparison.measurements if each.metric != "gained_rate"]
    made = bless(old.comparison.model_copy(update={"measurements": [*others, *null]}), old.samples)
    file = BaselineFile.model_validate_json(document(made.file))
    reasons = {each.metric: each.missing_reason for each in file.measurements}
    assert (reasons["gained_rate"], reasons["accuracy"], reasons["forgotten_rate"]) == ("no item to count", None, None)
    before = Baseline(comparison_of(file), None, old.samples, blessed=file)
    assert before.left_undefined(null[0], "lora")
    assert before.measurement(null[0], "lora", of_base=True) is None


def _saved(old: Run, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(result_document(old.comparison))
    pyarrow.parquet.write_table(old.samples, folder / "samples.parquet")
    return folder / "result.json"


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ("not json", DataError, 2),
        ("[]", DataError, 2),
        ("[" * 100_000, DataError, 2),
        ('{"schema_version": 99}', EvaluationError, 3),
        ('{"baseline_version": 99}', InvalidComparison, 3),
    ],
)
def test_what_cannot_be_read_is_input_and_another_version_no_comparison(
    text: str, error: type[LorascopeError], code: int, runs: Callable[[str, float, int], Run], tmp_path: Path
) -> None:
    result, target = _saved(runs("text", 0.2, 1), tmp_path / "new"), tmp_path / "baseline.json"
    target.write_text(text)
    with pytest.raises(error, match="the baseline") as caught:
        read_baseline(target, result)
    assert caught.value.exit_code == code
    assert "lorascope gate bless" in str(caught.value.remedy)


def test_blessing_tells_in_one_line_what_cannot_be_paired(
    runs: Callable[[str, float, int], Run], tmp_path: Path
) -> None:
    old = runs("text", 0.2, 1)
    unpaired = bless(old.comparison, old.samples).unpaired
    own = next(each for each in old.comparison.measurements if each.adapted is not None and each.area == "task")
    others = [own.model_copy(update={"metric": f"own_{place}", "slice": None}) for place in range(9)]
    whole = [*old.comparison.measurements, *others]
    more = replace(old, comparison=old.comparison.model_copy(update={"measurements": whole}))
    console = Console(file=io.StringIO(), width=300)
    pin(_saved(more, tmp_path / "old"), tmp_path / "baseline.json", console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert f"{len(unpaired) + 9:,} more cannot be paired item by item: it has no item scores in the samples" in lines[1]


def test_only_baselines_are_replaced(runs: Callable[[str, float, int], Run], tmp_path: Path) -> None:
    old = runs("text", 0.2, 1)
    result = tmp_path / "result.json"
    result.write_text(result_document(old.comparison))
    pyarrow.parquet.write_table(old.samples, tmp_path / "samples.parquet")
    other = tmp_path / "other.json"
    other.write_text(result.read_text())
    console = Console(file=io.StringIO())
    policy = tmp_path / "gates.toml"
    policy.write_text("version = 1")
    for target in (other, policy, tmp_path / "samples.parquet"):
        before = target.read_bytes()
        with pytest.raises(OutputError, match="replaces baselines alone"):
            pin(result, target, console, overwrite=True)
        assert target.read_bytes() == before
    with pytest.raises(OutputError) as caught:
        pin(result, tmp_path / "none" / "baseline.json", console)
    assert "--to" in str(caught.value.remedy)
    target = pin(result, tmp_path / "baseline.json", console)
    assert pin(result, target, console, overwrite=True) == target
