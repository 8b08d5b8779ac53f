"""The linear modules of an architecture, from its configuration: names, sizes, orientation — without any weights."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import CheckpointError, UnsupportedFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


@dataclass(frozen=True)
class LinearModule:
    """One linear layer. ``transposed`` is True where the file stores (in, out), as GPT-2's Conv1D does."""

    name: str
    out_features: int
    in_features: int
    transposed: bool

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Shape of the weight in the file."""
        size = (self.out_features, self.in_features)
        return size[::-1] if self.transposed else size


@dataclass(frozen=True)
class Skeleton:
    """An architecture without weights. ``embedding_names`` are left out of ``linear``; so is a tied output layer.

    ``unread`` names matrices that no linear module holds (three-dimensional expert weights): they are not analysed.
    """

    class_name: str
    prefix: str
    linear: dict[str, LinearModule]
    module_names: frozenset[str]
    parameter_shapes: dict[str, tuple[int, ...]]
    unread: tuple[str, ...] = field(default=())

    def key_of(self, parameter: str, tensors: TensorSource) -> str | None:
        """The file's key of a parameter: its own name, with or without the base model's prefix; None when absent."""
        candidates = [parameter]
        if self.prefix:
            head = f"{self.prefix}."
            candidates.append(parameter.removeprefix(head) if parameter.startswith(head) else head + parameter)
        return next((name for name in candidates if name in tensors.specs), None)

    def module_named(self, module: str) -> str | None:
        """This skeleton's name of a module that another head class may prefix differently; None when it has none."""
        head = f"{self.prefix}."
        stripped = module.removeprefix(head) if module.startswith(head) else head + module
        return next((name for name in (module, stripped) if name in self.module_names), None)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as a dictionary."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the model's configuration cannot be read: {error}", where=str(path), remedy="copy config.json again"
        ) from error
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise CheckpointError(
            "the model's configuration names no model_type", where=str(path), remedy="use a transformers config.json"
        )
    return raw


def skeleton(folder: Path, *, task_type: str | None = None) -> Skeleton:
    """Build the model class on the meta device (no memory) and list its linear modules.

    ``task_type`` is PEFT's; without one the class is the configuration's first ``architectures`` entry. Raises
    :class:`UnsupportedFormat` for architectures that need code of their own.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    with quiet_transformers(), torch.device("meta"):
        model = _build(folder, task_type)
    tied = _tied_output(model)
    linear = {}
    for name, module in model.named_modules():
        if name == tied:
            continue
        if isinstance(module, torch.nn.Linear):
            linear[name] = LinearModule(name, module.out_features, module.in_features, False)
        elif isinstance(module, Conv1D):
            linear[name] = LinearModule(name, module.weight.shape[1], module.weight.shape[0], True)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return Skeleton(
        class_name=type(model).__name__,
        prefix=model.base_model_prefix,
        linear=linear,
        module_names=frozenset(name for name, _ in model.named_modules()),
        parameter_shapes=shapes,
        unread=tuple(name for name, shape in shapes.items() if len(shape) == 3 and "conv" not in name),
    )


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence loading chatter (reports of missing heads, bars): what matters of it is checked and said by us."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()


def model_class(folder: Path, task_type: str | None) -> tuple[Any, Any]:
    """The transformers class and configuration object for a folder and PEFT task type."""
    import transformers

    raw = read_config(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise _unknown_architecture(folder, raw) from error
    if task_type in _AUTO_CLASSES:
        return getattr(transformers, _AUTO_CLASSES[task_type]), config
    names = [name for name in raw.get("architectures") or [] if hasattr(transformers, name)]
    if raw.get("architectures") and not names:
        raise _unknown_architecture(folder, raw)
    return (getattr(transformers, names[0]) if names else transformers.AutoModel), config


def _build(folder: Path, task_type: str | None) -> PreTrainedModel:
    cls, config = model_class(folder, task_type)
    try:
        build = cls.from_config if cls.__name__.startswith("Auto") else cls._from_config
        built: PreTrainedModel = build(config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from the configuration: {error}",
            where=str(folder / "config.json"),
            remedy="check that config.json belongs to these weights",
        ) from error
    return built


def _tied_output(model: PreTrainedModel) -> str | None:
    output = model.get_output_embeddings()
    if output is None or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return None
    return next((name for name, module in model.named_modules() if module is output), None)


def _unknown_architecture(folder: Path, raw: dict[str, Any]) -> UnsupportedFormat:
    named = ", ".join(raw.get("architectures") or [str(raw.get("model_type"))])
    own_code = " (it brings its own code, which is never run)" if "auto_map" in raw else ""
    return UnsupportedFormat(
        f"the installed transformers does not know the architecture {named}{own_code}",
        where=str(folder / "config.json"),
        remedy="install a transformers release that has it, or convert the checkpoint to a known architecture",
    )
