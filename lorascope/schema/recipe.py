"""``recipe.yaml``: one training run, all of it. Keys that are left out take the defaults that stand here.

The names follow the field's usage; where transformers or peft have the same thing under another name, the field says
so. What is impossible for any model is refused here; what depends on a model or on data is refused where those are.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from lorascope.schema.model import Finite, Model

TrainedKind = Literal["generate", "labels", "score", "tokens"]
MethodName = Literal[
    "full", "lora", "rslora", "dora", "adalora", "pissa", "bitfit", "prompt-tuning", "prefix-tuning", "p-tuning", "ia3",
    "bottleneck",
]  # fmt: skip
LOW_RANK: frozenset[MethodName] = frozenset({"lora", "rslora", "dora", "adalora", "pissa"})
PROMPTS: frozenset[MethodName] = frozenset({"prompt-tuning", "prefix-tuning", "p-tuning"})
LossName = Literal[
    "cross_entropy", "bce", "focal", "asymmetric", "distribution_balanced", "zlpr", "mse", "label_smoothing"
]
Structure = Literal["element", "column", "span"]
DropoutPreset = Literal["dropkey", "dropattention", "hiddencut", "hiddenkey-minus", "hiddenkey"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Layers = Literal["auto", "all", "later-half"]
_LARGEST = 2**31 - 1
Count = Annotated[int, Field(ge=1, le=_LARGEST)]
"""A whole number of items, tokens or steps."""
_HIGHEST_RANK = 65536
Rank = Annotated[int, Field(ge=1, le=_HIGHEST_RANK)]


def _whole_from_one(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError(f"{value:g} is no number of steps; give a whole number, or a share of all steps below 1")
    return value


_LONGEST_NAME = 100
StepsOrShare = Annotated[float, Field(gt=0, le=_LARGEST), AfterValidator(_whole_from_one)]
"""Below 1 a share of all steps, from 1 on a whole number of steps."""


class RecipeTask(Model):
    """What is learned, from which data. The forms of the data, ``prompt`` … ``system`` are those of a suite.

    ``fraction`` (0–1] and ``limit`` sample the training items with the seed: a smaller sample lies within a larger
    one. ``validation`` is a file or a mapping of set names to files; each set is evaluated by its name.
    ``answer_only`` takes the loss over the answer and the end of text alone. ``packing`` joins several items in one row
    of at most ``max_length`` tokens; they do not see each other. ``too_long`` says what becomes of a longer item.
    """

    kind: TrainedKind
    train: str
    validation: str | dict[str, str] = Field(default_factory=dict)
    fraction: float = Field(default=1.0, gt=0, le=1)
    limit: int | None = Field(default=None, ge=1, le=_LARGEST)
    validation_limit: int | None = Field(default=None, ge=1, le=_LARGEST, description="items a validation set at most")
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    chat: bool = False
    system: str | None = None
    references: str | None = None
    answer_only: bool = True
    labels: list[str] | None = Field(default=None, description="null: those of the training data, sorted; or a file")
    multi_label: bool | None = None
    max_length: int = Field(default=1024, ge=4, le=_LARGEST)
    too_long: Literal["cut", "leave_out", "refuse"] = "cut"
    packing: bool = False
    mask_tokens: float = Field(default=0.0, ge=0, lt=1, description="share of input tokens masked anew in each pass")

    @field_validator("validation")
    @classmethod
    def _named(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for name in value if isinstance(value, dict) else ():
            if not is_set_name(name):
                raise ValueError(
                    f"a validation set cannot be called {name!a}; use letters (of any script), digits, '.', '_' "
                    "and '-', and begin with a letter, a digit or '_'"
                )
        return value


def is_set_name(name: str) -> bool:
    """Whether a validation set may have this name, which stands in keys of the log, in file names and on terminals."""
    letters = [sign in "._-" or unicodedata.category(sign)[0] in "LMN" for sign in name]
    return bool(letters) and all(letters) and name[0] not in ".-" and len(name) <= _LONGEST_NAME


class Method(Model):
    """What is trained. ``alpha`` is lora_alpha; ``dropout`` acts on the input of the adapter (lora_dropout).

    ``target_modules``: ``all-linear`` (every linear layer but the head) or names. ``rank_pattern`` maps module names
    or patterns to ranks. ``virtual_tokens`` belongs to the prompt methods, ``target_rank`` to AdaLoRA: the average
    rank a module keeps of ``rank`` at the start. ``modules_to_save`` are trained fully beside the adapter.
    """

    name: MethodName = "lora"
    rank: Rank = 16
    alpha: Finite | None = Field(default=None, gt=0, description="null: twice the rank")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    modules_to_save: list[str] = Field(default_factory=list)
    virtual_tokens: Rank = 20
    target_rank: int | None = Field(default=None, ge=1, le=_HIGHEST_RANK, description="adalora; null: half of rank")

    @property
    def scaling_alpha(self) -> float:
        """``alpha``, twice the rank where it is left out."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    @model_validator(mode="after")
    def _fits(self) -> Method:
        if self.target_rank is not None and self.name != "adalora":
            raise ValueError("'target_rank' belongs to the method adalora")
        if self.target_rank is not None and self.target_rank > self.rank:
            raise ValueError(f"'target_rank' ({self.target_rank}) is above 'rank' ({self.rank})")
        if self.rank_pattern and self.name not in LOW_RANK - {"adalora"}:
            raise ValueError(f"'rank_pattern' does not go with the method {self.name}")
        for name, rank in self.rank_pattern.items():
            if not 1 <= rank <= _HIGHEST_RANK:
                raise ValueError(f"'rank_pattern' gives {name!a} the rank {rank}; use 1 to {_HIGHEST_RANK}")
        return self


