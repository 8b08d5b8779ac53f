"""Prompt templates: ``{field}`` placeholders over the fields of a row.

Braces inside the data are safe, for only the template is parsed. A placeholder that the row cannot fill is an error,
never the text ``None``.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from lorascope.errors import ConfigError, DataError


class _FieldFormatter(string.Formatter):
    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(key, int):
            raise ConfigError(
                "a template names its fields; '{}' and '{0}' name none",
                remedy="write {question} for the field 'question', and {{ }} for a literal brace",
            )
        if key not in kwargs:
            raise DataError(
                f"the template uses the field '{key}', which the data does not have", remedy=_known(key, kwargs)
            )
        return kwargs[key]

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            raise DataError("a field that the template uses is null", remedy="fill it in or leave the record out")
        if isinstance(value, (list, tuple, dict)):
            raise DataError(
                f"a field that the template uses is a {type(value).__name__}, not text",
                remedy="pick one element, like {choices[0]}",
            )
        return str(super().format_field(value, format_spec))


def _known(key: str, fields: Mapping[str, Any]) -> str:
    nearest = difflib.get_close_matches(key, list(fields), n=1)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{hint}the fields are {', '.join(fields)}"


def render(template: str, fields: Mapping[str, Any], *, place: str) -> str:
    """The template with every ``{field}`` filled from ``fields``.

    Raises:
        ConfigError: the template itself is wrong (a single brace, a placeholder without a name).
        DataError: the row at ``place`` lacks a field, or it is null, a list or a mapping.
    """
    try:
        return _FieldFormatter().vformat(template, (), fields)
    except (ConfigError, DataError) as error:
        raise error.at(place) from None
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the template {template!r} cannot be filled: {error}",
            where=place,
            remedy="write {field} for a field, and {{ or }} for a literal brace",
        ) from error


def render_messages(
    templates: Sequence[Mapping[str, str]], fields: Mapping[str, Any], *, place: str
) -> tuple[dict[str, str], ...]:
    """Chat messages, each with its ``content`` template filled; ``role`` is one of system, user, assistant."""
    messages = []
    for template in templates:
        if set(template) != {"role", "content"}:
            raise ConfigError(
                f"a message template has the keys {', '.join(sorted(template))}", remedy="give exactly role and content"
            )
        if template["role"] not in {"system", "user", "assistant"}:
            raise ConfigError(f"'{template['role']}' is no role", remedy="use system, user or assistant")
        messages.append({"role": template["role"], "content": render(template["content"], fields, place=place)})
    return tuple(messages)
