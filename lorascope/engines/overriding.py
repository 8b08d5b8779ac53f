"""A subject with other weights than its files hold: changes of linear modules, applied in memory and taken back.

One loaded model serves any number of variants of a checkpoint. Whatever is not overridden (heads and other modules that
an adapter saves whole, biases, embeddings, norms) stays as the checkpoint has it. Parameters are replaced, never
written into, so taking a variant back restores the checkpoint bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lorascope.engines.base import Subject
from lorascope.engines.cache import AnswerCache
from lorascope.engines.holding import Holder, Ready
from lorascope.engines.loading import Need, resolve_dtype
from lorascope.engines.transformers_engine import TransformersEngine
from lorascope.errors import EvaluationError
from lorascope.schema.items import content_id


@dataclass(frozen=True, slots=True, eq=False)
class NewFactors:
    """Other LoRA factors for a module that has such: ``up`` (out, r), ``down`` (r, in), of any rank r.

    ``scaling`` multiplies their product. They run beside the base's weight, unmerged, as a saved adapter's do.
    """

    module: str
    up: Tensor
    down: Tensor
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class NewWeight:
    """Another whole weight (out, in) for a module; an adapter on that module is switched off.

    It is rounded to the type that the module's weight has, as in a merged checkpoint.
    """

    module: str
    weight: Tensor


Override = NewFactors | NewWeight


@dataclass(frozen=True, slots=True, kw_only=True)
class OverriddenSubject(Subject):
    """``original`` with ``overrides``, which are asked for each time they have to be applied.

    ``content_hash`` is made from the original's and the variant's definition, so its answers have keys of their own.
    """

    original: Subject
    overrides: Callable[[], Iterable[Override]]


def overridden(
    original: Subject, definition: dict[str, Any], overrides: Callable[[], Iterable[Override]]
) -> OverriddenSubject:
    """A variant of ``original``. ``definition`` has to name everything that ``overrides`` depends on."""
    same = {field.name: getattr(original, field.name) for field in fields(Subject)}
    same["content_hash"] = content_id({"of": original.content_hash, "variant": definition})
    return OverriddenSubject(**same, original=original, overrides=overrides)


class OverridingEngine(TransformersEngine):
    """The transformers engine, which also answers as an :class:`OverriddenSubject`.

    Beside the model, the overridden weights of one variant are in memory.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        """As :class:`TransformersEngine`."""
        super().__init__(device=device, dtype=dtype, batch_size=batch_size, cache=cache)
        self._holder = OverridingHolder(device=self.device, dtype=resolve_dtype(dtype))


class OverridingHolder(Holder):
    """Holds one model, with at most one variant's weights in it."""

    _variant: str | None = None
    _undo: ExitStack | None = None

    def ready(self, subject: Subject, need: Need) -> Ready:
        """As :meth:`Holder.ready`; a variant's weights are in the model until another subject is asked for.

        Raises:
            EvaluationError: the model lacks a module that is to be overridden, or has another size of it.
        """
        if not isinstance(subject, OverriddenSubject):
            self._take_back()
            return super().ready(subject, need)
        ready = super().ready(subject.original, need)
        if self._variant != subject.content_hash:
            self._take_back()
            self._put_in(ready, subject)
        return ready

    def detach(self) -> None:
        """Leave the plain base, bit for bit."""
        self._take_back()
        super().detach()

    def release(self) -> None:
        """Let everything go."""
        self._take_back()
        super().release()

    def _put_in(self, ready: Ready, subject: OverriddenSubject) -> None:
        self._undo = ExitStack()
        try:
            modules = dict(ready.plain.named_modules())
            prefix = f"{ready.plain.base_model_prefix}."
            for override in subject.overrides():
                _apply(_find(modules, prefix, override.module, subject), override, self._undo)
        except BaseException:
            self._take_back()
            raise
        self._variant = subject.content_hash

    def _take_back(self) -> None:
        self._variant = None
        if self._undo is not None:
            self._undo.close()
            self._undo = None


def _find(modules: dict[str, Any], prefix: str, name: str, subject: Subject) -> Any:
    """The module of that name, with or without the prefix that a head class puts before it."""
    for spelling in (name, prefix + name, name.removeprefix(prefix)):
        if spelling in modules:
            return modules[spelling]
    raise EvaluationError(
        f"the model that answers has no module {name} whose weights could be changed",
        where=f"{subject.name} ({subject.model_class})",
        remedy="ask a task of the kind that the checkpoint was trained for",
    )


def _apply(layer: Any, override: Override, undo: ExitStack) -> None:
    if isinstance(override, NewWeight):
        _replace_weight(layer, override, undo)
        return
    # Folding the scaling into one factor leaves what else it multiplies (a bias of lora_B) as it was.
    [adapter] = [name for name in layer.active_adapters if name in layer.lora_A]
    up = override.up * (override.scaling / layer.scaling[adapter])
    _set_parameter(layer.lora_A[adapter], override.down, undo)
    _set_parameter(layer.lora_B[adapter], up, undo)


def _replace_weight(layer: Any, override: NewWeight, undo: ExitStack) -> None:
    from transformers.pytorch_utils import Conv1D

    inner = layer
    if hasattr(layer, "get_base_layer"):
        inner = layer.get_base_layer()
        undo.callback(setattr, layer, "_disable_adapters", layer.disable_adapters)
        layer._disable_adapters = True
    weight = override.weight.T if isinstance(inner, Conv1D) else override.weight
    if weight.shape != inner.weight.shape or not inner.weight.is_floating_point():
        raise EvaluationError(
            f"the model that answers holds {override.module} as {tuple(inner.weight.shape)} {inner.weight.dtype}, "
            f"and a weight of {tuple(weight.shape)} cannot take its place",
            remedy="use checkpoints that are not quantised",
        )
    _set_parameter(inner, weight, undo)


def _set_parameter(module: torch.nn.Module, values: Tensor, undo: ExitStack) -> None:
    """Put a new parameter in the old one's place: one that several modules share stays theirs."""
    before = module.get_parameter("weight")
    # A copy of its own: a view would keep the whole file's memory, or change with it.
    new = values.detach().to(device=before.device, dtype=before.dtype, copy=True).contiguous()
    module.register_parameter("weight", torch.nn.Parameter(new, requires_grad=False))
    undo.callback(module.register_parameter, "weight", before)
