"""Answers of trained heads: class probabilities, scores, tags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lorascope.engines.base import Outcome, Size, Subject
from lorascope.engines.holding import Ready
from lorascope.engines.loading import head_names
from lorascope.engines.scoring import not_finite
from lorascope.errors import ConfigError, DataError, EvaluationError
from lorascope.schema.items import LabelsAnswer, LabelsItem, ScoreAnswer, ScoreItem, TokensAnswer, TokensItem
from lorascope.schema.suite import SuiteTask, labels_in_words, right_labels

_GENERIC_NAME = re.compile(r"LABEL_\d+")
_OUTSIDE = "O"


def label_order(subject: Subject, task: SuiteTask) -> tuple[str, ...]:
    """The labels in the order of a :class:`LabelsAnswer`: the task's own list, else the head's names.

    Raises:
        ConfigError: neither the task nor the checkpoint names the labels.
    """
    names = tuple(task.labels or subject.labels or ())
    if not names or (task.labels is None and _generic(names)):
        raise ConfigError(
            f"the head of '{subject.name}' does not say what its labels are",
            where=f"task '{task.name}'",
            remedy="give 'labels' in the suite (--labels FILE without one), in the order of the head's outputs",
        )
    return names


def _generic(names: Sequence[str]) -> bool:
    return all(_GENERIC_NAME.fullmatch(name) for name in names)


def _columns(ready: Ready, task: SuiteTask, *, all_needed: bool) -> tuple[tuple[str, ...], list[int]]:
    """The task's labels and which output of the head each of them is.

    A head with generic names takes the suite's list as the order of its outputs; a head with real names is matched by
    name. With ``all_needed`` no output may be left over, for then probabilities would not sum to one.
    """
    subject = ready.subject
    own = subject.labels or head_names(ready.plain.config)
    where = f"task '{task.name}', '{subject.name}'"
    if task.labels is None and _generic(own):
        label_order(subject, task)
    wanted = tuple(task.labels or own)
    if _generic(own):
        if len(wanted) != len(own):
            raise ConfigError(
                f"the list has {len(wanted)} labels, the head {len(own)} outputs",
                where=where,
                remedy="name every output of the head, in its order",
            )
        return wanted, list(range(len(own)))
    unknown = [name for name in wanted if name not in own]
    left = [name for name in own if name not in wanted] if all_needed else []
    if unknown or left:
        told = labels_in_words(unknown or left)
        problem = f"does not know the labels {told}" if unknown else f"also knows {told}"
        sizes = "" if len(wanted) == len(own) else f" (the list has {len(wanted)} labels, the head {len(own)} outputs)"
        remedy = (
            right_labels(unknown[0], own) if unknown else "name every output of the head where items have one label"
        )
        raise ConfigError(f"the head {problem}{sizes}", where=where, remedy=remedy)
    return wanted, [own.index(name) for name in wanted]


def _refuse_unknown(items: Sequence[tuple[str, Sequence[str]]], known: Sequence[str], ready: Ready) -> None:
    allowed = set(known)
    unknown = [(item_id, name) for item_id, names in items for name in names if name not in allowed]
    if unknown:
        names = sorted({name for _, name in unknown})
        raise DataError(
            f"the data has labels that '{ready.subject.name}' does not know: {labels_in_words(names)}",
            where=f"first in item {unknown[0][0]}",
            remedy=f"{unknown[0][1]}: {right_labels(unknown[0][1], known)}",
        )


Features = dict[str, list[int]]


def features(ready: Ready, text: str, pair: str | None) -> tuple[Features, int]:
    """The tokenizer's inputs of one text or pair, cut to the context, and how many tokens were lost."""
    whole = ready.tokenizer(text, pair, verbose=False)
    lost = max(0, len(whole["input_ids"]) - ready.context)
    if lost:
        whole = ready.tokenizer(text, pair, truncation=True, max_length=ready.context)
    return _model_inputs(ready, whole), lost


def _model_inputs(ready: Ready, encoded: Mapping[str, Any]) -> Features:
    return {name: list(encoded[name]) for name in ready.tokenizer.model_input_names if name in encoded}


def collate(ready: Ready, rows: Sequence[Features]) -> dict[str, torch.Tensor]:
    """Padded on the right, whatever side the tokenizer prefers, so that positions do not move."""
    fill = {"input_ids": ready.pad_id, "token_type_ids": ready.tokenizer.pad_token_type_id}
    width = max(len(row["input_ids"]) for row in rows)
    for row in rows:
        ready.refuse_unknown(row["input_ids"])
    batch = {}
    for name in rows[0]:
        filled = [row[name] + [fill.get(name, 0)] * (width - len(row[name])) for row in rows]
        batch[name] = torch.tensor(filled, dtype=torch.long, device=ready.device)
    return batch


def _logits(ready: Ready, rows: Sequence[Features]) -> torch.Tensor:
    logits: torch.Tensor = ready.model(**collate(ready, rows)).logits.float()
    if not torch.isfinite(logits).all():
        raise not_finite(ready)
    return logits.cpu()


