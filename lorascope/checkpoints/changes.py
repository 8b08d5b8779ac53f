"""What each adapted checkpoint changes in each linear module of the base, one module at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.checkpoints.adapters import FactorKeys, lora_factors
from lorascope.checkpoints.merging import MergedLayers
from lorascope.checkpoints.modules import LinearModule, Skeleton, model_class, quiet_transformers, skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import MemorySource, TensorSource
from lorascope.errors import InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """ΔW = scaling · up @ down, with ``up`` (out, r) and ``down`` (r, in) in float32."""

    up: Tensor
    down: Tensor
    scaling: float


@dataclass(frozen=True)
class ModuleChange:
    """One module of one subject: its adapted weight (out, in) in float32, or the factors that are added to the base.

    ``stored_dtype`` is the file's type, which sets the rounding floor.
    """

    module: str
    method: str
    factors: Factors | None
    adapted: Tensor | None
    rank: int | None
    stored_dtype: str


class BaseModules:
    """The base's linear modules with their weights (out, in), float32, read on demand."""

    def __init__(self, base: OpenCheckpoint, *, task_type: str | None = None) -> None:
        """Build the skeleton of ``base``; ``task_type`` (PEFT's) chooses the class that an adapter was trained on."""
        self.checkpoint = base
        self.skeleton: Skeleton = skeleton(base.path, task_type=task_type)
        keys = {name: self.skeleton.key_of(f"{name}.weight", base.tensors) for name in self.skeleton.linear}
        self.tensors: TensorSource = base.tensors
        if not any(keys.values()) and self.skeleton.linear:
            self.tensors = through_transformers(base)
            keys = {name: self.skeleton.key_of(f"{name}.weight", self.tensors) for name in self.skeleton.linear}
        self.keys: dict[str, str] = {name: key for name, key in keys.items() if key is not None}

    @property
    def names(self) -> list[str]:
        """Modules whose weights the base has, in the model's order. A head that the base lacks is not among them."""
        return list(self.keys)

    def weight(self, module: str) -> Tensor:
        """The base's weight of ``module`` as (out, in), float32."""
        return oriented(self.tensors.get(self.keys[module]), self.skeleton.linear[module])


class AdapterChanges:
    """Changes by an adapter: from its factors where they are the whole change, else by merging layer by layer."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Pair the adapter's tensors with the base's modules; raises :class:`InvalidComparison` where that fails."""
        assert subject.adapter is not None
        self.subject = subject
        self.config = subject.adapter
        self.base = base
        self.factors: dict[str, FactorKeys] = {}
        self._merged: MergedLayers | None = None
        if self.config.is_plain_lora:
            for pair in lora_factors(self.config, subject.tensors):
                self.factors[self._resolved(pair)] = pair
        elif not self.config.is_prompt_method:
            self._merged = MergedLayers(subject, base.checkpoint)

    def modules(self) -> list[str]:
        """The base's modules that this adapter changes, in the base's order."""
        touched = set(self.factors) if self._merged is None else self._merged.names
        return [name for name in self.base.names if name in touched]

    def change(self, module: str) -> ModuleChange:
        """The change of one module."""
        if self._merged is not None:
            adapted = self._merged.weight(module)
            linear = self.base.skeleton.linear[module]
            return ModuleChange(module, self.config.method, None, oriented(adapted, linear), None, self.subject.dtype)
        pair = self.factors[module]
        down, up = self.subject.tensors.get(pair.down).float(), self.subject.tensors.get(pair.up).float()
        dtype = self.subject.tensors.specs[pair.down].dtype
        return ModuleChange(module, self.config.method, Factors(up, down, pair.scaling), None, pair.rank, dtype)

    def _resolved(self, pair: FactorKeys) -> str:
        name = self.base.skeleton.module_named(pair.module)
        linear = self.base.skeleton.linear.get(name or "")
        file = self.subject.path
        if name is None or linear is None or name not in self.base.keys:
            raise InvalidComparison(
                f"the adapter changes {pair.module}, which the base {self.base.skeleton.class_name} has not",
                where=f"{file}, tensor {pair.down}",
                remedy=f"give the base it was trained on ({self.config.base_name or 'the adapter names none'})",
            )
        specs = self.subject.tensors.specs
        found = (specs[pair.up].shape[0], specs[pair.down].shape[1])
        expected = (linear.out_features, linear.in_features)
        if found != expected:
            raise InvalidComparison(
                f"the adapter is made for a {found[0]}×{found[1]} weight, the base has {expected[0]}×{expected[1]}",
                where=f"{file}, module {pair.module}",
                remedy=f"give the base it was trained on ({self.config.base_name or 'the adapter names none'})",
            )
        return name


