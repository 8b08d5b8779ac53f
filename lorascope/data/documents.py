"""YAML files that people write (suites, recipes, sweeps), validated, with errors that name the key and the line.

A document is its text, its tree with line numbers and its plain values. Keys set elsewhere (``--set a.b=1``, a point of
a sweep) are laid over the values; what is wrong with them is said of the place they were set.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lorascope.data.model_faults import (
    Fault,
    Location,
    annotation_at,
    dotted_keys,
    faults_of,
    is_model,
    members_of,
    misplaced_booleans,
)
from lorascope.data.readers import read_text
from lorascope.errors import ConfigError, DataError

__all__ = [
    "Document",
    "Location",
    "Setting",
    "dotted_keys",
    "key_lines",
    "overlaid",
    "read_document",
    "read_settings",
    "validate",
    "write_yaml",
]
_SHOWN_ERRORS = 5
_MOST_BY_ALIASES = 100_000
"""Values that aliases may add to those that are written: some lines of them can stand for more than any memory."""
_QUOTES = 'YAML reads yes, no, on and off as true and false; write them in quotes: "yes"'
_Model = TypeVar("_Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Plain values alone; ``1e-4`` is a number, as in YAML 1.2 and as everybody means it."""


class _Dumper(yaml.SafeDumper):
    """Writes what :class:`_Loader` reads: a text that would be a number there is put in quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that stands twice twice."""
        return True


for _table in (_Loader, _Dumper):
    _table.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def write_yaml(value: Any) -> str:
    """Plain values as YAML that :func:`read_document` reads as the same values; mappings keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 0, of every key of a YAML text by its location; keys within lists are left out."""
    found: dict[tuple[str, ...], int] = {}
    _add_lines(yaml.compose(text, Loader=_Loader), (), found)
    return found


def _add_lines(node: yaml.Node | None, location: tuple[str, ...], found: dict[tuple[str, ...], int]) -> None:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        found[(*location, key.value)] = key.start_mark.line
        _add_lines(value, (*location, key.value), found)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that is laid over a document. ``key`` is dotted; ``origin`` says where it was set, for messages."""

    key: str
    value: Any
    origin: str

    @property
    def location(self) -> tuple[str, ...]:
        """The parts of the key."""
        return tuple(self.key.split("."))


@dataclass(frozen=True, slots=True)
class Document:
    """A file: ``text`` as it stands, ``node`` its tree with places, ``raw`` its plain values with settings laid over.

    ``settings`` are those laid over it, in their order; ``what`` is the word for it in messages.
    """

    path: Path
    text: str
    node: yaml.Node
    raw: Any
    what: str = "file"
    settings: tuple[Setting, ...] = field(default=())

    @property
    def text_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the text, settings aside."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()[:16]

    def line(self, location: Sequence[int | str]) -> int:
        """Line of the nearest part of ``location`` that the file has; 1 for the first."""
        line, node = self.node.start_mark.line + 1, self.node
        for part in location:
            found = _child(node, part)
            if found is None:
                return line
            line, node = found
        return line

    def where(self, location: Sequence[int | str]) -> str:
        """File and line of a location, or the setting that gave it its value."""
        for setting in reversed(self.settings):
            if _within(tuple(location), setting.location):
                return setting.origin
        return f"{self.path}, line {self.line(location)}"


def _child(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        pairs = ((key.start_mark.line + 1, value) for key, value in node.value if key.value == str(part))
        return next(pairs, None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _within(location: Location, outer: tuple[str, ...]) -> bool:
    return tuple(str(part) for part in location[: len(outer)]) == outer


def read_document(path: Path, *, what: str, start: str | None = None) -> Document:
    """The YAML file at ``path``; ``what`` is the word for it, ``start`` what is advised for an empty one.

    Raises:
        ConfigError: the file is missing, not UTF-8, no YAML, empty, or gives a key twice.
    """
    if not path.is_file():
        raise ConfigError(f"there is no such {what} file", where=str(path), remedy="check the path")
    try:
        text = read_text(path)
    except DataError as error:
        raise ConfigError(error.problem, where=error.where, remedy=error.remedy) from error
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise ConfigError(f"the {what} is empty", where=str(path), remedy=start)
        _refuse_endless_aliases(node, str(path))
        _refuse_repeated_keys(node, path, (), set())
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _no_yaml(error, what, path) from error
    except (ValueError, RecursionError) as error:
        problem = f"the {what} is not valid YAML: {error}"
        raise ConfigError(problem, where=str(path), remedy="check its values") from error
    return Document(path, text, node, raw, what)


def _no_yaml(error: yaml.YAMLError, what: str, path: Path) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{path}, line {mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or "cannot be parsed"
    return ConfigError(f"the {what} is not valid YAML: {problem}", where=where, remedy="check indentation")


def _refuse_endless_aliases(node: yaml.Node, where: str) -> None:
    sizes: dict[int, int] = {}
    if _expanded_size(node, sizes) > len(sizes) + _MOST_BY_ALIASES:
        problem = f"its aliases stand for more than {_MOST_BY_ALIASES:,} values"
        raise ConfigError(problem, where=where, remedy="write out what is meant, without aliases of aliases")


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node comes to when every alias is written out; ``sizes`` are of those seen. A node that holds
    itself, which is refused elsewhere, counts within itself as one.
    """
    if id(node) not in sizes:
        sizes[id(node)] = 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        sizes[id(node)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(node)]


