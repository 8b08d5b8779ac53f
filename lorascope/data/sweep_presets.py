"""The sweeps that have a name: what each varies over the user's recipe. Everything in them can be set otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lorascope.schema.recipe import Recipe
from lorascope.schema.sweep import Choose, Overrides, PresetName


@dataclass(frozen=True, slots=True)
class Preset:
    """Points by name, a grid over all of them, the first stage, and the point to compare with."""

    points: dict[str, Overrides] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    every: Overrides = field(default_factory=dict)
    choose: Choose | None = None
    reference: str | None = None


_FULL: Overrides = {"method": {"name": "full"}, "optim.lora_plus_ratio": None, "structured_dropout": None}
_RATES = {"full": [1e-5, 3e-5, 1e-4], "lora": [1e-4, 3e-4, 1e-3], "head-only": [3e-4, 1e-3, 3e-3]}


def _lora(rank: int) -> Overrides:
    return {"method.name": "lora", "method.rank": rank, "method.alpha": None, "method.rank_pattern": {}, "freeze": None}


def _lora_vs_full(recipe: Recipe) -> Preset:
    """The full fine-tune against LoRA of rank 1, 8 and 32 (α = 2r), each method at its own learning rate.

    Rates are three for each method, a decade apart between them; tasks with a head also train the head alone: what
    every other point has to beat.
    """
    points: dict[str, Overrides] = {"full": {**_FULL, "freeze": None}}
    points |= {f"r{rank}": _lora(rank) for rank in (1, 8, 32)}
    rates = {name: _RATES[name] for name in ("full", "lora")}
    if recipe.task.kind != "generate":
        points["head-only"] = {**_FULL, "freeze": "head-only"}
        rates["head-only"] = _RATES["head-only"]
    return Preset(points, choose=Choose.model_validate({"values": rates}), reference="full")


def _rank(recipe: Recipe) -> Preset:
    """The rank alone: 1, 4, 16, 64 and 256 with α = 2r, everything else as in the recipe."""
    every: Overrides = {"method.alpha": None, "method.rank_pattern": {}, "method.target_rank": None}
    return Preset(grid={"method.rank": [1, 4, 16, 64, 256]}, every=every)


def _dropout(recipe: Recipe) -> Preset:
    """LoRA without and with its own dropout, structured dropouts at one rate, and the full fine-tune."""
    rate = recipe.structured_dropout.rate if recipe.structured_dropout is not None else 0.1
    none: Overrides = {"structured_dropout": None, "method.dropout": 0.0}
    points: dict[str, Overrides] = {"lora": none, "lora-dropout": {**none, "method.dropout": rate}}
    for name in ("dropkey", "dropattention", "hiddencut", "hiddenkey-minus", "hiddenkey"):
        points[name] = {**none, "structured_dropout": {"preset": name, "rate": rate}}
    points["full"] = {**_FULL, "freeze": None}
    return Preset(points, reference="lora")


def _multilabel(recipe: Recipe) -> Preset:
    """BCE against the losses made for many rare labels, and BCE over items drawn by their rarest label."""
    losses: dict[str, dict[str, Any]] = {
        "bce": {"name": "bce"},
        "pos-weight": {"name": "bce", "pos_weight": "balanced"},
        "focal": {"name": "focal"},
        "asymmetric": {"name": "asymmetric"},
        "distribution-balanced": {"name": "distribution_balanced"},
        "zlpr": {"name": "zlpr"},
        "balanced-sampler": {"name": "bce", "sampler": "balanced"},
    }
    weights = {} if recipe.loss.sample_weights is None else {"sample_weights": recipe.loss.sample_weights}
    return Preset({name: {"loss": {**loss, **weights}} for name, loss in losses.items()}, reference="bce")


def _forgetting(recipe: Recipe) -> Preset:
    """What keeps the general ability: a third of the learning rate, L2-SP, and 1 % and 5 % of replay.

    Replay is the recipe's, else texts that the base writes itself; only tasks of kind generate have it.
    """
    off: Overrides = {"replay": None, "optim.l2_sp": 0.0, "optim.ewc": None}
    points: dict[str, Overrides] = {
        "plain": off,
        "low-rate": {**off, "optim.learning_rate": float(f"{recipe.optim.learning_rate / 3:.3g}")},
        "l2-sp": {**off, "optim.l2_sp": 0.01},
    }
    if recipe.task.kind == "generate":
        given = recipe.replay.model_dump(exclude_unset=True) if recipe.replay is not None else {}
        for percent in (1, 5):
            points[f"replay-{percent}"] = {**off, "replay": {**given, "ratio": percent / 100}}
    if recipe.optim.ewc is not None:
        points["ewc"] = {**off, "optim.ewc": recipe.optim.ewc.model_dump(exclude_unset=True)}
    return Preset(points, reference="plain")


PRESETS: dict[PresetName, Callable[[Recipe], Preset]] = {
    "lora-vs-full": _lora_vs_full,
    "rank": _rank,
    "dropout": _dropout,
    "multilabel": _multilabel,
    "forgetting": _forgetting,
}
