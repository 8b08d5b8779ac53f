"""What PEFT writes into an adapter folder, read from its configuration and tensor names, never from their order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.locate import ADAPTER_CONFIG
from lorascope.checkpoints.tensors import TensorSource, TensorSpec
from lorascope.errors import CheckpointError, InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."
PROMPT_METHODS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT"}
)
# Initialisations after which ΔW is still scaling · B·A on the base's own weights. PiSSA and its like subtract their
# start from the base when they are attached, so for them B·A alone is not the change.
_PLAIN_INITS: tuple[object, ...] = (True, False, None, "gaussian", "orthogonal")
_NAMED_PLAIN_INITS = ("eva", "mica")
# Variants of LoRA whose layers compute something else than W + scaling · B·A.
_VARIANTS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "alora_invocation_tokens",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "layer_replication",
)


@dataclass(frozen=True)
class AdapterConfig:
    """``adapter_config.json`` as far as it decides what an adapter does; ``raw`` is the whole of it."""

    raw: Mapping[str, Any]
    path: Path

    @property
    def peft_type(self) -> str:
        """PEFT's name of the method: ``LORA``, ``IA3`` …"""
        return str(self.raw["peft_type"]).upper()

    @property
    def task_type(self) -> str | None:
        """PEFT's task: ``CAUSAL_LM``, ``SEQ_CLS`` …, or None."""
        return self.raw.get("task_type")

    @property
    def base_name(self) -> str | None:
        """The base that the adapter says it was trained on."""
        return self.raw.get("base_model_name_or_path") or None

    @property
    def method(self) -> str:
        """The field's name of the method: ``lora``, ``rslora``, ``dora``, ``pissa``, ``ia3`` …"""
        if self.peft_type != "LORA":
            return self.peft_type.lower()
        if self.raw.get("use_dora"):
            return "dora"
        initial = self.raw.get("init_lora_weights")
        if isinstance(initial, str) and initial not in _PLAIN_INITS:
            return initial.split("_")[0].lower()
        return "rslora" if self.raw.get("use_rslora") else "lora"

    @property
    def is_prompt_method(self) -> bool:
        """Prompt and prefix methods add tokens, not weights: there is no ΔW."""
        return self.peft_type in PROMPT_METHODS

    @property
    def is_plain_lora(self) -> bool:
        """True where every ΔW is scaling · B·A of one linear layer and can be taken from the two factors."""
        return self.is_factored and not self.raw.get("target_parameters")

    @property
    def is_factored(self) -> bool:
        """True where every ΔW of a linear module is scaling · B·A, experts of ``target_parameters`` included."""
        return self.peft_type == "LORA" and self._is_plain_start and not any(self.raw.get(key) for key in _VARIANTS)

    @property
    def _is_plain_start(self) -> bool:
        return self.raw.get("init_lora_weights", True) in (*_PLAIN_INITS, *_NAMED_PLAIN_INITS)

    @property
    def replicates_layers(self) -> bool:
        """True where the adapter belongs to a deeper model, made by repeating the base's layers."""
        return bool(self.raw.get("layer_replication"))

    @property
    def rewrites_base(self) -> bool:
        """True where attaching the adapter subtracts something from the base's weights (PiSSA, OLoRA, LoftQ, KaSA)."""
        return not self.is_factored and (
            self.raw.get("init_lora_weights", True) not in _PLAIN_INITS or bool(self.raw.get("kasa_config"))
        )

    @property
    def needs_wide_base(self) -> bool:
        """True where PEFT keeps the adapter's values in the base's stored type, which would round them."""
        return self.rewrites_base or self.peft_type == "LN_TUNING" or self.raw.get("bias", "none") != "none"

    def rank(self, module: str) -> int:
        """Rank that the configuration gives ``module``, ``rank_pattern`` included."""
        pattern = self.raw.get("rank_pattern") or {}
        return int(pattern.get(_pattern_key(pattern, module), self.raw["r"]))

    def scaling(self, module: str) -> float:
        """Factor before B·A: α/r, or α/√r with rsLoRA (arXiv 2312.03732), patterns included."""
        pattern = self.raw.get("alpha_pattern") or {}
        alpha = float(pattern.get(_pattern_key(pattern, module), self.raw["lora_alpha"]))
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.raw.get("use_rslora") else alpha / rank


