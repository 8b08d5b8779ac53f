"""``gates.toml``: what a result has to meet before a change may go in."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from lorascope.errors import ConfigError
from lorascope.schema.model import Finite, Model
from lorascope.schema.toml_lines import lines_of

Rule = Literal["significant", "strict", "point"]
Correction = Literal["none", "holm", "benjamini-hochberg"]
LimitName = Literal["max_drop", "min_gain", "min", "max"]
LIMITS: tuple[LimitName, ...] = ("max_drop", "min_gain", "min", "max")

_AS_TOML = (
    'write each key = value on a line of its own, texts in quotes ("support.rougeL"), numbers without (0.02), every '
    "key of a gate once, and [[gate]] above each gate"
)
_LONGEST = 40
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(%?)\s*")
# The part without a subject is tried first, so that a colon inside a slice does not read as a subject.
_ADDRESS = re.compile(
    r"(?:(?P<subject>.+?):)??(?P<place>[^@:\s]+)\.(?P<metric>[^@:.\s]+)(?:@(?P<slice>.+))?", flags=re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Address:
    """``[SUBJECT:]AREA_OR_TASK.METRIC[@SLICE]``; in every part ``*`` stands for any text.

    Without a subject the address holds for every adapted checkpoint, without a slice for the whole alone. A slice is
    written ``by=value`` (``threshold=tuned``) or as the value alone. What reads as an address without a subject is
    one: ``lora.v1@3:support.accuracy`` is the slice ``3:support.accuracy`` of ``lora.v1``. A checkpoint of such a name
    (a dot, and an ``@`` behind it) is written with ``*`` in place of the ``@``: ``lora.v1*3:support.accuracy``.
    """

    subject: str | None
    place: str
    metric: str
    slice: str | None


def parse_address(text: str) -> Address:
    """Take an address apart; ValueError when it has no ``AREA_OR_TASK.METRIC``."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an address of the form [SUBJECT:]AREA_OR_TASK.METRIC[@SLICE]")
    return Address(match["subject"], match["place"], match["metric"], match["slice"])


def is_address(text: str) -> bool:
    """Whether the text is an address of the form that gates take."""
    return _ADDRESS.fullmatch(text) is not None


class _PolicyModel(Model):
    # TOML has types of its own, so a string or a boolean where a number belongs is a mistake.
    model_config = ConfigDict(strict=True)


class Gate(_PolicyModel):
    """Limits on the measurements that one address names; several limits in one gate all have to hold.

    ``max_drop`` and ``min_gain`` limit the improvement (better is positive), ``min`` and ``max`` the adapted
    checkpoint's own estimate, all in the metric's own scale. Below ``min_n`` items nothing sampled passes.
    ``confidence`` goes before the policy's. ``correction`` is of the FAIL tests of all measurements that the gate
    names, over all subjects: 'holm' bounds the probability of any false FAIL among them, 'benjamini-hochberg' the
    expected share of false ones among the FAILs.
    """

    metric: str
    max_drop: Finite | None = Field(default=None, ge=0)
    min_gain: Finite | None = Field(default=None, ge=0)
    min: Finite | None = None
    max: Finite | None = None
    min_n: int | None = Field(default=None, ge=1)
    rule: Rule = "significant"
    severity: Literal["fail", "warn"] = "fail"
    correction: Correction = "none"
    confidence: Finite | None = Field(default=None, gt=0.5, lt=1)
    _line: int | None = PrivateAttr(default=None)

    @field_validator("metric")
    @classmethod
    def _is_address(cls, text: str) -> str:
        parse_address(text)
        return text

    @model_validator(mode="after")
    def _has_limits(self) -> Gate:
        if not self.limits:
            raise ValueError(f"the gate sets no limit; give one of {', '.join(LIMITS)}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}")
        if self.rule == "point" and self.correction != "none":
            raise ValueError(f'correction = "{self.correction}" beside rule = "point", which tests nothing')
        if self.rule == "point" and self.confidence is not None:
            raise ValueError('confidence beside rule = "point", which looks at the value alone and at no bound')
        return self

    @property
    def line(self) -> int | None:
        """Line of the policy file on which the gate begins; None for a gate that was not read from a file."""
        return self._line

    @property
    def address(self) -> Address:
        """The parsed ``metric``."""
        return parse_address(self.metric)

    @property
    def limits(self) -> list[tuple[LimitName, float]]:
        """The limits that are set, by name."""
        values = ((name, getattr(self, name)) for name in LIMITS)
        return [(name, value) for name, value in values if value is not None]


