"""A checkpoint under the names of its model class: what transformers renames and fuses at loading, tensor by tensor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.tensors import TensorSource, TensorSpec
from lorascope.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass
class _Recipe:
    """How one or more parameters come from tensors of the file: pattern → its tensors' keys, and the converter."""

    first: str
    converter: Any = None
    sources: dict[str, list[str]] = field(default_factory=dict)

    def targets(self) -> list[str]:
        """The parameters that the recipe makes."""
        if self.converter is None:
            return [self.first]
        head, *tail = self.converter.target_patterns
        return [self.first, *(self.first.replace(head, pattern, 1) for pattern in tail)]

    @property
    def is_stack(self) -> bool:
        """Whether the parameter is a list of tensors stacked, each converted by itself: experts."""
        from transformers.core_model_loading import Concatenate, MergeModulelist

        first, *rest = self.converter.operations if self.converter is not None else [None]
        return (
            isinstance(first, MergeModulelist)
            and first.dim == 0
            and all(isinstance(operation, Concatenate) and operation.dim > 0 for operation in rest)
        )


class ConvertedSource:
    """Tensors under the model's names, made from the file's by transformers' own conversions when they are asked for.

    Holds nothing but names: older files' names, weights that the model fuses, experts that it stacks are put together
    for one parameter at a time, in the stored type. What the file has not is not there: nothing is invented.
    """

    def __init__(self, tensors: TensorSource, model: PreTrainedModel) -> None:
        """Plan the conversion of ``tensors`` for ``model``, which may be on the meta device."""
        self._tensors = tensors
        self._model = model
        wanted = model.state_dict()
        self._recipes: dict[str, _Recipe] = {}
        self._specs: dict[str, TensorSpec] = {}
        for recipe in _recipes(tensors, model, wanted):
            stored = tensors.specs[next(iter(recipe.sources.values()))[0]]
            for target in recipe.targets():
                if target in wanted:
                    self._recipes[target] = recipe
                    self._specs[target] = TensorSpec(stored.file, tuple(wanted[target].shape), stored.dtype)
        self._keep_file_shapes()

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by key."""
        return self._specs

    def get(self, key: str) -> Tensor:
        """The tensor in its stored dtype, on the CPU."""
        recipe = self._recipes[key]
        if recipe.converter is None:
            return self._tensors.get(recipe.sources[key][0])
        return self._converted(recipe, key, recipe.sources)

    def part(self, key: str, index: int) -> Tensor:
        """One matrix of a stack; only the tensors that it is made of are read."""
        recipe = self._recipes[key]
        if not recipe.is_stack:
            return self.get(key)[index]
        return self._converted(recipe, key, {pattern: [keys[index]] for pattern, keys in recipe.sources.items()})[0]

    def _converted(self, recipe: _Recipe, key: str, sources: Mapping[str, list[str]]) -> Tensor:
        converter = copy.deepcopy(recipe.converter)
        for pattern, keys in sources.items():
            for source in keys:
                converter.add_tensor(recipe.first, source, pattern, _reading(self._tensors, source))
        try:
            made = converter.convert(recipe.first, model=self._model, config=self._model.config)[key]
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            raise CheckpointError(
                f"transformers cannot make {key} from {next(iter(sources.values()))[0]}: {error}",
                where=str(self._specs[key].file),
                remedy="check that config.json belongs to these weights",
            ) from error
        tensor: Tensor = made[0] if isinstance(made, list) else made
        return tensor

    def _keep_file_shapes(self) -> None:
        # A renamed tensor keeps the file's shape, which need not be the configuration's: the caller compares them.
        for target, recipe in self._recipes.items():
            if recipe.converter is None:
                self._specs[target] = self._tensors.specs[recipe.sources[target][0]]
            elif recipe.is_stack:
                self._specs[target] = self._stacked(target, recipe)

    def _stacked(self, target: str, recipe: _Recipe) -> TensorSpec:
        held = [[self._tensors.specs[key] for key in keys] for keys in recipe.sources.values()]
        planned = self._specs[target]
        counts = {len(specs) for specs in held}
        elements = sum(prod(spec.shape) for specs in held for spec in specs)
        if len(counts) != 1 or elements != prod(planned.shape):
            raise CheckpointError(
                f"{target} is made of {sorted(counts)} tensors with {elements} values, the model has "
                f"{'×'.join(map(str, planned.shape))}",
                where=str(planned.file),
                remedy="check that config.json belongs to these weights, and that no shard is missing",
            )
        return planned


def _recipes(tensors: TensorSource, model: PreTrainedModel, wanted: Mapping[str, Tensor]) -> list[_Recipe]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix = model.base_model_prefix
    found: dict[str, _Recipe] = {}
    for key in sorted(tensors.specs, key=dot_natural_key):
        target, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if target not in wanted and key in wanted:
            target, pattern = key, None
        if target not in wanted:
            continue
        if pattern is None:
            found[target] = _Recipe(target, None, {target: [key]})
        else:
            recipe = found.setdefault(target, _Recipe(target, by_pattern[pattern]))
            recipe.sources.setdefault(pattern, []).append(key)
    return list(found.values())


def _reading(tensors: TensorSource, key: str) -> Any:
    return lambda: tensors.get(key)
