"""Recipe, items and model joined: what the trainer is given, made in the one order that is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments

from lorascope.errors import ConfigError
from lorascope.schema.items import Item, LabelsItem
from lorascope.schema.recipe import PROMPTS, Recipe, TrainedKind
from lorascope.training.arguments import total_steps
from lorascope.training.collapse import CollapseAlarm
from lorascope.training.collapse_watch import CollapseWatch
from lorascope.training.collating import Collator, collator_for
from lorascope.training.counting import divides_by_count
from lorascope.training.data import TrainingData
from lorascope.training.encoding import Encoded, Row, encode_items
from lorascope.training.fisher import diagonal_fisher
from lorascope.training.label_statistics import LabelStatistics, label_matrix, label_statistics
from lorascope.training.loading import LoadedBase
from lorascope.training.losses import LossFunction, build_loss, normalised_weights
from lorascope.training.losses_plateau import plateau_loss
from lorascope.training.masking import MaskedRows
from lorascope.training.methods import prepare_model
from lorascope.training.optimising import warmup_steps
from lorascope.training.own_replay import written_replay
from lorascope.training.packing import check_packing, pack_rows
from lorascope.training.penalties import Penalties, check_penalties
from lorascope.training.replay import encode_replay, mix_replay
from lorascope.training.resuming import method_callbacks
from lorascope.training.sampling import BalancedSampler, EpochTold, balanced_weights
from lorascope.training.stopping import check_strips
from lorascope.training.structured_dropout import Compensation, apply_structured_dropout
from lorascope.training.trainer import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What the trainer works on. ``finish`` has to be called when training is over, before anything is saved."""

    model: Any
    tokenizer: Any
    new_weights: tuple[str, ...]
    train: Any
    validation: dict[str, Sequence[Row]]
    collator: Collator
    objective: Objective
    sampler: Callable[[], Sampler[int]] | None
    kept_of_logits: Callable[..., torch.Tensor]
    callbacks: list[TrainerCallback]
    alarm: CollapseWatch | None
    notes: tuple[str, ...]
    finish: Callable[[], None]


@dataclass(slots=True)
class _Rows:
    """Encoded training rows on their way: with replay, packed, masked. ``places`` are those of their items."""

    rows: list[Row]
    places: tuple[int | None, ...]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a run is made in: the trainer's arguments, the folder of the unfinished run, and who is told of it.

    ``room`` says of a model and its tokenizer how many tokens it takes, and how many an encoder–decoder can write.
    """

    arguments: TrainingArguments
    folder: Path
    room: Callable[[Any, Any], tuple[int | None, int | None]]
    say: Callable[[str], None]


def assemble(recipe: Recipe, data: TrainingData, base: LoadedBase, around: Surroundings) -> Assembled:
    """Encode the items, prepare the model by the recipe's method, and choose the loss.

    Raises:
        DataError: an item cannot be used.
        ConfigError: model and recipe do not go together.
    """
    encode = _encoder(recipe, data, base, around)
    train, validation, notes = _encoded(recipe, data, base, encode, around)
    steps = total_steps(recipe, len(train.rows))
    check_strips(recipe, steps)
    counts = recipe.task.kind == "generate" and divides_by_count(base.model)
    check_penalties(recipe, base.new_weights)
    model = prepare_model(base.model, recipe, total_steps=steps, new_weights=base.new_weights)
    fisher = _fisher(recipe, data, base, encode)
    if recipe.task.packing:
        check_packing(model)
    dropout = recipe.structured_dropout
    applied = None if dropout is None else apply_structured_dropout(model, dropout)
    if applied is not None:
        notes.append(applied.description)
    penalties = Penalties.from_recipe(model, recipe, new_weights=base.new_weights, fisher=fisher)
    statistics = _statistics(recipe, data, train)
    loss = _loss(recipe, data, statistics, model, counts=counts)
    alarm = _alarm(recipe, data, train, loss, steps, around)
    sampler = _sampler(recipe, data, train, statistics)
    rows: Any = train.rows
    if recipe.task.mask_tokens:
        rows = MaskedRows(train.rows, base.tokenizer, recipe.task.mask_tokens, seed=recipe.seed)
        notes.append(rows.note)
    return Assembled(
        model=model,
        tokenizer=base.tokenizer,
        new_weights=base.new_weights,
        train=rows,
        validation=validation,
        collator=collator_for(model, base.tokenizer, multiple=_multiple(around.arguments)),
        objective=Objective(
            loss=loss,
            compensation=_compensation(recipe, data, model),
            penalties=penalties,
        ),
        sampler=None if sampler is None else lambda: sampler,
        kept_of_logits=_kept_of_logits(recipe, model),
        callbacks=_callbacks(recipe, model, alarm, rows, sampler),
        alarm=alarm,
        notes=(*base.notes, *notes),
        finish=applied.remove if applied is not None else lambda: None,
    )


def _statistics(recipe: Recipe, data: TrainingData, train: _Rows) -> LabelStatistics | None:
    return label_statistics(_label_sets(data, train), data.labels) if recipe.task.kind == "labels" else None


def _label_sets(data: TrainingData, train: _Rows) -> list[tuple[str, ...]]:
    """The labels of the items that are trained on, in the order of their rows; too long ones may be left out."""
    kept = [data.train[place] for place in train.places if place is not None]
    return [item.labels for item in kept if isinstance(item, LabelsItem)]


def _multiple(arguments: TrainingArguments) -> int:
    """Tensor cores work on lengths that are multiples of eight."""
    return 8 if arguments.device.type == "cuda" else 1


def _callbacks(
    recipe: Recipe, model: Any, alarm: CollapseWatch | None, rows: Any, sampler: Any
) -> list[TrainerCallback]:
    found: list[TrainerCallback] = [] if alarm is None else [alarm]
    found.extend(method_callbacks(model, recipe.method))
    told = [each for each in (rows, sampler) if isinstance(each, MaskedRows | BalancedSampler)]
    return [*found, EpochTold(told)] if told else found


Encode = Callable[[Sequence[Item], str], Encoded]


def _encoder(recipe: Recipe, data: TrainingData, base: LoadedBase, around: Surroundings) -> Encode:
    context, written = around.room(base.model, base.tokenizer)

    def encode(items: Sequence[Item], name: str) -> Encoded:
        return encode_items(
            items,
            recipe.task,
            base.tokenizer,
            name=name,
            labels=data.labels,
            multi_label=data.multi_label,
            encoder_decoder=bool(base.model.config.is_encoder_decoder),
            context_length=None if context is None else context - _taken(recipe),
            target_length=written,
        )

    return encode


def _taken(recipe: Recipe) -> int:
    """Places of the model's context that virtual tokens take."""
    return recipe.method.virtual_tokens if recipe.method.name in PROMPTS else 0