class Freeze(Model):
    """What stays as it is in a run of method ``full``: all but the head, or all but the last blocks and the head."""

    train: Literal["head", "last-layers"] | list[str] = Field(description="head, last-layers, or patterns of names")
    layers: int | None = Field(default=None, ge=1, le=_LARGEST, description="how many, of last-layers")

    @model_validator(mode="after")
    def _complete(self) -> Freeze:
        if (self.train == "last-layers") != (self.layers is not None):
            raise ValueError("'layers' and 'train: last-layers' go together")
        return self


class Loss(Model):
    """The loss. null for ``name``: cross entropy, BCE for several labels, mean squared error for scores.

    ``pos_weight``: ``balanced`` is (negatives / positives) of each label in the training data, at most
    ``pos_weight_cap``; a number holds for all labels (bce only). ``class_weights``: inverse frequency, mean 1
    (cross_entropy of single labels). ``gamma`` focal and distribution_balanced; ``gamma_negative``, ``gamma_positive``,
    ``clip`` asymmetric.
    ``sampler: balanced`` draws items by the inverse frequency of their rarest label. ``sample_weights`` names a
    field of the training data.
    """

    name: LossName | None = None
    pos_weight: Literal["balanced"] | float | None = None
    pos_weight_cap: float = Field(default=100.0, gt=0)
    class_weights: Literal["balanced"] | None = None
    gamma: float = Field(default=2.0, ge=0)
    gamma_negative: float = Field(default=4.0, ge=0)
    gamma_positive: float = Field(default=0.0, ge=0)
    clip: float = Field(default=0.05, ge=0, lt=1)
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    sample_weights: str | None = None
    sampler: Literal["shuffled", "balanced"] = "shuffled"

    @model_validator(mode="after")
    def _fits(self) -> Loss:
        if self.pos_weight is not None and self.name not in (None, "bce"):
            raise ValueError("'pos_weight' goes with the loss bce")
        if self.class_weights is not None and self.name not in (None, "cross_entropy"):
            raise ValueError("'class_weights' goes with the loss cross_entropy")
        if isinstance(self.pos_weight, float) and self.pos_weight <= 0:
            raise ValueError("'pos_weight' has to be above 0")
        return self


