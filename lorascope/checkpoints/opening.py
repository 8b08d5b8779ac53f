"""One opened checkpoint: where it is, what it is, its tensors on demand."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from lorascope.checkpoints.adapters import AdapterConfig, LoadedTensors, read_adapter_config
from lorascope.checkpoints.hashing import content_hash
from lorascope.checkpoints.locate import CheckpointKind, Located, locate
from lorascope.checkpoints.modules import model_class, quiet_transformers, read_config
from lorascope.checkpoints.tensors import MemorySource, TensorSource, open_tensors
from lorascope.errors import CheckpointError, UnsupportedFormat
from lorascope.schema.comparison import CheckpointInfo, ParameterCounts

_LIBRARIES = {"bitsandbytes": "bitsandbytes", "gptq": "gptqmodel", "awq": "gptqmodel"}


@dataclass(frozen=True)
class OpenCheckpoint:
    """A located and readable checkpoint. ``config`` is None for adapters, ``adapter`` for models."""

    name: str
    given: str
    path: Path
    kind: CheckpointKind
    tensors: TensorSource
    content_hash: str
    config: dict[str, Any] | None = None
    adapter: AdapterConfig | None = None
    notes: tuple[str, ...] = field(default=())
    revision: str | None = None

    @property
    def dtype(self) -> str:
        """The stored type that most elements have, as safetensors names it."""
        weights: Counter[str] = Counter()
        for spec in self.tensors.specs.values():
            weights[spec.dtype] += prod(spec.shape)
        return weights.most_common(1)[0][0] if weights else "none"

    @property
    def architecture(self) -> str | None:
        """The model class that the checkpoint's own configuration names; None where it names none (any adapter)."""
        named = (self.config or {}).get("architectures")
        return str(named[0]) if isinstance(named, list) and named else None

    def info(self, *, role: str, architecture: str, trainable: int | None, changed: int | None) -> CheckpointInfo:
        """The entry of this checkpoint in ``result.json``."""
        total = sum(prod(spec.shape) for spec in self.tensors.specs.values())
        return CheckpointInfo(
            name=self.name,
            path=self.given,
            role="base" if role == "base" else "adapted",
            kind=self.kind,
            method=None if role == "base" else (self.adapter.method if self.adapter else "full"),
            architecture=architecture,
            dtype=self.dtype,
            content_hash=self.content_hash,
            parameters=ParameterCounts(total=total, trainable=trainable, delta=changed),
            generation_ready=architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")),
        )


def open_checkpoint(given: str, *, name: str, allow_pickle: bool = False) -> OpenCheckpoint:
    """Locate and open a checkpoint; only headers are read, and the bytes once for the content hash."""
    located = locate(given)
    if located.kind == "adapter":
        stored = open_tensors(located.path, "adapter_model", allow_pickle=allow_pickle)
        return OpenCheckpoint(
            name=name,
            given=given,
            path=located.path,
            kind="adapter",
            tensors=LoadedTensors(_checked(located, stored)),
            content_hash=content_hash(located.path),
            adapter=read_adapter_config(located.path),
            notes=(located.note,) if located.note else (),
            revision=located.revision,
        )
    config = read_config(located.path)
    notes = [located.note] if located.note else []
    if "quantization_config" in config:
        tensors: TensorSource = _dequantised(located.path, config)
        notes.append(f"weights dequantised from {_quantisation(config)}: ΔW holds its rounding as well")
    else:
        tensors = _checked(located, open_tensors(located.path, "model", allow_pickle=allow_pickle))
    return OpenCheckpoint(
        name=name,
        given=given,
        path=located.path,
        kind="model",
        tensors=tensors,
        content_hash=content_hash(located.path),
        config=config,
        notes=tuple(notes),
        revision=located.revision,
    )


def unique_names(given: list[str]) -> list[tuple[str, str]]:
    """(name, path) of each argument: ``NAME=PATH`` as said, else the folder's name, made unique by its parents."""
    split = [split_name(text) for text in given]
    names = [said or Path(path).resolve().name or path for said, path in split]
    for depth in range(2, 8):
        doubled = {name for name in names if names.count(name) > 1}
        for index, (said, path) in enumerate(split):
            if names[index] in doubled and said is None:
                names[index] = "/".join(Path(path).resolve().parts[1:][-depth:])
    named = [(name, path) for name, (_, path) in zip(names, split, strict=True)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise _same_name(repeated[0], [path for name, path in named if name == repeated[0]])
    return named


def _same_name(name: str, paths: list[str]) -> CheckpointError:
    if len({Path(path).resolve() for path in paths}) < len(paths):
        return CheckpointError(
            "the same checkpoint was given twice",
            where=f"command line, {' and '.join(dict.fromkeys(paths))}",
            remedy="give each checkpoint once: first the base, then what was made from it",
        )
    return CheckpointError(
        f"two checkpoints have the name {name}",
        where=f"command line, {' and '.join(paths)}",
        remedy="give each a name of its own: NAME=PATH",
    )


def split_name(text: str) -> tuple[str | None, str]:
    """``NAME=PATH`` taken apart; no name where the whole is a path that exists or the first part is no name.

    A name may hold slashes, as names on a hub or a server do, where what follows it is a folder.
    """
    name, equals, path = text.partition("=")
    named = equals and name and path and ("/" not in name or os.path.isdir(path)) and not os.path.exists(text)
    return (name, path) if named else (None, text)


def _checked(located: Located, tensors: TensorSource) -> TensorSource:
    if not tensors.specs:
        raise CheckpointError(
            "the weight file holds no tensor", where=str(located.path), remedy="save the checkpoint again"
        )
    return tensors


def _quantisation(config: dict[str, Any]) -> str:
    settings = config["quantization_config"]
    if isinstance(settings, dict) and settings.get("quant_method"):
        return str(settings["quant_method"])
    return "bitsandbytes" if isinstance(settings, dict) and settings.get("load_in_4bit") else "an unnamed method"


def _dequantised(folder: Path, config: dict[str, Any]) -> TensorSource:
    """Load a quantised model with its library and give its weights back as floating point."""
    method = _quantisation(config)
    library = _LIBRARIES.get(method)
    where = f"{folder / 'config.json'}, quantization_config"
    remedy = "give the unquantised checkpoint that this one was made from"
    if library is None:
        raise UnsupportedFormat(f"weights quantised by {method} are not dequantised", where=where, remedy=remedy)
    if importlib.util.find_spec(library) is None:
        raise UnsupportedFormat(
            f"the weights are quantised by {method}, and {library} is not installed",
            where=where,
            remedy=f"pip install {library}, or {remedy}",
        )
    cls, settings = model_class(folder, None)
    with quiet_transformers():
        try:
            model = cls.from_pretrained(folder, config=settings, trust_remote_code=False).dequantize()
        except (ImportError, RuntimeError, ValueError, NotImplementedError, OSError) as error:
            raise UnsupportedFormat(
                f"{library} cannot dequantise these weights here: {error}", where=where, remedy=remedy
            ) from error
    return MemorySource({key: value.detach().cpu() for key, value in model.state_dict().items()}, folder)
