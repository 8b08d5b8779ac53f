"""Replay texts that the base writes before its first step, kept in the run's folder: a resumed run reads them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import TrainingArguments

from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.loading import LoadedBase
from lorascope.training.replay_writing import ReplayText, replay_from_lines, replay_lines, write_replay_texts

REPLAY_FILE = "replay.jsonl"
_NOTES = "replay.notes.txt"


def written_replay(
    recipe: Recipe,
    data: TrainingData,
    base: LoadedBase,
    context: int | None,
    folder: Path,
    arguments: TrainingArguments,
    say: Callable[[str], None],
) -> tuple[list[ReplayText], tuple[str, ...]]:
    """The texts, and what there is to know of them. The first process writes them, the others wait and read.

    Raises:
        ConfigError, EvaluationError: as :func:`write_replay_texts`.
    """
    assert recipe.replay is not None
    path, notes = folder / REPLAY_FILE, folder / _NOTES
    with arguments.main_process_first(local=False):
        if not path.is_file():
            say(f"The base writes {recipe.replay.items} texts for its own replay.")
            written = write_replay_texts(
                base.model,
                base.tokenizer,
                recipe.replay,
                data.prompts,
                seed=recipe.seed,
                device=arguments.device,
                context_length=context,
            )
            notes.write_text("\n".join(written.notes), encoding="utf-8")
            part = path.with_suffix(".part")
            part.write_text(replay_lines(written.texts), encoding="utf-8")
            part.replace(path)
    texts = replay_from_lines(path.read_text(encoding="utf-8"), where=str(path))
    return texts, tuple(notes.read_text(encoding="utf-8").splitlines())