class AttentionDrop(Model):
    """Dropout in attention: ``dropkey`` before the softmax, ``dropattention`` after it (arXiv 2403.00812)."""

    kind: Literal["dropkey", "dropattention"] = "dropkey"
    structure: Structure = "column"
    rate: float | None = Field(default=None, ge=0, lt=1, description="null: the section's rate")
    span: float = Field(default=0.1, gt=0, le=1, description="length of a span as a share of the row")


class HiddenDrop(Model):
    """HiddenCut: dropout of the feed-forward's output, before the residual is added."""

    structure: Structure = "element"
    rate: float | None = Field(default=None, ge=0, lt=1)
    span: float = Field(default=0.1, gt=0, le=1)


class StructuredDropout(Model):
    """Structured dropout. A preset sets ``attention``, ``hidden`` and ``compensation``; given ones go before it.

    ``compensation``: ``kl`` is the symmetric divergence of two training passes (``branches: one`` gives gradients to
    one of them alone), ``js`` that against the pass in inference mode; ``weight`` is its α. ``layers: auto`` is the
    later half of a decoder's and all of an encoder's; ``other_dropouts: zero`` sets the model's and the adapter's own
    dropouts to 0 beside it.
    """

    preset: DropoutPreset | None = None
    rate: float = Field(default=0.1, ge=0, lt=1)
    attention: AttentionDrop | None = None
    hidden: HiddenDrop | None = None
    compensation: Literal["rescale", "kl", "js"] | None = None
    branches: Literal["one", "two"] = "two"
    weight: float = Field(default=1.0, gt=0)
    layers: Layers | list[int] = "auto"
    other_dropouts: Literal["zero", "keep"] = "zero"

    @model_validator(mode="after")
    def _drops_something(self) -> StructuredDropout:
        if self.preset is None and self.attention is None and self.hidden is None:
            raise ValueError("nothing is dropped; give 'preset', 'attention' or 'hidden'")
        return self

    def resolved(self) -> StructuredDropout:
        """The same with the preset written out and every rate set."""
        attention, hidden = self.attention, self.hidden
        if attention is None and self.preset in {"dropkey", "hiddenkey-minus", "hiddenkey"}:
            attention = AttentionDrop()
        if attention is None and self.preset == "dropattention":
            attention = AttentionDrop(kind="dropattention", structure="span")
        if hidden is None and self.preset in {"hiddencut", "hiddenkey-minus", "hiddenkey"}:
            hidden = HiddenDrop()
        default: Literal["rescale", "kl"] = "kl" if self.preset == "hiddenkey" else "rescale"
        return self.model_copy(
            update={
                "attention": attention and attention.model_copy(update={"rate": _first(attention.rate, self.rate)}),
                "hidden": hidden and hidden.model_copy(update={"rate": _first(hidden.rate, self.rate)}),
                "compensation": self.compensation or default,
            }
        )


def _first(given: float | None, default: float) -> float:
    return default if given is None else given


class Replay(Model):
    """General data mixed into the training data: ``ratio`` is its share of the rows trained on.

    Without ``data`` the base writes it itself before training (self-generated replay): ``items`` texts, sampled, from
    ``prompts`` (a file of the forms of a suite) or from nothing but the start of a text.
    """

    data: str | None = None
    ratio: float = Field(default=0.05, gt=0, lt=1)
    prompts: str | None = None
    items: Count = Field(default=256, description="texts the base writes where there is no data")
    max_new_tokens: Count = 128
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)

    @model_validator(mode="after")
    def _one_source(self) -> Replay:
        if self.data is not None and self.prompts is not None:
            raise ValueError("'prompts' are for texts that the base writes; with 'data' there are none")
        return self