def _refuse_repeated_keys(node: yaml.Node, path: Path, around: tuple[yaml.Node, ...], done: set[int]) -> None:
    """Also what holds itself by an alias, which has no end. ``done`` are nodes that aliases may lead back to."""
    if any(node is outer for outer in around):
        where = f"{path}, line {node.start_mark.line + 1}"
        raise ConfigError("a value holds itself by its alias", where=where, remedy="write it out")
    if id(node) in done:
        return
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                where = f"{path}, line {key.start_mark.line + 1}"
                raise ConfigError(f"the key '{key.value}' is given twice", where=where, remedy="keep one of them")
            seen.add(str(key.value))
            _refuse_repeated_keys(value, path, (*around, node), done)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path, (*around, node), done)
    done.add(id(node))


def read_settings(settings: Iterable[str], *, option: str = "--set") -> tuple[Setting, ...]:
    """Settings from a command line: ``a.b=value``, the value in YAML (``null``, ``[1, 2]``, ``{a: 1}``).

    Raises:
        ConfigError: a setting has no ``=``, no key, or a value that is no YAML.
    """
    return tuple(_setting(text, f"{option} {text}") for text in settings)


def _setting(text: str, origin: str) -> Setting:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError("a setting is written key=value", where=origin, remedy="such as optim.epochs=3")
    try:
        node = yaml.compose(value, Loader=_Loader)
        if node is not None:
            _refuse_endless_aliases(node, origin)
        return Setting(key, yaml.load(value, Loader=_Loader), origin)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = getattr(error, "problem", None) or error
        raise ConfigError(f"the value is not valid YAML: {said}", where=origin, remedy="put it in quotes") from error


def overlaid(document: Document, settings: Iterable[Setting]) -> Document:
    """The document with the settings laid over its values, later ones over earlier ones; a block that is not there is
    made. A value that is a block or a list takes the place of the whole one in the file.

    Raises:
        ConfigError: a key leads into a value that is no block.
    """
    given = tuple(settings)
    raw = deepcopy(document.raw)
    if not isinstance(raw, dict):
        return document
    for setting in given:
        _lay(raw, setting)
    return replace(document, raw=raw, settings=(*document.settings, *given))


def _lay(raw: dict[str, Any], setting: Setting) -> None:
    *parents, last = setting.location
    here: Any = raw
    try:
        for depth, part in enumerate(parents, 1):
            here = _block(here, part)
            if not isinstance(here, (dict, list)):
                raise _no_block(".".join(parents[:depth]), here, setting)
        here[_index(here, last)] = deepcopy(setting.value)
    except IndexError:
        raise ConfigError(
            f"the list that '{setting.key}' leads into has {len(here)} entries",
            where=setting.origin,
            remedy="count from 0, or set the whole list",
        ) from None


def _block(here: Any, part: str) -> Any:
    """What ``part`` leads to; an empty block where there is nothing."""
    key = _index(here, part)
    if isinstance(here, dict) and here.get(key) is None:
        here[key] = {}
    return here[key]


def _no_block(key: str, value: Any, setting: Setting) -> ConfigError:
    last = setting.location[-1]
    return ConfigError(
        f"'{key}' is {value!r}, which has no keys", where=setting.origin, remedy=f"set it whole: {key}={{{last}: …}}"
    )


def _index(here: Any, part: str) -> int | str:
    if isinstance(here, list):
        return int(part) if part.isdecimal() and int(part) < len(here) else -len(here) - 1
    return part


