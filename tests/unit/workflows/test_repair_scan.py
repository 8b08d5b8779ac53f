"""Whole repair scans on tiny models: what a variant answers, that its controls are controls, and what is written."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.overriding import NewFactors, NewWeight, OverridingEngine, overridden
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError, OutputError, UsageError
from lorascope.schema.comparison import Comparison
from lorascope.schema.repair import RepairReport, RepairRow
from lorascope.schema.suite import SuiteTask
from lorascope.weights.repair import frobenius
from lorascope.workflows.behaviour import askers
from lorascope.workflows.publish import load_result
from lorascope.workflows.repair import RepairOptions, repair
from lorascope.workflows.repair_result import notes_on
from lorascope.workflows.repair_scan import ScanOptions, _advice, scan
from lorascope.workflows.repair_variants import ScannedChanges, Variant
from lorascope.workflows.repair_verdict import trials_of
from lorascope.workflows.subjects import Opened, open_all
from lorascope.workflows.tasks import Questions, load_tasks
from lorascope.workflows.watch import Silent

SUITE = """
version: 1
tasks:
- {name: target, kind: choice, data: target.jsonl}
- {name: general, kind: choice, role: retention, data: general.jsonl}
- {name: more, kind: choice, role: retention, data: more.jsonl}
"""


@pytest.fixture(scope="module")
def family(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base with large weights, and a LoRA, a DoRA and a full fine-tune of it that have intruder dimensions."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("intruding")
    model = LlamaForCausalLM.from_pretrained(llama.base)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    model.save_pretrained(root / "base")
    for name in ("lora", "dora"):
        config = LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", use_dora=name == "dora"
        )
        wrapped = get_peft_model(LlamaForCausalLM.from_pretrained(root / "base"), config)
        _add_noise(wrapped, "lora_B").save_pretrained(root / name)
    full = _add_noise(LlamaForCausalLM.from_pretrained(root / "base"), "q_proj")
    full.save_pretrained(root / "full")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        for name in ("base", "full"):
            (root / name / file).write_bytes((llama.base / file).read_bytes())
    return {name: root / name for name in ("base", "lora", "dora", "full")}


def _add_noise(model: Any, only: str) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.add_(0.15 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("suite")
    for name, start, count in (("target", 0, 12), ("general", 100, 10), ("more", 200, 6)):
        rows = [
            {"question": f"which is number {n}?", "choices": ["one", "two", "three"], "answer": n % 3}
            for n in range(start, start + count)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "suite.yaml").write_text(SUITE)
    return root / "suite.yaml"


def options(family: dict[str, Path], suite: Path, out: Path, name: str = "lora") -> ScanOptions:
    return ScanOptions(
        base=str(family["base"]),
        adapted=str(family[name]),
        questions=Questions(suite=suite, probe=()),
        strengths=(0.0, 0.5, 1.0),
        lambdas=(0.5,),
        out=out,
    )


@pytest.fixture(scope="module")
def scanned(family: dict[str, Path], suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scan(options(family, suite, tmp_path_factory.mktemp("scanned")))


def report_of(comparison: Comparison) -> RepairReport:
    assert comparison.repair is not None
    return comparison.repair


def opened(family: dict[str, Path], name: str) -> Opened:
    return open_all(str(family["base"]), [str(family[name])], allow_pickle=False, watch=Silent())


def judged(pair: Opened, *, seed: int = 0, lambdas: Sequence[float] = (0.5,)) -> ScannedChanges:
    return ScannedChanges(
        pair.subjects[0].changes, lambdas, k=10, epsilon=0.5, seed=seed, on_progress=lambda done, total: None
    )


# --- what a variant answers ---


def ask(engine: TransformersEngine, subject: Any, suite: Path) -> list[tuple[float, ...]]:
    task = load_tasks(Questions(suite=suite, probe=()), True).tasks[0]
    return [answer.logprobs for answer in engine.answer(subject, task.spec, task.items)]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["lora", "dora", "full"])
def test_strength_one_is_the_adapted_checkpoint_and_zero_the_base(
    family: dict[str, Path], suite: Path, name: str
) -> None:
    """Also where they are really put into the model, and bit for bit once they have been taken out again."""
    pair = opened(family, name)
    changes, (base, adapted) = judged(pair), askers(pair, allow_pickle=False)
    engine = OverridingEngine(device="cpu")
    before, after = ask(engine, base, suite), ask(engine, adapted, suite)
    assert before != after
    for strength, expected in ((1.0, after), (0.0, before)):
        variant = Variant("strength", strength)
        subject = overridden(adapted, {"strength": strength}, lambda variant=variant: changes.overrides(variant))
        found = ask(engine, subject, suite)
        if name == "lora":
            assert found == expected
        else:
            assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=2e-4)
    assert ask(engine, adapted, suite) == after
    assert ask(engine, base, suite) == before


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_variant_answers_as_the_checkpoint_that_repair_writes(
    family: dict[str, Path], suite: Path, tmp_path: Path, name: str
) -> None:
    pair = opened(family, name)
    changes, adapted = judged(pair), askers(pair, allow_pickle=False)[1]
    variant = Variant("all", 0.5)
    assert changes.intruders("all") > 0
    engine = OverridingEngine(device="cpu")
    found = ask(engine, overridden(adapted, {}, lambda: changes.overrides(variant)), suite)
    repair(RepairOptions(str(family["base"]), str(family[name]), tmp_path / "new", intruders=0.5, which="all"))
    written = open_all(str(family["base"]), [str(tmp_path / "new")], allow_pickle=False, watch=Silent())
    expected = ask(engine, askers(written, allow_pickle=False)[1], suite)
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=2e-4)
    assert not torch.allclose(torch.tensor(found), torch.tensor(ask(engine, adapted, suite)), atol=1e-2)


def test_a_transposed_weight_and_a_prefix_are_found(tmp_path: Path, llama: Any, suite: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_positions=192, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt2")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "gpt2" / file).write_bytes((llama.base / file).read_bytes())
    folder = tmp_path / "gpt2"
    base = Subject(name="gpt2", path=folder, kind="model", tokenizer_path=folder, content_hash="gpt2")
    engine = OverridingEngine(device="cpu")
    plain = ask(engine, base, suite)
    weight = model.transformer.h[0].attn.c_attn.weight.detach().T
    for name in ("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"):
        same = overridden(base, {"name": name}, lambda name=name: [NewWeight(name, weight)])
        assert ask(engine, same, suite) == plain
        other = overridden(base, {"twice": name}, lambda name=name: [NewWeight(name, 2 * weight)])
        assert ask(engine, other, suite) != plain
    for wrong in (NewWeight("h.0.attn.c_attn", weight.T), NewWeight("h.9.attn.c_attn", weight)):
        with pytest.raises(EvaluationError):
            ask(engine, overridden(base, {"wrong": wrong.module}, lambda wrong=wrong: [wrong]), suite)
    assert ask(engine, base, suite) == plain


def test_answers_of_variants_have_keys_of_their_own(family: dict[str, Path], suite: Path, tmp_path: Path) -> None:
    pair = opened(family, "lora")
    base, adapted = askers(pair, allow_pickle=False)
    changes = judged(pair)
    variants = changes.variants((0.0, 0.5), (0.5,))
    subjects = [overridden(adapted, changes.definition(each, k=10, epsilon=0.5), list) for each in variants]
    others = [replace(adapted, content_hash="another"), replace(adapted, base_hash="another")]
    hashes = [each.content_hash for each in subjects]
    assert len({*hashes, adapted.content_hash, base.content_hash}) == len(variants) + 2
    assert overridden(others[0], changes.definition(variants[0], k=10, epsilon=0.5), list).content_hash != hashes[0]
    deeper = overridden(adapted, changes.definition(variants[-1], k=11, epsilon=0.5), list)
    assert deeper.content_hash != hashes[-1]
    task = SuiteTask(name="t", kind="choice", data="x")
    items = load_tasks(Questions(suite=suite, probe=()), True).tasks[0].items
    with AnswerCache(tmp_path / "answers.sqlite") as cache:
        engine = OverridingEngine(device="cpu", cache=cache)
        for subject in (adapted, overridden(adapted, {"nothing": True}, list)):
            engine.answer(subject, task, items)
        assert len(cache) == 2 * len(items)


# --- controls ---


@pytest.mark.parametrize("name", ["lora", "full"])
def test_every_control_has_the_norm_of_its_repair_in_every_module(family: dict[str, Path], name: str) -> None:
    changes = judged(opened(family, name), lambdas=(0.3, 0.7))
    variants = [each for each in changes.variants((), (0.3, 0.7)) if each.control is not None]
    assert {each.control for each in variants} == {"shrink", "neighbour", "random"}
    for variant in variants:
        for module in changes.modules:
            if variant.family not in module.found:
                continue
            repaired = changes.repaired(module, replace(variant, control=None))
            control = changes.repaired(module, variant)
            assert frobenius(control) == pytest.approx(frobenius(repaired), rel=1e-4)
            assert not torch.allclose(control.dense(), repaired.dense(), atol=1e-3)
        assert changes.relative_norm(variant) == changes.relative_norm(replace(variant, control=None))


def test_relative_norm_is_that_of_all_modules_together(family: dict[str, Path]) -> None:
    changes = judged(opened(family, "lora"))
    variant = Variant("all", 0.5)
    repaired = [
        changes.repaired(module, variant) if "all" in module.found else changes.repaired(module, Variant("strength", 1))
        for module in changes.modules
    ]
    after = math.sqrt(sum(frobenius(delta) ** 2 for delta in repaired))
    before = math.sqrt(sum(module.norm**2 for module in changes.modules))
    assert changes.relative_norm(variant) == pytest.approx(after / before, rel=1e-5)
    assert changes.relative_norm(Variant("strength", 0.25)) == 0.25


def test_the_random_control_depends_on_the_seed_alone(family: dict[str, Path]) -> None:
    pair = opened(family, "lora")
    variant = Variant("all", 0.5, "random")
    first, again, other = (
        [override.up for override in judged(pair, seed=seed).overrides(variant) if isinstance(override, NewFactors)]
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


def rotated(changes: ScannedChanges, strength: float, longer: Sequence[int]) -> ScannedChanges:
    """The same scan where, at one strength, the repairs of some modules make ΔW twice as long; all others halve it."""
    for place, module in enumerate(changes.modules):
        factors = {at: 2.0 if at[1] == strength and place in longer else 0.5 for at in module.norms}
        changes.modules[place] = replace(module, norms={at: factor * module.norm for at, factor in factors.items()})
    return changes


def test_a_repair_that_lengthens_the_change_is_marked(family: dict[str, Path]) -> None:
    changes = judged(opened(family, "lora"), lambdas=(0.5, 0.9))
    repair_at, shrink = Variant("all", 0.5), Variant("all", 0.5, "shrink")
    rotated(changes, 0.5, [])
    assert not changes.grew(repair_at)
    assert changes.note(repair_at) is None
    rotated(changes, 0.5, range(len(changes.modules)))
    assert changes.grew(repair_at)
    assert changes.grew(shrink)
    assert not changes.grew(Variant("strength", 1.25))
    assert not changes.grew(Variant("all", 0.9))
    assert "rotations that hold part of the base; ΔW as a whole grew" in str(changes.note(repair_at))
    assert "stretches ΔW" in str(changes.note(shrink))
    assert any("rotations that hold part of the base" in note for note in notes_on(changes, False))
    assert [each.grew for each in trials_of([repair_at, shrink, Variant("all", 0.9)], changes, ())] == [True, False]
    rotated(changes, 0.5, [0])
    assert not changes.grew(repair_at)
    assert f"ΔW grew in 1 of {len(changes.modules)} modules" in str(changes.note(repair_at))
    assert not any("rotations" in note for note in notes_on(rotated(changes, 0.5, []), False))


@pytest.mark.parametrize(("alone", "counts"), [(0, True), (7, True), (8, False), (14, False)])
def test_neighbours_count_where_at_least_half_of_the_modules_have_them(
    family: dict[str, Path], alone: int, counts: bool
) -> None:
    changes = judged(opened(family, "lora"))
    assert len(changes.modules) == 14
    for place, module in enumerate(changes.modules):
        changes.modules[place] = replace(module, alone=frozenset({("all", 0.5)} if place < alone else ()))
    repair_at, neighbour = Variant("all", 0.5), Variant("all", 0.5, "neighbour")
    assert changes.neighbours_count(repair_at) is counts
    assert ("does not count" in str(changes.note(neighbour))) is not counts
    assert (neighbour in changes.variants((), (0.5,))) is (alone < 14)
    assert ("no neighbour control" in str(changes.note(repair_at))) is (alone == 14)
    [trial] = trials_of([repair_at, neighbour], changes, {repair_at.name})
    assert (trial.neighbours_count, trial.screened_out) == (counts, True)


def test_one_intruder_at_most_makes_one_family(family: dict[str, Path]) -> None:
    changes = judged(opened(family, "lora"))
    assert not changes.one_each
    assert {each.family for each in changes.variants((), (0.5,))} == {"top", "all"}
    for place, module in enumerate(changes.modules):
        found = {name: each.first(1) for name, each in module.found.items()}
        changes.modules[place] = replace(module, found=found)
    assert {each.family for each in changes.variants((), (0.5,))} == {"top"}
    assert [each.name for each in changes.variants((0.5,), ())] == ["strength 0.5"]


# --- the whole scan ---


def test_all_variants_are_in_the_result(scanned: Path) -> None:
    report = report_of(load_result(scanned))
    assert report.subject == "lora"
    assert report.intruders["all"] > report.intruders["top"] > 0
    names = [row.name for row in report.rows]
    assert names[:4] == ["strength 0", "strength 0.5", "strength 1", "top 0.5"]
    assert {row.control for row in report.rows if row.family == "all"} == {None, "shrink", "neighbour", "random"}
    assert len(names) == len(set(names)) == 3 + 2 * 4
    assert len(report.contrasts) == 2 * 3
    for row in report.rows:
        assert row.target is not None
        assert row.retention is not None
        assert row.retention.change is not None
        assert row.retention.change.n == 16


def test_the_ends_of_the_strength_scan_are_base_and_adapted(scanned: Path) -> None:
    report = report_of(load_result(scanned))
    zero, one = report.rows[0], report.rows[2]
    assert (zero.target, zero.retention) == (report.base.target, report.base.retention)
    for metric in (one.target, one.retention):
        assert metric is not None
        assert metric.change is not None
        assert (metric.change.value, metric.change.low, metric.change.high, metric.change.p_value) == (0, 0, 0, 1)


def test_both_retention_tasks_make_one_axis(scanned: Path) -> None:
    comparison = load_result(scanned)
    report = report_of(comparison)
    assert report.retention is not None
    assert report.retention.tasks == ["general", "more"]
    known = {
        found.task: found.adapted.value
        for found in comparison.measurements
        if found.metric == "gold_margin" and found.slice is None and found.adapted is not None
    }
    assert report.adapted.retention is not None
    assert report.adapted.retention.value is not None
    pooled = (10 * known["general"] + 6 * known["more"]) / 16
    assert report.adapted.retention.value.value == pytest.approx(pooled)
    assert "forgotten_rate" in {metric.axis.metric for metric in report.rows[1].others}


def test_the_front_is_drawn_and_nothing_surpasses_it(scanned: Path) -> None:
    comparison = load_result(scanned)
    [series] = [each for each in comparison.series if each.name == "pareto"]
    assert series.x_name == "gold_margin"
    assert series.x == sorted(series.x)
    heights = [height for height in series.y if height is not None]
    assert heights == sorted(heights, reverse=True)
    front = [row for row in report_of(comparison).rows if row.front]
    assert len(front) == len(series.x)


def test_page_and_finding_say_the_verdict(scanned: Path) -> None:
    comparison = load_result(scanned)
    [finding] = [each for each in comparison.findings if each.id == "repair"]
    page = (scanned.parent / "report.html").read_text(encoding="utf-8")
    assert finding.title in page
    assert 'id="repair"' in page


def test_asking_again_asks_nothing_and_finds_the_same(
    family: dict[str, Path], suite: Path, scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished item was asked again")

    before = report_of(load_result(scanned))
    monkeypatch.setattr(TransformersEngine, "_ask", never)
    assert report_of(load_result(scan(options(family, suite, scanned.parent)))) == before


def test_a_killed_scan_goes_on_where_it_stopped(
    family: dict[str, Path], suite: Path, scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = TransformersEngine._ask

    def counted(self: Any, subject: Any, task: Any, items: Any, waiting: Any, *rest: Any) -> None:
        if len(asked) == 15:
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(waiting))
        plain(self, subject, task, items, waiting, *rest)

    monkeypatch.setattr(TransformersEngine, "_ask", counted)
    with pytest.raises(KeyboardInterrupt):
        scan(options(family, suite, tmp_path / "out"))
    result = scan(options(family, suite, tmp_path / "out"))
    variants = 1 + 2 * 4
    assert sum(asked) == (2 + variants) * 28
    assert report_of(load_result(result)).rows == report_of(load_result(scanned)).rows


def test_another_scan_does_not_take_over_the_folder(family: dict[str, Path], suite: Path, scanned: Path) -> None:
    with pytest.raises(OutputError, match="another command"):
        scan(replace(options(family, suite, scanned.parent), lambdas=(0.4,)))


def test_sixteen_retention_items_decide_nothing(scanned: Path) -> None:
    report = report_of(load_result(scanned))
    assert (report.verdict.outcome, report.verdict.reasons) == ("undecided", ["few_units"])
    assert report.advice is None


def test_strength_0_is_not_the_base_where_the_tokenizers_differ(
    family: dict[str, Path], suite: Path, scanned: Path, tmp_path: Path
) -> None:
    """With a tokenizer of its own an adapter answers otherwise at strength 0 too."""
    own = tmp_path / "lora"
    shutil.copytree(family["lora"], own)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(family["base"] / file, own / file)
    tokenizer = json.loads((own / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "which"}, "content": "who"}
    (own / "tokenizer.json").write_text(json.dumps(tokenizer))
    given = replace(options(family | {"lora": own}, suite, tmp_path / "out"), strengths=(0.0,), lambdas=(0.9,))
    report = report_of(load_result(scan(given)))
    assert report.base.retention is not None
    assert report.rows[0].retention is not None
    assert report.rows[0].retention.value != report.base.retention.value
    assert any("tokenizer files other than the base's" in note for note in report.notes)
    assert not any("tokenizer" in note for note in report_of(load_result(scanned)).notes)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_scan_does_not_write_into_a_repaired_checkpoint(
    family: dict[str, Path], suite: Path, tmp_path: Path, overwrite: bool
) -> None:
    out = repair(RepairOptions(str(family["base"]), str(family["lora"]), tmp_path / "new", strength=0.5))
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(OutputError, match="repaired checkpoint"):
        scan(replace(options(family, suite, out), overwrite=overwrite))
    assert sorted(path.name for path in out.iterdir()) == before


def test_the_advised_command_repeats_what_was_scanned() -> None:
    """All digits of λ and ε, and the leave to read pickles."""
    given = ScanOptions(base="b", adapted="a", k=12, epsilon=0.123456789, allow_pickle=True)
    run: Any = SimpleNamespace(options=given, adapted="a")
    row = RepairRow(name="x", family="top", strength=0.1 + 0.2)
    advice = _advice(run, row)
    assert advice is not None
    assert advice.command[4:] == [
        "--intruders", "0.30000000000000004", "--which", "top", "--k", "12", "--epsilon", "0.123456789",
        "--allow-pickle", "--out", "a-repaired",
    ]  # fmt: skip
    run.options = replace(given, allow_pickle=False)
    plain = _advice(run, row.model_copy(update={"family": "strength", "strength": 0.123456789}))
    assert plain is not None
    assert plain.command[4:] == ["--strength", "0.123456789", "--out", "a-repaired"]


def test_a_full_fine_tune_keeps_its_other_weights(family: dict[str, Path], suite: Path, tmp_path: Path) -> None:
    report = report_of(load_result(scan(options(family, suite, tmp_path / "out", "full"))))
    assert any("embeddings, norms and biases stay" in note for note in report.notes)
    assert report.modules == 2
    assert report.base.retention is not None
    assert report.rows[0].retention is not None
    assert report.base.retention.value is not None
    assert report.rows[0].retention.value is not None
    # Only the scanned projections differ here, so strength 0 is the base up to rounding.
    assert report.rows[0].retention.value.value == pytest.approx(report.base.retention.value.value, abs=1e-4)


def test_a_classifier_without_retention_says_what_is_missing(bert: Any, topics: Path, tmp_path: Path) -> None:
    result = scan(
        ScanOptions(
            base=str(bert.base),
            adapted=str(bert.lora),
            questions=Questions(data={"": str(topics)}, labels=("art", "music", "sport")),
            strengths=(0.0, 0.5, 1.0),
            lambdas=(0.5,),
            out=tmp_path / "out",
        )
    )
    comparison = load_result(result)
    report = report_of(comparison)
    assert report.verdict.outcome == "not_measured"
    assert report.retention is None
    assert report.advice is None
    assert [each.area for each in comparison.missing] == ["forgetting"]
    assert "no language-model head" in comparison.missing[0].reason
    assert any("heads and other modules saved whole" in note for note in report.notes)
    assert all(row.target is not None and row.target.value is not None for row in report.rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strengths": (-0.1,)}, "no adapter strength"),
        ({"strengths": (math.nan,)}, "no adapter strength"),
        ({"lambdas": (1.0,)}, "no intruder strength"),
        ({"questions": Questions(probe=())}, "nothing to ask"),
        ({"device": "toaster"}, "is no device"),
    ],
)
def test_what_cannot_be_scanned_is_refused(
    family: dict[str, Path], suite: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        scan(replace(options(family, suite, tmp_path / "out"), **wrong))
