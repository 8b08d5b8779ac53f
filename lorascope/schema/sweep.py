"""``sweep.yaml``, and ``sweep`` in ``result.json``: many runs of one recipe, and what they say side by side.

A file is a recipe (its keys inline, or ``recipe: file.yaml``) and what varies over it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from lorascope.schema.model import Direction, Finite, Model, Verdict

PresetName = Literal["lora-vs-full", "rank", "dropout", "multilabel", "forgetting"]
Scalar = str | int | float | bool | None
Languages = list[Literal["en", "zh"]]
Overrides = dict[str, Any]
"""Dotted keys of the recipe and the values that they take."""


def _both_languages() -> Languages:
    return ["en", "zh"]


class Choose(Model):
    """A first stage: one setting is chosen on validation, before seeds are spent.

    ``values`` are tried with the first seed, one list for all or one by method or point. ``for: method`` tries them at
    the first point of each method and takes the winner for all its points, ``for: point`` at every point. ``by`` is
    ``loss`` or a metric of ``set`` (null: the first validation set), as the run reports it at the end.
    """

    key: str = "optim.learning_rate"
    values: list[Any] | dict[str, list[Any]]
    by: str = "loss"
    set: str | None = None
    per: Literal["method", "point"] = Field(default="method", alias="for")

    @field_validator("values")
    @classmethod
    def _not_empty(cls, values: list[Any] | dict[str, list[Any]]) -> list[Any] | dict[str, list[Any]]:
        lists = values.values() if isinstance(values, dict) else [values]
        if not lists or not all(lists):
            raise ValueError("an empty list: there is nothing to choose from")
        return values


class SweepCompare(Model):
    """How the finished runs are compared with the base.

    Without ``suite`` the points' own validation sets are asked. ``margin`` is the difference that matters, null: the
    suite's or the metric's default. ``limit`` items of each set. ``probe``: languages of the built-in probe.
    """

    suite: str | None = None
    metric: str | None = Field(default=None, description="what points are judged by; null: the task's leading metric")
    margin: float | None = Field(default=None, gt=0)
    limit: int | None = Field(default=None, ge=1)
    probe: Languages = Field(default_factory=_both_languages)
    weights: bool = True
    train_gap: bool = Field(default=True, description="ask training items as well, for the gap of the metric")
    max_new_tokens: int = Field(default=128, ge=1)


class SweepPlan(Model):
    """What a sweep file says beside its recipe.

    ``grid``: every combination of the lists; ``zip``: keys that move together (several such blocks as a list);
    ``points``: named points, each with what it sets. Grid and zip are applied to every point of ``points`` and of the
    preset; a point that is null leaves the preset's of that name out. ``sequence``: stages by name, each trained from
    the last, with what each sets. Values replace the recipe's; a block replaces a whole block.
    """

    version: Literal[1]
    out: str
    recipe: str | None = None
    preset: PresetName | None = None
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    zip: dict[str, list[Any]] | list[dict[str, list[Any]]] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list, description="empty: the recipe's")
    points: dict[str, Overrides | None] = Field(default_factory=dict)
    choose: Choose | None = None
    reference: str | None = Field(default=None, description="the point that others are compared with")
    sequence: dict[str, Overrides] = Field(default_factory=dict)
    compare: SweepCompare = Field(default_factory=SweepCompare)

    @property
    def zipped(self) -> list[dict[str, list[Any]]]:
        """The blocks of keys that move together."""
        blocks = [self.zip] if isinstance(self.zip, dict) else self.zip
        return [block for block in blocks if block]

    @model_validator(mode="after")
    def _fits(self) -> SweepPlan:
        for problem in _problems(self):
            raise ValueError(problem)
        return self


def _problems(plan: SweepPlan) -> list[str]:
    lists = {f"grid.{key}": values for key, values in plan.grid.items()}
    lists |= {f"zip.{key}": values for block in plan.zipped for key, values in block.items()}
    found = [f"'{name}' is an empty list" for name, values in lists.items() if not values]
    for block in plan.zipped:
        lengths = {key: len(values) for key, values in block.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{key} {count}" for key, count in lengths.items())
            found.append(f"'zip': keys that move together need lists of one length ({told})")
    every = [*plan.grid, *(key for block in plan.zipped for key in block)]
    found += [f"'{key}' is varied twice" for key in dict.fromkeys(every) if every.count(key) > 1]
    if plan.choose is not None and plan.choose.key in every:
        found.append(f"'{plan.choose.key}' is both chosen and varied")
    if len(set(plan.seeds)) < len(plan.seeds):
        found.append("'seeds' names one twice")
    if len(plan.sequence) == 1:
        found.append("'sequence' needs two stages at least")
    return found


class SweepMeasure(Model):
    """One number that every point has. ``id`` names it: ``AREA[:TASK]:METRIC``."""

    id: str
    area: Literal["learning", "gap", "forgetting", "weights", "cost"]
    task: str | None = None
    metric: str
    unit: str
    scale: str
    direction: Direction
    margin: Finite | None = None


class SeedValue(Model):
    """One run's value; ``low`` and ``high`` are its interval over items, where it has one."""

    seed: int
    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int | None = None


