"""``suite.yaml`` into a validated :class:`Suite`, with errors that name the key and the line."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from lorascope.data.readers import read_text
from lorascope.errors import ConfigError, DataError
from lorascope.schema.suite import Extract, Sampling, Suite, SuiteTask

_SHOWN_ERRORS = 5
_HOW_LABELS = (
    "write labels: [first, second] in the order of the head's outputs, or give a file with a JSON list or one label a "
    "line; its path is relative to the suite"
)


def load_suite(path: Path) -> tuple[Suite, str]:
    """The suite of a YAML file and the first 16 hexadecimal digits of the SHA-256 of its text.

    A task's ``labels`` that are a text are the path of a list (:func:`read_labels`), relative to the suite's folder.

    Raises:
        ConfigError: the file is missing, is no YAML, repeats a key, or has a wrong key or value; the message names the
            key, its line, and for an unknown key the nearest right one. Or a file of labels cannot be used.
    """
    if not path.is_file():
        raise ConfigError("there is no such suite file", where=str(path), remedy="check the path")
    try:
        text = read_text(path)
    except DataError as error:
        raise ConfigError(error.problem, where=error.where, remedy=error.remedy) from error
    node = _compose(text, path)
    try:
        suite = Suite.model_validate(_with_label_files(yaml.safe_load(text), node, path))
    except ValidationError as error:
        raise _config_error(error, node, path) from error
    return suite, hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _with_label_files(raw: Any, node: yaml.Node, path: Path) -> Any:
    """The suite's plain values with every file of labels read; what is not as it should be is left as it is."""
    tasks = raw.get("tasks") if isinstance(raw, dict) else None
    for index, task in enumerate(tasks if isinstance(tasks, list) else []):
        if isinstance(task, dict) and isinstance(task.get("labels"), str):
            try:
                task["labels"] = list(read_labels(path.parent / Path(task["labels"]).expanduser()))
            except ConfigError as error:
                raise error.at(f"{path}, line {_line(node, ['tasks', index, 'labels'])}") from error.__cause__
    return raw


def read_labels(path: Path) -> tuple[str, ...]:
    """Label names from a file: a JSON list, or one a line.

    Their places are the outputs of a head, so an entry that is no name is refused and not passed over; only empty lines
    at the end of the file are.

    Raises:
        ConfigError: there is no such file, it is neither, or it does not name each label once.
    """
    if not path.is_file():
        raise ConfigError("there is no such file of labels", where=str(path), remedy=_HOW_LABELS)
    try:
        text = read_text(path).rstrip()
        names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except DataError as error:
        raise ConfigError(error.problem, where=error.where, remedy=error.remedy) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the labels are no JSON list ({error})", where=str(path), remedy=_HOW_LABELS) from error
    for place, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"entry {place} is {name!r}, which names no label", where=str(path), remedy=_HOW_LABELS)
    cleaned = tuple(name.strip() for name in names)
    twice = next((name for place, name in enumerate(cleaned) if name in cleaned[:place]), None)
    if twice is not None or not cleaned:
        problem = "there are no labels" if twice is None else f"the label '{twice}' is named twice"
        raise ConfigError(problem, where=str(path), remedy="name each label once, and at least one")
    return cleaned


def _compose(text: str, path: Path) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(f"the suite is not valid YAML: {problem}", where=where, remedy="check indentation") from error
    if node is None:
        raise ConfigError("the suite is empty", where=str(path), remedy="give 'version: 1' and 'tasks'")
    _refuse_repeated_keys(node, path)
    return node


def _refuse_repeated_keys(node: yaml.Node, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                where = f"{path}, line {key.start_mark.line + 1}"
                raise ConfigError(f"the key '{key.value}' is given twice", where=where, remedy="keep one of them")
            seen.add(key.value)
            _refuse_repeated_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path)


def _config_error(error: ValidationError, node: yaml.Node, path: Path) -> ConfigError:
    """The first fault in full, the others as one line each, and the first remedy that there is."""
    faults = error.errors(include_url=False)
    lines = [_described(fault, node) for fault in faults]
    problem = lines[0][0]
    for described, line in lines[1:_SHOWN_ERRORS]:
        problem += f"\n  also: {described} (line {line})"
    # A misspelt key is also a missing one, and what it should have been is said of the misspelling.
    remedy = next(filter(None, map(_remedy, faults)), None)
    return ConfigError(problem, where=f"{path}, line {lines[0][1]}", remedy=remedy)


def _described(fault: Any, node: yaml.Node) -> tuple[str, int]:
    """What is wrong with which key, and the line of the nearest part of the file that exists."""
    location = [part for part in fault["loc"] if part not in {"str", "dict[str,str]"}]
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        problem = f"unknown key '{key}'"
    elif fault["type"] == "missing":
        problem = f"the key '{key}' is missing"
    else:
        said = fault["msg"].removeprefix("Value error, ")
        problem = f"'{key}': {said}" if key else said
    return problem, _line(node, location)


def _line(node: yaml.Node, location: Sequence[int | str]) -> int:
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """Keys of the part of a suite in which an unknown one stands: the suite, a task, or a block of a task."""
    if len(location) == 1:
        return list(Suite.model_fields)
    blocks: dict[int | str, type[BaseModel]] = {"sampling": Sampling, "extract": Extract}
    return list(next((blocks[part] for part in location[:-1] if part in blocks), SuiteTask).model_fields)


def _remedy(fault: Any) -> str | None:
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"])
        nearest = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        return f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(known)}"
    if fault["type"] == "literal_error":
        return f"use {fault['ctx']['expected']}"
    if fault["type"] == "list_type" and fault["loc"][-1] == "labels":
        return _HOW_LABELS
    if fault["type"] == "string_type" and isinstance(fault["input"], bool):
        return 'YAML reads yes, no, on and off as true and false; write them in quotes: "yes"'
    return None
