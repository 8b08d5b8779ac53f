"""``result.json``: everything a comparison found, as one validated document (schema version 1).

The JSON Schema in ``docs/schema/result-v1.json`` is generated from these models. Numbers that could not be measured
are null, with the reason beside them; no field ever holds a placeholder number.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lorascope.schema.flips import FlipLedger
from lorascope.schema.gates import GateReport
from lorascope.schema.human import HumanReport
from lorascope.schema.model import Direction, Finite, Model
from lorascope.schema.repair import RepairReport
from lorascope.schema.sweep import SweepReport
from lorascope.schema.values import Delta, Estimate

SCHEMA_VERSION = 1

TaskKind = Literal["generate", "labels", "score", "tokens", "choice", "likelihood"]
Role = Literal["target", "retention"]
Area = Literal["task", "forgetting", "gap", "curves", "drift", "weights", "cost", "human", "leak", "noise"]
SliceBy = Literal[
    "label", "label_group", "category", "split", "threshold", "layer", "module", "strength", "clean", "group"
]
Severity = Literal["critical", "warning", "info", "good"]
IntruderVerdict = Literal["kept", "intruder", "undecided"]


class Slice(Model):
    """The part of a task that a measurement covers; a measurement without one covers the whole."""

    by: SliceBy
    value: str


class Measurement(Model):
    """One metric of one subject against one reference, on one task or area, whole or sliced."""

    subject: str
    reference: str
    area: Area
    task: str | None = None
    slice: Slice | None = None
    metric: str
    unit: str
    scale: str
    direction: Direction
    base: Estimate | None = None
    adapted: Estimate | None = None
    delta: Delta | None = None
    signature: str
    missing_reason: str | None = None


class ParameterCounts(Model):
    """``total`` of the checkpoint as it runs, ``trainable`` in the adapter, ``delta`` that differ from the base.

    ``total`` is null where no weights were at hand: an imported run, a model behind a server.
    """

    total: int | None
    trainable: int | None = None
    delta: int | None = None


class CheckpointInfo(Model):
    """One checkpoint. ``path`` is as the user gave it, ``content_hash`` is of its weights and configuration."""

    name: str
    path: str
    role: Literal["base", "adapted"]
    kind: Literal["model", "adapter"]
    method: str | None = Field(default=None, description="full, lora, rslora, dora, ia3 …; null for the base")
    architecture: str
    dtype: str
    content_hash: str
    parameters: ParameterCounts
    generation_ready: bool
    cost: dict[str, Any] | None = None


class TaskInfo(Model):
    """What was asked. ``fingerprint`` changes when items, prompt, decoding or scoring change."""

    name: str
    kind: TaskKind
    role: Role
    items: int
    fingerprint: str
    prompt: str | None = None
    metrics: list[str]
    margin: Finite | None = None


class Finding(Model):
    """A sentence that a reader can act on, with the numbers it rests on."""

    id: str
    severity: Severity
    area: str
    subject: str | None = None
    title: str
    evidence: list[str] = Field(default_factory=list)
    advice: str | None = None
    reference: str | None = None


class Series(Model):
    """A curve: ``train_loss``, ``eval_loss:<set>``, ``epsilon_curve``, ``spectrum:<module>`` …"""

    subject: str
    name: str
    x_name: str
    x: list[Finite]
    y: list[Finite | None]
    low: list[Finite | None] | None = None
    high: list[Finite | None] | None = None


class IntruderVector(Model):
    """One judged singular vector. ``low``/``high`` enclose max |cos| to the base's vectors (equal when exact)."""

    index: int
    singular_value: Finite
    low: Finite
    high: Finite
    leading_share: Finite = Field(description="squared length inside the base's leading subspace, 0–1")
    gap: Finite | None = Field(default=None, description="distance to the nearest other singular value, over σ")
    degenerate: bool = Field(
        default=False,
        description="nearly equal singular values of the base or the adapted matrix: rounding alone turns the vector "
        "or its axis, and another decomposition may give another value",
    )
    verdict: IntruderVerdict


