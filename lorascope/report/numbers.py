"""Numbers as readers see them: a fixed number of digits per scale, real minus signs, units that fit the size."""

from __future__ import annotations

import math
from typing import Protocol

ABSENT = "–"
MINUS = "−"
SPACE = "\u00a0"  # between a number and its unit, where no line may break
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


class _Range(Protocol):
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def plain(value: float | None, decimals: int = 3) -> str:
    """Return ``value`` with ``decimals`` places; a small value keeps two significant digits, never a rounded zero."""
    if value is None:
        return ABSENT
    text = f"{value:.{decimals}f}"
    if value and not any(digit in text for digit in "123456789"):
        text = f"{value:.2g}" if abs(value) >= 1e-6 else f"{value:.1e}"
    return text.replace("-", MINUS)


def percent(fraction: float | None) -> str:
    """Return a fraction as per cent: whole ones from 10 % on, one decimal below."""
    if fraction is None:
        return ABSENT
    return plain(100 * fraction, 0 if abs(fraction) >= 0.0995 or fraction == 0 else 1) + f"{SPACE}%"


def count(value: float | None) -> str:
    """Return a count in full up to 999,999, above with M, B (1e9) or T."""
    if value is None:
        return ABSENT
    for size, letter in _LARGE:
        if abs(value) >= size:
            return f"{value / size:.3g}{SPACE}{letter}".replace("-", MINUS)
    if float(value).is_integer():
        return f"{value:,.0f}".replace("-", MINUS)
    return plain(value, 1) if abs(value) < 1000 else f"{value:,.1f}".replace("-", MINUS)


def byte_size(value: float) -> str:
    """Return bytes in the binary unit that keeps the number below 1,024."""
    step = 0 if abs(value) < 1 else min(int(math.log(abs(value), 1024)), len(_BINARY) - 1)
    return f"{value / 1024**step:.{0 if step == 0 else 2}f}{SPACE}{_BINARY[step]}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return seconds as ``8.1 s``, ``12 min 5 s`` or ``1 h 12 min``."""
    sign, size = (MINUS if seconds < 0 else ""), abs(seconds)
    if size < 60:
        return f"{sign}{plain(size, 1)}{SPACE}s"
    minutes, rest = divmod(round(size), 60)
    if minutes < 60:
        return f"{sign}{minutes}{SPACE}min{SPACE}{rest}{SPACE}s"
    return f"{sign}{minutes // 60}{SPACE}h{SPACE}{minutes % 60}{SPACE}min"


def metric_value(value: float | None, unit: str, scale: str) -> str:
    """Return a measured value in the metric's own unit and scale."""
    if value is None:
        return ABSENT
    if unit in ("bytes", "byte"):
        return byte_size(value)
    if unit in ("seconds", "second", "s"):
        return duration(value)
    if unit in ("count", "parameters", "steps", "step", "items", "intruders"):
        return count(value)
    if scale == "0-100" or unit == "ms":
        return plain(value, 1)
    if abs(value) >= 1000:
        return count(round(value))
    return plain(value, 3 if abs(value) < 10 else 1)


def margin(value: float | None) -> str:
    """Return a margin as it was chosen: ``±0.02``, without padding zeros."""
    return ABSENT if value is None else f"±{value:g}"


def signed(value: float | None, unit: str, scale: str) -> str:
    """Return a difference with its sign always shown."""
    text = metric_value(value, unit, scale)
    return f"+{text}" if value is not None and value > 0 else text


def interval(bounds: _Range | None, unit: str, scale: str, *, with_sign: bool = False) -> str:
    """Return ``[low, high]``, or nothing where no interval is defined."""
    if bounds is None or bounds.low is None or bounds.high is None:
        return ""
    show = signed if with_sign else metric_value
    return f"[{show(bounds.low, unit, scale)},{SPACE}{show(bounds.high, unit, scale)}]"


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or ``< 0.001``."""
    if value is None:
        return ABSENT
    return f"<{SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Return ``value`` with ``digits`` significant digits: what a chart needs, at a fraction of the bytes."""
    return None if value is None else float(f"{value:.{digits}g}")
