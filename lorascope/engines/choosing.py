"""Which engine answers: the built-in ones by name, others by the entry point group ``lorascope.engines``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from lorascope.engines.base import Engine
from lorascope.engines.cache import AnswerCache
from lorascope.errors import UsageError

GROUP = "lorascope.engines"
"""An entry point of this group is a factory: ``factory(options: EngineOptions) -> Engine``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the user said about the engine; a factory takes what it understands and refuses what it cannot do.

    ``url``, ``api_key_env`` (the name of the variable that holds the key) and ``concurrency`` are for engines that ask
    a server, ``device``, ``dtype``, ``batch_size`` and ``merge`` for those that run the model themselves. The ``cache``
    is opened and closed by the caller.
    """

    url: str | None = None
    api_key_env: str | None = None
    concurrency: int = 8
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int | None = None
    merge: Literal["auto", "never"] = "auto"
    cache: AnswerCache | None = None


def open_engine(
    name: str,
    *,
    url: str | None = None,
    api_key_env: str | None = None,
    concurrency: int = 8,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    merge: Literal["auto", "never"] = "auto",
    cache: AnswerCache | None = None,
) -> Engine:
    """The engine of that name: ``transformers``, ``openai``, or one that an installed package registers.

    Raises:
        UsageError: there is no such engine, it cannot be imported, or the options do not fit it.
    """
    options = EngineOptions(
        url=url,
        api_key_env=api_key_env,
        concurrency=concurrency,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        merge=merge,
        cache=cache,
    )
    if name in _BUILT_IN:
        return _BUILT_IN[name](options)
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(engine_names())
        raise UsageError(f"there is no engine named {name!r}", remedy=f"choose from {known}")
    engine: Engine = _loaded(found[name])(options)
    return engine


def engine_names() -> list[str]:
    """Names that :func:`open_engine` knows here, the built-in ones first."""
    others = sorted({point.name for point in entry_points(group=GROUP)} - set(_BUILT_IN))
    return [*_BUILT_IN, *others]


def _loaded(point: EntryPoint) -> Callable[[EngineOptions], Any]:
    try:
        factory = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the engine {point.name!r} cannot be imported: {error}",
            where=f"entry point {point.value} of group {GROUP}",
            remedy="mend or remove the package that registers it",
        ) from error
    if not callable(factory):
        raise UsageError(f"the engine {point.name!r} is no factory", where=f"entry point {point.value}")
    return factory  # type: ignore[no-any-return]


def _transformers(options: EngineOptions) -> Engine:
    if options.url is not None or options.api_key_env is not None:
        raise UsageError(
            "an address or an API key was given, and the transformers engine asks no server",
            remedy="add --engine openai, or leave them out",
        )
    from lorascope.engines.transformers_engine import TransformersEngine

    return TransformersEngine(
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
        merge=options.merge,
        cache=options.cache,
    )


def _openai(options: EngineOptions) -> Engine:
    if options.url is None:
        raise UsageError("the openai engine needs the server's address", remedy="add --url http://localhost:8000/v1")
    from lorascope.engines.openai_engine import OpenAIEngine

    return OpenAIEngine(
        options.url, api_key_env=options.api_key_env, concurrency=options.concurrency, cache=options.cache
    )


_BUILT_IN: dict[str, Callable[[EngineOptions], Engine]] = {"transformers": _transformers, "openai": _openai}