class IntruderReport(Model):
    """Intruder dimensions of one matrix on one side (arXiv 2410.21228, Definition 3.1)."""

    k: int
    epsilon: Finite
    further_epsilons: list[Finite] = Field(default_factory=list, description="decided too, read from low and high")
    side: Literal["left", "right"]
    count: int
    undecided: int
    exact: bool = Field(description="true where every interval is a single value, from exact decompositions")
    engine: Literal["svd", "base_svd", "certificate"] | None = None
    energy: Finite | None = Field(default=None, description="share of Σσ² of the k vectors that intruders carry")
    rotations: int | None = Field(
        default=None,
        description="intruders with at least half of their squared length inside the base's leading directions: "
        "rotations there, not new directions",
    )
    vectors: list[IntruderVector]
    right: IntruderReport | None = None


class ModuleWeights(Model):
    """ΔW of one linear module. Null fields are explained in ``notes``."""

    name: str
    shape: tuple[int, int]
    method: str
    adapter_rank: int | None = None
    numerical_rank: int | None = None
    frobenius: Finite
    relative_change: Finite | None = None
    stable_rank: Finite | None = None
    effective_rank: Finite | None = None
    rounding_floor: Finite | None = None
    spectral_change: Finite | None = Field(default=None, description="‖ΔW‖₂ / ‖W0‖₂")
    rank_90: int | None = Field(default=None, description="fewest directions with 90 % of ‖ΔW‖²_F")
    rank_95: int | None = None
    rank_99: int | None = None
    amplification: Finite | None = Field(default=None, description="‖ΔW‖_F / ‖UᵀW0V‖_F (LoRA paper, section 7.3)")
    exact_zero_fraction: Finite | None = Field(default=None, description="entries that did not change, 0–1")
    null_count: int | None = Field(default=None, description="intruders of a random update of equal norm and rank")
    shrink_count: int | None = Field(
        default=None, description="intruders of W0 shrunk by ‖ΔW‖_F; null where that would leave nothing of it"
    )
    null_energy: Finite | None = Field(default=None, description="their share of Σσ² of the k vectors")
    singular_values: list[Finite] = Field(default_factory=list, description="of ΔW, largest first, at most 64")
    intruders: IntruderReport | None = None
    notes: list[str] = Field(default_factory=list)


class WeightReport(Model):
    """All modules of one subject and their totals."""

    modules: list[ModuleWeights]
    totals: dict[str, Finite | None]
    notes: list[str] = Field(default_factory=list)


class Provenance(Model):
    """What made this result: libraries, repository state, device, timings, the suite."""

    libraries: dict[str, str]
    git: str | None = None
    device: str
    dtype: str
    timings: dict[str, Finite]
    suite_hash: str | None = None
    engine: str | None = Field(
        default=None, description="what answered: transformers, server, import:TOOL; null where nothing was asked"
    )


class Missing(Model):
    """Something that a reader would look for and that could not be measured."""

    area: str
    subject: str | None = None
    reason: str


class Comparison(Model):
    """The whole of ``result.json``."""

    schema_version: Literal[1] = 1
    created: str
    command: list[str]
    seed: int
    lorascope_version: str
    provenance: Provenance
    checkpoints: list[CheckpointInfo]
    tasks: list[TaskInfo] = Field(default_factory=list)
    measurements: list[Measurement] = Field(default_factory=list)
    findings: list[Finding] = Field(default_factory=list)
    weights: dict[str, WeightReport] = Field(default_factory=dict)
    series: list[Series] = Field(default_factory=list)
    flips: list[FlipLedger] = Field(default_factory=list)
    gates: GateReport | None = None
    human: HumanReport | None = None
    repair: RepairReport | None = None
    sweep: SweepReport | None = None
    missing: list[Missing] = Field(default_factory=list)

    @property
    def base(self) -> CheckpointInfo:
        """The base checkpoint."""
        return next(c for c in self.checkpoints if c.role == "base")

    @property
    def subjects(self) -> list[CheckpointInfo]:
        """The adapted checkpoints, in the order of the command line."""
        return [c for c in self.checkpoints if c.role == "adapted"]
