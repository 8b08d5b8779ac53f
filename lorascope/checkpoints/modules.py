"""What an architecture is made of, from its configuration: linear modules, their orientation, all else by its kind.

No weights are read for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorascope.checkpoints.tensors import TensorSource
from lorascope.errors import CheckpointError, UnsupportedFormat

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

ParameterKind = Literal["embedding", "bias", "norm", "convolution", "parameter"]

# PEFT's task types: the class that transformers chooses for them, and its table of the architectures that have one.
_AUTO_CLASSES = {
    "CAUSAL_LM": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING"),
    "FEATURE_EXTRACTION": ("AutoModel", "MODEL_MAPPING"),
}
# Layers that keep a stack of matrices in one parameter and do not say which way round they lie: whether their forward
# takes each as (in, out). Expert layers of transformers say it themselves (``is_transposed``).
_STACK_TRANSPOSED = {
    "CsmCodebooksHead": True,
    "GroupedLinearLayer": True,
    "InklingSharedExperts": False,
    "JetMoeParallelExperts": False,
    "KyutaiSpeechToTextFlexibleLinear": False,
    "Llama4TextExperts": True,
    "LongcatFlashExperts": False,
    "MoshiFlexibleLinear": False,
    "Step3p7Experts": False,
}


@dataclass(frozen=True)
class LinearModule:
    """One linear layer. ``transposed`` is True where the file stores (in, out), as GPT-2's Conv1D does.

    ``tied_to`` is the parameter that an output layer shares by architecture, the token embeddings as a rule. ``index``
    is the place in a stack of matrices that one parameter holds (an expert), None for a layer of its own.
    """

    name: str
    out_features: int
    in_features: int
    transposed: bool = False
    tied_to: str | None = None
    index: int | None = None

    @property
    def parameter(self) -> str:
        """The parameter that holds the weight."""
        return f"{self.name}.weight" if self.index is None else self.name.rpartition("[")[0]


@dataclass(frozen=True)
class Skeleton:
    """An architecture without weights. Embeddings are left out of ``linear``.

    Each expert of a stack of matrices is a linear module of its own, ``<parameter>[<index>]``. ``tied`` holds output
    layers that share the embeddings' matrix: a file has no weight for them, or should have none. ``heads`` are the
    linear modules outside the trunk: language-model, classification and other output layers. ``others`` gives the kind
    of every parameter and floating-point buffer that is no linear module's weight, tied ones left out; ``trunk`` names
    the trunk's own parameters, ``output`` the layer that gives token logits. ``unread`` names stacks of matrices whose
    orientation is not known: not analysed.
    """

    class_name: str
    prefix: str
    linear: dict[str, LinearModule]
    tied: dict[str, LinearModule]
    module_names: frozenset[str]
    parameter_names: frozenset[str]
    heads: frozenset[str] = field(default=frozenset())
    others: Mapping[str, ParameterKind] = field(default_factory=dict)
    trunk: frozenset[str] = field(default=frozenset())
    output: str | None = None
    unread: tuple[str, ...] = field(default=())

    def key_of(self, parameter: str, tensors: TensorSource) -> str | None:
        """The file's key of a parameter: its own name, with or without the base model's prefix; None when absent."""
        return next((name for name in self.spellings(parameter) if name in tensors.specs), None)

    def module_named(self, module: str) -> str | None:
        """This skeleton's name of a module that another head class may prefix differently; None when it has none."""
        return next((name for name in self.spellings(module) if name in self.module_names), None)

    def has_parameter(self, parameter: str) -> bool:
        """Whether the architecture has this parameter or buffer, with or without the base model's prefix."""
        return any(name in self.parameter_names for name in self.spellings(parameter))

    def linear_keys(self, tensors: TensorSource) -> dict[str, str]:
        """The file's key of each linear module's weight, in the model's order; modules without one are left out."""
        keys = {name: self.key_of(module.parameter, tensors) for name, module in self.linear.items()}
        return {name: key for name, key in keys.items() if key is not None}

    def spellings(self, name: str) -> tuple[str, ...]:
        """A name as it is, and with the base model's prefix put on or taken off."""
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
    model = meta_model(folder, task_type)
    tied = dict(model.all_tied_weights_keys)
    found = list(_linear_modules(model, tied))
    linear = {module.name: module for module in found if module.tied_to is None}
    heads = frozenset(_outside_trunk(model, linear))
    weights = {module.parameter for module in found}
    others = {name: kind for name, kind in _other_parameters(model) if name not in weights and name not in tied}
    prefix = f"{model.base_model_prefix}."
    named = dict(model.named_parameters())
    divided = any(name.startswith(prefix) for name in named)
    headed = {linear[name].parameter for name in heads}
    return Skeleton(
        class_name=type(model).__name__,
        prefix=model.base_model_prefix,
        linear=linear,
        tied={module.name: module for module in found if module.tied_to is not None},
        module_names=frozenset(name for name, _ in model.named_modules()),
        parameter_names=frozenset(model.state_dict()),
        heads=heads,
        others=others,
        trunk=frozenset(n for n in named if n not in {*headed, *tied} and (n.startswith(prefix) or not divided)),
        output=_output_layer(model),
        unread=tuple(n for n in others if n in named and n not in headed and _is_unread(model, n)),
    )


