"""The base of a training run: the model with the head that the task needs, and its tokenizer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from lorascope.errors import CheckpointError, ConfigError, UnsupportedFormat
from lorascope.schema.recipe import LOW_RANK, PROMPTS, Recipe, RecipeTask
from lorascope.training.architecture import head_modules, is_within
from lorascope.training.arguments import chosen_precision
from lorascope.training.progress import quiet_transformers

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "attention_dropout", "dropout",
    "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout", "residual_dropout", "embed_dropout",
    "embedding_dropout", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "pooler_dropout",
    "summary_first_dropout",
)  # fmt: skip
_BIG_MODEL_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError, SafetensorError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBase:
    """A plain transformers model on its device, in training mode, and its tokenizer.

    ``new_weights`` are the names of parameters that the checkpoint did not hold and that start at random: those of a
    new head, and of a pooler that the head stands on. ``notes`` say what was chosen: precision, head, padding token.
    """

    model: Any
    tokenizer: Any
    new_weights: tuple[str, ...]
    notes: tuple[str, ...]


def load_for_training(
    base: str, recipe: Recipe, *, labels: Sequence[str], multi_label: bool, device: torch.device
) -> LoadedBase:
    """The base in the class that the recipe's task trains; the same recipe gives the same weights, new ones included.

    Weights come from safetensors alone and run no code. ``labels`` is the head's list, in the order of its outputs; a
    checkpoint's own head is kept where its label names are exactly these (for scores: where it has one output), else
    its output layer is made anew. Weights are float32, with these exceptions: for an adapter other than PiSSA, weights
    stored in the type of a 16-bit ``optim.precision`` stay in it; quantised weights stay quantised.

    Raises:
        CheckpointError: no model of the task's kind can be read there, or weights beside a head's are missing.
        UnsupportedFormat: pickled weights, or a quantisation that cannot be trained here.
        ConfigError: the recipe asks for what the model does not have.
    """
    config = _read_config(base)
    _check_class(base, config, recipe)
    _check_quantised(base, config, recipe)
    precision = _checked_precision(recipe, device)
    wanted = _describe_head(config, recipe.task, labels, multi_label=multi_label)
    if recipe.model_dropout is not None:
        _set_dropout(config, recipe.model_dropout)
    transformers.set_seed(recipe.seed)
    model, missing = _read_model(base, config, recipe, precision, device)
    new, notes = _settle_head(model, missing, recipe.task, keep=wanted, base=base)
    tokenizer = load_training_tokenizer(base, for_words=recipe.task.kind == "tokens")
    notes += _settle_padding(model, tokenizer, recipe.task)
    model.train()
    return LoadedBase(
        model=model, tokenizer=tokenizer, new_weights=new, notes=(_precision_note(model, precision), *notes)
    )


def _read_config(base: str) -> Any:
    folder = Path(base)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            "the base is an adapter, which holds no weights to train another one on",
            where=base,
            remedy="merge it into its own base first (PEFT's merge_and_unload) and name the folder of the merged model",
        )
    try:
        return transformers.AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the base's configuration cannot be read: {error}", where=base) from error


def _check_class(base: str, config: Any, recipe: Recipe) -> None:
    if recipe.task.kind != "generate" or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        return
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"a {config.model_type} model is an encoder: it cannot be trained to write text",
            where=base,
            remedy="choose a language model as base, or a task of kind labels, score or tokens",
        )


def quantisation_of(config: Any) -> str | None:
    """The name of the quantisation that a checkpoint is stored in, None for plain weights."""
    given = getattr(config, "quantization_config", None)
    if given is None:
        return None
    values = given if isinstance(given, Mapping) else given.to_dict()
    return str(getattr(values.get("quant_method"), "value", values.get("quant_method")))


def _check_quantised(base: str, config: Any, recipe: Recipe) -> None:
    kind, method = quantisation_of(config), recipe.method.name
    if kind is None:
        return
    if kind not in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"):
        raise UnsupportedFormat(
            f"weights quantised by {kind} are not trained on", where=base, remedy="use the model's plain weights"
        )
    if method not in LOW_RANK - {"pissa"}:
        raise ConfigError(
            f"the base is quantised, which the method {method} cannot train",
            where="method.name",
            remedy="use lora, rslora, dora or adalora, or the model's plain weights",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnsupportedFormat(
            "the base is quantised by bitsandbytes, which is not installed",
            where=base,
            remedy="pip install 'lorascope[quantised]'",
        )


def _checked_precision(recipe: Recipe, device: torch.device) -> str:
    precision = chosen_precision(recipe)
    if precision == "float16" and device.type == "cpu":
        raise ConfigError(
            "float16 cannot be trained on a CPU", where="optim.precision", remedy="use auto, float32 or bfloat16"
        )
    if precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            "this device does not compute in bfloat16", where="optim.precision", remedy="use auto, float32 or float16"
        )
    return precision


def _describe_head(config: Any, task: RecipeTask, labels: Sequence[str], *, multi_label: bool) -> bool:
    """Write the head that the task needs into the configuration; True where the checkpoint's own has its labels."""
    if task.kind == "generate":
        return True
    if task.kind == "score":
        keep = config.num_labels == 1
        config.num_labels, config.problem_type = 1, "regression"
        return bool(keep)
    if not labels:
        raise ConfigError("a head needs labels, and there are none", where="task.labels")
    own = [config.id2label[index] for index in sorted(config.id2label)]
    if own != list(labels) and sorted(own) == sorted(labels):
        raise ConfigError(
            "the base's head has these labels in another order",
            where="task.labels",
            remedy=f"give them in the base's order: {own}",
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if task.kind == "labels":
        config.problem_type = "multi_label_classification" if multi_label else "single_label_classification"
    return own == list(labels)


def _set_dropout(config: Any, rate: float) -> None:
    text = config.get_text_config()
    found = [name for name in _DROPOUTS if isinstance(getattr(text, name, None), (int, float))]
    if not found:
        raise ConfigError(
            f"a {config.model_type} model has no dropout of its own that could be set",
            where="model_dropout",
            remedy="leave it out, and use method.dropout or structured_dropout",
        )
    for name in found:
        setattr(text, name, rate)


def _model_class(config: Any, task: RecipeTask) -> Any:
    if task.kind == "generate":
        return transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if task.kind == "tokens":
        return transformers.AutoModelForTokenClassification
    return transformers.AutoModelForSequenceClassification


def _read_model(
    base: str, config: Any, recipe: Recipe, precision: str, device: torch.device
) -> tuple[Any, tuple[str, ...]]:
    quantised = quantisation_of(config) is not None
    options: dict[str, Any] = (
        {} if recipe.hardware.attention == "auto" else {"attn_implementation": recipe.hardware.attention}
    )
    if quantised:
        options["device_map"] = {"": device}
    try:
        with quiet_transformers():
            model, info = _model_class(config, recipe.task).from_pretrained(
                base,
                config=config,
                dtype="auto" if quantised or _keeps_stored_type(recipe) else torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=recipe.task.kind != "generate",
                output_loading_info=True,
                **options,
            )
            if not quantised:
                stored_so = _keeps_stored_type(recipe) and model.dtype == _DTYPES[precision]
                model = model.to(device) if stored_so else model.to(device, torch.float32)
    except _BIG_MODEL_ERRORS as error:
        raise _reading_error(error, base, recipe) from error
    return model, tuple(sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}))