class ModelChanges:
    """Changes by a full model: its own weight stands against the base's, module by module."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Find the base's linear modules in the model.

        A head that the adapted architecture does not have is named in ``unmatched``; a tensor that its own architecture
        wants and its file lacks, or one of another shape, raises :class:`InvalidComparison`.
        """
        self.subject = subject
        self.base = base
        own = skeleton(subject.path)
        self.tensors: TensorSource = subject.tensors
        if base.tensors is not base.checkpoint.tensors:
            self.tensors = through_transformers(subject)
        self.keys: dict[str, str] = {}
        self.unmatched: list[str] = []
        for name in base.names:
            key = base.skeleton.key_of(f"{name}.weight", self.tensors) or own.key_of(f"{name}.weight", self.tensors)
            if key is None and own.module_named(name) is None:
                self.unmatched.append(name)
                continue
            if key is None:
                raise InvalidComparison(
                    f"the adapted model ({own.class_name}) has no weight for {name}",
                    where=f"{subject.path}, against {base.skeleton.class_name} in {base.checkpoint.path}",
                    remedy="compare models of one architecture",
                )
            self._same_shape(name, key)
            self.keys[name] = key

    def modules(self) -> list[str]:
        """The linear modules that base and adapted model share, in the base's order."""
        return list(self.keys)

    def change(self, module: str) -> ModuleChange:
        """The change of one module."""
        tensor = self.tensors.get(self.keys[module])
        dtype = self.tensors.specs[self.keys[module]].dtype
        return ModuleChange(module, "full", None, oriented(tensor, self.base.skeleton.linear[module]), None, dtype)

    def _same_shape(self, name: str, key: str) -> None:
        expected = self.base.tensors.specs[self.base.keys[name]].shape
        found = self.tensors.specs[key].shape
        output = name == "lm_head" or name.endswith(".lm_head")
        if found == expected or (output and found[1:] == expected[1:]):
            return
        raise InvalidComparison(
            f"{name}.weight is {_size(found)} in the adapted model and {_size(expected)} in the base",
            where=str(self.subject.path),
            remedy="compare models of one architecture and size",
        )


Changes = AdapterChanges | ModelChanges


def changes_of(subject: OpenCheckpoint, base: BaseModules) -> Changes:
    """The reader of a subject's changes."""
    return AdapterChanges(subject, base) if subject.kind == "adapter" else ModelChanges(subject, base)


def oriented(weight: Tensor, module: LinearModule) -> Tensor:
    """``weight`` as (out, in) in float32."""
    wide = weight.float()
    return wide.T.contiguous() if module.transposed else wide


def through_transformers(checkpoint: OpenCheckpoint) -> TensorSource:
    """The weights under the names that transformers gives them, for files whose keys it renames or fuses at loading."""
    cls, config = model_class(checkpoint.path, None)
    with quiet_transformers():
        model = cls.from_pretrained(checkpoint.path, config=config, trust_remote_code=False)
    return MemorySource(dict(model.state_dict()), checkpoint.path)


def iterate(changes: Changes) -> Iterator[ModuleChange]:
    """All changes of a subject, one in memory at a time."""
    for module in changes.modules():
        yield changes.change(module)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)
