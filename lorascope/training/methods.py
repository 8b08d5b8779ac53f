"""What of a base is trained: all of it, parts, or an adapter beside it, by the recipe's method."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import nn
from transformers import set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from lorascope.errors import ConfigError
from lorascope.schema.recipe import LOW_RANK, PROMPTS, Method, Recipe
from lorascope.training.adalora import adalora_config
from lorascope.training.architecture import (
    head_modules,
    is_divided,
    is_within,
    linear_modules,
    modules_of,
    unknown_name,
)
from lorascope.training.freezing import freeze_but, train_biases
from lorascope.training.loading import quantisation_of
from lorascope.training.pissa import remember_start

_TASK_TYPES = {"labels": "SEQ_CLS", "score": "SEQ_CLS", "tokens": "TOKEN_CLS"}
_ALWAYS_SAVED = ("classifier", "score")  # PEFT adds these two itself
_FULL = ("full", "bitfit")


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Numbers of parameters: those that are trained, and all, the adapter's and quantised ones included."""

    trainable: int
    total: int


def prepare_model(model: Any, recipe: Recipe, *, total_steps: int | None, new_weights: Sequence[str] = ()) -> Any:
    """Set what is trained, and wrap the model by PEFT where the method is an adapter; ``model`` is changed in place.

    ``new_weights`` are those of :class:`LoadedBase`: they are trained and saved by every method, as is the head. The
    recipe's seed draws the adapter's start. What each method means here:

    - ``bitfit``: every bias, and the head (arXiv 2106.10199).
    - ``adalora``: from ``rank`` to ``target_rank`` on average (arXiv 2303.10512); needs ``total_steps`` and
      :class:`~lorascope.training.adalora.AdaLoraCallback`.
    - ``pissa``: starts from the base's leading singular vectors, taken out of its weights (arXiv 2404.02948).
    - ``ia3``: scales keys, values and the feed-forward's activations (arXiv 2205.05638); ``all-linear`` means those.
    - ``bottleneck``: PEFT's PEANuT, ΔW = α/rank · up(ReLU(down(W))): a bottleneck of ``rank`` units with a
      nonlinearity, fed by the frozen weight instead of the hidden state (arXiv 2410.01870); ``dropout`` is not used.
    - prompt methods: ``virtual_tokens`` before the text, as embeddings or, for prefix tuning, keys and values.

    Raises:
        ConfigError: the method does not go with this model, or names modules that it does not have.
    """
    set_seed(recipe.seed)
    method = recipe.method
    if method.name in _FULL:
        _unfreeze(model, recipe, new_weights)
    else:
        model = _with_adapter(model, recipe, total_steps, new_weights)
    if recipe.hardware.activation_checkpointing and not is_divided(recipe):  # FSDP does it itself
        _checkpoint_activations(model, method)
    return model.train()


def parameter_counts(model: Any) -> ParameterCounts:
    """How many parameters are trained and how many there are; an adapter's copy of a head counts beside the base's."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return ParameterCounts(int(trainable), int(total))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCounts(sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes))


def _unfreeze(model: Any, recipe: Recipe, new_weights: Sequence[str]) -> None:
    method = recipe.method
    if method.modules_to_save:
        raise ConfigError(
            f"'modules_to_save' are saved beside an adapter; the method {method.name} has none",
            where="method.modules_to_save",
            remedy="leave it out, or name parameters in 'freeze'",
        )
    if method.name == "bitfit":
        train_biases(model, new_weights)
    elif recipe.freeze is not None:
        freeze_but(model, recipe.freeze, new_weights)
    else:
        model.requires_grad_(True)


def _with_adapter(model: Any, recipe: Recipe, total_steps: int | None, new_weights: Sequence[str]) -> Any:
    method = recipe.method
    if quantisation_of(model.config) is not None:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = _peft_config(model, recipe, total_steps, _saved_modules(model, method, new_weights))
    with _expected_warnings():
        try:
            wrapped = peft.get_peft_model(model, config)
        except (ValueError, TypeError, NotImplementedError, KeyError) as error:
            raise ConfigError(
                f"the method {method.name} does not go with this {model.config.model_type} model: {error}",
                where="method",
            ) from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()  # a head that is trained beside a 16-bit base
    if method.name == "pissa":
        remember_start(wrapped)
    return wrapped


def _saved_modules(model: Any, method: Method, new_weights: Sequence[str]) -> list[str]:
    known = [name for name, _ in model.named_modules() if name]
    for name in method.modules_to_save:
        if not _matches(name, known):
            raise unknown_name(name, known, what="module", where="method.modules_to_save")
    heads = head_modules(model)
    fresh = [name for name in modules_of(new_weights) if not is_within(name, heads)]
    return [*dict.fromkeys([*heads, *fresh, *method.modules_to_save])]


def _matches(given: str, known: Sequence[str]) -> list[str]:
    """PEFT's rule: a name stands for itself and for every module whose name ends with it."""
    return [name for name in known if name == given or name.endswith(f".{given}")]


