"""Where in a model pydantic's faults lie, by the model's annotations: what unions add to a location is taken out."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at a location in the file; ``block`` is the model in which its last key stands."""

    error: str
    location: Location
    message: str
    given: Any
    expected: str | None
    block: type[BaseModel] | None


def faults_of(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Pydantic's faults in its order, those of one union's members joined into one."""
    found: dict[Location, Fault] = {}
    for fault in error.errors(include_url=False):
        location, block = _located(fault["loc"], model)
        message = fault["msg"].removeprefix("Value error, ")
        before = found.get(location)
        if before is not None:
            more = message.removeprefix("Input should be ")
            found[location] = replace(before, message=f"{before.message}, or {more}")
            continue
        expected = (fault.get("ctx") or {}).get("expected")
        found[location] = Fault(fault["type"], location, message, fault.get("input"), expected, block)
    return list(found.values())


def _located(location: Sequence[int | str], model: type[BaseModel]) -> tuple[Location, type[BaseModel] | None]:
    """The location without pydantic's marks of union members, and the model of its last key."""
    members: list[Any] = [model]
    clean: list[int | str] = []
    block: type[BaseModel] | None = None
    for part in location:
        if len(members) > 1:
            members = [member for member in members if _is_named(member, str(part))] or members[:1]
            continue
        if part == "[key]":
            continue
        block = members[0] if members and is_model(members[0]) else None
        clean.append(part)
        members = members_of(_inner(members, part))
    return tuple(clean), block


def _is_named(member: Any, tag: str) -> bool:
    """Whether a union's member is the one that pydantic calls ``tag``."""
    origin = get_origin(member)
    name = "literal" if origin is Literal else getattr(origin or member, "__name__", str(member))
    return tag.startswith(name) or (is_model(member) and name in tag)


def members_of(annotation: Any) -> list[Any]:
    """The types that a value may have, None aside."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for one in get_args(annotation) for member in members_of(one)]
    return [] if annotation in (None, type(None)) else [annotation]


def _inner(members: Sequence[Any], part: Any) -> Any:
    """The annotation of what ``part`` leads to from a value of one of these types; None where that is not said."""
    for member in members:
        origin, arguments = get_origin(member), get_args(member)
        if is_model(member) and part in member.model_fields:
            return member.model_fields[part].annotation
        if origin in (list, tuple, Sequence) and isinstance(part, int) and arguments:
            return arguments[0]
        if origin in (dict, Mapping) and not isinstance(part, int) and len(arguments) == 2:
            return arguments[1]
    return None


def is_model(member: Any) -> bool:
    """Whether a type is a model."""
    return isinstance(member, type) and issubclass(member, BaseModel)


def misplaced_booleans(value: Any, annotation: Any, location: Location) -> Iterator[tuple[Location, bool]]:
    """Where true or false stand for a number: pydantic would take them for 1 and 0."""
    members = members_of(annotation)
    if isinstance(value, bool):
        if (int in members or float in members) and bool not in members:
            yield location, value
        return
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from misplaced_booleans(inner, _inner(members, key), (*location, key))


def annotation_at(model: type[BaseModel], location: Location) -> Any:
    """The annotation of what a location leads to; None where the model does not say."""
    here: Any = model
    for part in location:
        here = _inner(members_of(here), part)
    return here


def dotted_keys(model: type[BaseModel]) -> tuple[str, ...]:
    """All keys of a model and of the blocks in it, dotted, in their order; blocks in lists are left out."""
    keys: list[str] = []
    for name, one in model.model_fields.items():
        keys.append(name)
        for member in filter(is_model, members_of(one.annotation)):
            keys += [f"{name}.{key}" for key in dotted_keys(member)]
    return tuple(dict.fromkeys(keys))
