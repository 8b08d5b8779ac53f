"""Tensors of a checkpoint, read one at a time by key: safetensors single or sharded, pickles only with leave."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lorascope.errors import CheckpointError, UnsupportedFormat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TensorSpec:
    """Where a tensor lies and what it looks like. ``dtype`` is the stored name as safetensors writes it (``BF16``)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class TensorSource(Protocol):
    """Named tensors with known shapes, delivered on demand."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by key."""
        ...

    def get(self, key: str) -> Tensor:
        """The tensor in its stored dtype, on the CPU."""
        ...


class SafetensorsSource:
    """Tensors of one or many safetensors files. Opening reads only headers; ``get`` reads one tensor."""

    def __init__(self, files: list[Path]) -> None:
        """Read and check the headers of ``files``; raise :class:`CheckpointError` for a truncated or foreign file."""
        self._specs = {key: TensorSpec(file, shape, dtype) for file in files for key, shape, dtype in _header(file)}

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by key."""
        return self._specs

    def get(self, key: str) -> Tensor:
        """The tensor in its stored dtype, on the CPU."""
        from safetensors import SafetensorError, safe_open

        spec = self._specs[key]
        try:
            with safe_open(spec.file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"tensor {key} cannot be read: {error}", where=str(spec.file), remedy="copy or download the file again"
            ) from error
        return tensor


class MemorySource:
    """Tensors that are in memory already: unpickled, dequantised, or renamed by transformers while loading."""

    def __init__(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """Hold ``tensors``; ``file`` is where they came from, for messages."""
        self._tensors = dict(tensors)
        self._specs = {
            key: TensorSpec(file, tuple(tensor.shape), _stored_name(tensor)) for key, tensor in self._tensors.items()
        }

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What there is, by key."""
        return self._specs

    def get(self, key: str) -> Tensor:
        """The tensor itself."""
        return self._tensors[key]


def open_tensors(folder: Path, stem: str, *, allow_pickle: bool) -> TensorSource:
    """The tensors of ``folder`` whose files are named ``stem`` (``model``, ``adapter_model``).

    Raises :class:`UnsupportedFormat` where there are only pickles and ``allow_pickle`` is not set; pickles are read
    with ``weights_only=True``, which refuses anything that is not plain data.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return SafetensorsSource([single])
    if index.is_file():
        return _sharded(index)
    pickles = _pickles(folder, stem)
    if not allow_pickle:
        raise UnsupportedFormat(
            "the weights are a pickle, and loading a pickle can run code",
            where=str(pickles[0]),
            remedy="convert them to safetensors (load in a sandbox, then save_pretrained), or pass --allow-pickle to "
            "read them as plain tensors only",
        )
    return _unpickle(pickles)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the checkpoint's weights, those that an index names below the folder included, sorted."""
    names = {*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin"), *folder.glob("adapter_model*.bin")}
    for index in folder.glob("*.index.json"):
        names |= {folder / name for name in _weight_map(index).values()}
    return sorted(path for path in names if path.is_file())


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Entries of a safetensors header, with the file's length checked against the offsets in it."""
    remedy = "the file is truncated or damaged: copy or download it again"
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size - 8:
                raise ValueError(f"header of {length} bytes in a file of {size}")
            entries = json.loads(stream.read(length))
        spans = [(key, entry) for key, entry in entries.items() if key != "__metadata__"]
        end = max((entry["data_offsets"][1] for _, entry in spans), default=0)
        if 8 + length + end != size:
            raise ValueError(f"{8 + length + end} bytes expected, {size} found")
        parsed = [(key, tuple(int(n) for n in entry["shape"]), str(entry["dtype"])) for key, entry in spans]
    except FileNotFoundError as error:
        raise CheckpointError("a weight file is missing", where=str(file), remedy="copy all shards") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"not a whole safetensors file: {error}", where=str(file), remedy=remedy) from error
    yield from parsed


def _sharded(index: Path) -> SafetensorsSource:
    names = _weight_map(index)
    source = SafetensorsSource(sorted({index.parent / name for name in names.values()}))
    absent = sorted(set(names) - set(source.specs))
    if absent:
        raise CheckpointError(
            f"tensor {absent[0]} is in the index but in no shard ({len(absent)} such)",
            where=str(index),
            remedy="copy all shards of this checkpoint, and its own index",
        )
    return source


def _weight_map(index: Path) -> dict[str, str]:
    try:
        raw = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(key): str(name) for key, name in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError("the shard index cannot be read", where=str(index), remedy="copy it again") from error
    outside = [name for name in names.values() if Path(name).name != name or name == ".."]
    if outside:
        raise CheckpointError(
            f"the shard index points outside its folder: {outside[0]}", where=str(index), remedy="repair the index"
        )
    return names


def _pickles(folder: Path, stem: str) -> list[Path]:
    prefix = "pytorch_model" if stem == "model" else stem
    index = folder / f"{prefix}.bin.index.json"
    if index.is_file():
        return sorted({folder / name for name in _weight_map(index).values()})
    single = folder / f"{prefix}.bin"
    if single.is_file():
        return [single]
    raise CheckpointError(
        "no weights in the folder", where=str(folder), remedy=f"copy {stem}.safetensors into it, or all shards"
    )


def _unpickle(files: list[Path]) -> MemorySource:
    import pickle
    import zipfile

    import torch

    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError("a weight file is missing", where=str(file), remedy="copy all shards")
        try:
            # Files from before torch 1.6 are no archives and cannot be mapped.
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
            raise _not_plain(file) from error
        if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
            raise _not_plain(file)
        tensors |= loaded
    return MemorySource(tensors, files[0])


def _not_plain(file: Path) -> CheckpointError:
    return CheckpointError(
        "the pickle is damaged or holds more than named tensors",
        where=str(file),
        remedy="convert it to safetensors where it was made",
    )


def _stored_name(tensor: Tensor) -> str:
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
             "int8": "I8", "uint8": "U8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}  # fmt: skip
    plain = str(tensor.dtype).removeprefix("torch.")
    return names.get(plain, plain.upper())