def meta_model(folder: Path, task_type: str | None) -> PreTrainedModel:
    """The model class of a folder and PEFT task type without memory for weights (torch's meta device), in float32."""
    import torch

    with quiet_transformers(), torch.device("meta"):
        return _build(folder, task_type)


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
    import torch

    cls, config = model_class(folder, task_type)
    try:
        build = cls.from_config if cls.__name__.startswith("Auto") else cls._from_config
        built: PreTrainedModel = build(config, dtype=torch.float32)
    except (ValueError, TypeError, AttributeError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be built from the configuration: {error}",
            where=str(folder / "config.json"),
            remedy="check that config.json belongs to these weights",
        ) from error
    return built


def _linear_modules(model: PreTrainedModel, tied: Mapping[str, str]) -> Iterator[LinearModule]:
    import torch
    from transformers.pytorch_utils import Conv1D

    for name, module in model.named_modules():
        source = tied.get(f"{name}.weight")
        if isinstance(module, torch.nn.Linear):
            yield LinearModule(name, module.out_features, module.in_features, tied_to=source)
        elif isinstance(module, Conv1D):
            rows, columns = module.weight.shape
            yield LinearModule(name, columns, rows, transposed=True, tied_to=source)
        elif _stack_transposed(module) is not None:
            yield from _slices(name, module)


def _slices(name: str, module: nn.Module) -> Iterator[LinearModule]:
    transposed = bool(_stack_transposed(module))
    for parameter, weight in module.named_parameters(recurse=False):
        if weight.ndim == 3:
            count, rows, columns = weight.shape
            sizes = (columns, rows) if transposed else (rows, columns)
            for index in range(count):
                yield LinearModule(f"{name}.{parameter}[{index}]", *sizes, transposed=transposed, index=index)


def _stack_transposed(module: nn.Module) -> bool | None:
    """Whether a layer of stacked matrices takes them as (in, out); None for a layer that is none or does not say."""
    said = getattr(module, "is_transposed", None)
    return said if isinstance(said, bool) else _STACK_TRANSPOSED.get(type(module).__name__)


def _other_parameters(model: PreTrainedModel) -> Iterator[tuple[str, ParameterKind]]:
    """Every saved parameter and buffer with the kind that it has where it is no linear module's weight."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            path, _, part = name.rpartition(".")
            yield name, parameter_kind(model.get_submodule(path), part)


def parameter_kind(module: nn.Module, part: str) -> ParameterKind:
    """The kind of the parameter ``part`` of ``module``, by the module's class; a norm's bias counts as norm."""
    import torch

    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if "Norm" in type(module).__name__:
        return "norm"
    if "bias" in part.split("_"):
        return "bias"
    # The common ancestor of torch's convolutions has no public name.
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose1d,
                    torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)  # fmt: skip
    return "convolution" if isinstance(module, convolutions) else "parameter"


def _is_unread(model: PreTrainedModel, name: str) -> bool:
    path, _, part = name.rpartition(".")
    module = model.get_submodule(path)
    shape = getattr(module, part).shape
    return len(shape) == 3 and min(shape) > 1 and parameter_kind(module, part) == "parameter"


def _output_layer(model: PreTrainedModel) -> str | None:
    output = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if output is not None and module is output), None)


def _outside_trunk(model: PreTrainedModel, linear: Mapping[str, LinearModule]) -> list[str]:
    """Heads by the model's own division; where it has none (T5), the output layer alone."""
    trunk = f"{model.base_model_prefix}."
    if any(name.startswith(trunk) for name in linear):
        return [name for name in linear if not name.startswith(trunk)]
    output = _output_layer(model)
    return [output] if output is not None and output in linear else []


def _unknown_architecture(folder: Path, raw: dict[str, Any]) -> UnsupportedFormat:
    named = ", ".join(raw.get("architectures") or [str(raw.get("model_type"))])
    own_code = " (it brings its own code, which is never run)" if "auto_map" in raw else ""
    return UnsupportedFormat(
        f"the installed transformers does not know the architecture {named}{own_code}",
        where=str(folder / "config.json"),
        remedy="install a transformers release that has it, or convert the checkpoint to a known architecture",
    )
