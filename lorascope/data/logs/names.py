"""Which curve a logged name stands for, over the spellings of trainers, loggers and exports.

========== ==========================================================================================================
step       ``step``, ``global_step``, ``train/global_step``, ``trainer/global_step``, ``current_steps``,
           ``global_step/max_steps`` (``"11/20"``), ``steps``, ``iteration``, ``iter``, ``_step``
train      ``loss``, ``train/loss``, ``train_loss``, ``training_loss``, ``train_loss_step``
validation ``<v>_loss`` or ``<v>/loss``, of a named set ``<v>_<set>_loss`` or ``<v>/<set>_loss``, where ``<v>`` is
           ``eval``, ``val``, ``valid`` or ``validation``; ``val1_loss`` is the set ``val1``
metric     any other ``<v>_…`` or ``<v>/…`` except timings and memory
others     ``grad_norm``, ``gradient_norm``, ``learning_rate``, ``lr``, ``epoch``, with or without ``train/``
========== ==========================================================================================================

Case does not count, and blanks are underscores (``Training Loss``).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["train", "eval", "metric", "grad_norm", "learning_rate", "epochs"]

# In falling order of exactness: W&B's own counter counts calls of its log function, so an optimizer step wins over it.
STEP_NAMES = (
    "step",
    "global_step/max_steps",
    "current_steps",
    "train/global_step",
    "trainer/global_step",
    "global_step",
    "steps",
    "iteration",
    "iter",
    "_step",
)
TOTAL_NAMES = ("total_steps", "max_steps")
_PLAIN: dict[str, Kind] = {
    "loss": "train",
    "train/loss": "train",
    "train_loss": "train",
    "training_loss": "train",
    "train_loss_step": "train",
    "grad_norm": "grad_norm",
    "train/grad_norm": "grad_norm",
    "gradient_norm": "grad_norm",
    "train/gradient_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "train/learning_rate": "learning_rate",
    "lr": "learning_rate",
    "train/lr": "learning_rate",
    "epoch": "epochs",
    "train/epoch": "epochs",
}
PREFERENCE = tuple(_PLAIN)
_NUMBERED_SET = re.compile(r"^(?P<set>(?:eval|val|valid|validation)-?\d+)[_/]loss$", re.IGNORECASE)
_VALIDATION = re.compile(r"^(?:eval|val|valid|validation)[_/](?P<rest>.+)$", re.IGNORECASE)
_SET_LOSS = re.compile(r"^(?P<set>.+)[_/]loss$", re.IGNORECASE)
_UNASKED = re.compile(
    r"(?:^|[_/])(?:runtime|\w+_per_second|num_\w+_seen|model_preparation_time|jit_compilation_time|mem_[a-z]+_\w+|epoch|step)$",
    re.IGNORECASE,
)


class Role(NamedTuple):
    """What a name stands for; ``name`` is the validation set, or the metric with its set still in front."""

    kind: Kind
    name: str = ""


def plain(name: str) -> str:
    """The name in lower case, blanks as underscores."""
    return "_".join(name.strip().lower().split())


def printable(name: str) -> str:
    """The name with characters that no terminal should get (control, direction, broken ones) written as escapes."""
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode("ascii")
        for character in name
    )


@lru_cache(maxsize=4096)
def role_of(name: str) -> Role | None:
    """The role of a logged name; None for what is not read."""
    kind = _PLAIN.get(plain(name))
    if kind is not None:
        return Role(kind)
    spelled = printable("_".join(name.split()))
    numbered = _NUMBERED_SET.match(spelled)
    if numbered is not None:
        return Role("eval", numbered["set"])
    matched = _VALIDATION.match(spelled)
    if matched is None:
        return None
    rest = matched["rest"]
    if rest.lower() == "loss":
        return Role("eval", "eval")
    of_set = _SET_LOSS.match(rest)
    if of_set is not None:
        return Role("eval", of_set["set"])
    return None if _UNASKED.search(rest) else Role("metric", rest)


def split_metric(name: str, sets: list[str]) -> tuple[str, str]:
    """Set and metric of ``val1_accuracy``: the longest of the ``sets`` that it begins with, else ``eval``."""
    for known in sorted(sets, key=len, reverse=True):
        if (
            name[: len(known)] == known
            and name[len(known) : len(known) + 1] in ("_", "/")
            and len(name) > len(known) + 1
        ):
            return known, name[len(known) + 1 :]
    return "eval", name
