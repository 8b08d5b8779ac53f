"""Adapters on a base model, and the plain base again afterwards.

Before an adapter is attached, everything the base consists of is remembered by reference; detaching puts it all back,
whatever the adapter's method had wrapped, replaced, frozen or resized. A fingerprint of the weights' bits tells whether
a method has changed them in place (as merging does), in which case the base has to be loaded again.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lorascope.engines.base import Subject
from lorascope.engines.batching import is_out_of_memory
from lorascope.engines.loading import untrained_head
from lorascope.errors import CheckpointError, EvaluationError, UnsupportedFormat

_SAFE_WEIGHTS = "adapter_model.safetensors"
_PICKLED_WEIGHTS = "adapter_model.bin"
_SUMMED_AT_ONCE = 2**20
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(model: torch.nn.Module) -> dict[str, int]:
    """Per parameter and buffer, the sum of its elements' bit patterns: any change of a weight changes it.

    Two changes within one tensor that cancel exactly would go unnoticed.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: _bit_sum(tensor.detach()) for name, tensor in tensors}


def _bit_sum(tensor: torch.Tensor) -> int:
    # In parts: a sum in a wider type copies what it sums, which for an embedding is gigabytes.
    parts = torch.split(tensor.view(_BITS[tensor.element_size()]).flatten(), _SUMMED_AT_ONCE)
    return sum(int(part.sum(dtype=torch.int64)) for part in parts)


class Snapshot:
    """The structure of a model: modules, their attributes and hooks, which tensors they hold, the configuration."""

    def __init__(self, model: Any) -> None:
        """Remember ``model`` by reference; no weight is copied."""
        self._modules = [
            (module, type(module), {name: _shallow(value) for name, value in vars(module).items()})
            for module in model.modules()
        ]
        tensors = [*model.parameters(), *model.buffers()]
        self._tensors = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
        settings = [model.config, getattr(model, "generation_config", None)]
        self._settings = [(one, copy.deepcopy(vars(one))) for one in settings if one is not None]

    def restore(self) -> None:
        """Put the model back into the remembered state; weights changed in place stay changed."""
        for module, kind, attributes in self._modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for tensor, data, requires_grad in self._tensors:
            tensor.data = data
            tensor.requires_grad_(requires_grad)
        for settings, values in self._settings:
            vars(settings).clear()
            vars(settings).update(values)


def _shallow(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (dict, set, list)) else value


def attach(base: Any, subject: Subject, *, device: torch.device, untrained: tuple[str, ...]) -> Any:
    """The base with the subject's adapter on it, as a PEFT model in evaluation mode. Changes ``base``.

    ``untrained`` are the base's weights that its checkpoint lacks; the adapter has to bring each of them.

    Raises:
        CheckpointError: the adapter's files are missing or damaged.
        UnsupportedFormat: pickled weights without leave.
        EvaluationError: the adapter does not fit the base, or leaves a head untrained.
    """
    from peft import PeftModel

    shapes = adapter_shapes(subject)
    lacking = tuple(name for name in untrained if name not in shapes)
    if lacking:
        raise untrained_head(subject, lacking)
    _resize_embeddings(base, shapes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            wrapped = PeftModel.from_pretrained(base, str(subject.path), torch_device=str(device))
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
            raise _misfit(error, subject) from error
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise EvaluationError(
                f"the adapter lacks weights that its configuration asks for: {warning.message}",
                where=str(subject.path),
                remedy="it was made for another base model or by an incompatible version of peft",
            )
    return wrapped.eval()


def _misfit(error: Exception, subject: Subject) -> EvaluationError:
    if is_out_of_memory(error):
        return EvaluationError("memory runs out while the adapter is attached", where=str(subject.path))
    return EvaluationError(
        f"the adapter cannot be attached to its base: {error}",
        where=f"{subject.path} on {subject.base_path}",
        remedy="check that it was trained on this base model",
    )


def adapter_shapes(subject: Subject) -> dict[str, tuple[int, ...]]:
    """Shapes of an adapter's tensors under the names that the base gives to the same weights."""
    safe, pickled = subject.path / _SAFE_WEIGHTS, subject.path / _PICKLED_WEIGHTS
    if safe.is_file():
        shapes = _safe_shapes(safe)
    elif pickled.is_file():
        if not subject.allow_pickle:
            raise UnsupportedFormat(
                "the adapter's weights are pickled, and reading a pickle can run foreign code",
                where=str(pickled),
                remedy="convert them to safetensors, or allow pickled weights if you trust their source",
            )
        stored = torch.load(pickled, map_location="meta", weights_only=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    else:
        raise CheckpointError(f"the adapter has no {_SAFE_WEIGHTS}", where=str(subject.path))
    return {_base_name(name): shape for name, shape in shapes.items()}


def _safe_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(str(path), framework="pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the adapter's weights cannot be read: {error}", where=str(path)) from error


def _base_name(name: str) -> str:
    plain = name.removeprefix("base_model.model.")
    for wrapper in (".modules_to_save.", ".original_module.", ".base_layer."):
        plain = plain.replace(wrapper, ".")
    return plain


def _resize_embeddings(base: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """An adapter trained with added tokens brings a longer embedding, which the base has to make room for."""
    embedding = base.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    name = next((name for name, tensor in base.named_parameters() if tensor is weight), None)
    wanted = shapes.get(name) if name is not None else None
    if wanted is not None and weight is not None and wanted[0] != weight.shape[0]:
        base.resize_token_embeddings(wanted[0], mean_resizing=False)
