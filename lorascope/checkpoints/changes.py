"""What each adapted checkpoint changes in each linear module of the base, one module at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.adapters import FactorKeys, lora_factors, method_module, plain_name
from lorascope.checkpoints.merging import MergedLayers
from lorascope.checkpoints.modules import LinearModule, Skeleton, model_class, quiet_transformers, skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.tensors import MemorySource, TensorSource
from lorascope.errors import CheckpointError, InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor

# Task types of PEFT whose head has as many outputs as there are labels.
HEAD_TASKS = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"})
_SIZES = ("model_type", "hidden_size", "d_model", "n_embd", "num_hidden_layers", "num_layers", "n_layer",
          "num_attention_heads", "num_key_value_heads", "intermediate_size")  # fmt: skip


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
        self._shared = self._shared_keys()
        self.keys |= self._shared

    @property
    def names(self) -> list[str]:
        """Modules whose weights the base has, in the model's order.

        A head that the base lacks is not among them, nor an output layer that is the embeddings' matrix.
        """
        return [name for name in self.keys if name not in self._shared]

    def linear(self, module: str) -> LinearModule:
        """Sizes and orientation of a module, an output layer tied to the embeddings included."""
        return self.skeleton.linear.get(module) or self.skeleton.tied[module]

    def weight(self, module: str) -> Tensor:
        """The base's weight of ``module`` as (out, in), float32."""
        return oriented(self.tensors.get(self.keys[module]), self.linear(module))

    def named(self, module: str) -> str | None:
        """The base's name of a linear module that another head class may prefix differently; None when it has none."""
        name = self.skeleton.module_named(module)
        return name if name in self.keys else None

    def _shared_keys(self) -> dict[str, str]:
        """Keys of the matrices that tied output layers share.

        Where the file holds another matrix for such a layer, transformers does not tie it (T5 1.1): it is a module of
        its own then.
        """
        shared = {}
        for name, module in self.skeleton.tied.items():
            own = self.skeleton.key_of(f"{name}.weight", self.tensors)
            source = self.skeleton.key_of(str(module.tied_to), self.tensors)
            if source is not None and (own is None or self.tensors.get(own).equal(self.tensors.get(source))):
                shared[name] = source
            elif own is not None:
                self.keys[name] = own
        return shared


