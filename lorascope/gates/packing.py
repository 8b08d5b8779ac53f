"""Numbers of many items in few characters of JSON, and back, with a bound on what may come out."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorascope.errors import InvalidComparison
from lorascope.measures.core import BoolArray, FloatArray
from lorascope.schema.baseline import PackedNumbers

MOST_NUMBERS = 200_000_000
_Unsigned = Literal["uint8", "uint16", "uint32"]
_UNSIGNED: tuple[_Unsigned, ...] = ("uint8", "uint16", "uint32")
_TYPES = {"float64": "<f8", "uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}
_REMEDY = "bless the result again"


def pack(values: npt.ArrayLike) -> PackedNumbers:
    """Pack (n,) or (n, k) numbers without loss: whole numbers in the fewest bytes, others in eight.

    Numbers that recur, as ROUGE's fractions do, are kept once, with their places.
    """
    rows = np.asarray(values, dtype=np.float64)
    rows = rows.reshape(len(rows), -1)
    if (kind := _unsigned(rows)) is not None:
        return PackedNumbers(type=kind, shape=_shape(rows), data=_encode(rows, kind))
    distinct, places = np.unique(rows, return_inverse=True)
    if 2 * len(distinct) > rows.size:
        return PackedNumbers(type="float64", shape=_shape(rows), data=_encode(rows, "float64"))
    codes = pack(places.reshape(rows.shape))
    kept = PackedNumbers(type="float64", shape=(len(distinct), 1), data=_encode(distinct, "float64"))
    return codes.model_copy(update={"distinct": kept})


def declared(packed: PackedNumbers) -> int:
    """How many numbers the shapes announce; nothing is decoded."""
    rows, columns = packed.shape
    return max(rows, 0) * max(columns, 0) + (0 if packed.distinct is None else declared(packed.distinct))


def unpack(packed: PackedNumbers, shape: tuple[int, int]) -> FloatArray:
    """The numbers, (n, k) of ``shape``; InvalidComparison where they say another one, before anything is decoded.

    Also where the data are not what their shape says.
    """
    if packed.shape != shape:
        problem = f"the baseline holds packed numbers of shape {packed.shape} where {shape} belong"
        raise InvalidComparison(problem, remedy=_REMEDY)
    _check_distinct(packed)
    codes = _decode(packed)
    if packed.distinct is None:
        return codes
    distinct = _decode(packed.distinct).ravel()
    if codes.max() >= len(distinct):
        raise InvalidComparison("the baseline's packed numbers are damaged", remedy=_REMEDY)
    found: FloatArray = distinct[codes.astype(np.int64)]
    return found


def pack_bits(flags: BoolArray) -> PackedNumbers:
    """Pack (n, k) truth values, eight to a byte."""
    return pack(np.packbits(flags, axis=1))


def unpack_bits(packed: PackedNumbers, shape: tuple[int, int]) -> BoolArray:
    """The truth values, (n, k) of ``shape``; see :func:`unpack`."""
    rows, columns = shape
    bytes_of_rows = unpack(packed, (rows, math.ceil(columns / 8)))
    if packed.type != "uint8" or packed.distinct is not None:
        raise InvalidComparison("the baseline's packed labels are damaged", remedy=_REMEDY)
    return np.unpackbits(bytes_of_rows.astype(np.uint8), axis=1, count=columns).astype(np.bool_)


def _check_distinct(packed: PackedNumbers) -> None:
    """A list of distinct numbers is one column, never longer than what refers to it, and has no such list itself."""
    kept = packed.distinct
    if kept is None:
        return
    rows, columns = packed.shape
    if packed.type == "float64" or kept.distinct is not None or kept.shape[1] != 1 or kept.shape[0] > rows * columns:
        raise InvalidComparison("the baseline's packed numbers are damaged", remedy=_REMEDY)


def read_base64(text: str) -> bytes:
    """The bytes of a base64 text; InvalidComparison for any other text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidComparison("the baseline's packed numbers are no base64", remedy=_REMEDY) from error


def _unsigned(rows: FloatArray) -> _Unsigned | None:
    """The smallest type of whole numbers that holds all values as they are; None where none does."""
    if not rows.size or not np.isfinite(rows).all() or (rows < 0).any() or (rows != np.floor(rows)).any():
        return None
    return next((name for name in _UNSIGNED if rows.max() <= np.iinfo(name).max), None)


def _shape(rows: FloatArray) -> tuple[int, int]:
    return rows.shape[0], rows.shape[1]


def _encode(rows: FloatArray, kind: str) -> str:
    columns = np.asarray(rows).astype(_TYPES[kind]).T
    return base64.b64encode(zlib.compress(columns.tobytes(), 9)).decode("ascii")


def _decode(packed: PackedNumbers) -> FloatArray:
    rows, columns = packed.shape
    kind = np.dtype(_TYPES[packed.type])
    size = rows * columns * kind.itemsize
    if rows < 1 or columns < 1 or rows * columns > MOST_NUMBERS:
        raise InvalidComparison(f"the baseline holds packed numbers of shape {packed.shape}", remedy=_REMEDY)
    reader = zlib.decompressobj()
    try:
        raw = reader.decompress(read_base64(packed.data), size + 1)
    except zlib.error as error:
        raise InvalidComparison(f"the baseline's packed numbers are damaged: {error}", remedy=_REMEDY) from error
    if len(raw) != size or not reader.eof:
        raise InvalidComparison("the baseline's packed numbers are not as many as it says", remedy=_REMEDY)
    return np.frombuffer(raw, dtype=kind).reshape(columns, rows).T.astype(np.float64)