def _peft_config(model: Any, recipe: Recipe, total_steps: int | None, saved: Sequence[str]) -> Any:
    method = recipe.method
    shared: dict[str, Any] = {
        "task_type": _task_type(model, recipe),
        "modules_to_save": [name for name in saved if name not in _ALWAYS_SAVED] or None,
    }
    if method.name in PROMPTS:
        return _prompt_config(model, method, shared)
    if method.name == "ia3":
        return _ia3_config(model, method, shared, saved)
    shared["target_modules"] = targets = _targets(model, method, saved)
    layers = _targeted(model, targets, saved)
    if method.name == "bottleneck":
        return _bottleneck_config(method, shared, layers)
    shared |= {
        "lora_alpha": method.scaling_alpha,
        "lora_dropout": method.dropout,
        "fan_in_fan_out": all(isinstance(layer, Conv1D) for layer in layers.values()),
    }
    if method.name == "adalora":
        return adalora_config(method, total_steps, shared)
    return _lora_config(method, shared, layers)


def _task_type(model: Any, recipe: Recipe) -> str:
    language_model = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    return _TASK_TYPES.get(recipe.task.kind, language_model)


def _targets(model: Any, method: Method, saved: Sequence[str]) -> list[str]:
    if method.target_modules == "all-linear":
        return linear_modules(model, without=[name for given in saved for name in _matches(given, _names(model))])
    for given in method.target_modules:
        found = _matches(given, _names(model))
        if not found:
            raise unknown_name(given, _names(model), what="module", where="method.target_modules")
        if all(is_within(name, head_modules(model)) for name in found):
            raise ConfigError(
                f"'{given}' belongs to the head, which is trained fully beside an adapter",
                where="method.target_modules",
                remedy="leave it out",
            )
    return list(method.target_modules)


def _names(model: Any) -> list[str]:
    return [name for name, _ in model.named_modules() if name]


def _targeted(model: Any, targets: Sequence[str], saved: Sequence[str]) -> dict[str, nn.Module]:
    names = _names(model)
    kept = [name for given in saved for name in _matches(given, names)]
    found = dict.fromkeys(name for given in targets for name in _matches(given, names))
    return {name: model.get_submodule(name) for name in found if not is_within(name, kept)}


def _lora_config(method: Method, shared: dict[str, Any], layers: dict[str, nn.Module]) -> Any:
    for pattern in method.rank_pattern:
        if not _pattern_matches(pattern, layers):
            raise unknown_name(pattern, layers, what="adapted module", where="method.rank_pattern")
    if method.name == "pissa":
        _check_pissa_rank(method, layers)
    # α left out is twice the rank, of every module: the scaling α/r is then the same everywhere.
    alphas = {name: 2.0 * rank for name, rank in method.rank_pattern.items()} if method.alpha is None else {}
    return peft.LoraConfig(
        r=method.rank,
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern=alphas,
        use_rslora=method.name == "rslora",
        use_dora=method.name == "dora",
        init_lora_weights="pissa" if method.name == "pissa" else True,
        **shared,
    )


def _pattern_matches(pattern: str, names: Iterable[str]) -> bool:
    """PEFT's rule: a regular expression that the end of a name, from a dot on, has to match."""
    return any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)


