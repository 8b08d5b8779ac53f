"""The section on a sweep: its recommendation, charts against settings, and every point as a row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from lorascope.report import numbers
from lorascope.report.chart_parts import Spec
from lorascope.report.sweep_charts import against_chart, dots_chart, front_chart, numeric_keys, runs_chart
from lorascope.report.sweep_words import (
    advice_evidence,
    advice_title,
    basis_text,
    change_text,
    edge_sentences,
    interval_text,
    point_text,
    setting_text,
    value_text,
)
from lorascope.report.texts import Language, Texts, load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.sweep import ForgettingMatrix, SweepMeasure, SweepPoint, SweepReport

_RANK = "method.rank"
# Signs that terminals without UTF-8 lack; the rest becomes a question mark.
_PLAIN_SIGNS = str.maketrans({"−": "-", "\u00a0": " ", "×": "x", "★": "*", "–": "-", "→": "->", "Δ": "d"})
_SHOWN_WEIGHTS = ("intruder_count", "effective_rank")
_LEFT_TO_THE_PAGE = ("peak_memory_bytes", "tokens_per_second", "effective_rank", "trainable_parameters")
_HEADS = {
    "learning": "sweep.area.learning", "gap": "sweep.gap", "forgetting": "sweep.area.forgetting",
    "weights": "sweep.intruders", "cost": "sweep.time",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SweepCell:
    """A value, its interval below it, and what is said of its difference from the reference."""

    value: str
    interval: str = ""
    change: str = ""
    basis: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One point. ``cells`` stand in the columns' order."""

    name: str
    settings: str
    seeds: str
    cells: tuple[SweepCell, ...]
    front: bool
    taken: bool
    note: str


@dataclass(frozen=True, slots=True)
class SweepTable:
    """Measures as columns (name and what they are), points as rows."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[SweepRow, ...]


@dataclass(frozen=True, slots=True)
class MatrixView:
    """A forgetting matrix: the tasks, and one row a stage with its values, intruders and size of ΔW."""

    title: str
    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    transfer: str


@dataclass(frozen=True, slots=True)
class SweepView:
    """What the template shows. ``charts`` are groups with a title each."""

    title: str
    evidence: tuple[str, ...]
    facts: tuple[str, ...]
    charts: tuple[tuple[str, tuple[str, ...]], ...]
    table: SweepTable
    others: SweepTable | None
    choices: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    matrices: tuple[MatrixView, ...]
    failed: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def sweep_context(comparison: Comparison, specs: dict[str, Spec], language: Language) -> dict[str, Any]:
    """Return what the page's section needs; the charts are added to ``specs``."""
    report = comparison.sweep
    if report is None:
        return {"sweep": None}
    words = load_texts(language)
    leading = _leading(report)
    rest = [each for each in report.measures if each not in leading and each.area == "learning"]
    view = SweepView(
        title=advice_title(report, words),
        evidence=tuple(advice_evidence(report, words)),
        facts=_facts(report, words),
        charts=_charts(comparison, report, specs, language),
        table=_table(report, leading, words),
        others=_table(report, rest, words) if rest else None,
        choices=_choices(report, words),
        matrices=tuple(_matrix(each, report, words) for each in report.matrices),
        failed=tuple((run.name, run.failed or "") for run in report.failed),
        notes=tuple(_notes(report, words)),
    )
    return {"sweep": view}


def _leading(report: SweepReport) -> list[SweepMeasure]:
    """The columns of the main table: learning, gap, forgetting, weights, cost."""
    named = [report.measure(name) for name in (report.learning, report.gap, report.forgetting)]
    weights = [each for each in report.measures if each.area == "weights" and each.metric in _SHOWN_WEIGHTS]
    costs = [each for each in report.measures if each.area == "cost"]
    return [*(each for each in named if each is not None), *weights, *costs]


def _facts(report: SweepReport, words: Texts) -> tuple[str, ...]:
    count, runs = len(report.points), sum(len(point.runs) for point in report.points)
    facts = [words("sweep.fact_runs", points=count, runs=runs, failed=len(report.failed))]
    if report.advice.outcome in ("alone", "nothing") and len(report.seeds) == 1:
        facts.append(words("sweep.one_seed"))
    if report.reference is not None and count > 1:
        facts.append(words("sweep.fact_reference", reference=report.reference))
    return tuple(facts)


