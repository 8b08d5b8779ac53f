"""What determines a run, hashed: the same run is recognised by it, a different one refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lorascope.schema.items import Item
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData

_PLACES: dict[str, Any] = {
    "base": True,
    "out": True,
    "hardware": True,
    "task": {"train", "validation"},
    "replay": {"data", "prompts"},
    "optim": {"ewc": {"data"}},
}
"""Where things lie and where they are computed: what lies there is hashed itself."""


def run_record(recipe: Recipe, data: TrainingData, *, start: str) -> dict[str, Any]:
    """What ``training.json`` holds: ``fingerprint``, ``start``, the settings, and the size of each data set.

    The fingerprint is the SHA-256 over settings, every item in order, and ``start``: a text that stands for the weights
    the run starts from, like a hash of them. Paths and hardware are not in it.
    """
    settings = settings_of(recipe)
    sets = {"train": data.train, **{f"validation:{name}": items for name, items in data.validation.items()}}
    sets |= {"replay": data.replay, "general": data.general, "prompts": data.prompts}
    content = {
        "settings": settings,
        "start": start,
        "items": {name: _digest(items) for name, items in sets.items()},
        "labels": data.labels,
        "weights": data.weights,
    }
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return {
        "fingerprint": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        "start": start,
        "settings": settings,
        "rows": {name: len(items) for name, items in sets.items() if items},
    }


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """All settings that change what is learned, with presets and defaults written out."""
    dropout, method = recipe.structured_dropout, recipe.method
    if not method.rank_pattern:  # with ranks of their own, modules have an alpha of their own where none is given
        method = method.model_copy(update={"alpha": method.scaling_alpha})
    plain = recipe.model_copy(
        update={
            "method": method,
            "structured_dropout": dropout and dropout.resolved().model_copy(update={"preset": None}),
        }
    )
    return plain.model_dump(mode="json", exclude=_PLACES)


def _digest(items: Iterable[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(asdict(item), ensure_ascii=False, sort_keys=True).encode("utf-8"))
        digest.update(b"\n")
    return digest.hexdigest()