class AdapterChanges:
    """Changes by an adapter: from its factors where they are the whole change, else by merging layer by layer."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Pair the adapter's tensors with the base's modules; raises :class:`InvalidComparison` where that fails.

        ``skeleton`` is the model class that the adapter's task type asks for, ``replaced`` holds linear modules whose
        whole weight the adapter brings (``modules_to_save``).
        """
        assert subject.adapter is not None
        self.subject = subject
        self.config = subject.adapter
        self.base = base
        same_class = self.config.task_type in (None, base.task_type)
        path = base.checkpoint.path
        self.skeleton = base.skeleton if same_class else skeleton(path, task_type=self.config.task_type)
        self.factors: dict[str, FactorKeys] = {}
        self.replaced: dict[str, str] = {}
        self._merged: MergedLayers | None = None
        self._merged_names: dict[str, str] = {}
        self._find_replaced()
        if self.config.is_plain_lora:
            self.factors = {self._resolved(pair): pair for pair in lora_factors(self.config, subject.tensors)}
        elif not self.config.is_prompt_method:
            self._merged = MergedLayers(subject, base.checkpoint, self.skeleton)
            found = {base.named(name): name for name in self._merged.names}
            self._merged_names = {ours: theirs for ours, theirs in found.items() if ours is not None}

    @property
    def adapted_names(self) -> list[str]:
        """The adapter's own names of the modules that its method works on."""
        return [*(pair.module for pair in self.factors.values()), *self._merged_names.values()]

    @property
    def is_merged(self) -> bool:
        """True where changes are read from PEFT's own merge, not from two factors."""
        return self._merged is not None

    @property
    def has_no_merge(self) -> bool:
        """True for a method that works on layers but has no ΔW: nothing of it can be merged."""
        return self._merged is not None and not self._merged.names

    def modules(self) -> list[str]:
        """The base's modules that this adapter changes, in the base's order."""
        touched = {*self.factors, *self.replaced, *self._merged_names}
        return [name for name in self.base.keys if name in touched]

    def change(self, module: str) -> ModuleChange:
        """The change of one module; :class:`EvaluationError` where merging fails (values that overflow)."""
        specs, method = self.subject.tensors.specs, self.config.method
        if module in self.factors:
            pair = self.factors[module]
            down, up = self.subject.tensors.get(pair.down).float(), self.subject.tensors.get(pair.up).float()
            factors = Factors(up, down, pair.scaling)
            return ModuleChange(module, method, factors, None, pair.rank, specs[pair.down].dtype)
        linear = self.base.linear(module)
        if module in self.replaced:
            key = self.replaced[module]
            whole = oriented(self.subject.tensors.get(key), linear)
            return ModuleChange(module, "full", None, whole, None, specs[key].dtype)
        assert self._merged is not None
        merged = oriented(self._merged.weight(self._merged_names[module]), linear)
        return ModuleChange(module, method, None, merged, None, "F32")

    def _find_replaced(self) -> None:
        # Every parameter that the adapter saves whole stands against the base's of that name.
        for key, spec in self.subject.tensors.specs.items():
            wrapped = ".base_layer." in key
            if not wrapped and method_module(key, self.config.peft_type) is not None:
                continue
            plain = plain_name(key).replace(".base_layer.", ".")
            module, _, part = plain.rpartition(".")
            name = self.base.named(module)
            twin = self.base.skeleton.key_of(plain, self.base.tensors)
            if twin is None and part == "weight" and name is not None:
                twin = self.base.keys[name]
            if twin is None:
                continue
            expected = self.base.tensors.specs[twin].shape
            if name in self.base.skeleton.heads and self.config.task_type in HEAD_TASKS and spec.shape != expected:
                continue
            self._fits(module, key, spec.shape, expected)
            if name is not None and part == "weight" and not wrapped:
                self.replaced[name] = key

    def _resolved(self, pair: FactorKeys) -> str:
        name = self.base.named(pair.module)
        if name is None:
            raise InvalidComparison(
                f"the adapter changes {pair.module}, which the base {self.base.skeleton.class_name} has not",
                where=f"{self.subject.path}, tensor {pair.down}",
                remedy=right_base(self.subject),
            )
        specs, linear = self.subject.tensors.specs, self.base.linear(name)
        found = (specs[pair.up].shape[0], specs[pair.down].shape[1])
        self._fits(name, pair.down, found, (linear.out_features, linear.in_features))
        return name

    def _fits(self, name: str, key: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise InvalidComparison(
                f"the adapter is made for a {_size(found)} weight, the base has {_size(expected)} in {name}",
                where=f"{self.subject.path}, tensor {key}",
                remedy=right_base(self.subject),
            )


class ModelChanges:
    """Changes by a full model: its own weight stands against the base's, module by module."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Find the base's linear modules in the model.

        ``unmatched`` names the base's modules that the adapted architecture does not have (another head), ``resized``
        heads with another number of outputs; neither is compared. A tensor that its own architecture wants and its
        file lacks, a trunk tensor of another shape, or another architecture raises :class:`InvalidComparison`.
        """
        self.subject = subject
        self.base = base
        _same_sizes(subject, base.checkpoint)
        self.skeleton = skeleton(subject.path)
        self.tensors: TensorSource = named_tensors(subject, self.skeleton, None)
        self.keys: dict[str, str] = {}
        self.unmatched: list[str] = []
        self.resized: list[str] = []
        for name in base.names:
            self._match(name)

    def modules(self) -> list[str]:
        """The linear modules that base and adapted model share, in the base's order."""
        return list(self.keys)

    def change(self, module: str) -> ModuleChange:
        """The change of one module."""
        tensor = self.tensors.get(self.keys[module])
        dtype = self.tensors.specs[self.keys[module]].dtype
        return ModuleChange(module, "full", None, oriented(tensor, self.base.linear(module)), None, dtype)

    def _match(self, name: str) -> None:
        parameter = f"{name}.weight"
        key = self.base.skeleton.key_of(parameter, self.tensors) or self.skeleton.key_of(parameter, self.tensors)
        if key is None:
            if self.skeleton.module_named(name) in self.skeleton.linear:
                raise InvalidComparison(
                    f"the adapted model ({self.skeleton.class_name}) has no weight for {name}",
                    where=f"{self.subject.path}, against the base in {self.base.checkpoint.path}",
                    remedy="save the adapted model again with save_pretrained; loading would invent this weight",
                )
            self.unmatched.append(name)
            return
        expected, found = self.base.tensors.specs[self.base.keys[name]].shape, self.tensors.specs[key].shape
        if found == expected:
            self.keys[name] = key
        elif name in self.base.skeleton.heads:
            self.resized.append(name)
        else:
            raise InvalidComparison(
                f"{parameter} is {_size(found)} in the adapted model and {_size(expected)} in the base",
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


def named_tensors(checkpoint: OpenCheckpoint, built: Skeleton, task_type: str | None) -> TensorSource:
    """The checkpoint's tensors under the names of its model class.

    The file itself where it has every linear module of the trunk; else what transformers makes of it at loading, since
    it renames and fuses older files' tensors. Parameters that loading would invent are left out.
    """
    have = built.linear_keys(checkpoint.tensors)
    if all(name in have for name in built.linear if name not in built.heads):
        return checkpoint.tensors
    cls, config = model_class(checkpoint.path, task_type)
    with quiet_transformers():
        try:
            model, report = cls.from_pretrained(
                checkpoint.path, config=config, dtype="auto", trust_remote_code=False, output_loading_info=True
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(
                f"transformers cannot load {cls.__name__} from it: {str(error)[:400]}",
                where=str(checkpoint.path),
                remedy="check that config.json belongs to these weights",
            ) from error
    invented = set(report["missing_keys"])
    state = {key: value for key, value in model.state_dict().items() if key not in invented}
    return MemorySource(state, checkpoint.path)


def right_base(subject: OpenCheckpoint) -> str:
    """What to do about an adapter that does not fit: the base that it names."""
    said = subject.adapter.base_name if subject.adapter is not None else None
    return f"give the base it was trained on ({said or 'the adapter names none'})"


def text_config(checkpoint: OpenCheckpoint) -> dict[str, Any]:
    """The language model's part of a model's configuration: all of it, or ``text_config`` where it has other parts."""
    config = checkpoint.config or {}
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _same_sizes(subject: OpenCheckpoint, base: OpenCheckpoint) -> None:
    ours, theirs = text_config(subject), text_config(base)
    for key in _SIZES:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise InvalidComparison(
                f"{key} is {ours[key]} in the adapted model and {theirs[key]} in the base",
                where=f"{subject.path / 'config.json'} against {base.path / 'config.json'}",
                remedy="compare a fine-tuned model with the base it was made from",
            )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(n) for n in shape)