def _let_classifier_see_padding(ready: Ready) -> None:
    """Classifiers on decoders read the last token that is not padding, and know it only from the configuration."""
    if ready.plain.config.pad_token_id is None:
        ready.plain.config.pad_token_id = ready.pad_id


class LabelsAsker:
    """Class probabilities: sigmoid per label where items may have several, else softmax."""

    def __init__(self, ready: Ready, task: SuiteTask, items: Sequence[LabelsItem]) -> None:
        """Encode the texts and match the labels.

        Raises:
            ConfigError: the head's labels are unnamed or are not those of the suite.
            DataError: items have labels that the head does not know, or only some of them may have several.
        """
        self._multi = items[0].multi if task.multi_label is None else task.multi_label
        if task.multi_label is None and any(item.multi != self._multi for item in items):
            raise DataError("only some items may have several labels", remedy="give multi_label in the suite")
        names, self._order = _columns(ready, task, all_needed=not self._multi)
        if len(names) < 2 and not self._multi:
            raise EvaluationError(f"'{ready.subject.name}' has a head of one output, which is no choice among labels")
        _refuse_unknown([(item.item_id, item.labels) for item in items], names, ready)
        _let_classifier_see_padding(ready)
        self._ready = ready
        encoded = [features(ready, item.text, item.text_pair) for item in items]
        self._rows, self._cut = [row for row, _ in encoded], [cut for _, cut in encoded]
        self.sizes = [Size(len(row["input_ids"])) for row in self._rows]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Probabilities of the task's labels for the items at ``indices``."""
        logits = _logits(self._ready, [self._rows[index] for index in indices])
        probabilities = torch.sigmoid(logits) if self._multi else torch.softmax(logits, dim=-1)
        rows = probabilities[:, self._order].tolist()
        return [
            Outcome(LabelsAnswer(probabilities=tuple(row)), self._cut[index])
            for row, index in zip(rows, indices, strict=True)
        ]


class ScoreAsker:
    """Real values of a head with one output."""

    def __init__(self, ready: Ready, items: Sequence[ScoreItem]) -> None:
        """Encode the texts; an EvaluationError when the head has more than one output."""
        outputs = int(ready.plain.config.num_labels)
        if outputs != 1:
            raise EvaluationError(
                f"'{ready.subject.name}' has a head of {outputs} outputs, and a score needs exactly one",
                where=str(ready.subject.path),
                remedy="use kind: labels",
            )
        _let_classifier_see_padding(ready)
        self._ready = ready
        encoded = [features(ready, item.text, item.text_pair) for item in items]
        self._rows, self._cut = [row for row, _ in encoded], [cut for _, cut in encoded]
        self.sizes = [Size(len(row["input_ids"])) for row in self._rows]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Predicted values for the items at ``indices``."""
        values = _logits(self._ready, [self._rows[index] for index in indices])[:, 0].tolist()
        return [Outcome(ScoreAnswer(value=v), self._cut[i]) for v, i in zip(values, indices, strict=True)]


class TokensAsker:
    """One tag per word, read at the word's first sub-token; words beyond the context get ``O`` and are counted."""

    def __init__(self, ready: Ready, task: SuiteTask, items: Sequence[TokensItem]) -> None:
        """Encode the words and match the tags.

        Raises:
            ConfigError: the head's tags are unnamed or are not those of the suite.
            DataError: items have tags that the head does not know.
            EvaluationError: the tokenizer cannot say which word a sub-token belongs to.
        """
        if not ready.tokenizer.is_fast:
            raise EvaluationError("tagging needs a tokenizer that maps sub-tokens to words", where=ready.subject.name)
        names, order = _columns(ready, task, all_needed=False)
        _refuse_unknown([(item.item_id, item.tags) for item in items], names, ready)
        self._names, self._order, self._ready, self._items = names, order, ready, items
        self._rows: list[Features] = []
        self._firsts: list[dict[int, int]] = []
        for item in items:
            encoded = ready.tokenizer(
                list(item.tokens), is_split_into_words=True, truncation=True, max_length=ready.context
            )
            self._rows.append(_model_inputs(ready, encoded))
            self._firsts.append(_first_positions(encoded.word_ids()))
        self.sizes = [Size(len(row["input_ids"])) for row in self._rows]

    def ask(self, indices: Sequence[int]) -> list[Outcome]:
        """Tags of the items at ``indices``."""
        logits = _logits(self._ready, [self._rows[index] for index in indices])
        best = logits[:, :, self._order].argmax(dim=-1).tolist()
        return [self._outcome(index, row) for index, row in zip(indices, best, strict=True)]

    def _outcome(self, index: int, best: list[int]) -> Outcome:
        firsts, words = self._firsts[index], len(self._items[index].tokens)
        tags = tuple(self._names[best[firsts[word]]] if word in firsts else _OUTSIDE for word in range(words))
        cut = words - 1 - max(firsts, default=-1) if self._is_full(index) else 0
        return Outcome(TokensAnswer(tags=tags, cut=cut), cut)

    def _is_full(self, index: int) -> bool:
        return len(self._rows[index]["input_ids"]) >= self._ready.context


def _first_positions(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Word number to the position of its first sub-token; words that the tokenizer drops are not in it."""
    firsts: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            firsts.setdefault(word, position)
    return firsts