def _encoded(
    recipe: Recipe, data: TrainingData, base: LoadedBase, encode: Encode, around: Surroundings
) -> tuple[_Rows, dict[str, Sequence[Row]], list[str]]:
    first = encode(data.train, "train")
    train = _Rows(first.rows, first.kept, list(first.notes))
    if recipe.replay is not None:
        train = _with_replay(recipe, data, base, train, encode, around)
    if recipe.task.packing:
        context, _ = around.room(base.model, base.tokenizer)
        packed = pack_rows(train.rows, min(recipe.task.max_length, context or recipe.task.max_length), seed=recipe.seed)
        train = _Rows(packed.rows, (), [*train.notes, *packed.notes])
    if data.weights is not None:
        _put_weights(train, data.weights)
    validation: dict[str, Sequence[Row]] = {}
    notes = list(train.notes)
    for name, items in data.validation.items():
        held_out = encode(items, name)
        validation[name] = held_out.rows
        notes += held_out.notes
    return train, validation, notes


def _with_replay(
    recipe: Recipe, data: TrainingData, base: LoadedBase, train: _Rows, encode: Encode, around: Surroundings
) -> _Rows:
    replay = recipe.replay
    assert replay is not None
    context, writable = around.room(base.model, base.tokenizer)
    texts: Sequence[Any] = data.replay
    told: tuple[str, ...] = ()
    if replay.data is None:
        texts, told = written_replay(recipe, data, base, context, around.folder, around.arguments, around.say)
    general = encode_replay(
        texts,
        recipe.task,
        base.tokenizer,
        encoder_decoder=bool(base.model.config.is_encoder_decoder),
        context_length=None if context is None else context - _taken(recipe),
        target_length=writable,
    )
    mixed = mix_replay(train.rows, general.rows, replay.ratio, recipe.seed)
    places = tuple(None if origin is None else train.places[origin] for origin in mixed.origins)
    return _Rows(mixed.rows, places, [*train.notes, *told, *general.notes, *mixed.notes])