def _notes(report: SweepReport, words: Texts) -> list[str]:
    return [*(sentence for _, sentence in edge_sentences(report, words)), *report.notes]


def _charts(
    comparison: Comparison, report: SweepReport, specs: dict[str, Spec], language: Language
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    words = load_texts(language)

    def kept(drawn: Sequence[Spec | None]) -> tuple[str, ...]:
        names = []
        for spec in drawn:
            if spec is not None:
                names.append(f"sweep-{len(specs)}")
                specs[names[-1]] = spec
        return tuple(names)

    groups: list[tuple[str, tuple[str, ...]]] = []
    leading = [each for each in map(report.measure, (report.learning, report.gap)) if each is not None]
    weights = [each for each in report.measures if each.area == "weights" and each.metric in _SHOWN_WEIGHTS]
    keys = numeric_keys(report)
    for key in keys:
        beside = weights if key == _RANK else []
        drawn = [against_chart(report, key, each, language) for each in (*leading, *beside)]
        groups.append((words("sweep.group_against", key=words.known(f"axis.{key}", key)), kept(drawn)))
    groups.append((words("sweep.group_front"), kept([front_chart(report, language)])))
    groups.append((words("sweep.group_runs"), kept([runs_chart(comparison, language)])))
    if len(report.points) > 1:
        beside = [] if _RANK in keys else weights
        costs = [each for each in report.measures if each.area == "cost" and each.metric != "trainable_parameters"]
        drawn = [dots_chart(report, each, language) for each in (*beside, *costs)]
        groups.append((words("sweep.group_cost"), kept(drawn)))
    return tuple((title, names) for title, names in groups if names)


def _table(report: SweepReport, measures: Sequence[SweepMeasure], words: Texts) -> SweepTable:
    columns = tuple((each.metric, _place(each, words)) for each in measures)
    rows = tuple(_row(report, point, measures, words) for point in report.points)
    return SweepTable(columns, rows)


def _place(measure: SweepMeasure, words: Texts) -> str:
    lower = f" · {words('sweep.lower')}" if measure.direction == "lower" and measure.area != "cost" else ""
    return words(f"sweep.area.{measure.area}") + lower


def _row(report: SweepReport, point: SweepPoint, measures: Sequence[SweepMeasure], words: Texts) -> SweepRow:
    seeds = {each.seed for value in point.values.values() for each in value.values}
    failed = "; ".join(f"{run.name}: {run.failed}" for run in point.failed)
    return SweepRow(
        name=point.name,
        settings=point_text(point),
        seeds=str(len(seeds)),
        cells=tuple(_cell(report, point, each, words) for each in measures),
        front=bool(point.front),
        taken=report.advice.point == point.name,
        note=failed,
    )


def _cell(report: SweepReport, point: SweepPoint, measure: SweepMeasure, words: Texts) -> SweepCell:
    value = point.values.get(measure.id)
    if value is None:
        return SweepCell(numbers.ABSENT)
    against = (each for each in report.differences if (each.point, each.measure) == (point.name, measure.id))
    found = next(against, None)
    shown, bounds = value_text(measure, value), interval_text(measure, value, words)
    if found is None:
        return SweepCell(shown, bounds)
    verdict = words(f"verdict.{found.verdict}") if found.verdict else ""
    return SweepCell(shown, bounds, change_text(measure, found), basis_text(found, words), verdict)


def _choices(report: SweepReport, words: Texts) -> tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]:
    """Of each group: its name, what was chosen, and the score of every value tried."""
    told = []
    for choice in report.choices:
        tried = tuple(
            (setting_text(trial.value), trial.failed or numbers.plain(trial.score, 4)) for trial in choice.trials
        )
        chosen = words("sweep.chose", key=choice.key, value=setting_text(choice.chosen), by=choice.by)
        told.append((choice.group, chosen if choice.chosen is not None else words("sweep.chose_none"), tried))
    return tuple(told)