def _keeps_stored_type(recipe: Recipe) -> bool:
    # PiSSA takes its start out of the base's weights, and what is left must not be rounded.
    return recipe.method.name in (LOW_RANK - {"pissa"}) | PROMPTS | {"ia3", "bottleneck"}


def _reading_error(error: BaseException, base: str, recipe: Recipe) -> Exception:
    chosen = recipe.hardware.attention
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ConfigError("memory runs out while the base is loaded", where=base, remedy="use a smaller base or LoRA")
    if chosen != "auto" and isinstance(error, ImportError | ValueError) and "ttention" in str(error):
        return ConfigError(
            f"the base cannot be run with attention {chosen}: {error}", where="hardware.attention", remedy="use auto"
        )
    if isinstance(error, ImportError):
        return UnsupportedFormat(f"a library for these weights is missing: {error}", where=base)
    if isinstance(error, OSError) and any(Path(base).glob("*.bin")):
        return UnsupportedFormat(
            "the base's weights are pickled, and reading a pickle can run foreign code",
            where=base,
            remedy="convert them to safetensors first",
        )
    return CheckpointError(f"the base cannot be loaded: {error}", where=base)


def _settle_head(
    model: Any, missing: tuple[str, ...], task: RecipeTask, *, keep: bool, base: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    heads = head_modules(model)
    lacking = [key for key in missing if not is_within(key, heads) and (task.kind == "generate" or "pooler" not in key)]
    if lacking:
        more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
        raise CheckpointError(
            f"the base has no weights for {', '.join(lacking[:4])}{more}",
            where=base,
            remedy=f"a task of kind {task.kind} needs a base that holds them; a new head is made for other tasks alone",
        )
    if task.kind == "generate":
        return (), ()
    remade = () if keep or any(is_within(key, heads) for key in missing) else _renew_output(model, heads)
    new = tuple(sorted({*missing, *remade}))
    if not new:
        return (), (f"the base's own head is kept: {', '.join(heads)}",)
    return new, (f"new weights, which the base does not hold: {', '.join(new)}",)


def _renew_output(model: Any, heads: Sequence[str]) -> tuple[str, ...]:
    """Initial values for the head's last linear layer, which was trained for other labels; the names it renewed."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found: tuple[str, Any] = next((pair for pair in reversed(linear) if is_within(pair[0], heads)), ("", None))
    name, layer = found
    if layer is None:
        raise CheckpointError(
            f"the base's own head was made for other labels, and a new one cannot be made in a {type(model).__name__}",
            remedy="start from a base without a head",
        )
    for parameter in layer.parameters():
        parameter._is_hf_initialized = False  # else transformers passes over it
    layer._is_hf_initialized = False
    model._init_weights(layer)
    return tuple(f"{name}.{parameter}" for parameter, _ in layer.named_parameters())


def load_training_tokenizer(base: str, *, for_words: bool) -> Any:
    """The base's tokenizer; ``for_words`` has one that marks words by the space before them put a space there."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False)
        if for_words and getattr(tokenizer, "add_prefix_space", None) is False:
            return transformers.AutoTokenizer.from_pretrained(base, trust_remote_code=False, add_prefix_space=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"the base's tokenizer cannot be loaded: {error}", where=base) from error
    return tokenizer


def _settle_padding(model: Any, tokenizer: Any, task: RecipeTask) -> tuple[str, ...]:
    """A classifier finds the end of a text by the padding token, so its configuration has to name one."""
    config = model.config.get_text_config()
    if task.kind == "generate" or getattr(config, "pad_token_id", None) is not None:
        return ()
    chosen = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if chosen is None:
        raise CheckpointError(
            "the tokenizer has neither a padding nor an end-of-text token, so texts cannot be put in one batch",
            remedy="add pad_token to its tokenizer_config.json",
        )
    config.pad_token_id = model.config.pad_token_id = int(chosen)
    return (f"short texts are filled up with '{tokenizer.convert_ids_to_tokens(int(chosen))}'",)


def _precision_note(model: Any, precision: str) -> str:
    stored = str(model.dtype).removeprefix("torch.")
    kind = quantisation_of(model.config)
    weights = f"weights quantised by {kind}" if kind else f"weights in {stored}"
    return f"{weights}, computed in {precision}" + ("" if precision == "float32" else " (mixed)")