class SweepValue(Model):
    """A point's value of one measure.

    ``low`` and ``high`` are the 95 % t-interval of the mean over seeds; null for costs, and with one seed, whose
    interval over items stands in ``values``.
    """

    values: list[SeedValue]
    mean: Finite
    low: Finite | None = None
    high: Finite | None = None


class SweepRun(Model):
    """One training run. ``failed`` is the reason of one that did not finish; ``subject`` its name in the comparison."""

    name: str
    seed: int
    stage: str | None = None
    folder: str
    subject: str | None = None
    seconds: Finite | None = None
    failed: str | None = None


class SweepPoint(Model):
    """One point: the settings in which it differs from others, its runs, and its numbers by measure.

    ``chosen`` is what the first stage chose for it. ``front``: no other point is at least as good in learning and in
    forgetting and better in one; null where forgetting was not measured.
    """

    name: str
    settings: dict[str, Any]
    chosen: dict[str, Any] = Field(default_factory=dict)
    method: str
    rank: int | None = None
    runs: list[SweepRun]
    values: dict[str, SweepValue] = Field(default_factory=dict)
    front: bool | None = None

    @property
    def failed(self) -> list[SweepRun]:
        """Runs that did not finish."""
        return [run for run in self.runs if run.failed is not None]


class SweepDifference(Model):
    """``point`` minus ``reference`` in one measure, with its 95 % interval.

    ``basis``: ``seeds`` is a paired t-interval over the seeds that both have (n of them), ``items`` the comparison's
    own paired interval of two runs of one seed, ``items_unpaired`` the intervals of two runs put together, which is
    wider than need be.
    """

    point: str
    reference: str
    measure: str
    value: Finite
    low: Finite | None = None
    high: Finite | None = None
    n: int
    basis: Literal["seeds", "items", "items_unpaired", "none"]
    margin: Finite | None = None
    verdict: Verdict | None = None


class SweepTrial(Model):
    """One value tried in the first stage; ``score`` is null where the run failed."""

    value: Scalar
    run: str
    score: Finite | None = None
    failed: str | None = None


class SweepChoice(Model):
    """What the first stage chose for one method or point. ``edge``: an end of the list, more may lie beyond."""

    group: str
    key: str
    by: str
    trials: list[SweepTrial]
    chosen: Scalar = None
    edge: bool = False


class ForgettingMatrix(Model):
    """Tasks in sequence: ``values[i][j]`` is the metric of task j after stage i; null where it was not measured.

    ``backward_transfer`` is the mean over all tasks but the last of the value after the last stage minus the value
    after the task's own; below 0 is forgetting where higher is better (Lopez-Paz and Ranzato 2017). ``intruders`` and
    ``relative_change`` are those of each stage against the first base.
    """

    point: str
    seed: int
    metric: str
    direction: Direction
    stages: list[str]
    tasks: list[str]
    base: list[Finite | None] = Field(default_factory=list)
    values: list[list[Finite | None]]
    backward_transfer: Finite | None = None
    intruders: list[Finite | None] = Field(default_factory=list)
    relative_change: list[Finite | None] = Field(default_factory=list)


class SweepAdvice(Model):
    """The point to take and why, or that it cannot be told.

    ``best`` has the best mean. ``cheaper``: ``point`` is equivalent to it and the cheapest that is; ``better``: it is
    better than every cheaper point; ``inconclusive``: neither; ``alone``: there is nothing to compare it with;
    ``nothing``: no point was measured. ``open`` are points that are not decided against it. ``seeds`` the fewest seeds
    of the points compared.
    """

    outcome: Literal["cheaper", "better", "inconclusive", "alone", "nothing"]
    point: str | None = None
    best: str | None = None
    measure: str | None = None
    seeds: int = Field(default=0, ge=0)
    rests_on: list[SweepDifference] = Field(default_factory=list)
    open: list[str] = Field(default_factory=list)
    forgets: SweepDifference | None = Field(default=None, description="in forgetting, point against best")


class SweepReport(Model):
    """Everything that a sweep found. ``learning``, ``gap`` and ``forgetting`` name the leading measure of each."""

    preset: PresetName | None = None
    seeds: list[int]
    keys: list[str] = Field(description="settings that vary, dotted")
    reference: str | None = None
    measures: list[SweepMeasure]
    learning: str | None = None
    gap: str | None = None
    forgetting: str | None = None
    points: list[SweepPoint]
    differences: list[SweepDifference] = Field(default_factory=list)
    choices: list[SweepChoice] = Field(default_factory=list)
    matrices: list[ForgettingMatrix] = Field(default_factory=list)
    advice: SweepAdvice
    notes: list[str] = Field(default_factory=list)

    def measure(self, name: str | None) -> SweepMeasure | None:
        """The measure of that id."""
        return next((each for each in self.measures if each.id == name), None)

    @property
    def failed(self) -> list[SweepRun]:
        """All runs that did not finish."""
        return [run for point in self.points for run in point.failed]
