"""``suite.yaml`` into a validated :class:`Suite`, with errors that name the key and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorascope.data.documents import Document, Location, read_document, validate
from lorascope.data.readers import read_text
from lorascope.errors import ConfigError, DataError
from lorascope.schema.suite import Suite

HOW_LABELS = (
    "write labels: [first, second] in the order of the head's outputs, or give a file with a JSON list or one label a "
    "line; its path is relative to the "
)
"""What labels may be, up to the word for the file that names them."""


def load_suite(path: Path) -> tuple[Suite, str]:
    """The suite of a YAML file and the first 16 hexadecimal digits of the SHA-256 of its text.

    A task's ``labels`` that are a text are the path of a list (:func:`read_labels`), relative to the suite's folder.

    Raises:
        ConfigError: the file is missing, is no YAML, repeats a key, or has a wrong key or value; the message names the
            key, its line, and for an unknown key the nearest right one. Or a file of labels cannot be used.
    """
    document = read_document(path, what="suite", start="give 'version: 1' and 'tasks'")
    _read_label_files(document)
    return validate(document, Suite, how={"labels": f"{HOW_LABELS}suite"}), document.text_hash


def _read_label_files(document: Document) -> None:
    """Put the labels of every file of labels into the values; what is not as it should be is left as it is."""
    tasks = document.raw.get("tasks") if isinstance(document.raw, dict) else None
    for index, task in enumerate(tasks if isinstance(tasks, list) else []):
        if isinstance(task, dict):
            put_labels(task, document, ("tasks", index, "labels"))


def put_labels(task: dict[str, Any], document: Document, location: Location) -> None:
    """Put the list of a task whose ``labels`` are the path of a file in its place.

    Raises:
        ConfigError: the file cannot be used; the message names it and the key at ``location``.
    """
    if not isinstance(task.get("labels"), str):
        return
    try:
        task["labels"] = list(read_labels(document.path.parent / Path(task["labels"]).expanduser(), what=document.what))
    except ConfigError as error:
        raise error.at(document.where(location)) from error.__cause__


def read_labels(path: Path, *, what: str = "suite") -> tuple[str, ...]:
    """Label names from a file: a JSON list, or one a line; ``what`` is the word for the file that names it.

    Their places are the outputs of a head, so an entry that is no name is refused and not passed over; only empty lines
    at the end of the file are.

    Raises:
        ConfigError: there is no such file, it is neither, or it does not name each label once.
    """
    how = f"{HOW_LABELS}{what}"
    if not path.is_file():
        raise ConfigError("there is no such file of labels", where=str(path), remedy=how)
    try:
        text = read_text(path).rstrip()
        names = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except DataError as error:
        raise ConfigError(error.problem, where=error.where, remedy=error.remedy) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the labels are no JSON list ({error})", where=str(path), remedy=how) from error
    for place, name in enumerate(names, 1):
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"entry {place} is {name!r}, which names no label", where=str(path), remedy=how)
    cleaned = tuple(name.strip() for name in names)
    twice = next((name for place, name in enumerate(cleaned) if name in cleaned[:place]), None)
    if twice is not None or not cleaned:
        problem = "there are no labels" if twice is None else f"the label '{twice}' is named twice"
        raise ConfigError(problem, where=str(path), remedy="name each label once, and at least one")
    return cleaned