def _check_pissa_rank(method: Method, layers: dict[str, nn.Module]) -> None:
    ranks = [method.rank, *method.rank_pattern.values()]
    for name, layer in layers.items():
        smallest = min(layer.weight.shape)  # type: ignore[arg-type]
        if max(ranks) > int(smallest):
            raise ConfigError(
                f"PiSSA takes {max(ranks)} singular vectors, and {name} has {int(smallest)}",
                where="method.rank",
                remedy="lower the rank, or leave such modules out of 'target_modules'",
            )


def _ia3_config(model: Any, method: Method, shared: dict[str, Any], saved: Sequence[str]) -> Any:
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEED_FORWARD,
    )
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    kind = model.config.model_type
    if kind not in TARGETS:
        raise ConfigError(
            f"PEFT does not say which modules IA3 scales in a {kind} model",
            where="method.name",
            remedy="use lora, or one of: " + ", ".join(sorted(TARGETS)),
        )
    given = method.target_modules
    targets = list(TARGETS[kind]) if given == "all-linear" else _targets(model, method, saved)
    ends = tuple(FEED_FORWARD[kind])
    feed_forward = [name for name in targets if name in ends or name.endswith(tuple(f".{end}" for end in ends))]
    layers = _targeted(model, targets, saved)
    return peft.IA3Config(
        **shared,
        target_modules=targets,
        feedforward_modules=feed_forward,
        fan_in_fan_out=all(isinstance(layer, Conv1D) for layer in layers.values()),
    )


def _bottleneck_config(method: Method, shared: dict[str, Any], layers: dict[str, nn.Module]) -> Any:
    if not hasattr(peft, "PeanutConfig"):
        raise ConfigError(
            f"the installed peft {peft.__version__} has no bottleneck-like adapter",
            where="method.name",
            remedy="pip install -U peft",
        )
    other = next((name for name, layer in layers.items() if type(layer) is not nn.Linear), None)
    if other is not None:
        raise ConfigError(
            f"the bottleneck goes into plain linear layers; {other} is a {type(layers[other]).__name__}",
            where="method.name",
            remedy="use lora for this model",
        )
    return peft.PeanutConfig(**shared, r=method.rank, depth=0, scaling=method.scaling_alpha / method.rank)


def _prompt_config(model: Any, method: Method, shared: dict[str, Any]) -> Any:
    _check_prompts(model, method, shared["task_type"])
    count = method.virtual_tokens
    if method.name == "prefix-tuning":
        return peft.PrefixTuningConfig(**shared, num_virtual_tokens=count)
    text, width = model.config.get_text_config(), model.get_input_embeddings().embedding_dim
    shared |= {
        "token_dim": width,
        "num_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
    }
    if method.name == "prompt-tuning":
        return peft.PromptTuningConfig(**shared, num_virtual_tokens=count)
    return peft.PromptEncoderConfig(**shared, num_virtual_tokens=count, encoder_hidden_size=width)


def _check_prompts(model: Any, method: Method, task_type: str) -> None:
    config = model.config
    problem = None
    if config.is_encoder_decoder and task_type != "SEQ_2_SEQ_LM":
        problem = "does not go with a head on an encoder–decoder"
    elif task_type == "TOKEN_CLS":
        problem = "puts tokens before the text, which tags of tokens cannot be told from"
    elif method.name == "prefix-tuning" and _is_encoder(config):
        problem = f"lives in a cache of keys and values, which a {config.model_type} encoder has not"
    if problem is not None:
        raise ConfigError(f"{method.name} {problem}", where="method.name", remedy="use lora or another method")


def _is_encoder(config: Any) -> bool:
    decodes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decodes


def _checkpoint_activations(model: Any, method: Method) -> None:
    if method.name == "prefix-tuning":
        raise ConfigError(
            "prefix tuning cannot compute activations anew: it lives in the cache, which that switches off",
            where="hardware.activation_checkpointing",
            remedy="leave it out, or use another method",
        )
    try:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(
            f"this model cannot compute activations anew: {error}", where="hardware.activation_checkpointing"
        ) from error
    if method.name in LOW_RANK | PROMPTS | {"ia3", "bottleneck"}:
        model.enable_input_require_grads()


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """PEFT warns of what is meant here: settings that it corrects, attributes that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        yield
