"""Models and tokenizers from checkpoints: the right class for a task, nothing left at random initial values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from lorascope.engines.base import Subject
from lorascope.engines.batching import is_out_of_memory
from lorascope.errors import CheckpointError, EvaluationError, UnsupportedFormat, UsageError
from lorascope.schema.suite import SuiteTask

Family = Literal["causal", "seq2seq", "sequence", "token", "masked", "backbone"]
_AUTO_CLASSES: dict[Family, Any] = {
    "causal": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "masked": transformers.AutoModelForMaskedLM,
    "backbone": transformers.AutoModel,
}
_PEFT_FAMILIES: dict[str, Family] = {
    "CAUSAL_LM": "causal",
    "SEQ_2_SEQ_LM": "seq2seq",
    "SEQ_CLS": "sequence",
    "TOKEN_CLS": "token",
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_POSITION_LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")
_SPACE_MARKING = ("GPT2", "Roberta", "Bart", "Longformer", "LED", "Deberta", "Bloom", "Blenderbot")
_DEFAULT_CONTEXT = 2048
_NO_LIMIT = 10**9
_SHOWN_KEYS = 4


@dataclass(frozen=True, slots=True)
class Need:
    """The model that a task needs: its class family, and the size of its head where it has one.

    ``headless`` allows a head without trained weights, for uses that never look at it.
    """

    family: Family
    num_labels: int | None = None
    headless: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A plain transformers model, and the names of weights that its checkpoint did not hold."""

    model: Any
    missing: tuple[str, ...]


_DEVICES = ("cpu", "cuda", "mps", "xpu")


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first CUDA device if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"'{device}' is no device", remedy="use auto, cpu, cuda or cuda:N") from error
    if resolved.type not in _DEVICES:
        raise UsageError(f"models are not run on '{device}'", remedy=f"use auto, {', '.join(_DEVICES)}")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device can be used here", remedy="use --device cpu")
    return resolved