class EarlyStopping(Model):
    """When to stop: ``patience`` evaluations without a new best, or Prechelt's GL or PQ above ``threshold``."""

    rule: Literal["patience", "gl", "pq"] = "patience"
    patience: Count = 3
    threshold: float = Field(default=5.0, gt=0, description="GL in per cent; PQ without a unit")


class ElasticWeights(Model):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): ``weight`` · ½ Σ F (θ − θ₀)², F from ``data``."""

    weight: float = Field(gt=0)
    data: str = Field(description="general data for the diagonal Fisher information: the forms of a suite")
    items: Count = 200


class Optim(Model):
    """How it is trained. ``warmup`` below 1 is a share of all steps, from 1 on steps.

    ``head_learning_rate``: of a new head, null: the same. ``lora_plus_ratio``: learning rate of B over that of A
    (LoRA+, arXiv 2402.12354). ``l1`` adds l1·‖θ‖₁ of what is trained; ``l2_sp`` l2_sp·½‖θ − θ₀‖² (arXiv 1802.01483);
    for an adapter θ − θ₀ is the adapter's own ΔW in its factors. ``neftune`` is the noise α on embeddings (NEFTune,
    arXiv 2310.05914).
    """

    epochs: float = Field(default=5.0, gt=0, le=1e6)
    max_steps: int | None = Field(default=None, ge=1, le=_LARGEST, description="goes before epochs")
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    lora_plus_ratio: float | None = Field(default=None, ge=1)
    batch_size: Count = Field(default=2, description="items a device and step")
    accumulate: Count = 1
    warmup: float = Field(default=0.1, ge=0, le=_LARGEST)
    scheduler: Literal[
        "cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt", "cosine_with_min_lr",
        "warmup_stable_decay",
    ] = "cosine"  # fmt: skip
    scheduler_options: dict[str, float | int | str] = Field(default_factory=dict)
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    l1: float = Field(default=0.0, ge=0)
    l2_sp: float = Field(default=0.0, ge=0)
    ewc: ElasticWeights | None = None
    clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null: none")
    neftune: float | None = Field(default=None, gt=0)
    early_stopping: EarlyStopping | None = None
    precision: Precision = "auto"

    @field_validator("early_stopping", mode="before")
    @classmethod
    def _patience_alone(cls, value: object) -> object:
        return {"patience": value} if isinstance(value, int) and not isinstance(value, bool) else value


class Evaluation(Model):
    """When validation sets are evaluated; a checkpoint to resume from is written at the same steps.

    ``every`` below 1 is a share of all steps, from 1 on steps. ``keep: best`` saves the weights of the evaluation with
    the best ``metric`` of ``set``, ``last`` those at the end. The evaluation ``at_start`` is not among those that
    ``best`` chooses from, for the base is no result of the run; where no later one was better, a note of the run says
    so. ``metric`` null: the loss. ``kl_to_base``: items of the first validation set on which KL(adapted‖base) is
    measured at each evaluation, 0 for none. ``probe``: languages of the built-in probe asked then as well,
    ``probe_items`` of each task in it.
    """

    every: StepsOrShare = 0.1
    at_start: bool = True
    batch_size: Count = 8
    keep: Literal["best", "last"] = "last"
    metric: str | None = None
    set: str | None = None
    kl_to_base: int = Field(default=32, ge=0, le=_LARGEST)
    probe: list[Literal["en", "zh"]] = Field(default_factory=list)
    probe_items: Count = 60
    log_every: StepsOrShare = Field(default=10, description="steps; below 1 a share of all steps")


class Hardware(Model):
    """Where and how it is computed; nothing here changes what is learned, up to rounding.

    ``out_of_memory: accumulate`` halves the batch and doubles the accumulation until it fits, and says so.
    """

    device: str = "auto"
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    fused_optimizer: bool | None = Field(default=None, description="null: on CUDA")
    sharding: Literal["ddp", "fsdp"] = "ddp"
    workers: int = Field(default=0, ge=0, le=4096, description="processes that load data")
    threads: int | None = Field(default=None, ge=1, le=4096, description="of torch on a CPU; null: torch's default")
    out_of_memory: Literal["stop", "accumulate"] = "stop"


class Recipe(Model):
    """The whole file. ``out`` is the run's folder; paths are relative to the recipe's folder."""

    version: Literal[1]
    base: str
    out: str
    task: RecipeTask
    method: Method = Field(default_factory=Method)
    freeze: Freeze | None = None
    model_dropout: float | None = Field(default=None, ge=0, lt=1, description="of hidden states and attention")
    loss: Loss = Field(default_factory=Loss)
    structured_dropout: StructuredDropout | None = None
    replay: Replay | None = None
    optim: Optim = Field(default_factory=Optim)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    hardware: Hardware = Field(default_factory=Hardware)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("freeze", mode="before")
    @classmethod
    def _short_freeze(cls, value: object) -> object:
        if value == "head-only":
            return {"train": "head"}
        return {"train": value} if isinstance(value, list) else value

    @property
    def validation_sets(self) -> dict[str, str]:
        """Files of the validation sets by name; a single file is the set ``validation``."""
        given = self.task.validation
        return {"validation": given} if isinstance(given, str) else dict(given)

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self


def _contradictions(recipe: Recipe) -> list[str]:
    """Combinations that no model and no data can make sense of."""
    task, method, optim, sets = recipe.task, recipe.method, recipe.optim, recipe.validation_sets
    chosen, dropout = recipe.evaluation, recipe.structured_dropout
    rules = {
        "packing joins texts, which classification cannot use; leave 'task.packing' out": task.packing
        and task.kind != "generate",
        "'freeze' goes with 'method.name: full'; an adapter freezes the base by itself": recipe.freeze is not None
        and method.name != "full",
        f"'optim.lora_plus_ratio' needs factors A and B, which the method {method.name} has not": (
            optim.lora_plus_ratio is not None and method.name not in LOW_RANK - {"adalora"}
        ),
        "'optim.head_learning_rate' belongs to tasks with a head, of kind labels, score or tokens": (
            optim.head_learning_rate is not None and task.kind == "generate"
        ),
        "'optim.early_stopping' needs 'task.validation'": optim.early_stopping is not None and not sets,
        "'evaluation.keep: best' needs 'task.validation'": chosen.keep == "best" and not sets,
        f"'evaluation.set' names '{chosen.set}', which is no validation set": chosen.set is not None
        and chosen.set not in sets,
        "'replay' mixes texts into training, which only tasks of kind generate can use": recipe.replay is not None
        and task.kind != "generate",
        "'evaluation.probe' asks a language model; the task has to be of kind generate": bool(chosen.probe)
        and task.kind != "generate",
        f"the loss {recipe.loss.name} does not go with tasks of kind {task.kind}": recipe.loss.name is not None
        and recipe.loss.name not in _LOSSES[task.kind],
        "'loss.sampler: balanced' needs labels to balance": recipe.loss.sampler == "balanced" and task.kind != "labels",
        "'structured_dropout' in attention does not go with prefix tuning, whose keys it would drop": (
            dropout is not None and dropout.resolved().attention is not None and method.name == "prefix-tuning"
        ),
        "structured attention dropout has its own attention; leave 'hardware.attention' at auto": (
            dropout is not None and dropout.resolved().attention is not None and recipe.hardware.attention != "auto"
        ),
        "a validation set may not be called 'train'": "train" in sets,
    }
    return [problem for problem, holds in rules.items() if holds]


_LOSSES: dict[TrainedKind, frozenset[LossName]] = {
    "generate": frozenset({"cross_entropy", "label_smoothing"}),
    "tokens": frozenset({"cross_entropy", "label_smoothing"}),
    "score": frozenset({"mse"}),
    "labels": frozenset(
        {"cross_entropy", "label_smoothing", "bce", "focal", "asymmetric", "distribution_balanced", "zlpr"}
    ),
}
