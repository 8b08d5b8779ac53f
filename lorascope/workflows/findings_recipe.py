"""The recipe that follows the advice of a report: what its findings ask for, laid over the recipe of the run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorascope.data.documents import key_lines, write_yaml
from lorascope.data.recipes import LOCK_NAME, LoadedRecipe, load_recipe, resolved_recipe
from lorascope.errors import OutputError, UsageError
from lorascope.schema.comparison import CheckpointInfo, Comparison, Finding
from lorascope.schema.recipe import Recipe
from lorascope.workflows.findings_advice import Advice, Case, Change, advise
from lorascope.workflows.output import short_name, write_whole
from lorascope.workflows.publish import load_result

_WIDTH = 108
_EVIDENCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRecipe:
    """What the findings of one subject make of its recipe.

    ``path`` is the file that was written, None where nothing is to change; then ``recipe`` is the one there was.
    ``applied`` are the changes in it by key, each with all findings that ask for it; ``passed_over`` are sentences
    about what was not applied; ``left`` are severe findings that ask for something other than a changed recipe.
    """

    subject: str
    source: Path
    recipe: Recipe
    path: Path | None
    applied: tuple[tuple[Change, ...], ...]
    passed_over: tuple[str, ...]
    left: tuple[Finding, ...]


def write_next_recipe(
    result: Path,
    *,
    subject: str | None = None,
    recipe: Path | None = None,
    write: Path | None = None,
    overwrite: bool = False,
) -> NextRecipe:
    """Write the recipe that follows the findings in ``result`` about ``subject`` (left out: the only one).

    The run's own recipe is ``recipe.lock.yaml`` in the subject's folder, else ``recipe``. The new file is ``write``,
    else ``<subject>-advised.yaml`` in the current folder; every change in it has a comment with the finding that asks
    for it. Its ``out`` is a folder that is not there yet. Where there is nothing to change, nothing is written.

    Raises:
        UsageError: the subject is not clear, or the folder holds no lock and no recipe is given.
        OutputError: the file is there already (``overwrite`` replaces it), or cannot be written.
        DataError, ConfigError: the result or the recipe cannot be read.
    """
    comparison = load_result(result)
    checkpoint = _subject(comparison, subject)
    loaded = _recipe_of(checkpoint, recipe)
    target = write or Path(f"{short_name(checkpoint.name)}-advised.yaml")
    if target.exists() and not overwrite:
        raise OutputError("there is such a file already", where=str(target), remedy="name another, or add --overwrite")
    findings = [finding for finding in comparison.findings if finding.subject == checkpoint.name]
    before = resolved_recipe(loaded.recipe, loaded.root)
    advice = advise(Case(before, findings, comparison.base.architecture))
    plain = before.model_dump(mode="json", exclude_defaults=True)
    applied, refused = _applied(plain, advice)
    passed_over = (*advice.contradictions, *refused)
    after = Recipe.model_validate(plain)
    if applied:
        plain["out"] = _free_folder(before.out)
        after = Recipe.model_validate(plain)
        text = _commented(plain, applied, passed_over, _head(result, checkpoint.name, loaded.path))
        write_whole(target, lambda part: part.write_text(text, encoding="utf-8"))
    return NextRecipe(
        subject=checkpoint.name,
        source=loaded.path,
        recipe=after,
        path=target if applied else None,
        applied=applied,
        passed_over=passed_over,
        left=advice.left,
    )


def _subject(comparison: Comparison, name: str | None) -> CheckpointInfo:
    subjects = comparison.subjects
    names = ", ".join(one.name for one in subjects)
    if name is None and len(subjects) == 1:
        return subjects[0]
    if name is None:
        raise UsageError(f"the result has {len(subjects)} subjects: {names}", remedy="name one with --subject")
    found = next((one for one in subjects if one.name == name), None)
    if found is None:
        raise UsageError(f"the result has no subject '{name}'", remedy=f"its subjects are {names}")
    return found


def _recipe_of(checkpoint: CheckpointInfo, given: Path | None) -> LoadedRecipe:
    if given is not None:
        return load_recipe(given)
    folder = Path(checkpoint.path)
    folders = [folder, folder.parent] if folder.name.startswith("checkpoint-") else [folder]
    lock = next((place / LOCK_NAME for place in folders if (place / LOCK_NAME).is_file()), None)
    if lock is None:
        raise UsageError(
            f"the folder of {checkpoint.name} holds no {LOCK_NAME}: which recipe made it is not known",
            where=checkpoint.path,
            remedy="give its recipe with --recipe FILE",
        )
    return load_recipe(lock)


def _applied(plain: dict[str, Any], advice: Advice) -> tuple[tuple[tuple[Change, ...], ...], list[str]]:
    """Lay the changes into ``plain``; one that makes no valid recipe is taken back and told of."""
    applied, refused = [], []
    for asked in advice.changes:
        change = asked[0]
        trial = _laid(plain, change)
        try:
            Recipe.model_validate(trial)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            refused.append(f"{change.key}: {change.finding.id} asks for {change.value}, but {said}")
            continue
        plain.clear()
        plain.update(trial)
        applied.append(asked)
    return tuple(applied), refused


def _laid(plain: dict[str, Any], change: Change) -> dict[str, Any]:
    """A copy with the change in it; a block that stands at its defaults is written for it."""
    trial = dict(plain)
    here = trial
    *parents, last = change.key.split(".")
    for part in parents:
        here[part] = dict(here.get(part) or {})
        here = here[part]
    here[last] = change.value
    return trial


def _free_folder(out: str) -> str:
    """``<out>-advised``, with a number where that is there already."""
    place, number = Path(f"{out}-advised"), 1
    while place.exists() or place.with_name(f"{place.name}.partial").exists():
        number += 1
        place = Path(f"{out}-advised-{number}")
    return str(place)


def _head(result: Path, subject: str, source: Path) -> list[str]:
    return [f"The recipe {source} with what the findings about {subject} in {result} ask for.", ""]


def _commented(
    plain: dict[str, Any],
    applied: Sequence[Sequence[Change]],
    passed_over: Sequence[str],
    head: list[str],
) -> str:
    """YAML with a comment above each changed key, and what was not applied at the top."""
    lines = write_yaml(plain).splitlines()
    where = key_lines("\n".join(lines))
    notes = [(where[tuple(asked[0].key.split("."))], _reasons(asked)) for asked in applied]
    notes.append((where[("out",)], ["A new folder, so that the run it is compared with stays."]))
    for line, reasons in sorted(notes, key=lambda note: note[0], reverse=True):
        indent = " " * (len(lines[line]) - len(lines[line].lstrip()))
        lines[line:line] = [f"{indent}{text}" for reason in reasons for text in _comment(reason, _WIDTH - len(indent))]
    top = [*head, *(f"Not applied, {text}" for text in passed_over)]
    return "\n".join([*(line for text in top if text for line in _comment(text, _WIDTH)), *lines, ""])


def _reasons(asked: Sequence[Change]) -> list[str]:
    before = "not set" if asked[0].before is None else asked[0].before
    reasons = [f"Was: {before}."]
    for change in asked:
        evidence = " ".join(_sentence(text) for text in change.finding.evidence[:_EVIDENCE])
        reasons.append(f"{change.finding.id}: {_sentence(change.finding.title)} {evidence}".rstrip())
    return reasons


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _comment(text: str, width: int) -> list[str]:
    """Lines of a comment; control characters, which YAML does not allow even there, are left out."""
    return textwrap.wrap(
        "".join(character for character in " ".join(text.split()) if character.isprintable()),
        width,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