def resolve_dtype(dtype: str) -> torch.dtype | Literal["auto"]:
    """``auto`` keeps the data type in which the checkpoint is stored."""
    if dtype == "auto":
        return "auto"
    if dtype not in _DTYPES:
        raise UsageError(f"'{dtype}' is no data type", remedy=f"use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def need_of(subject: Subject, task: SuiteTask) -> Need:
    """The model class and head size with which a subject answers a task.

    Raises:
        EvaluationError: the task needs text, and the model is an encoder that writes none.
    """
    if task.kind == "tokens":
        return Need("token", _head_size(subject, task))
    if task.kind == "labels":
        return Need("sequence", _head_size(subject, task))
    if task.kind == "score":
        return Need("sequence", 1 if subject.kind == "adapter" else subject.num_labels)
    config = _config(subject)
    if config.is_encoder_decoder:
        return Need("seq2seq")
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise EvaluationError(
            f"'{subject.name}' is an encoder ({config.model_type}); it neither writes nor scores text",
            where=f"task '{task.name}'",
            remedy="use a task of kind labels, score or tokens; where the records have a text alone, add their labels",
        )
    return Need("causal")


def _head_size(subject: Subject, task: SuiteTask) -> int | None:
    """For an adapter, whose base may have no head, the size is the adapter's own or else that of the task's labels."""
    if subject.num_labels is not None or subject.kind == "model":
        return subject.num_labels
    return len(task.labels) if task.labels else None


def hidden_need(subject: Subject) -> Need:
    """The class in which hidden states are read: the bare backbone, or the class an adapter was trained in."""
    if subject.kind == "model":
        return Need("backbone", headless=True)
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(subject.path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"the adapter's configuration cannot be read: {error}", where=str(subject.path)
        ) from error
    family = _PEFT_FAMILIES.get(str(getattr(config.task_type, "value", config.task_type)))
    if family is None:
        trained_in = str((config.auto_mapping or {}).get("base_model_class") or subject.model_class or "")
        family = _family_of_class(trained_in)
    return Need(family, subject.num_labels, headless=True)


def _family_of_class(name: str) -> Family:
    endings: dict[str, Family] = {
        "ForMaskedLM": "masked",
        "ForSequenceClassification": "sequence",
        "ForTokenClassification": "token",
        "ForCausalLM": "causal",
        "LMHeadModel": "causal",
        "ForConditionalGeneration": "seq2seq",
    }
    return next((family for ending, family in endings.items() if name.endswith(ending)), "backbone")


def _config(subject: Subject) -> Any:
    path = model_path(subject)
    try:
        return transformers.AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the model's configuration cannot be read: {error}", where=str(path)) from error


def model_path(subject: Subject) -> Path:
    """Where the full weights are: the subject's own, or those of an adapter's base."""
    if subject.kind == "model":
        return subject.path
    if subject.base_path is None:
        raise CheckpointError("an adapter without its base model cannot answer", where=str(subject.path))
    return subject.base_path


def load_model(
    path: Path, need: Need, *, device: torch.device, dtype: torch.dtype | Literal["auto"], allow_pickle: bool
) -> Loaded:
    """The model in evaluation mode on ``device``; weights that the checkpoint lacks are named, not hidden.

    Raises:
        CheckpointError: files are missing or damaged, or do not fit the configuration.
        UnsupportedFormat: pickled weights without leave, or a quantisation whose library is not installed.
        EvaluationError: memory runs out.
    """
    options: dict[str, Any] = {}
    if need.num_labels is not None:
        # The base may have a head of another size: it is named as missing, for the adapter has to bring its own.
        options = {"num_labels": need.num_labels, "ignore_mismatched_sizes": True}
    try:
        with quiet_transformers():
            model, info = _AUTO_CLASSES[need.family].from_pretrained(
                str(path),
                dtype=dtype,
                device_map={"": device},
                trust_remote_code=False,
                use_safetensors=None if allow_pickle else True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError, SafetensorError) as error:
        raise _loading_error(error, path, allow_pickle=allow_pickle) from error
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return Loaded(model.eval(), tuple(key for key in missing if not _unneeded(key, need, model)))


def _unneeded(key: str, need: Need, model: Any) -> bool:
    """Weights that a headless use never runs through: the head, and the pooler on top of the hidden states."""
    if not need.headless:
        return False
    is_head = need.family != "backbone" and not key.startswith(f"{model.base_model_prefix}.")
    return is_head or "pooler." in key


def _loading_error(error: BaseException, path: Path, *, allow_pickle: bool) -> Exception:
    if is_out_of_memory(error):
        return EvaluationError(
            "memory runs out while the model is loaded",
            where=str(path),
            remedy="use --dtype bfloat16 or another device",
        )
    if isinstance(error, ImportError):
        return UnsupportedFormat(f"a library for these weights is missing: {error}", where=str(path))
    if not allow_pickle and isinstance(error, OSError) and any(path.glob("*.bin")):
        return UnsupportedFormat(
            "the weights are pickled, and reading a pickle can run foreign code",
            where=str(path),
            remedy="convert them to safetensors, or allow pickled weights if you trust their source",
        )
    return CheckpointError(f"the model cannot be loaded: {error}", where=str(path))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no load reports from transformers in here: the caller draws and reports itself."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(subject: Subject, *, for_words: bool) -> Any:
    """The subject's tokenizer.

    ``for_words`` makes it ready for lists of words: families that mark a word by the space before it are told to put
    one there, as training scripts for taggers do; every other tokenizer is taken as it is stored.
    """
    try:
        tokenizer = _tokenizer(subject)
        if for_words and type(tokenizer).__name__.startswith(_SPACE_MARKING):
            return _tokenizer(subject, add_prefix_space=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"the tokenizer cannot be loaded: {error}", where=str(subject.tokenizer_path)) from error
    return tokenizer


def _tokenizer(subject: Subject, **options: Any) -> Any:
    path = str(subject.tokenizer_path)
    return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)