def validate(
    document: Document,
    model: type[_Model],
    *,
    renamed: Mapping[str, str] | None = None,
    how: Mapping[str, str] | None = None,
) -> _Model:
    """The document's values as a ``model``.

    ``renamed`` explains keys of other tools by what they are called here: a dotted key, or a sentence. ``how`` says of
    keys, wherever they stand, what to write where their value is no list.

    Raises:
        ConfigError: the first fault in full, with key, line (or setting) and remedy, the others as a line each.
    """
    for location, value in misplaced_booleans(document.raw, model, ()):
        key = ".".join(map(str, location))
        problem = f"'{key}': Input should be a number, not {str(value).lower()}"
        raise ConfigError(problem, where=document.where(location), remedy="give a number")
    try:
        return model.model_validate(document.raw)
    except ValidationError as error:
        faults = faults_of(error, model)
        words = _Words(model, renamed or {}, how or {})
        raise _config_error(faults, document, words) from error


@dataclass(frozen=True, slots=True)
class _Words:
    """What remedies are made of."""

    model: type[BaseModel]
    renamed: Mapping[str, str]
    how: Mapping[str, str]


def _config_error(faults: Sequence[Fault], document: Document, words: _Words) -> ConfigError:
    """The first fault in full, the others as one line each, and the first remedy that there is."""
    known = [fault for fault in faults if _other_name(fault, words)]
    # What is missing in a file of another tool follows from its names, so these go first, and all of them.
    faults = [*known, *(fault for fault in faults if fault not in known)]
    problem = _described(faults[0])
    for fault in faults[1 : max(_SHOWN_ERRORS, len(known))]:
        where = document.where(fault.location).removeprefix(f"{document.path}, ")
        problem += f"\n  also: {_other_name(fault, words) or _described(fault)} ({where})"
    # A misspelt key is also a missing one, and what it should have been is said of the misspelling.
    remedy = next(filter(None, (_remedy(fault, words) for fault in faults)), None)
    return ConfigError(problem, where=document.where(_place(faults[0], document)), remedy=remedy)


def _place(fault: Fault, document: Document) -> Location:
    """Where to look: a fault of the whole file that names dotted keys stands at the first of them that is given."""
    if fault.location:
        return fault.location
    for key in re.findall(r"'([a-z_0-9]+(?:\.[a-z_0-9]+)*)", fault.message):
        location: Location = tuple(key.split("."))
        if _is_given(document.raw, location):
            return location
    return ()


def _is_given(raw: Any, location: Location) -> bool:
    for part in location:
        if not isinstance(raw, dict) or part not in raw:
            return False
        raw = raw[part]
    return True


def _described(fault: Fault) -> str:
    key = ".".join(str(part) for part in fault.location)
    if fault.error == "extra_forbidden":
        return f"unknown key '{key}'"
    if fault.error == "missing":
        return f"the key '{key}' is missing"
    if fault.error == "model_type":
        return f"'{key}': Input should be a block of keys, not {fault.given!r}" if key else "no keys are given"
    return f"'{key}': {fault.message}" if key else fault.message


def _remedy(fault: Fault, words: _Words) -> str | None:
    if fault.error == "extra_forbidden":
        return _right_key(fault, words)
    if fault.error == "literal_error":
        return _QUOTES if isinstance(fault.given, bool) else f"use {fault.expected}"
    if fault.error == "string_type" and isinstance(fault.given, bool):
        return _QUOTES
    if fault.error == "string_type" and isinstance(fault.given, (int, float, date)):
        return f'YAML reads this as a number or a date; write it in quotes: "{fault.given}"'
    if fault.error == "list_type" and fault.location:
        return words.how.get(str(fault.location[-1]))
    if fault.error == "model_type":
        block = next(filter(is_model, members_of(annotation_at(words.model, fault.location))), None)
        return block and f"give a block with the keys {', '.join(block.model_fields)}"
    return None


def _other_name(fault: Fault, words: _Words) -> str | None:
    """What an unknown key is called here, where it is known from another tool."""
    if fault.error != "extra_forbidden" or str(fault.location[-1]) not in words.renamed:
        return None
    wrong = str(fault.location[-1])
    name = words.renamed[wrong]
    return name if " " in name else f"'{wrong}' is called '{name}' here"


def _right_key(fault: Fault, words: _Words) -> str:
    """What an unknown key should have been: its name here, the nearest in its block, or the block it belongs to."""
    wrong = str(fault.location[-1])
    known = list((fault.block or words.model).model_fields)
    name = _other_name(fault, words)
    if name:
        return name
    elsewhere = [key for key in dotted_keys(words.model) if key.split(".")[-1] == wrong]
    nearest = difflib.get_close_matches(wrong, known, n=1)
    said = [f"did you mean '{nearest[0]}'?"] if nearest else []
    said += [f"'{wrong}' belongs into another block: {' or '.join(elsewhere)}"] if elsewhere else []
    return " ".join(said) or f"known keys: {', '.join(known)}"