class GatePolicy(_PolicyModel):
    """The whole file. ``confidence`` is that of the one-sided bounds; ``baseline`` is relative to the file."""

    version: Literal[1]
    baseline: str | None = None
    confidence: Finite = Field(default=0.95, gt=0.5, lt=1)
    on_inconclusive: Literal["warn", "fail"] = "warn"
    on_missing: Literal["warn", "fail"] = "fail"
    gate: list[Gate] = Field(min_length=1)

    def confidence_of(self, gate: Gate) -> float:
        """The gate's own confidence, else the policy's."""
        return self.confidence if gate.confidence is None else gate.confidence


def parse_policy(text: str, name: str = "gates.toml") -> GatePolicy:
    """Read a policy from TOML; ConfigError names every mistake with its line, and the nearest key for unknown ones."""
    text = text.removeprefix("\ufeff")
    document, lines = _read(text, name)
    if not document:
        raise ConfigError("the policy is empty", where=f"{name}, line 1", remedy="give version = 1 and [[gate]] tables")
    try:
        policy = GatePolicy.model_validate(document)
    except ValidationError as error:
        found = sorted((_line_of(each["loc"], lines), _problem(each)) for each in error.errors())
        problem = "; ".join(f"line {line}: {what}" for line, what in found)
        raise ConfigError(problem, where=f"{name}, line {found[0][0]}", remedy="correct the policy") from error
    for number, gate in enumerate(policy.gate):
        gate._line = _line_of(("gate", number), lines)
    return policy


def _read(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[int | str, ...], int]]:
    """The document and the lines of its places."""
    try:
        return tomllib.loads(text), lines_of(text)
    except tomllib.TOMLDecodeError as error:
        told = _told(error, text)
        line = re.search(r"\bline (\d+)", told)
        where = f"{name}, line {line[1]}" if line else name
        raise ConfigError(f"the policy is not valid TOML: {told}", where=where, remedy=_AS_TOML) from error
    except RecursionError as error:
        raise ConfigError("the policy is nested too deeply", where=name, remedy="a policy needs two levels") from error
    except ValueError as error:  # an integer with more digits than Python converts
        raise ConfigError(f"the policy cannot be read: {error}", where=name, remedy="correct the number") from error


def _told(error: tomllib.TOMLDecodeError, text: str) -> str:
    """The parser's sentence with a line in it, which it leaves out at the end of the file."""
    told = str(error)
    return told.replace("at end of document", f"at end of document, line {max(len(text.splitlines()), 1)}")


def _line_of(place: tuple[int | str, ...], lines: dict[tuple[int | str, ...], int]) -> int:
    known = (lines[place[:depth]] for depth in range(len(place), 0, -1) if place[:depth] in lines)
    return next(known, 1)


def _problem(error: ErrorDetails) -> str:
    place, kind = error["loc"], error["type"]
    key = str(place[-1])
    if kind == "extra_forbidden":
        known = Gate.model_fields if place[0] == "gate" else GatePolicy.model_fields
        near = difflib.get_close_matches(key, known, n=1)
        return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}")
    if place == ("gate",):
        one = kind == "list_type" and isinstance(error["input"], dict)
        return "gate is a list: write [[gate]] in place of [gate]" if one else f"no gate: {_A_GATE}"
    if kind == "missing":
        return f"{key} is missing; write {_EXAMPLES[key]}" if key in _EXAMPLES else f"{key} is missing"
    named = f"{key}: " if isinstance(place[-1], str) else ""
    return named + (_of_value(error, key) or error["msg"].removeprefix("Value error, "))


_A_GATE = "write at least one [[gate]] with a metric and a limit"
_EXAMPLES = {"version": "version = 1", "metric": 'metric = "TASK.METRIC"'}
_NUMERIC = frozenset({"float_type", "int_type", "finite_number", "int_from_float"})


def _of_value(error: ErrorDetails, key: str) -> str | None:
    """What is wrong with a value, in the words of the file; None where the checker's own sentence will do."""
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    if key == "version":
        return f"{_written(value)} is not known; write version = 1"
    if kind in _NUMERIC:
        return _no_number(value, "a whole number" if kind.startswith("int") else "a number")
    if kind == "string_type":
        return f"{_written(value)} is no text; write it in quotes"
    if kind == "literal_error":
        return f"{_written(value)} is not known; write {limits.get('expected')}"
    if kind in ("greater_than", "less_than") and key == "confidence":
        share = f"; write {value / 100:g}" if 50 < value < 100 else ""
        return f"{_written(value)} is not above 0.5 and below 1{share}"
    if kind == "greater_than_equal":
        return f"{_written(value)} is below {limits.get('ge')}"
    return None


def _no_number(value: object, wanted: str) -> str:
    if isinstance(value, str) and (match := _NUMBER.fullmatch(value)) is not None:
        number = float(match[1]) / (100 if match[2] else 1)
        return f"{_written(value)} is a text; write {number:.10g} without quotes"
    return f"{_written(value)} is not {wanted}"


def _written(value: object) -> str:
    """The value as TOML writes it, shortened."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f'"{text}"' if isinstance(value, str) else text