def _matrix(matrix: ForgettingMatrix, report: SweepReport, words: Texts) -> MatrixView:
    rows: list[tuple[str, tuple[str, ...]]] = []
    if any(value is not None for value in matrix.base):
        rows.append((words("sweep.before"), (*map(numbers.plain, matrix.base), numbers.ABSENT, numbers.ABSENT)))
    beside = zip(matrix.stages, matrix.values, matrix.intruders, matrix.relative_change, strict=True)
    for stage, values, intruders, change in beside:
        cells = (*map(numbers.plain, values), numbers.count(intruders), numbers.plain(change))
        rows.append((words("sweep.after", stage=stage), cells))
    transfer = ""
    if matrix.backward_transfer is not None:
        transfer = words("sweep.transfer", value=numbers.signed(matrix.backward_transfer, "", ""))
    seed = "" if len(report.seeds) == 1 else f", {words('sweep.seed', seed=matrix.seed)}"
    title = words("sweep.matrix", point=matrix.point + seed, metric=matrix.metric)
    return MatrixView(title, tuple(matrix.tasks), tuple(rows), transfer)


def print_sweep(report: SweepReport, console: Console) -> None:
    """Print the recommendation with what it rests on, the table of all points, choices, matrices and failed runs."""
    words = load_texts("en")

    def shown(text: str, style: str = "") -> Text:
        encoding = console.encoding
        if not encoding.lower().startswith("utf"):
            text = text.translate(_PLAIN_SIGNS).encode(encoding, "replace").decode(encoding)
        return Text(text, style)

    console.print()
    console.print(shown(words("section.sweep"), "bold underline"))
    console.print(shown(advice_title(report, words), "bold"))
    for sentence in advice_evidence(report, words):
        console.print(Padding(shown(sentence), (0, 0, 0, 2)))
    console.print()
    console.print(_grid(report, words, shown))
    for group, chosen, tried in _choices(report, words):
        told = ", ".join(f"{value}: {score}" for value, score in tried)
        console.print(Padding(shown(f"{group}: {chosen} ({told})"), (0, 0, 0, 2)))
    for matrix in (_matrix(each, report, words) for each in report.matrices):
        console.print(shown(matrix.title, "bold"))
        console.print(_matrix_grid(matrix, words, shown))
    for note in _notes(report, words):
        console.print(Padding(shown(note, "dim"), (0, 0, 0, 2)))
    for run in report.failed:
        console.print(Padding(shown(words("sweep.failed", run=run.name, reason=run.failed), "yellow"), (0, 0, 0, 2)))


def _grid(report: SweepReport, words: Texts, shown: Callable[[str, str], Text]) -> Grid:
    """The leading columns, intervals of the learning metric alone: the report has the rest."""
    leading = [each for each in _leading(report) if each.metric not in _LEFT_TO_THE_PAGE]
    table = _table(report, leading, words)
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(overflow="fold", min_width=8)
    for _ in (*leading, None):
        grid.add_column(overflow="fold", min_width=5)
    heads = [words("sweep.point"), words("sweep.seeds_column")]
    heads += [each.metric if each.id == report.learning else words(_HEADS[each.area]) for each in leading]
    grid.add_row(*(shown(text, "dim") for text in heads))
    for row in table.rows:
        marks = (" ★" if row.front else "") + (f" {words('sweep.taken')}" if row.taken else "")
        cells = [cell.value for cell in row.cells]
        if leading and leading[0].id == report.learning:
            first = row.cells[0]
            cells[0] = " ".join(filter(None, (first.value, first.interval, first.verdict)))
        texts = [row.name + marks, row.seeds, *cells]
        grid.add_row(*(shown(text, "bold" if row.taken else "") for text in texts))
    return grid


def _matrix_grid(matrix: MatrixView, words: Texts, shown: Callable[[str, str], Text]) -> Padding:
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    heads = ["", *matrix.tasks, words("sweep.intruders"), words("sweep.size")]
    grid.add_row(*(shown(text, "dim") for text in heads))
    for name, cells in matrix.rows:
        grid.add_row(*(shown(text, "") for text in (name, *cells)))
    if matrix.transfer:
        grid.add_row(shown(matrix.transfer, ""))
    return Padding(grid, (0, 0, 1, 2))
