"""The base's linear modules with their weights, and the names under which reports list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorascope.checkpoints.conversion import ConvertedSource
from lorascope.checkpoints.modules import LinearModule, Skeleton, meta_model, skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import TensorSource

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
        self.task_type = task_type
        self.skeleton: Skeleton = skeleton(base.path, task_type=task_type)
        self.tensors: TensorSource = named_tensors(base, self.skeleton, task_type)
        self.keys: dict[str, str] = self.skeleton.linear_keys(self.tensors)
        prefix = f"{self.skeleton.prefix}."
        self._file_has_prefix = any(key.startswith(prefix) for key in base.tensors.specs)
        self._shared = self._shared_keys()
        self.keys |= self._shared

    @property
    def names(self) -> list[str]:
        """Modules whose weights the base has, in the model's order; each expert of a stack is one.

        A head that the base lacks is not among them, nor an output layer that is the embeddings' matrix.
        """
        return [name for name in self.keys if name not in self._shared]

    @property
    def shared(self) -> dict[str, str]:
        """Output layers that are another parameter's matrix (the embeddings, as a rule), with its key."""
        return dict(self._shared)

    def linear(self, module: str) -> LinearModule:
        """Sizes and orientation of a module, an output layer tied to the embeddings included."""
        return self.skeleton.linear.get(module) or self.skeleton.tied[module]

    def weight(self, module: str) -> Tensor:
        """The base's weight of ``module`` as (out, in), float32; of a stack, no more than this module's is kept."""
        return linear_weight(self.tensors, self.keys[module], self.linear(module))

    def named(self, module: str) -> str | None:
        """The base's name of a linear module that another head class may prefix differently; None when it has none."""
        return next((name for name in self.skeleton.spellings(module) if name in self.keys), None)

    def label(self, module: str) -> str:
        """The name under which reports list a module: the base file's key without ``.weight``, ``[i]`` for a slice.

        Unique for each module, and the same for subjects that were trained under different head classes. An output
        layer that shares the embeddings' matrix keeps its own name.
        """
        if module in self._shared:
            return module
        linear = self.linear(module)
        name = self.parameter_label(linear.parameter).removesuffix(".weight")
        return name if linear.index is None else f"{name}[{linear.index}]"

    def parameter_label(self, parameter: str) -> str:
        """The base file's key of a parameter.

        Where the file has another name for it, or none, the class's name, with the base model's prefix or without it
        as the file has its keys.
        """
        key = self.skeleton.key_of(parameter, self.checkpoint.tensors)
        if key is not None:
            return key
        path, _, part = parameter.rpartition(".")
        owner = self.named(path) if part != "weight" else None
        if owner is not None:
            return f"{self.label(owner)}.{part}"
        prefix = f"{self.skeleton.prefix}."
        stem = parameter.removeprefix(prefix)
        in_trunk = stem != parameter or parameter in self.skeleton.trunk
        return prefix + stem if in_trunk and self._file_has_prefix else stem

    def has(self, parameter: str) -> bool:
        """Whether the base has a value for a parameter."""
        return self.skeleton.key_of(parameter, self.tensors) is not None

    def parameter(self, parameter: str) -> Tensor | None:
        """The base's value of any parameter, as stored; None when it has none."""
        key = self.skeleton.key_of(parameter, self.tensors)
        return None if key is None else self.tensors.get(key)

    def _shared_keys(self) -> dict[str, str]:
        """Keys of the matrices that tied output layers share.

        Where the file holds another matrix for such a layer, transformers does not tie it (T5 1.1): it is a module of
        its own then.
        """
        shared = {}
        for name, module in self.skeleton.tied.items():
            own = self.skeleton.key_of(module.parameter, self.tensors)
            source = self.skeleton.key_of(str(module.tied_to), self.tensors)
            if source is not None and (own is None or self.tensors.get(own).equal(self.tensors.get(source))):
                shared[name] = source
            elif own is not None:
                self.keys[name] = own
        return shared


def named_tensors(checkpoint: OpenCheckpoint, built: Skeleton, task_type: str | None) -> TensorSource:
    """The checkpoint's tensors under the names of its model class.

    The file itself where it has every parameter; else what transformers makes of it at loading, since it renames and
    fuses older files' tensors and stacks experts. Parameters that loading would invent are left out.
    """
    wanted = {*built.others, *(module.parameter for module in built.linear.values())}
    if all(built.key_of(name, checkpoint.tensors) is not None for name in wanted):
        return checkpoint.tensors
    return ConvertedSource(checkpoint.tensors, meta_model(checkpoint.path, task_type))


def linear_weight(tensors: TensorSource, key: str, module: LinearModule) -> Tensor:
    """A module's weight as (out, in) in float32."""
    if module.index is None:
        return oriented(tensors.get(key), module)
    part = tensors.part(key, module.index) if isinstance(tensors, ConvertedSource) else tensors.get(key)[module.index]
    # A copy, so that the whole stack is let go.
    return oriented(part.clone(), module)


def oriented(weight: Tensor, module: LinearModule) -> Tensor:
    """``weight`` as (out, in) in float32."""
    wide = weight.float()
    return wide.T.contiguous() if module.transposed else wide


def size_text(shape: tuple[int, ...]) -> str:
    """A shape for messages: ``16×24``."""
    return "×".join(str(n) for n in shape)
