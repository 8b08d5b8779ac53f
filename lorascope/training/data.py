"""What a run is trained and validated on, as items: the seam between reading data and training on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lorascope.schema.items import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Items by their use.

    ``labels`` is the head's label list in its order, empty for tasks without labels. ``replay`` are general items from
    which ``replay.ratio`` draws. ``weights`` holds one weight a training item, in their order, where
    ``loss.sample_weights`` names a field. ``general`` is what elastic weight consolidation reads. ``prompts`` are what
    the base answers where it writes the replay texts itself.
    """

    train: tuple[Item, ...]
    validation: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    replay: tuple[Item, ...] = ()
    general: tuple[Item, ...] = ()
    prompts: tuple[Item, ...] = ()
    weights: tuple[float, ...] | None = None
