"""What an adapter changes in the base, from its factors or from PEFT's own merge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorascope.checkpoints.adapters import FactorKeys, lora_factors, method_module, plain_name
from lorascope.checkpoints.base_modules import BaseModules, Factors, ModuleChange, linear_weight, oriented, size_text
from lorascope.checkpoints.merging import MergedLayers, parameter_targets
from lorascope.checkpoints.modules import ParameterKind, skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.others import OtherChange, compared
from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor

# Task types of PEFT whose head has as many outputs as there are labels.
HEAD_TASKS = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"})


class AdapterChanges:
    """Changes by an adapter: from its factors where they are the whole change, else by merging layer by layer."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Pair the adapter's tensors with the base's modules; raises :class:`InvalidComparison` where that fails.

        ``skeleton`` is the model class that the adapter's task type asks for, ``tensors`` the adapter's in the layout
        of that class. ``factors`` holds linear modules that get scaling · B·A, ``replaced`` those whose whole weight
        the adapter brings (``modules_to_save``), ``saved`` all other whole parameters, by their name in the model.
        """
        assert subject.adapter is not None
        self.subject = subject
        self.config = subject.adapter
        self.base = base
        same_class = self.config.task_type in (None, base.task_type)
        path = base.checkpoint.path
        self.skeleton = base.skeleton if same_class else skeleton(path, task_type=self.config.task_type)
        self.tensors: TensorSource = subject.tensors
        self.factors: dict[str, FactorKeys] = {}
        self.replaced: dict[str, str] = {}
        self.saved: dict[str, str] = {}
        self._parameter_factors: dict[str, list[FactorKeys]] = {}
        self._merged: MergedLayers | None = None
        self._merged_names: dict[str, str] = {}
        if not self.config.replicates_layers:
            self._find_saved()
        if self.config.is_factored:
            self._find_factors()
        if self._needs_merging():
            self._merged = MergedLayers(subject, base.checkpoint, self.skeleton)
            found = {base.named(name): name for name in sorted(self._merged.names)}
            self._merged_names = {
                ours: theirs for ours, theirs in found.items() if ours is not None and ours not in self.factors
            }

    @property
    def adapted_names(self) -> list[str]:
        """The adapter's own names of the modules (or parameters) that its method works on."""
        own = [pair.target for pair in self._all_factors()]
        return [*dict.fromkeys(own), *(sorted(self._merged.names) if self._merged is not None else [])]

    @property
    def is_merged(self) -> bool:
        """True where linear modules' changes are read from PEFT's own merge, not from two factors."""
        return self._merged is not None and not self.config.is_factored

    @property
    def has_no_merge(self) -> bool:
        """True for a method that works on layers but has no ΔW: nothing of it can be merged."""
        return self.is_merged and self._merged is not None and not self._merged.names

    @property
    def why_none(self) -> str | None:
        """Why there is no ΔW at all, in words; None where there is one in some module."""
        method = self.config.method
        if self.config.is_prompt_method:
            return f"{method} adds tokens or attention to them, not weights: there is no ΔW"
        if self.config.replicates_layers:
            return f"{method} repeats the base's layers (layer_replication): there is no base weight for each of them"
        if self.has_no_merge:
            return f"{method} has no merge: its change depends on the input, so there is no ΔW"
        return None if self.modules() else f"{method} changes no linear module of the base"

    def modules(self) -> list[str]:
        """The base's modules that this adapter changes, in the base's order."""
        touched = {*self.factors, *self.replaced, *self._merged_names}
        return [name for name in self.base.keys if name in touched]

    def change(self, module: str) -> ModuleChange:
        """The change of one module; :class:`EvaluationError` where merging fails (values that overflow)."""
        specs, method = self.tensors.specs, self.config.method
        linear = self.base.linear(module)
        if module in self.factors:
            pair = self.factors[module]
            factors = self._factors(pair, linear.transposed)
            if module not in self.replaced:
                return ModuleChange(module, method, factors, None, pair.rank, specs[pair.down].dtype)
            start = linear_weight(self.tensors, self.replaced[module], linear)
            whole = start + factors.scaling * factors.up @ factors.down
            return ModuleChange(module, method, None, whole, pair.rank, specs[pair.down].dtype)
        if module in self._merged_names:
            assert self._merged is not None
            merged = oriented(self._merged.weight(self._merged_names[module]), linear)
            return ModuleChange(module, method, None, merged, None, "F32")
        key = self.replaced[module]
        return ModuleChange(module, "full", None, linear_weight(self.tensors, key, linear), None, specs[key].dtype)

    def others(self) -> list[OtherChange]:
        """Parameters that differ from the base's and are no linear module's weight, in the base's order.

        Heads that the base lacks are not among them. Merges layers with such parameters, one at a time.
        """
        found: dict[str, OtherChange | None] = {}
        for parameter, value in self._new_values():
            kind = self._kind(parameter)
            old = self.base.parameter(parameter)
            name = self.base.parameter_label(parameter)
            found[name] = compared(name, kind, old, value)
        order = {self.base.parameter_label(name): place for place, name in enumerate(self.base.skeleton.others)}
        changed = [change for change in found.values() if change is not None]
        return sorted(changed, key=lambda change: order.get(change.name, len(order)))

    def _new_values(self) -> Iterator[tuple[str, Tensor]]:
        for parameter, key in self.saved.items():
            yield parameter, self.tensors.get(key)
        for parameter, pairs in self._parameter_factors.items():
            yield parameter, self._targeted(parameter, pairs)
        for name, pair in self.factors.items():
            key = pair.up.replace(".lora_B.weight", ".lora_B.bias")
            if key in self.tensors.specs:
                start = self._start(f"{name}.bias")
                moved = pair.scaling * self.tensors.get(key).float()
                yield f"{name}.bias", moved if start is None else start.float() + moved
        if self._merged is not None:
            for name in sorted(self._merged.names):
                yield from self._merged_values(name)

    def _merged_values(self, name: str) -> Iterator[tuple[str, Tensor]]:
        assert self._merged is not None
        ours = self.base.named(name)
        bare = self._merged.parts(name) == ["weight"] and not self._merged.adds_bias
        if ours is not None and (bare or ours in self.factors):
            return
        for part, value in self._merged.parameters(name).items():
            if ours is None or part != "weight":
                yield f"{name}.{part}", value

    def _targeted(self, parameter: str, pairs: list[FactorKeys]) -> Tensor:
        import torch

        start = self._start(parameter)
        assert start is not None
        moved = []
        for pair in pairs:
            factors = self._factors(pair, transposed=False)
            moved.append(factors.scaling * factors.up @ factors.down)
        return start.float() + (torch.stack(moved) if start.ndim == 3 else moved[0])

    def _start(self, parameter: str) -> Tensor | None:
        """A parameter before the method's own tensors: the adapter's where it saves it whole, else the base's."""
        for name in self.base.skeleton.spellings(parameter):
            if name in self.saved:
                return self.tensors.get(self.saved[name])
        return self.base.parameter(parameter)

    def _kind(self, parameter: str) -> ParameterKind:
        for built in (self.base.skeleton, self.skeleton):
            kind = next((built.others[name] for name in built.spellings(parameter) if name in built.others), None)
            if kind is not None:
                return kind
        return "bias" if parameter.endswith("bias") else "parameter"

    def _factors(self, pair: FactorKeys, transposed: bool) -> Factors:
        down, up = self.tensors.get(pair.down), self.tensors.get(pair.up)
        if pair.part is not None:
            up, down = pair.part.of(up, down)
            if pair.part.turned != transposed:
                up, down = down.T, up.T
        return Factors(up.float().contiguous(), down.float().contiguous(), pair.scaling)

    def _all_factors(self) -> list[FactorKeys]:
        return [*self.factors.values(), *(pair for pairs in self._parameter_factors.values() for pair in pairs)]

    def _find_factors(self) -> None:
        targets = None
        if self.config.raw.get("target_parameters") or any(m.index is not None for m in self.skeleton.linear.values()):
            targets, self.tensors = parameter_targets(self.subject, self.base.checkpoint)
        for pair in lora_factors(self.config, self.tensors, targets):
            name = self.base.named(pair.module)
            if name is None and self.base.has(pair.target):
                self._parameter_factors.setdefault(pair.target, []).append(pair)
            elif name is not None or not self._is_no_linear(pair.module):
                self.factors[self._resolved(pair)] = pair

    def _is_no_linear(self, module: str) -> bool:
        """Whether the model has the module, but not as a linear one: attention with a matrix of its own, say."""
        name = self.skeleton.module_named(module)
        return name is not None and name not in self.skeleton.linear and name not in self.skeleton.tied

    def _needs_merging(self) -> bool:
        """Whether anything is to be read from PEFT's merge: the method's own tensors that are no linear factors."""
        if self.config.is_prompt_method or self.config.replicates_layers:
            return False
        if not self.config.is_factored:
            return True
        read = {
            key for pair in self._all_factors() for key in (pair.down, pair.up, pair.up.replace(".weight", ".bias"))
        }
        own = (key for key in self.tensors.specs if ".base_layer." not in key or ".lora_" in key)
        return any(key not in read and method_module(key, self.config.peft_type) is not None for key in own)

    def _find_saved(self) -> None:
        # Every parameter that the adapter saves whole stands against the base's of that name.
        for key, spec in self.tensors.specs.items():
            wrapped = ".base_layer." in key and ".lora_" not in key
            if not wrapped and method_module(key, self.config.peft_type) is not None:
                continue
            plain = plain_name(key).replace(".base_layer.", ".").replace(".token_adapter.", ".")
            twin = self._twin(plain)
            modules = self._linear_of(plain)
            if twin is None:
                if self.skeleton.has_parameter(plain) and not self._in_head(plain):
                    self.saved[plain] = key
                continue
            expected = self.base.tensors.specs[twin].shape
            if self.config.task_type in HEAD_TASKS and self._in_head(plain) and spec.shape != expected:
                continue
            self._fits(plain.rpartition(".")[0], key, spec.shape, expected)
            if not modules:
                self.saved[plain] = key
            elif not wrapped or not self.tensors.get(key).equal(self.base.tensors.get(twin)):
                self.replaced |= dict.fromkeys(modules, key)

    def _twin(self, parameter: str) -> str | None:
        """The base's key of a parameter; for a tied output layer's weight that of the matrix it shares."""
        key = self.base.skeleton.key_of(parameter, self.base.tensors)
        name = self.base.named(parameter.removesuffix(".weight"))
        return self.base.keys[name] if key is None and name is not None else key

    def _linear_of(self, parameter: str) -> list[str]:
        """Linear modules of the base whose weight a parameter holds: one, every expert of a stack, or none."""
        name = self.base.named(parameter.removesuffix(".weight")) if parameter.endswith(".weight") else None
        if name is not None:
            return [name]
        spelled = self.base.skeleton.spellings(parameter)
        found = (module for module in self.base.skeleton.linear.values() if module.index is not None)
        return [module.name for module in found if module.parameter in spelled and module.name in self.base.keys]

    def _in_head(self, parameter: str) -> bool:
        name = self.skeleton.module_named(parameter.rpartition(".")[0])
        return name in self.skeleton.heads

    def _resolved(self, pair: FactorKeys) -> str:
        name = self.base.named(pair.module)
        if name is None:
            raise self._foreign(pair)
        specs, linear = self.tensors.specs, self.base.linear(name)
        found = (specs[pair.up].shape[0], specs[pair.down].shape[1])
        if pair.part is not None and pair.part.turned != linear.transposed:
            found = found[::-1]
        self._fits(name, pair.down, found, (linear.out_features, linear.in_features))
        return name

    def _foreign(self, pair: FactorKeys) -> InvalidComparison:
        architecture = self.base.checkpoint.architecture or self.base.skeleton.class_name
        return InvalidComparison(
            f"the adapter changes {pair.module}, which the base {architecture} has not",
            where=f"{self.subject.path}, tensor {pair.down}",
            remedy=right_base(self.subject),
        )

    def _fits(self, name: str, key: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            raise InvalidComparison(
                f"the adapter is made for a {size_text(found)} weight, the base has {size_text(expected)} in {name}",
                where=f"{self.subject.path}, tensor {key}",
                remedy=right_base(self.subject),
            )


def right_base(subject: OpenCheckpoint) -> str:
    """What to do about an adapter that does not fit: the base that it names."""
    said = subject.adapter.base_name if subject.adapter is not None else None
    return f"give the base it was trained on ({said or 'the adapter names none'})"
