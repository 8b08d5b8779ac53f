"""What is measured of a language model while it is trained: the distance from its base, and the built-in probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.data.probe import load_probe
from lorascope.measures.choices import score_choices
from lorascope.schema.items import ChoiceItem
from lorascope.schema.recipe import Recipe
from lorascope.schema.suite import SuiteTask

if TYPE_CHECKING:
    from lorascope.training.trainer import LiveMeasure

_SHOWN = ("accuracy", "gold_margin")


def live_measures(recipe: Recipe) -> Callable[[Path, Rows], Sequence[LiveMeasure]]:
    """What a run of this recipe measures at its evaluations, given its folder and its encoded validation rows."""

    def made(folder: Path, rows: Rows) -> Sequence[LiveMeasure]:
        from lorascope.training.base_divergence import BaseDivergence

        measures: list[LiveMeasure] = []
        chosen, first = recipe.evaluation, next(iter(rows), None)
        if recipe.task.kind == "generate" and chosen.kl_to_base and first is not None:
            measures.append(BaseDivergence(rows[first][: chosen.kl_to_base], folder))
        if chosen.probe:
            measures.append(probe_measure(recipe))
        return measures

    return made


Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def probe_measure(recipe: Recipe) -> LiveMeasure:
    """``probe_<language>_accuracy`` and ``…_gold_margin`` of the probe's choices; its short answers are not asked."""
    from lorascope.engines.live import ask_choices

    tasks: dict[str, tuple[SuiteTask, list[ChoiceItem]]] = {}
    for language in recipe.evaluation.probe:
        loaded = next(
            each for each in load_probe((language,), limit=recipe.evaluation.probe_items) if each.kind == "choice"
        )
        tasks[language] = (loaded.spec, [item for item in loaded.items if isinstance(item, ChoiceItem)])

    def measured(model: Any, tokenizer: Any) -> Mapping[str, float]:
        found = {}
        for language, (task, items) in tasks.items():
            answers = ask_choices(model, tokenizer, task, items)
            scored = score_choices(
                [answer.logprobs for answer in answers],
                [item.answer for item in items],
                [item.choices for item in items],
            )
            for name in _SHOWN:
                value = scored[name].value
                if value is not None:
                    found[f"probe_{language}_{name}"] = value
        return found

    return measured
