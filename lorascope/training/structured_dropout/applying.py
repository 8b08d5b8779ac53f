"""Putting structured dropout into a model, and taking it out again without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lorascope.errors import ConfigError
from lorascope.schema.recipe import AttentionDrop, StructuredDropout
from lorascope.training.structured_dropout import attention, blocks
from lorascope.training.structured_dropout.hidden_cut import HiddenCut, down_projection
from lorascope.training.structured_dropout.other_dropouts import active_dropouts

_APPLIED = "_lorascope_structured_dropout"


@dataclass(slots=True)
class Applied:
    """What was changed in a model.

    ``layers`` names the blocks that drop, ``hooked`` the down-projections whose output HiddenCut drops of, ``zeroed``
    the other dropouts that were set to 0 with what they were; ``description`` is one line for a log.
    """

    layers: tuple[str, ...]
    hooked: tuple[str, ...]
    zeroed: Mapping[str, float]
    description: str
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def remove(self) -> None:
        """Restore the model: attention, other dropouts, hooks. Calling it again does nothing."""
        while self._undo:
            self._undo.pop()()


def apply_structured_dropout(model: Any, dropout: StructuredDropout, *, seed: int | None = None) -> Applied:
    """Let ``model`` drop as ``dropout`` says while it trains; in evaluation mode it computes what SDPA computes.

    ``model`` is a transformers model or a PEFT model around one; adapters have to be there already. Masks come from
    torch's default generators, which ``seed`` seeds now (None leaves them as they are). Cross attention of an encoder–
    decoder and of a decoder with an encoder is left as it is; ``layers`` then hold for encoder and decoder each.
    Nothing of it is saved with the model. Compensation by ``kl`` or ``js`` is the trainer's, by ``Compensation``.

    Raises:
        ConfigError: attention that is not exchangeable, a feed-forward whose end is not known, a mixture of experts
            (for HiddenCut), layers that the model has not, or structured dropout that is there already. The model is
            then as it was.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    resolved = dropout.resolved()
    if hasattr(base, _APPLIED):
        raise ConfigError(
            f"{type(base).__name__} has structured dropout already",
            where="structured_dropout",
            remedy="call remove() of what the first call returned",
        )
    if resolved.attention is not None:
        _check_attention(base)
    parts = _parts(base, resolved)
    if seed is not None:
        torch.manual_seed(seed)
    applied = Applied(parts.layers, tuple(name for name, _ in parts.down), {}, "")
    _set(base, _APPLIED, True, applied)
    if resolved.attention is not None:
        _attend(base, parts.attention, resolved.attention, applied)
    if resolved.hidden is not None:
        for _, module in parts.down:
            applied._undo.append(module.register_forward_hook(HiddenCut(resolved.hidden)).remove)
    if resolved.other_dropouts == "zero":
        applied.zeroed = _zero(model, applied)
    applied.description = _describe(resolved, applied, parts.spoken)
    return applied


@dataclass(frozen=True, slots=True)
class _Parts:
    layers: tuple[str, ...]
    attention: tuple[nn.Module, ...]
    down: tuple[tuple[str, nn.Module], ...]
    spoken: str


def _parts(base: Any, dropout: StructuredDropout) -> _Parts:
    """Everything that will be changed, found before anything is."""
    layers: list[str] = []
    attending: list[nn.Module] = []
    down: list[tuple[str, nn.Module]] = []
    spoken: list[str] = []
    for stack in blocks.stacks(base):
        indices = blocks.chosen(stack, dropout.layers)
        spoken.append(f"{stack.name} {_ranges(indices)} of {len(stack.blocks)}")
        for index in indices:
            name, block = f"{stack.name}.{index}", stack.blocks[index]
            layers.append(name)
            if dropout.attention is not None:
                attending += _self_attention(block, name, base)
            if dropout.hidden is not None:
                down.append(down_projection(block, name, type(base).__name__))
    return _Parts(tuple(layers), tuple(attending), tuple(down), ", ".join(spoken))


def _self_attention(block: nn.Module, name: str, base: Any) -> list[nn.Module]:
    found = blocks.self_attention(block)
    if not found:
        raise ConfigError(
            f"{name} of {type(base).__name__} has no attention to drop keys in",
            where="structured_dropout.layers",
            remedy="name the layers with attention, or use preset: hiddencut",
        )
    return found


def _check_attention(base: Any) -> None:
    """Refuse, by the model's name, attention that does not go through the interface or is not SDPA's."""
    name, config = type(base).__name__, base.config.get_text_config()
    used = str(base.config._attn_implementation)
    softcap = getattr(config, "attn_logit_softcapping", None) is not None
    problem = None
    if not base._can_set_attn_implementation():
        problem = f"the attention of {name} is its own and cannot be exchanged"
    elif not base._supports_sdpa and not softcap:
        problem = f"the attention of {name} has no SDPA form"
    elif used not in {"sdpa", "eager"}:
        problem = f"{name} was loaded with the attention {used}, which takes no masks of ours"
    if problem is not None:
        raise ConfigError(
            problem,
            where="structured_dropout.attention",
            remedy="load the model with SDPA attention (hardware.attention: auto)"
            if problem.endswith("of ours")
            else "drop in the feed-forward alone (preset: hiddencut), or use another base",
        )


def _attend(base: Any, modules: tuple[nn.Module, ...], drop: AttentionDrop, applied: Applied) -> None:
    attention.register()
    for config in {id(config): config for config in _configs(base)}.values():
        applied._undo.append(_restore(config, "_attn_implementation_internal", config._attn_implementation_internal))
    base.set_attn_implementation(attention.IMPLEMENTATION)
    for module in modules:
        _set(module, attention.MARK, drop, applied)


def _configs(base: Any) -> Iterator[Any]:
    """Every configuration that says which attention is used; submodels may have copies."""
    for module in base.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            yield from _with_parts(config)


def _with_parts(config: Any) -> Iterator[Any]:
    yield config
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            yield from _with_parts(part)


def _zero(model: nn.Module, applied: Applied) -> dict[str, float]:
    zeroed: dict[str, float] = {}
    for name, module, attribute, value in list(active_dropouts(model)):
        zeroed[name] = value
        applied._undo.append(_restore(module, attribute, value))
        setattr(module, attribute, 0.0)
    return zeroed


def _set(owner: Any, attribute: str, value: Any, applied: Applied) -> None:
    setattr(owner, attribute, value)
    applied._undo.append(lambda: delattr(owner, attribute))


def _restore(owner: Any, attribute: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, attribute, value)


def _describe(dropout: StructuredDropout, applied: Applied, spoken: str) -> str:
    said = []
    if dropout.attention is not None:
        kind = "DropKey" if dropout.attention.kind == "dropkey" else "DropAttention"
        said.append(f"{kind} by {dropout.attention.structure}, rate {dropout.attention.rate:g}")
    if dropout.hidden is not None:
        said.append(f"HiddenCut by {dropout.hidden.structure}, rate {dropout.hidden.rate:g}")
    text = f"structured dropout: {'; '.join(said)}; layers: {spoken}"
    if dropout.compensation in {"kl", "js"}:
        branches = {"one": ", one branch", "two": ", two branches"}[dropout.branches]
        text += f"; compensation {dropout.compensation}{branches if dropout.compensation == 'kl' else ''}"
        text += f", weight {dropout.weight:g}"
    kept = "; other dropouts kept" if dropout.other_dropouts == "keep" else ""
    return text + (f"; {len(applied.zeroed)} other dropouts set to 0" if applied.zeroed else kept)


def _ranges(indices: list[int]) -> str:
    """Indices in short: 0–3, 6."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