def _put_weights(train: _Rows, weights: Sequence[float]) -> None:
    """Each row gets its item's weight as a column, of mean 1 over the items kept; replay counts like a mean item."""
    if not train.places:
        raise ConfigError(
            "rows that are packed have no weights of their own",
            where="loss.sample_weights",
            remedy="leave task.packing out",
        )
    normalised_weights(weights)  # names the item whose weight is none
    scaled = iter(normalised_weights([weights[place] for place in train.places if place is not None]))
    for row, place in zip(train.rows, train.places, strict=True):
        row["sample_weight"] = 1.0 if place is None else float(next(scaled))


def _loss(
    recipe: Recipe, data: TrainingData, statistics: LabelStatistics | None, model: Any, *, counts: bool
) -> LossFunction | None:
    """None leaves the loss to the model: a language model's cross entropy, where it divides it by the step's tokens."""
    if counts and recipe.loss.name in (None, "cross_entropy") and data.weights is None:
        return None
    return build_loss(
        recipe.loss,
        recipe.task.kind,
        multi_label=data.multi_label,
        statistics=statistics,
        shifted=not model.config.is_encoder_decoder,
    )


def _compensation(recipe: Recipe, data: TrainingData, model: Any) -> Compensation | None:
    dropout, kind = recipe.structured_dropout, recipe.task.kind
    if dropout is None:
        return None
    several = "multi_label" if data.multi_label else "single_label"
    text = "tokens" if model.config.is_encoder_decoder else "causal"
    compared: dict[TrainedKind, Any] = {"labels": several, "generate": text, "score": "score", "tokens": "tokens"}
    return Compensation.of(dropout, compared[kind])


def _fisher(recipe: Recipe, data: TrainingData, base: LoadedBase, encode: Encode) -> dict[str, torch.Tensor] | None:
    """The Fisher information of the base on general items, where the recipe holds to it."""
    if recipe.optim.ewc is None:
        return None
    collate, device = collator_for(base.model, base.tokenizer), next(base.model.parameters()).device
    rows = encode(data.general[: recipe.optim.ewc.items], "optim.ewc.data").rows
    batches = ({name: value.to(device) for name, value in collate([row]).items()} for row in rows)
    return diagonal_fisher(base.model, batches, kind=recipe.task.kind)


def _sampler(
    recipe: Recipe, data: TrainingData, train: _Rows, statistics: LabelStatistics | None
) -> BalancedSampler | None:
    if recipe.loss.sampler != "balanced" or statistics is None:
        return None
    return BalancedSampler(balanced_weights(_label_sets(data, train), statistics), seed=recipe.seed)


def _alarm(
    recipe: Recipe, data: TrainingData, train: _Rows, loss: LossFunction | None, steps: int, around: Surroundings
) -> CollapseWatch | None:
    if recipe.task.kind != "labels" or loss is None:
        return None
    level = _plateau(recipe, data, train, loss)
    alarm = CollapseAlarm(
        plateau=level, total_steps=steps, warmup_steps=warmup_steps(recipe.optim, steps), multi=data.multi_label
    )
    return CollapseWatch(alarm, multi=data.multi_label, labels=len(data.labels), plateau=level, say=around.say)


def _plateau(recipe: Recipe, data: TrainingData, train: _Rows, loss: LossFunction) -> float:
    """The lowest loss that a run can log while all outputs are alike, as its items are drawn and weighted."""
    sets, drawn, weights = _label_sets(data, train), None, None
    if recipe.loss.sampler == "balanced":
        drawn = balanced_weights(sets, label_statistics(sets, data.labels))
    if data.weights is not None:
        weights = np.array([data.weights[place] for place in train.places if place is not None])
    given = drawn if weights is None else weights * (1.0 if drawn is None else drawn)
    level = plateau_loss(loss, label_matrix(sets, data.labels), multi=data.multi_label, weights=given)
    if weights is None or drawn is None:
        return level
    # Weights have the mean 1 over the items and not over the draws.
    return level * float(np.average(weights, weights=drawn) / weights.mean())


def _first_logits(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    return logits[0] if isinstance(logits, tuple) else logits


def _best_tokens(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The best token for each label; it alone is kept, for all logits of a validation set would fill the memory."""
    return _first_logits(logits, labels).argmax(dim=-1)


def _next_tokens(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """The same for decoders, whose logits at one position are for the next label; nothing predicts the first one.

    Virtual tokens stand in front of the text, so positions are counted from its end.
    """
    best = _best_tokens(logits, labels)[:, -labels.shape[1] :]
    return torch.cat([labels[:, :1], best[:, :-1]], dim=1)


def _kept_of_logits(recipe: Recipe, model: Any) -> Callable[..., torch.Tensor]:
    if recipe.task.kind != "generate":
        return _first_logits
    return _best_tokens if model.config.is_encoder_decoder else _next_tokens
