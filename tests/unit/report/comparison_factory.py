"""Made-up comparisons that look like real ones, for the tests of the report."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pyarrow as pa

from lorascope.schema.comparison import (
    CheckpointInfo,
    Comparison,
    Finding,
    IntruderReport,
    IntruderVector,
    Measurement,
    Missing,
    ModuleWeights,
    ParameterCounts,
    Provenance,
    Series,
    Slice,
    TaskInfo,
    WeightReport,
)
from lorascope.schema.gates import GateReport, GateRow
from lorascope.schema.human import (
    DIMENSIONS,
    Alpha,
    DimensionRating,
    EarlierRate,
    EarlierScore,
    HumanReport,
    HumanStudy,
    MetricAgreement,
    PairOutcome,
    RaterQuality,
    SignTest,
    Standing,
    StratumOutcome,
    Votes,
)
from lorascope.schema.values import Delta, Estimate

BASE, LORA, FULL = "llama-tiny", "lora-r16", "full-ft"
KINDS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def estimate(value: float, spread: float = 0.03, n: int = 96) -> Estimate:
    if spread == 0.0:
        return Estimate(value=value, n=n, method="none")
    return Estimate(value=value, low=value - spread, high=value + spread, n=n, method="bootstrap percentile, R=10000")


def judged(low: float, value: float, high: float, margin: float, direction: str) -> str | None:
    if direction == "none":
        return None
    if direction == "lower":
        low, value, high = -high, -value, -low
    if low > 0 and value >= margin:
        return "improved"
    if high < 0 and value <= -margin:
        return "regressed"
    return "equivalent" if -margin < low and high < margin else "inconclusive"


def measurement(
    subject: str,
    metric: str,
    base: float | None,
    adapted: float | None,
    *,
    task: str | None = None,
    area: str = "task",
    part: tuple[str, str] | None = None,
    spread: float = 0.03,
    scale: str = "0-1",
    unit: str = "fraction",
    direction: str = "higher",
    margin: float | None = None,
    reference: str = BASE,
    n: int = 96,
    reason: str | None = None,
    paired: bool = True,
) -> Measurement:
    margin = margin or (2.0 if scale == "0-100" else 0.02)
    delta = None
    if base is not None and adapted is not None and paired:
        change = adapted - base
        low, high = change - spread, change + spread
        verdict = judged(low, change, high, margin, direction)
        delta = Delta(
            value=change, low=low, high=high, n=n, p_value=0.0004 if low * high > 0 else 0.31,
            p_adjusted=0.001 if low * high > 0 else 0.4, test="sign-flip randomisation", margin=margin,
            verdict=verdict, detectable=spread, needed_n=1544 if verdict == "inconclusive" else None,
        )  # fmt: skip
    return Measurement(
        subject=subject,
        reference=reference,
        area=area,
        task=task,
        slice=Slice(by=part[0], value=part[1]) if part else None,
        metric=metric,
        unit=unit,
        scale=scale,
        direction=direction,
        base=None if base is None else estimate(base, spread, n),
        adapted=None if adapted is None else estimate(adapted, spread, n),
        delta=delta,
        signature=f"{metric}|v1|n={n}",
        missing_reason=reason,
    )


def checkpoint(name: str, **changed: Any) -> CheckpointInfo:
    values: dict[str, Any] = {
        "name": name, "path": f"models/{name}", "role": "adapted", "kind": "adapter", "method": "lora",
        "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "content_hash": "9f2c4a1be07733dd",
        "parameters": ParameterCounts(total=1_100_048_384, trainable=12_615_680, delta=968_884_224),
        "generation_ready": True,
    }  # fmt: skip
    return CheckpointInfo(**{**values, **changed})


def provenance() -> Provenance:
    return Provenance(
        libraries={"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.0"},
        git="4f1c2d7",
        device="cpu (2 cores)",
        dtype="float32",
        timings={"weights": 8.4, "answers": 341.0, "statistics": 2.2},
        suite_hash="77aa01",
    )


def comparison(checkpoints: list[CheckpointInfo], **values: Any) -> Comparison:
    command = ["lorascope", "compare", *(c.path for c in checkpoints), "--suite", "suite.yaml"]
    return Comparison(
        created="2026-03-02T10:15:00Z", command=command, seed=0, lorascope_version="0.1.0",
        provenance=provenance(), checkpoints=checkpoints, **values,
    )  # fmt: skip


# --- a causal language model: LoRA and full fine-tune against their base ---


def causal_comparison() -> Comparison:
    base = checkpoint(
        BASE, role="base", kind="model", method=None, parameters=ParameterCounts(total=1_100_048_384), cost=None
    )
    lora = checkpoint(LORA, cost={"gpu": "none", "epochs": 3, "train_seconds": 1834.0})
    full = checkpoint(
        FULL, kind="model", method="full", parameters=ParameterCounts(total=1_100_048_384, trainable=1_100_048_384)
    )
    tasks = [
        TaskInfo(name="support", kind="generate", role="target", items=96, fingerprint="ab12" * 8,
                 prompt="Q: {question}\nA:", metrics=["rougeL", "bleu", "exact_match"], margin=0.02),
        TaskInfo(name="general-knowledge-en", kind="choice", role="retention", items=240, fingerprint="cd34" * 8,
                 metrics=["accuracy", "gold_margin"], margin=0.02),
    ]  # fmt: skip
    return comparison(
        [base, lora, full],
        tasks=tasks,
        measurements=causal_measurements(),
        findings=causal_findings(),
        weights={LORA: weight_report(0.018, 3), FULL: weight_report(0.041, 0)},
        series=causal_series(),
        gates=gate_report(),
        human=HumanReport(studies=[human_study()], earlier=[earlier_score()]),
        missing=[
            Missing(area="leak", subject=None, reason="no training data was named (train_data)"),
            Missing(area="noise", subject=FULL, reason="one pass only; ask for two with --noise"),
        ],
    )


def causal_measurements() -> list[Measurement]:
    found: list[Measurement] = []
    for subject, lift in ((LORA, 0.101), (FULL, 0.128)):
        found += target_measurements(subject, lift)
        found += retention_measurements(subject, strength=1.0 if subject == FULL else 0.25)
        found += run_measurements(subject)
    found.append(measurement(LORA, "rougeL", 0.439, 0.412, task="support", reference=FULL, spread=0.035))
    found.append(
        measurement(LORA, "accuracy", 0.508, 0.617, task="general-knowledge-en", reference=FULL, spread=0.05, n=240)
    )
    return found


def target_measurements(subject: str, lift: float) -> list[Measurement]:
    task = "support"
    found = [
        measurement(subject, "rougeL", 0.311, 0.311 + lift, task=task, spread=0.038),
        measurement(subject, "bleu", 12.4, 12.4 + 40 * lift, task=task, spread=2.1, scale="0-100", unit="points"),
        measurement(subject, "exact_match", 0.104, 0.115, task=task, spread=0.042),
        measurement(subject, "kl_to_base", 0.0, 0.34, task=task, unit="nats", scale="nats", direction="none"),
    ]
    for name, shift in (("validation 1", 0.0), ("validation 2", -0.06)):
        found.append(
            measurement(subject, "rougeL", 0.305 + shift, 0.305 + lift + shift / 2, task=task, part=("split", name),
                        spread=0.05, n=48)
        )  # fmt: skip
        found.append(
            measurement(subject, "bleu", 12.0, 12.0 + 38 * lift, task=task, part=("split", name), spread=3.0,
                        scale="0-100", unit="points", n=48)
        )  # fmt: skip
    return found


def retention_measurements(subject: str, strength: float) -> list[Measurement]:
    task, drop = "general-knowledge-en", 0.117 * strength
    found = [
        measurement(subject, "accuracy", 0.625, 0.625 - drop, task=task, spread=0.045, n=240),
        measurement(subject, "gold_margin", 1.42, 1.42 - 4 * drop, task=task, spread=0.11, unit="nats", scale="nats",
                    n=240),
        measurement(subject, "retained_fraction", None, 1 - 2.4 * drop, task=task, area="forgetting", spread=0.11),
        measurement(subject, "forgotten_rate", None, 0.04 + 1.9 * drop, task=task, area="forgetting", spread=0.05,
                    direction="lower"),
        measurement(subject, "gained_rate", None, 0.07, task=task, area="forgetting", spread=0.03),
    ]  # fmt: skip
    for place, category in enumerate(("history", "geography", "science", "language", "mathematics")):
        fall = drop * (0.3 + 0.4 * place)
        found.append(
            measurement(subject, "accuracy", 0.7 - 0.04 * place, 0.7 - 0.04 * place - fall, task=task, spread=0.08,
                        part=("category", category), n=48)
        )  # fmt: skip
        found.append(
            measurement(subject, "gold_margin", 1.5, 1.5 - 5 * fall, task=task, part=("category", category),
                        spread=0.25, unit="nats", scale="nats", n=48)
        )  # fmt: skip
    return found


def run_measurements(subject: str) -> list[Measurement]:
    full = subject == FULL
    plain: dict[str, Any] = {"direction": "none", "spread": 0.0}
    steps: dict[str, Any] = {"area": "curves", "unit": "steps", "scale": "unbounded", **plain}
    cost: dict[str, Any] = {"area": "cost", "scale": "unbounded", **plain}
    return [
        measurement(subject, "best_step", None, 220.0 if full else 560.0, **steps),
        measurement(subject, "overfit_step", None, 280.0, **steps)
        if full
        else measurement(subject, "overfit_step", None, None, reason="no lasting rise", **steps),
        measurement(subject, "final_gap", None, 0.71 if full else 0.12, area="curves", unit="nats", scale="nats",
                    **plain),
        measurement(subject, "rougeL_gap", None, 0.093 if full else 0.021, task="support", area="gap",
                    direction="lower", spread=0.04),
        measurement(subject, "intruder_count", None, 0.0 if full else 21.0, area="weights", unit="count",
                    scale="unbounded", **plain),
        measurement(subject, "relative_change", None, 0.041 if full else 0.018, area="weights", **plain),
        measurement(subject, "intruder_energy", None, 0.0 if full else 0.034, area="weights", **plain),
        measurement(subject, "train_seconds", None, 5121.0 if full else 1834.0, unit="seconds", **cost),
        measurement(subject, "peak_memory_bytes", None, 17.9e9 if full else 6.1e9, unit="bytes", **cost),
        measurement(subject, "trainable_parameters", None, 1.1e9 if full else 12_615_680.0, unit="parameters", **cost),
        measurement(subject, "latency_ms_per_item", 41.2, 41.3 if full else 44.9, unit="ms", **cost),
        measurement(subject, "win_rate", None, 0.61 if full else 0.64, area="human", spread=0.09),
    ]  # fmt: skip


def causal_findings() -> list[Finding]:
    return [
        Finding(id="curves.overfit", severity="critical", area="curves", subject=FULL,
                title="Validation loss rises for good from step 280 of 900",
                evidence=["lowest at step 220 (1.31 nats), 1.93 at the end", "training loss still falls: 1.22"],
                advice="Stop at step 220, or lower the learning rate.", reference="Prechelt 1998"),
        Finding(id="weights.intruders", severity="warning", area="weights", subject=LORA,
                title="21 intruder dimensions, most of them in layer 2",
                evidence=["k = 10, ε = 0.5; 28 modules judged", "they carry 3.4 % of the leading energy"],
                advice="Compare with: lorascope repair --intruders 0.5", reference="arXiv 2410.21228"),
        Finding(id="leak.none", severity="info", area="leak", subject=None, title="No check for leaked items",
                evidence=["train_data is not set"]),
        Finding(id="target.gain", severity="good", area="task", subject=LORA, title="The gain holds on both sets",
                evidence=["validation 1: +0.101", "validation 2: +0.131"]),
    ]  # fmt: skip


def human_study(**changed: Any) -> HumanStudy:
    """Three systems; the last rater is left out, and no pair of them shows the same picture."""
    pairs = [
        human_pair(LORA, BASE, 0.62, 0.08, p=0.012, wins=64, losses=38),
        human_pair(FULL, BASE, 0.41, 0.07, p=0.03, wins=35, losses=58),
        human_pair(LORA, FULL, 0.54, 0.09, p=0.41, wins=41, losses=34),
    ]
    raters = [
        human_rater("rater-1", left=61, right=55),
        human_rater("rater-2", left=70, right=52, repeats_consistent=10),
        human_rater("rater-3", left=118, right=2, checks_passed=1,
                    excluded="passed 33 % of the checks, the plan asks for 67 %"),
        RaterQuality(rater="rater-4", present=False),
    ]  # fmt: skip
    alphas = [
        Alpha(name="overall", level="nominal", estimate=estimate(0.41, 0.11), units=118),
        Alpha(name="accuracy", level="ordinal", estimate=estimate(0.71, 0.06), units=236),
        Alpha(name="completeness", level="ordinal", estimate=estimate(0.84, 0.04), units=236),
        Alpha(name="logic", level="ordinal", estimate=estimate(0.05, 0.13), units=236),
        Alpha(name="fluency", level="ordinal", units=0, missing_reason="all ratings are equal"),
    ]
    values: dict[str, Any] = {
        "study": "s-4f1c2d7a", "commitment": "hmac-" + "9f2c" * 16, "seed": 3,
        "scored": "2026-05-04T16:12:00+00:00", "language": "en", "tasks": ["support"],
        "systems": [BASE, LORA, FULL], "plan": "sha256-" + "77aa" * 16,
        "registered": "Primary endpoint: the win rate over items.\nItems: 273.",
        "deviations": ["118 items were rated, 273 were planned"], "raters": raters, "left_rate": estimate(0.56, 0.04),
        "alphas": alphas, "pairs": pairs, "notes": ["rater-4 gave no sheet back"],
        "standings": [
            Standing(system=BASE, strength=Estimate(value=0.0, n=118, method="reference")),
            Standing(system=LORA, strength=estimate(0.48, 0.3, 118)),
            Standing(system=FULL, strength=estimate(-0.36, 0.28, 118)),
        ],
    }  # fmt: skip
    return HumanStudy(**{**values, **changed})


def earlier_score(**changed: Any) -> EarlierScore:
    """What the study of :func:`human_study` said before some of its sheets were handed in again."""
    rates = [EarlierRate(first=LORA, second=BASE, win_rate=estimate(0.48, 0.08, 118))]
    values: dict[str, Any] = {
        "study": "s-4f1c2d7a", "scored": "2026-05-03T09:30:00+00:00", "sheets": ["sha256-" + "3c1d" * 16],
        "win_rates": rates,
    }  # fmt: skip
    return EarlierScore(**{**values, **changed})


def human_rater(name: str, **changed: Any) -> RaterQuality:
    values: dict[str, Any] = {
        "rater": name, "sheet": f"{name}.xlsx", "present": True, "rows": 136, "repeats": 12, "repeats_consistent": 11,
        "checks": 3, "checks_passed": 3, "identical": 3, "identical_tied": 3,
    }  # fmt: skip
    return RaterQuality(**{**values, **changed})


def human_pair(
    first: str, second: str, rate: float, spread: float, *, p: float | None, wins: int, losses: int, **changed: Any
) -> PairOutcome:
    ratings = [
        DimensionRating(
            dimension=dimension, first=estimate(3.9 - 0.1 * place, 0.2, 118), second=estimate(3.5, 0.2, 118),
            delta=Delta(value=0.4 - 0.1 * place, low=0.2 - 0.1 * place, high=0.6 - 0.1 * place, n=118,
                        p_value=0.0004 * 10**place, p_adjusted=min(0.0016 * 8**place, 1.0)),
        )
        for place, dimension in enumerate(DIMENSIONS)
    ]  # fmt: skip
    strata = [
        StratumOutcome(stratum=f"support · {length} · {flip}", population=population, drawn=drawn,
                       weight=population / drawn, win_rate=estimate(value, 0.15, drawn) if drawn > 2 else None)
        for length, flip, population, drawn, value in (
            ("short", "flipped", 30, 20, 0.7), ("short", "unflipped", 200, 48, 0.6), ("long", "unflipped", 6, 2, 0.5))
    ]  # fmt: skip
    metrics = [
        MetricAgreement(task="support", metric="rougeL", items=96, agreement=estimate(0.63, 0.1),
                        correlation=estimate(0.31, 0.14)),
        MetricAgreement(task="support", metric="exact_match", items=0, missing_reason="it prefers a side nowhere"),
    ]  # fmt: skip
    values: dict[str, Any] = {
        "first": first, "second": second, "items": 118, "identical": 3, "win_rate": estimate(rate, spread, 118),
        "unweighted": estimate(rate + 0.02, spread, 118), "length_adjusted": estimate(rate - 0.05, spread, 115),
        "sign_test": SignTest(wins=wins, losses=losses, undecided=118 - wins - losses, p_value=p),
        "votes": Votes(first_much=60, first=110, tie=52, second=70, second_much=31, both_bad=22),
        "ratings": ratings, "metrics": metrics, "strata": strata,
    }  # fmt: skip
    return PairOutcome(**{**values, **changed})


def gate_report() -> GateReport:
    rows = [
        GateRow(address="support.rougeL", rule="max_drop 0.02", outcome="PASS", severity="fail",
                evidence="+0.101, low +0.069"),
        GateRow(address="full-ft:forgetting.accuracy", rule="max_drop 0.03", outcome="FAIL", severity="fail",
                evidence="−0.117, high −0.079"),
        GateRow(address="support.exact_match", rule="max_drop 0.02", outcome="INCONCLUSIVE", severity="warn",
                evidence="+0.011 [−0.025, +0.046]; 1,544 items decide"),
    ]  # fmt: skip
    return GateReport(policy="gates.toml", passed=False, rows=rows)


def causal_series() -> list[Series]:
    source = random.Random(7)
    series = []
    for subject, pace, turn in ((LORA, 260.0, 560), (FULL, 140.0, 220)):
        steps = [float(step) for step in range(1, 901)]
        losses = [1.15 + 1.6 * math.exp(-step / pace) + source.gauss(0, 0.05) for step in steps]
        if subject == FULL:
            losses = [loss - 0.0002 * step for loss, step in zip(losses, steps, strict=True)]
        series.append(Series(subject=subject, name="train_loss", x_name="step", x=steps, y=list(losses)))
        for set_name, lift in (("validation 1", 0.0), ("validation 2", 0.12)):
            points = [float(step) for step in range(20, 901, 40)]
            rise = 0.00088 if subject == FULL else 0.00002
            values = [1.27 + lift + 1.5 * math.exp(-p / pace) + rise * max(0.0, p - turn) for p in points]
            series.append(Series(subject=subject, name=f"eval_loss:{set_name}", x_name="step", x=points, y=values))
        thresholds = [round(0.1 * step, 1) for step in range(1, 10)]
        counts = [float(round((60 if subject == LORA else 8) * value**2)) for value in thresholds]
        series.append(Series(subject=subject, name="epsilon_curve", x_name="epsilon", x=thresholds, y=counts))
    for layer in range(4):
        for kind in KINDS:
            values = [8.0 * math.exp(-0.12 * rank) for rank in range(10)]
            name = f"spectrum:model.layers.{layer}.{kind}"
            series.append(Series(subject=BASE, name=name, x_name="rank", x=[float(r) for r in range(1, 11)], y=values))
    return series


def weight_report(change: float, intruders: int) -> WeightReport:
    modules = [
        module(f"model.layers.{layer}.{kind}", change * (0.4 + 0.3 * layer + 0.15 * place), intruders * (layer == 2))
        for layer in range(4)
        for place, kind in enumerate(KINDS)
    ]
    modules.append(module("lm_head", None, 0).model_copy(update={"notes": ["not part of the adapter"]}))
    total = sum(m.intruders.count for m in modules if m.intruders)
    totals: dict[str, float | None] = {
        "relative_change": change, "intruder_count": float(total), "intruder_count_right": float(total // 2),
        "intruder_energy": 0.034 if intruders else 0.0, "effective_rank": 9.8, "stable_rank": 3.1,
    }  # fmt: skip
    return WeightReport(modules=modules, totals=totals)


def module(name: str, change: float | None, intruders: int) -> ModuleWeights:
    if change is None:
        return ModuleWeights(name=name, shape=(32000, 2048), method="none", frobenius=0.0)
    left = intruder_report("left", intruders, intruder_report("right", intruders // 2, None))
    values = [40 * change * math.exp(-0.25 * rank) for rank in range(16)]
    return ModuleWeights(
        name=name, shape=(2048, 2048), method="lora", adapter_rank=16, numerical_rank=16, frobenius=90 * change,
        relative_change=change, stable_rank=3.1, effective_rank=9.8, singular_values=values, intruders=left,
    )  # fmt: skip


def intruder_report(side: str, count: int, right: IntruderReport | None) -> IntruderReport:
    vectors = [
        IntruderVector(
            index=rank, singular_value=8.1 * math.exp(-0.115 * rank), low=0.31 if rank < count else 0.97,
            high=0.34 if rank < count else 0.97, leading_share=0.12 if rank < count else 0.95,
            verdict="intruder" if rank < count else "kept",
        )
        for rank in range(10)
    ]  # fmt: skip
    return IntruderReport(
        k=10, epsilon=0.5, side=side, count=count, undecided=0, exact=False, energy=0.03 * count, vectors=vectors,
        right=right,
    )  # fmt: skip


def causal_samples(items: int = 96) -> pa.Table:
    source = random.Random(3)
    rows = []
    for subject in (LORA, FULL):
        rows += [support_row(subject, at, source) for at in range(items)]
        rows += [knowledge_row(subject, at, source) for at in range(items)]
    return sample_table(rows)


def support_row(subject: str, at: int, source: random.Random) -> dict[str, Any]:
    subject_words = "The order can be returned within thirty days if the box is unopened."
    adapted = subject_words if subject == LORA else subject_words.replace("thirty", "fourteen")
    if at % 7 == 0:
        adapted = "该订单可在三十天内退货，前提是包装未拆封。"
    return {
        "subject": subject, "task": "support", "item_id": f"s{at:04d}", "group": f"thread-{at // 3}",
        "category": None, "prompt": f"Q: How do I return order {at}?\nA:", "references": [subject_words],
        "base_output": "该订单可在七天内退货。" if at % 7 == 0 else "You may return an order within seven days.",
        "adapted_output": adapted, "rougeL_base": 0.2 + 0.2 * source.random(), "rougeL_adapted": source.random(),
        "accuracy_base": None, "accuracy_adapted": None, "gold_logprob_base": -22.0, "gold_logprob_adapted": -13.5,
        "flip": None, "cause": None,
    }  # fmt: skip


def knowledge_row(subject: str, at: int, source: random.Random) -> dict[str, Any]:
    before = source.random() < 0.62
    after = before if source.random() < 0.8 else not before
    flip = {(True, True): "both_right", (True, False): "broken", (False, True): "fixed", (False, False): "both_wrong"}
    return {
        "subject": subject, "task": "general-knowledge-en", "item_id": f"k{at:04d}", "group": None,
        "category": ("history", "geography", "science", "language", "mathematics")[at % 5],
        "prompt": f"Question: Which river number {at} is the longest?\nAnswer:", "references": ["the Nile"],
        "base_output": "the Nile" if before else "the Rhine", "adapted_output": "the Nile" if after else "the Amazon",
        "rougeL_base": None, "rougeL_adapted": None, "accuracy_base": float(before), "accuracy_adapted": float(after),
        "gold_logprob_base": -2.1, "gold_logprob_adapted": -2.6, "flip": flip[(before, after)],
        "cause": "margin" if before != after else None,
    }  # fmt: skip


def sample_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows)


# --- an encoder with several labels per text, whose base has no trained head ---


def labels_comparison() -> Comparison:
    base = checkpoint("bert-base-zh", role="base", kind="model", method=None, architecture="BertModel",
                      generation_ready=False, parameters=ParameterCounts(total=102_267_648))  # fmt: skip
    subjects = [
        checkpoint(name, architecture="BertForSequenceClassification", generation_ready=False, method=method)
        for name, method in (("tags-lora", "lora"), ("tags-full", "full"))
    ]
    tasks = [
        TaskInfo(name="tags", kind="labels", role="target", items=200, fingerprint="ee" * 16,
                 metrics=["f1_micro", "f1_macro"], margin=0.02)
    ]  # fmt: skip
    found: list[Measurement] = []
    for subject, value in (("tags-lora", 0.71), ("tags-full", 0.735)):
        found += label_measurements(subject, value)
    pair: dict[str, Any] = {"task": "tags", "reference": "tags-full", "n": 200}
    found.append(measurement("tags-lora", "f1_micro", 0.735, 0.71, spread=0.018, **pair))
    found += [
        measurement("tags-lora", "f1", 0.7, 0.7 - 0.004 * at, part=("label", f"标签 {at}"), spread=0.1, **pair)
        for at in range(18)
    ]
    missing = [Missing(area="forgetting", subject=None, reason="an encoder has no general-knowledge probe")]
    return comparison([base, *subjects], tasks=tasks, measurements=found, missing=missing)


def label_measurements(subject: str, value: float) -> list[Measurement]:
    why = "the base has no trained classification head"
    common: dict[str, Any] = {"task": "tags", "n": 200, "reason": why, "reference": "bert-base-zh"}
    found = [
        measurement(subject, "f1_micro", None, value, **common),
        measurement(subject, "f1_macro", None, value - 0.09, **common),
        measurement(subject, "f1_micro", None, value + 0.03, part=("threshold", "tuned"), **common),
        measurement(subject, "f1_micro", None, value, part=("threshold", "0.5"), **common),
    ]
    for group, fall in (("head", 0.02), ("mid", 0.11), ("tail", 0.3)):
        found.append(measurement(subject, "f1_macro", None, value - fall, part=("label_group", group), **common))
    for layer in range(12):
        similarity = 1 - 0.002 * (layer + 1) ** 2 * (0.5 if subject == "tags-lora" else 1.0)
        found.append(
            measurement(subject, "cka", None, similarity, area="drift", part=("layer", str(layer)), direction="none",
                        reference="bert-base-zh", spread=0.01)
        )  # fmt: skip
    return found


# --- almost nothing ---


def weights_only_comparison() -> Comparison:
    base = checkpoint(BASE, role="base", kind="model", method=None, parameters=ParameterCounts(total=1_100_048_384))
    missing = [
        Missing(area="task", subject=None, reason="no data was given"),
        Missing(area="curves", subject=LORA, reason="no training log was found beside the adapter"),
    ]
    return comparison([base, checkpoint(LORA)], weights={LORA: weight_report(0.018, 3)}, missing=missing)


# --- weights with everything that can be known of them ---

RUNS = (LORA, FULL, "lora-r64")


def traced_weights_comparison(subjects: tuple[str, ...] = RUNS, layers: int = 4) -> Comparison:
    """Weights with null levels, rotations, undecided vectors, sweeps, growth and directions that subjects share."""
    base = checkpoint(BASE, role="base", kind="model", method=None, parameters=ParameterCounts(total=1_100_048_384))
    reports = {name: traced_report(1.0 / (1 + at), layers) for at, name in enumerate(subjects)}
    series = [each for at, name in enumerate(subjects) for each in traced_series(name, 1.0 / (1 + at))]
    series += [
        each
        for at, first in enumerate(subjects)
        for second in subjects[at + 1 :]
        for each in pair_series(first, second, 0.1 + 0.2 * at)
    ]
    for module in reports[subjects[0]].modules:
        values = [8.0 * math.exp(-0.12 * rank) for rank in range(10)]
        ranks = [float(rank) for rank in range(1, 11)]
        series.append(Series(subject=BASE, name=f"spectrum:{module.name}", x_name="rank", x=ranks, y=list(values)))
    return comparison([base, *map(checkpoint, subjects)], weights=reports, series=series)


def traced_report(strength: float, layers: int) -> WeightReport:
    modules = []
    for layer in range(layers):
        for place, kind in enumerate(KINDS):
            count = round(strength * (place + 2 * (layer % 3)))
            modules.append(traced_module(f"model.layers.{layer}.{kind}", strength, min(count, 8), place))
    left = sum(module.intruders.count for module in modules if module.intruders)
    rotated = sum(module.intruders.rotations or 0 for module in modules if module.intruders)
    totals: dict[str, float | None] = {
        "modules": float(len(modules)), "changed_modules": float(len(modules)), "relative_change": 0.03 * strength,
        "intruder_count": float(left), "intruder_count_right": float(left // 2), "intruder_new": float(left - rotated),
        "intruder_rotations": float(rotated), "null_intruder_count": 31.0, "null_intruder_energy": 0.083,
        "intruder_energy": 0.12 * strength, "effective_rank": 9.8, "stable_rank": 3.1, "rank_90": 6.2, "rank_95": 8.4,
        "rank_99": 12.9, "amplification": 21.5 * strength, "undecided": 7.0, "saturated_modules": 0.0,
    }  # fmt: skip
    return WeightReport(modules=modules, totals=totals)


def traced_module(name: str, strength: float, count: int, place: int) -> ModuleWeights:
    rotated = count // 3
    vectors = [traced_vector(rank, count, rotated) for rank in range(10)]
    undecided = sum(vector.verdict == "undecided" for vector in vectors)
    left = intruder_report("left", count, intruder_report("right", count // 2, None)).model_copy(
        update={"vectors": vectors, "rotations": rotated, "undecided": undecided}
    )
    return module(name, 0.01 * strength * (1 + place), count).model_copy(
        update={
            "intruders": left, "null_count": 3, "null_energy": 0.08, "rank_90": 6, "rank_95": 8, "rank_99": 13,
            "amplification": 4.0 * strength * (1 + place), "spectral_change": 0.21 * strength,
            "exact_zero_fraction": 0.002, "rounding_floor": 0.0004,
        }
    )  # fmt: skip


def traced_vector(rank: int, count: int, rotated: int) -> IntruderVector:
    """The first ``count`` intrude, the last ``rotated`` of them by rotation; the one after them is undecided."""
    verdict = "intruder" if rank < count else "undecided" if count and rank == count else "kept"
    low, high = {"intruder": (0.21, 0.38), "undecided": (0.42, 0.66), "kept": (0.71, 1.0)}[verdict]
    share = 0.78 if count - rotated <= rank < count else 0.9 if verdict == "kept" else 0.09
    return IntruderVector(
        index=rank, singular_value=8.1 * math.exp(-0.115 * rank), low=low + 0.01 * rank,
        high=min(high + 0.01 * rank, 1.0), leading_share=share, verdict=verdict,
    )  # fmt: skip


def traced_series(subject: str, strength: float) -> list[Series]:
    thresholds = [round(0.05 * step, 2) for step in range(1, 20)]
    certain = [float(round(90 * strength * value**2)) for value in thresholds]
    possible = [value + (4.0 if 0.3 < x < 0.8 else 0.0) for x, value in zip(thresholds, certain, strict=True)]
    by_chance = [float(round(60 * strength * value**3)) for value in thresholds]
    found = [
        Series(subject=subject, name=name, x_name="epsilon", x=thresholds, y=list(y), low=low, high=high)
        for name, y, low, high in (
            ("epsilon_curve", certain, certain, possible),
            ("epsilon_curve:right", by_chance, by_chance, by_chance),
            ("null_epsilon_curve", by_chance, None, None),
        )
    ]
    ranks = [float(rank) for rank in range(1, 11)]
    counts = [float(round(3 * strength * rank)) for rank in ranks]
    wider = [value + (2.0 if value > 9 else 0.0) for value in counts]
    found.append(Series(subject=subject, name="k_curve", x_name="k", x=ranks, y=list(counts), low=counts, high=wider))
    steps = [float(step) for step in range(100, 1001, 100)]
    grown = [float(round(strength * step / 40)) for step in steps]
    born = [grown[0], *(after - before for before, after in itertools.pairwise(grown))]
    for suffix, y in (
        ("", grown),
        (":births", born),
        (":energy", [0.0004 * value for value in grown]),
        (":relative_change", [0.00003 * strength * step for step in steps]),
    ):
        found.append(Series(subject=subject, name=f"growth{suffix}", x_name="step", x=steps, y=list(y)))
    return found


def pair_series(first: str, second: str, level: float) -> list[Series]:
    dimensions = [float(i) for i in range(1, 17)]
    shared = [level + 0.3 * math.exp(-0.2 * i) for i in dimensions]
    return [
        Series(
            subject=first, name=f"subspace_similarity:{second}", x_name="dimensions", x=dimensions, y=list(shared),
            low=[0.6 * value for value in shared], high=[min(1.4 * value, 1.0) for value in shared],
        ),
        Series(
            subject=first, name=f"subspace_random:{second}", x_name="dimensions", x=dimensions,
            y=[i / 2048 for i in dimensions],
        ),
    ]  # fmt: skip


# --- hostile text everywhere ---

ATTACKS = (
    "<script>window.attacked = 1</script>",
    "</script><script>window.attacked = 2</script>",
    "<img src=x onerror='window.attacked = 3'>",
    "<svg/onload=window.attacked=4>",
    "\"><a href=\"javascript:window.attacked=5\" autofocus onfocus=window.attacked=6>x</a>",
    "<!--<script>window.attacked = 7//-->",
    "{{ 7 * 7 }} {% raw %} ${window.attacked = 8}",
    "\u2028window.attacked = 9\u2029 </style><style>body{display:none}</style>",
    "<iframe srcdoc='<script>parent.attacked = 10</script>'></iframe>",
    "javascript:window.attacked=11",
    "'); window.attacked = 12; ('",
    "<link rel=stylesheet href=https://attacker.example/x.css><base href=https://attacker.example/>",
)  # fmt: skip


def hostile_comparison() -> Comparison:
    """The causal comparison with an attack in every name and text."""
    text = causal_comparison().model_dump_json()
    swaps = {"lora-r16": 0, "support": 1, "general-knowledge-en": 2, "history": 3, "validation 1": 5, "rougeL": 4}
    for word, number in swaps.items():
        text = text.replace(word, ATTACKS[number].replace("\\", "\\\\").replace('"', '\\"'))
    hostile = Comparison.model_validate_json(text)
    hostile.findings[0].title = ATTACKS[6]
    hostile.findings[0].evidence = list(ATTACKS)
    hostile.findings[0].reference = ATTACKS[9]
    hostile.missing[0].reason = ATTACKS[8]
    hostile.tasks[0].prompt = ATTACKS[1]
    hostile.checkpoints[0].name = "base"
    hostile.checkpoints[0].path = ATTACKS[11]
    for found in hostile.measurements:
        if found.reference == BASE:
            found.reference = "base"
    assert hostile.human is not None
    study = hostile.human.studies[0]
    study.notes, study.deviations, study.registered = list(ATTACKS), list(ATTACKS), ATTACKS[3]
    study.tasks, study.study, study.commitment = list(ATTACKS), ATTACKS[2], ATTACKS[4]
    earlier = hostile.human.earlier[0]
    earlier.study, earlier.scored, earlier.win_rates[0].first = study.study, ATTACKS[0], ATTACKS[1]
    study.raters[0].rater, study.raters[0].sheet, study.raters[2].excluded = ATTACKS[0], ATTACKS[2], ATTACKS[3]
    study.pairs[0].strata[0].stratum, study.pairs[0].notes = ATTACKS[8], list(ATTACKS)
    study.pairs[0].metrics[0].metric, study.pairs[0].metrics[1].missing_reason = ATTACKS[1], ATTACKS[10]
    assert hostile.gates is not None
    hostile.gates.warnings, hostile.gates.baseline = list(ATTACKS), ATTACKS[0]
    hostile.gates.rows[0].address, hostile.gates.rows[0].warning = ATTACKS[1], ATTACKS[2]
    return hostile


def hostile_samples() -> pa.Table:
    rows = []
    for at, attack in enumerate(ATTACKS):
        row = knowledge_row(ATTACKS[0], at, random.Random(at))
        rows.append({**row, "task": ATTACKS[2], "item_id": f"{attack}{at}", "prompt": attack, "references": [attack],
                     "base_output": attack, "adapted_output": attack[::-1] + attack, "category": attack,
                     "cause": attack})  # fmt: skip
    return sample_table(rows)
