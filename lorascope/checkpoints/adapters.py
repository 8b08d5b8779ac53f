"""What PEFT writes into an adapter folder, read from its configuration and tensor names, never from their order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorascope.checkpoints.locate import ADAPTER_CONFIG
from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import CheckpointError, InvalidComparison

PREFIX = "base_model.model."
PROMPT_METHODS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CARTRIDGE", "CPT"}
)
# Initialisations after which ΔW is still scaling · B·A on the base's own weights. PiSSA and its like subtract their
# start from the base when they are attached, so for them B·A alone is not the change.
_PLAIN_INITS: tuple[object, ...] = (True, False, None, "gaussian", "orthogonal")
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
        """True where every ΔW is scaling · B·A and can be taken from the two factors."""
        return (
            self.peft_type == "LORA"
            and self.raw.get("init_lora_weights", True) in _PLAIN_INITS
            and not any(self.raw.get(key) for key in _VARIANTS)
            and not self.raw.get("target_parameters")
        )

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
class FactorKeys:
    """The two tensors of one LoRA module; ``rank`` and ``scaling`` are the configuration's."""

    module: str
    down: str
    up: str
    rank: int
    scaling: float


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check ``adapter_config.json``."""
    path = folder / ADAPTER_CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the adapter's configuration cannot be read: {error}", where=str(path), remedy="copy it again"
        ) from error
    needed = ("peft_type", "r", "lora_alpha") if _says_lora(raw) else ("peft_type",)
    absent = [key for key in needed if not isinstance(raw, dict) or raw.get(key) is None]
    if absent:
        raise CheckpointError(
            f"the adapter's configuration has no {' and no '.join(absent)}",
            where=str(path),
            remedy="write it again with PEFT's save_pretrained",
        )
    return AdapterConfig(raw, path)


def lora_factors(config: AdapterConfig, tensors: TensorSource) -> list[FactorKeys]:
    """Pair lora_A and lora_B of each linear module by name, and hold their shapes against the configured rank.

    Raises :class:`InvalidComparison` for an unpaired factor or a rank that is not the configuration's. Embedding
    factors (``lora_embedding_A``) and convolutions are not linear modules and are left to :func:`other_tensors`.
    """
    pairs = []
    for down in sorted(key for key in tensors.specs if key.endswith(".lora_A.weight")):
        module = down.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        up = down.replace(".lora_A.weight", ".lora_B.weight")
        if up not in tensors.specs:
            raise InvalidComparison(
                f"{down} has no lora_B beside it",
                where=str(tensors.specs[down].file),
                remedy="save the adapter again; half an adapter changes nothing",
            )
        if len(tensors.specs[down].shape) != 2:
            continue
        rank = config.rank(module)
        found = (tensors.specs[down].shape[0], tensors.specs[up].shape[1])
        if found != (rank, rank):
            raise InvalidComparison(
                f"the configuration gives rank {rank}, the tensors have {found[0]} (A) and {found[1]} (B)",
                where=f"{config.path}, module {module}",
                remedy="use the adapter_config.json that was saved with these tensors (r, rank_pattern)",
            )
        pairs.append(FactorKeys(module, down, up, rank, config.scaling(module)))
    return pairs


def other_tensors(tensors: TensorSource, factors: list[FactorKeys]) -> list[str]:
    """Adapter tensors that are not factors of linear modules: heads, trained embeddings, biases, other methods'."""
    paired = {key for pair in factors for key in (pair.down, pair.up)}
    return sorted(set(tensors.specs) - paired)


def owner_module(key: str) -> str:
    """The base model's module that an adapter tensor of any method belongs to, from its name."""
    parts = key.removeprefix(PREFIX).split(".")
    for index, part in enumerate(parts):
        if any(part.startswith(mark) for mark in _METHOD_MARKS):
            return ".".join(parts[:index])
    return ".".join(parts[:-1])


_METHOD_MARKS = (
    "lora_",
    "hada_",
    "lokr_",
    "vera_",
    "oft_",
    "boft_",
    "ia3_",
    "hra_",
    "hira_",
    "fourierft_",
    "randlora_",
    "bone_",
    "miss_",
    "c3a_",
    "shira_",
    "road_",
    "waveft_",
    "delora_",
    "gralora_",
    "modules_to_save",
    "token_adapter",
    "vblora_",
    "adalora_",
    "ln_tuning_layers",
    "osf_",
    "poly_",
    "trainable_tokens_",
)


def _says_lora(raw: object) -> bool:
    return isinstance(raw, dict) and str(raw.get("peft_type", "")).upper() == "LORA"


def _pattern_key(pattern: Mapping[str, Any], module: str) -> str:
    if not pattern:
        return module
    from peft.utils.other import get_pattern_key

    return str(get_pattern_key(list(pattern), module))
