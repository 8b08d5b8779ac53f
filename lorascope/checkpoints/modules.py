"""The linear modules of an architecture, from its configuration: names, sizes, orientation — without any weights."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import CheckpointError, UnsupportedFormat

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PEFT's task types: the class that transformers chooses for them, and its table of the architectures that have one.
_AUTO_CLASSES = {
    "CAUSAL_LM": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING"),
    "FEATURE_EXTRACTION": ("AutoModel", "MODEL_MAPPING"),
}


@dataclass(frozen=True)
class LinearModule:
    """One linear layer. ``transposed`` is True where the file stores (in, out), as GPT-2's Conv1D does.

    ``tied_to`` is the parameter that an output layer shares by architecture, the token embeddings as a rule.
    """

    name: str
    out_features: int
    in_features: int
    transposed: bool = False
    tied_to: str | None = None


@dataclass(frozen=True)
class Skeleton:
    """An architecture without weights. Embeddings are left out of ``linear``.

    ``tied`` holds output layers that share the embeddings' matrix: a file has no weight for them, or should have none.
    ``heads`` are the linear modules outside the trunk: language-model, classification and other output layers.
    ``unread`` names matrices that no linear module holds (three-dimensional expert weights): they are not analysed.
    """

    class_name: str
    prefix: str
    linear: dict[str, LinearModule]
    tied: dict[str, LinearModule]
    module_names: frozenset[str]
    parameter_names: frozenset[str]
    heads: frozenset[str] = field(default=frozenset())
    unread: tuple[str, ...] = field(default=())

    def key_of(self, parameter: str, tensors: TensorSource) -> str | None:
        """The file's key of a parameter: its own name, with or without the base model's prefix; None when absent."""
        return next((name for name in self._spellings(parameter) if name in tensors.specs), None)

    def module_named(self, module: str) -> str | None:
        """This skeleton's name of a module that another head class may prefix differently; None when it has none."""
        return next((name for name in self._spellings(module) if name in self.module_names), None)

    def has_parameter(self, parameter: str) -> bool:
        """Whether the architecture has this parameter or buffer, with or without the base model's prefix."""
        return any(name in self.parameter_names for name in self._spellings(parameter))

    def linear_keys(self, tensors: TensorSource) -> dict[str, str]:
        """The file's key of each linear module's weight, in the model's order; modules without one are left out."""
        keys = {name: self.key_of(f"{name}.weight", tensors) for name in self.linear}
        return {name: key for name, key in keys.items() if key is not None}

    def _spellings(self, name: str) -> tuple[str, ...]:
        if not self.prefix:
            return (name,)
        trunk = f"{self.prefix}."
        return name, name.removeprefix(trunk) if name.startswith(trunk) else trunk + name


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
    found = []
    for name, module in model.named_modules():
        source = model.all_tied_weights_keys.get(f"{name}.weight")
        if isinstance(module, torch.nn.Linear):
            found.append(LinearModule(name, module.out_features, module.in_features, tied_to=source))
        elif isinstance(module, Conv1D):
            rows, columns = module.weight.shape
            found.append(LinearModule(name, columns, rows, transposed=True, tied_to=source))
    linear = {module.name: module for module in found if module.tied_to is None}
    return Skeleton(
        class_name=type(model).__name__,
        prefix=model.base_model_prefix,
        linear=linear,
        tied={module.name: module for module in found if module.tied_to is not None},
        module_names=frozenset(name for name, _ in model.named_modules()),
        parameter_names=frozenset(model.state_dict()),
        heads=frozenset(_outside_trunk(model, linear)),
        unread=tuple(name for name, weight in model.named_parameters() if weight.ndim == 3 and "conv" not in name),
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
    """The transformers class and configuration object for a folder and PEFT task type.

    The configuration's own class where it has none for the task (a vision-language model under ``CAUSAL_LM``).
    """
    import transformers

    raw = read_config(folder)
    from huggingface_hub.errors import StrictDataclassError

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except StrictDataclassError as error:
        raise CheckpointError(
            f"the model's configuration is not valid: {error}",
            where=str(folder / "config.json"),
            remedy="copy config.json again",
        ) from error
    except (ValueError, KeyError, OSError, TypeError, AttributeError) as error:
        raise _unknown_architecture(folder, raw) from error
    if task_type in _AUTO_CLASSES:
        name, table = _AUTO_CLASSES[task_type]
        if type(config) in getattr(transformers, table):
            return getattr(transformers, name), config
    names = [name for name in raw.get("architectures") or [] if hasattr(transformers, name)]
    if raw.get("architectures") and not names:
        raise _unknown_architecture(folder, raw)
    return (getattr(transformers, names[0]) if names else transformers.AutoModel), config


def _build(folder: Path, task_type: str | None) -> PreTrainedModel:
    cls, config = model_class(folder, task_type)
    try:
        build = cls.from_config if cls.__name__.startswith("Auto") else cls._from_config
        built: PreTrainedModel = build(config)
    except (ValueError, TypeError, AttributeError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from the configuration: {error}",
            where=str(folder / "config.json"),
            remedy="check that config.json belongs to these weights",
        ) from error
    return built


def _outside_trunk(model: PreTrainedModel, linear: Mapping[str, LinearModule]) -> list[str]:
    """Heads by the model's own division; where it has none (T5), the output layer alone."""
    trunk = f"{model.base_model_prefix}."
    if any(name.startswith(trunk) for name in linear):
        return [name for name in linear if not name.startswith(trunk)]
    output = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is output and name in linear]


def _unknown_architecture(folder: Path, raw: dict[str, Any]) -> UnsupportedFormat:
    named = ", ".join(raw.get("architectures") or [str(raw.get("model_type"))])
    own_code = " (it brings its own code, which is never run)" if "auto_map" in raw else ""
    return UnsupportedFormat(
        f"the installed transformers does not know the architecture {named}{own_code}",
        where=str(folder / "config.json"),
        remedy="install a transformers release that has it, or convert the checkpoint to a known architecture",
    )
