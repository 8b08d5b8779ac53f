"""What a full model changes: its own tensors stand against the base's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.base_modules import BaseModules, ModuleChange, linear_weight, named_tensors, size_text
from lorascope.checkpoints.modules import ParameterKind, skeleton
from lorascope.checkpoints.opening import OpenCheckpoint
from lorascope.checkpoints.others import OtherChange, compared
from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import InvalidComparison

if TYPE_CHECKING:
    from torch import Tensor

_SIZES = ("model_type", "hidden_size", "d_model", "n_embd", "num_hidden_layers", "num_layers", "n_layer",
          "num_attention_heads", "num_key_value_heads", "intermediate_size")  # fmt: skip


class ModelChanges:
    """Changes by a full model: its own weight stands against the base's, module by module."""

    def __init__(self, subject: OpenCheckpoint, base: BaseModules) -> None:
        """Find the base's linear modules in the model.

        ``unmatched`` names the base's modules that the adapted architecture does not have (another head), ``resized``
        heads with another number of outputs; neither has a ΔW. A tensor that its own architecture wants and its
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
        for name in base.shared:
            self._match_untied(name)

    def modules(self) -> list[str]:
        """The linear modules that base and adapted model share, in the base's order."""
        return [name for name in self.base.keys if name in self.keys]

    def change(self, module: str) -> ModuleChange:
        """The change of one module."""
        key = self.keys[module]
        weight = linear_weight(self.tensors, key, self.base.linear(module))
        return ModuleChange(module, "full", None, weight, None, self.tensors.specs[key].dtype)

    def others(self) -> list[OtherChange]:
        """Parameters that differ from the base's and are no linear module's weight, in the base's order.

        Stored values are compared exactly, so what another stored type rounds is listed too, and says so. Of an output
        layer with another vocabulary the common rows are compared. Heads that the base lacks are not among them.
        """
        shared = {key: name for name, key in self.base.shared.items() if name not in self.keys}
        found = []
        for parameter, kind, old, new in self._pairs():
            change = compared(self.base.parameter_label(parameter), kind, old, new)
            if change is not None and self.base.skeleton.key_of(parameter, self.base.tensors) in shared:
                tied = shared[str(self.base.skeleton.key_of(parameter, self.base.tensors))]
                change = replace(change, note="; ".join(filter(None, [change.note, f"{tied} shares it"])))
            if change is not None:
                found.append(change)
        return found + self._lacking()

    def _pairs(self) -> Iterator[tuple[str, ParameterKind, Tensor | None, Tensor]]:
        """(parameter, kind, the base's value, the subject's), one pair at a time."""
        ours = {parameter: self._key(parameter) for parameter in self.base.skeleton.others}
        for parameter, key in ours.items():
            old = self.base.parameter(parameter) if key is not None else None
            if key is not None and not (old is None and self._in_head(parameter)):
                yield parameter, self.base.skeleton.others[parameter], old, self.tensors.get(key)
        for name in self.resized:
            if name == self.base.skeleton.output:
                key = str(self._key(f"{name}.weight"))
                yield f"{name}.weight", "embedding", self.base.tensors.get(self.base.keys[name]), self.tensors.get(key)
        weights: dict[str, ParameterKind] = {
            module.parameter: "parameter"
            for name, module in self.skeleton.linear.items()
            if self.base.named(name) is None and name not in self.skeleton.heads
        }
        seen = set(ours.values())
        for parameter, kind in {**self.skeleton.others, **weights}.items():
            key = self.skeleton.key_of(parameter, self.tensors)
            if key is not None and key not in seen and not self._in_head(parameter):
                yield parameter, kind, None, self.tensors.get(key)

    def _lacking(self) -> list[OtherChange]:
        """Parameters that the base has and the subject's own class wants, but not its file."""
        note = "not in the adapted file: loading would fill it at random"
        wanted = {name for own in self.skeleton.trunk for name in self.skeleton.spellings(own)}
        return [
            OtherChange(self.base.parameter_label(name), kind, self.base.tensors.specs[key].shape, None, note)
            for name, kind in self.base.skeleton.others.items()
            if name in wanted
            and self._key(name) is None
            and (key := self.base.skeleton.key_of(name, self.base.tensors)) is not None
        ]

    def _key(self, parameter: str) -> str | None:
        return self.base.skeleton.key_of(parameter, self.tensors) or self.skeleton.key_of(parameter, self.tensors)

    def _in_head(self, parameter: str) -> bool:
        return self.skeleton.module_named(parameter.rpartition(".")[0]) in self.skeleton.heads

    def _match_untied(self, name: str) -> None:
        """An output layer that shares the embeddings in the base, and has a matrix of its own in the subject."""
        key = self._key(f"{name}.weight")
        tied = next((self.skeleton.tied[n] for n in self.skeleton.spellings(name) if n in self.skeleton.tied), None)
        source = None if tied is None else self.skeleton.key_of(str(tied.tied_to), self.tensors)
        if key is None or (source is not None and self.tensors.get(key).equal(self.tensors.get(source))):
            return
        linear = self.base.linear(name)
        if self.tensors.specs[key].shape == (linear.out_features, linear.in_features):
            self.keys[name] = key
        else:
            self.resized.append(name)

    def _match(self, name: str) -> None:
        parameter = self.base.linear(name).parameter
        key = self._key(parameter)
        if key is None:
            if any(spelled in self.skeleton.linear for spelled in self.skeleton.spellings(name)):
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
                f"{parameter} is {size_text(found)} in the adapted model and {size_text(expected)} in the base",
                where=str(self.subject.path),
                remedy="compare models of one architecture and size",
            )


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