@dataclass(frozen=True)
class StackPart:
    """One matrix of a parameter that LoRA adapts directly: the tensors hold the factors of all ``count`` of them.

    ``turned`` is True where the product B·A is the transpose of what the parameter stores, ``stacked`` where it is
    three-dimensional.
    """

    index: int
    count: int
    turned: bool
    stacked: bool

    def of(self, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        """This matrix's factors B (·, r) and A (r, ·): ranks lie inside experts in A, experts inside ranks in B."""
        return (
            up.reshape(len(up), -1, self.count)[:, :, self.index],
            down.reshape(self.count, -1, down.shape[-1])[self.index],
        )


@dataclass(frozen=True)
class FactorKeys:
    """The two tensors of one LoRA module; ``rank`` and ``scaling`` are the configuration's.

    ``part`` is set for a parameter of ``target_parameters``: which matrix of the tensors is this module's.
    """

    module: str
    down: str
    up: str
    rank: int
    scaling: float
    part: StackPart | None = None

    @property
    def target(self) -> str:
        """What the configuration's patterns are matched with: the module's name, or the parameter's."""
        if self.part is None:
            return self.module
        return self.module.rpartition("[")[0] if self.part.stacked else f"{self.module}.weight"


@dataclass(frozen=True)
class ParameterTarget:
    """A parameter that LoRA adapts directly (``target_parameters``), as PEFT wraps it under the name ``wrapper``."""

    wrapper: str
    parameter: str
    count: int
    rank: int
    scaling: float
    turned: bool
    stacked: bool

    def factors(self) -> list[FactorKeys]:
        """Where the factors of each of its matrices are; a two-dimensional parameter is one matrix."""
        down, up = (f"{PREFIX}{self.wrapper}.{factor}.weight" for factor in ("lora_A", "lora_B"))
        return [
            FactorKeys(name, down, up, self.rank, self.scaling, StackPart(index, self.count, self.turned, self.stacked))
            for index, name in enumerate(self._names())
        ]

    def _names(self) -> list[str]:
        if self.stacked:
            return [f"{self.parameter}[{index}]" for index in range(self.count)]
        return [self.parameter.removesuffix(".weight")]


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check ``adapter_config.json``."""
    path = folder / ADAPTER_CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the adapter's configuration cannot be read: {error}", where=str(path), remedy="copy it again"
        ) from error
    problem = _config_problem(raw)
    if problem is not None:
        raise CheckpointError(
            f"the adapter's configuration {problem}",
            where=str(path),
            remedy="write it again with PEFT's save_pretrained",
        )
    return AdapterConfig(raw, path)


def lora_factors(
    config: AdapterConfig, tensors: TensorSource, targets: Mapping[str, ParameterTarget] | None = None
) -> list[FactorKeys]:
    """Pair lora_A and lora_B of each linear module by name, and hold their shapes against the configured rank.

    ``targets`` are parameters that are adapted directly, by the name of PEFT's wrapper.

    Raises :class:`InvalidComparison` for an unpaired factor or a rank that is not the configuration's. Embedding
    factors (``lora_embedding_A``) and convolutions are not linear modules and are left out.
    """
    pairs = []
    _all_paired(tensors)
    for down in sorted(key for key in tensors.specs if key.endswith(".lora_A.weight")):
        module = plain_name(down).removesuffix(".lora_A.weight")
        up = down.replace(".lora_A.weight", ".lora_B.weight")
        if len(tensors.specs[down].shape) != 2:
            continue
        target = (targets or {}).get(module)
        found = (tensors.specs[down].shape[0], tensors.specs[up].shape[1])
        if target is not None:
            _has_rank(config, target.parameter, found, target.rank * target.count)
            pairs += target.factors()
            continue
        rank = config.rank(module)
        _has_rank(config, module, found, rank)
        pairs.append(FactorKeys(module, down, up, rank, config.scaling(module)))
    return pairs


def _has_rank(config: AdapterConfig, module: str, found: tuple[int, int], rank: int) -> None:
    if found != (rank, rank):
        raise InvalidComparison(
            f"the configuration gives rank {rank}, the tensors have {found[0]} (A) and {found[1]} (B)",
            where=f"{config.path}, module {module}",
            remedy="use the adapter_config.json that was saved with these tensors (r, rank_pattern)",
        )


def _all_paired(tensors: TensorSource) -> None:
    for one, other in (("lora_A", "lora_B"), ("lora_B", "lora_A")):
        for key in tensors.specs:
            if key.endswith(f".{one}.weight") and key.replace(f".{one}.", f".{other}.") not in tensors.specs:
                raise InvalidComparison(
                    f"{key} has no {other} beside it",
                    where=str(tensors.specs[key].file),
                    remedy="save the adapter again; half an adapter changes nothing",
                )


def plain_name(key: str) -> str:
    """An adapter's key without PEFT's wrappers in front; prompt methods wrap the model once, the others twice."""
    return key.removeprefix(PREFIX) if key.startswith(PREFIX) else key.removeprefix("base_model.")


class LoadedTensors:
    """An adapter's tensors without those that PEFT writes and passes over when it loads them.

    With ``bias="all"`` the biases of a head are saved under its wrapper's names, ``….modules_to_save.bias`` (a copy)
    and ``….original_module.bias`` (before the training), beside ``….bias``, which alone counts. Where there is none of
    that name, a tensor is kept.
    """

    def __init__(self, stored: TensorSource) -> None:
        """Select from ``stored``."""
        self._stored = stored
        self._specs = {key: spec for key, spec in stored.specs.items() if not _is_passed_over(key, stored)}

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by key."""
        return self._specs

    def get(self, key: str) -> Tensor:
        """The tensor in its stored dtype, on the CPU."""
        return self._stored.get(key)


def _is_passed_over(key: str, stored: TensorSource) -> bool:
    return any(part in key and key.replace(part, ".") in stored.specs for part in _WRAPPED_HEAD)


def is_shared(key: str) -> bool:
    """Whether a tensor is kept once for all layers (VeRA's projections, VB-LoRA's bank) and so has no module."""
    return key.startswith("base_model.") and not key.startswith(PREFIX)


def method_module(key: str, peft_type: str) -> str | None:
    """The base's module that the method's own tensor ``key`` works on; None where ``key`` is no such tensor.

    A tensor that is not the method's own is a whole parameter of the model, saved under its own name (a trained head,
    a bias, anything in ``modules_to_save``).
    """
    marks = (*_COMMON_MARKS, _method_mark(peft_type))
    parts = plain_name(key).split(".")
    for index, part in enumerate(parts):
        if part.startswith(marks):
            return ".".join(parts[:index])
    return None


def unused_patterns(config: AdapterConfig, modules: Iterable[str]) -> list[str]:
    """Keys of ``rank_pattern`` and ``alpha_pattern`` that match none of ``modules``: PEFT passes over them.

    AdaLoRA keeps the ranks that it arrived at in ``rank_pattern``, by parameter: those are no patterns.
    """
    if config.peft_type == "ADALORA":
        return []
    known = list(modules)
    unused = []
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = config.raw.get(field) or {}
        matched = {key for key in patterns if any(_matches(key, module) for module in known)}
        unused += [f"{field}: {key}" for key in patterns if key not in matched]
    return unused


# Parts of PEFT's wrapper around a module that is trained whole, which saved names leave out as a rule.
_WRAPPED_HEAD = (".modules_to_save.", ".original_module.")
# Parts that PEFT adds to names whatever the method: wrapped weights and trained token rows.
_COMMON_MARKS = ("base_layer", "token_adapter", "trainable_tokens_")


def _method_mark(peft_type: str) -> str:
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    named = {str(getattr(kind, "value", kind)): prefix for kind, prefix in PEFT_TYPE_TO_PREFIX_MAPPING.items()}
    return str(named.get(peft_type, f"{peft_type.lower()}_"))


def _config_problem(raw: object) -> str | None:
    if not isinstance(raw, dict) or not raw.get("peft_type"):
        return "has no peft_type"
    if str(raw["peft_type"]).upper() != "LORA":
        return None
    if not isinstance(raw.get("r"), int) or raw["r"] < 1:
        return f"needs a rank r of at least 1, not {raw.get('r')!r}"
    if not isinstance(raw.get("lora_alpha"), int | float):
        return f"needs a number as lora_alpha, not {raw.get('lora_alpha')!r}"
    return None


def _matches(pattern: str, module: str) -> bool:
    # PEFT gives the module's name back where no pattern fits, which a pattern may also be.
    return pattern == module or _pattern_key({pattern: None}, module) != module


def _pattern_key(pattern: Mapping[str, Any], module: str) -> str:
    if not pattern:
        return module
    from peft.utils.other import get_pattern_key

    return str(get_pattern_key(list(pattern), module))