def context_length(model: Any, tokenizer: Any) -> int:
    """How many tokens the model takes: by its configuration, else by its tokenizer, else 2,048."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in _POSITION_LIMITS]
    stated = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    stated += _offset_limits(model)
    if stated:
        return min(stated)
    by_tokenizer = getattr(tokenizer, "model_max_length", _NO_LIMIT)
    return int(by_tokenizer) if by_tokenizer < _NO_LIMIT else _DEFAULT_CONTEXT


def _offset_limits(model: Any) -> list[int]:
    """RoBERTa and its kin count positions from behind the padding index, so the first rows are never used."""
    return [module.num_embeddings - first for module, first in _offset_embeddings(model)]


def first_position(model: Any) -> int:
    """The number of a text's first position: 0, but behind the padding index for RoBERTa and its kin."""
    return max((first for _, first in _offset_embeddings(model)), default=0)


def _offset_embeddings(model: Any) -> list[tuple[torch.nn.Embedding, int]]:
    return [
        (module, _unused_rows(module))
        for name, module in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(module, torch.nn.Embedding)
        and module.padding_idx is not None
    ]


def decoder_positions(model: Any) -> int | None:
    """How many tokens an encoder–decoder can write, where its decoder has a table of positions; else None."""
    if not model.config.is_encoder_decoder:
        return None
    tables = [
        module
        for name, module in model.get_decoder().named_modules()
        if isinstance(module, torch.nn.Embedding) and "position" in name.rpartition(".")[2]
    ]
    return min((table.num_embeddings - _unused_rows(table) for table in tables), default=None)


def _unused_rows(table: torch.nn.Embedding) -> int:
    """Rows of a table of positions that stand before the one of a text's first token."""
    return int(getattr(table, "offset", 0)) if table.padding_idx is None else table.padding_idx + 1


def steady_length(config: Any) -> int | None:
    """The longest sequence up to which rotary factors do not follow a batch's length; None where they never do.

    Beyond it, "longrope" takes its long factors, and "dynamic" ones grow, for all rows of the batch at once.
    """
    text = config.get_text_config()
    limits = []
    for rope in _rope_settings([getattr(text, name, None) for name in ("rope_parameters", "rope_scaling")]):
        kind = str(rope.get("rope_type", rope.get("type")))
        trained = rope.get("original_max_position_embeddings") if kind == "longrope" else None
        if kind == "longrope" or "dynamic" in kind:
            limits.append(int(trained or text.max_position_embeddings))
    return min(limits, default=None)


def _rope_settings(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """Rotary settings, of the model or of each type of its layers."""
    for value in values:
        if isinstance(value, Mapping):
            yield value
            yield from _rope_settings(value.values())


def padding_id(config: Any, tokenizer: Any, rows: int) -> int:
    """The token that fills up short rows. The model's own comes first: classifiers look for it to find the end.

    Tokens beyond the embedding's ``rows`` are passed over, as where a tokenizer got a padding token of its own.
    """
    stated = getattr(config.get_text_config(), "pad_token_id", None)
    candidates = (stated, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(token) for token in candidates if isinstance(token, int) and 0 <= token < rows), 0)


def head_names(config: Any) -> tuple[str, ...]:
    """The label names of a head, in the order of its outputs."""
    names: Mapping[int, str] = config.id2label
    return tuple(names[index] for index in sorted(names))


def untrained_head(subject: Subject, missing: tuple[str, ...]) -> EvaluationError:
    """The error for a model some of whose weights would be random numbers."""
    more = f" and {len(missing) - _SHOWN_KEYS} more" if len(missing) > _SHOWN_KEYS else ""
    return EvaluationError(
        f"'{subject.name}' has no trained weights for {', '.join(missing[:_SHOWN_KEYS])}{more}",
        where=str(subject.path),
        remedy="the task needs a checkpoint that was trained for it; a plain base model has no such head",
    )
