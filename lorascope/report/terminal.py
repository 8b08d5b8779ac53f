"""The comparison in the terminal: the verdict first, then one table, then what a reader has to know besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from lorascope.report import numbers
from lorascope.report.folding import Told, folded_findings, folded_missing, folded_sentences, subjects_label
from lorascope.report.gate_section import gate_headline
from lorascope.report.human_words import human_lines
from lorascope.report.lookup import asks_tasks, references
from lorascope.report.sentences import subject_verdicts
from lorascope.report.tables import Block, Cell, Row, Section, Table, section_tables
from lorascope.report.terminal_blocks import check_lines, flip_rows
from lorascope.report.texts import Texts, load_texts
from lorascope.report.verdicts import SYMBOLS, Clause, Sentence, SubjectVerdict, Topic
from lorascope.schema.comparison import Comparison

_STYLES = {
    "improved": "bold blue",
    "regressed": "bold red",
    "weakened": "bold red",
    "inconclusive": "bold yellow",
    "mixed": "bold yellow",
    "equivalent": "bold",
    "guessing": "bold",
    "absolute": "bold",
    "unmeasured": "bold",
    "good": "blue",
    "bad": "red",
    "unclear": "yellow",
    "neutral": "",
    "critical": "bold red",
    "warning": "bold yellow",
}
_COLUMNS = ("metric", "values", "delta", "verdict")
_NUMBERS_WIDTH = 15 + 23 + 14 + 3 * 2
_CAUSES_WIDTH = 2 + 3 * 2 + 16
# For terminals that cannot show these signs; what is left after it becomes a question mark.
_ASCII = str.maketrans(
    {"▲": "+", "▼": "-", "▽": "-", "↕": "~", "•": "*", "∅": "o", "✓": "v", "✕": "x", "→": "->", "−": "-", "–": "-",
     "±": "+/-", "·": "|", "\u00a0": " ", "Δ": "d", "ε": "eps", "α": "alpha", "₀": "0", "‖": "|"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Page:
    """A console and the words for it. Text from data is never read as markup."""

    console: Console
    words: Texts

    def text(self, content: str, style: str = "") -> Text:
        """Return ``content`` in signs that the console can show."""
        encoding = self.console.encoding
        if not encoding.lower().startswith("utf"):
            content = content.translate(_ASCII).encode(encoding, "replace").decode(encoding)
        return Text(content, style)

    def line(self, *parts: Text, indent: int = 0) -> None:
        """Print the parts as one paragraph, wrapped lines indented like the first."""
        self.console.print(Padding(Text(" ").join(parts), (0, 0, 0, indent)))

    def heading(self, key: str) -> None:
        """Print an empty line and a heading."""
        self.console.print()
        self.line(self.text(self.words(key), "bold underline"))


def print_summary(comparison: Comparison, console: Console) -> None:
    """Print verdicts, metrics, flips, leaks, forgetting, training, weights, pressing findings and what is missing.

    The first lines say the verdict of every subject in words. Fits 80 columns; verdicts are words and signs, never
    colour alone.
    """
    words = load_texts("en")
    page = _Page(console, words)
    verdicts = subject_verdicts(comparison)
    for verdict in verdicts:
        _print_headline(verdict, page)
    facts = [words("terminal.base", base=comparison.base.name)]
    if comparison.tasks:
        facts.append(words.several("tasks", len(comparison.tasks)))
        facts.append(words.several("items", sum(task.items for task in comparison.tasks)))
    page.line(page.text(words.joined(facts), "dim"))
    if not asks_tasks(comparison):
        page.line(page.text(words("verdict.no_task"), "dim"))
    for reference in references(comparison):
        _print_tables(comparison, reference, page)
    _print_flips(comparison, page)
    for line in check_lines(comparison, words):
        page.line(page.text(line), indent=2)
    _print_topics(comparison, verdicts, page)
    _print_human(comparison, page)
    _print_gates(comparison, page)
    _print_findings(comparison, page)
    _print_missing(comparison, page)


def _print_headline(verdict: SubjectVerdict, page: _Page) -> None:
    first, *others = [_clause(clause, page) for clause in verdict.clauses] or [Text()]
    page.line(page.text(verdict.subject, "bold"), first, indent=0)
    for clause in others:
        page.line(clause, indent=len(verdict.subject) + 1 if len(verdict.subject) < 24 else 2)


def _clause(clause: Clause, page: _Page) -> Text:
    return page.text(f"{clause.symbol} {clause.text}", _STYLES[clause.state])


def _print_tables(comparison: Comparison, reference: str, page: _Page) -> None:
    own = reference == comparison.base.name
    sections: tuple[Section | None, ...] = ("metrics", "forgetting") if own else (None,)
    tables = [
        section_tables(comparison, section, reference, page.words, with_gaps=section == "metrics")[0]
        for section in sections
    ]
    shown = [table for table in tables if table is not None]
    if not shown:
        return
    page.console.print()
    if not own:
        page.line(page.text(page.words("metrics.other", reference=reference), "bold underline"))
    columns = [f"terminal.{name}" + (".other" if name == "values" and not own else "") for name in _COLUMNS]
    page.console.print(_grid(page, [[page.text(page.words(column), "dim") for column in columns]]))
    for table in shown:
        for block in table.blocks:
            page.line(page.text(block.title, "bold"))
            page.console.print(_grid(page, _block_rows(block, table.subjects, page)))
        _print_reasons(table, page)


def _grid(page: _Page, rows: Iterable[Sequence[Text]]) -> Grid:
    """Rows in columns of the same width for every task; on wide terminals the names get more room.

    Where values are too wide, they wrap and the verdict stays whole.
    """
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    names = min(max(page.console.width - _NUMBERS_WIDTH, 16), 40)
    grid.add_column(width=names, overflow="fold")
    columns: tuple[tuple[int, JustifyMethod], ...] = ((15, "right"), (23, "left"), (14, "left"))
    whole = page.console.width >= 16 + _NUMBERS_WIDTH
    for place, (width, justify) in enumerate(columns):
        last = place == len(columns) - 1
        grid.add_column(min_width=width, justify=justify, no_wrap=whole and last, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _block_rows(block: Block, subjects: tuple[str, ...], page: _Page) -> Iterator[tuple[Text, ...]]:
    for row in block.rows:
        if len(subjects) > 1:
            yield (page.text(f"  {row.label}"),)
        for subject, cell in zip(subjects, row.cells, strict=True):
            if cell is not None:
                yield _cell_row(f"    {subject}" if len(subjects) > 1 else f"  {row.label}", row, cell, page)


def _cell_row(name: str, row: Row, cell: Cell, page: _Page) -> tuple[Text, ...]:
    values = cell.adapted if row.base == numbers.ABSENT else f"{row.base} → {cell.adapted}"
    change = f"{cell.delta} {cell.delta_interval}" if cell.delta else cell.adapted_interval
    verdict = page.words(f"verdict.{cell.verdict}") if cell.verdict else ""
    judged = page.text(f"{cell.symbol} {verdict}".strip(), _STYLES.get(cell.verdict or "", ""))
    if cell.needed is not None:
        judged.append("\n  ").append_text(page.text(page.words("terminal.needed", count=f"{cell.needed:,}"), "dim"))
    return page.text(name), page.text(values), page.text(change.strip()), judged


def _print_reasons(table: Table, page: _Page) -> None:
    """Why values are missing, each reason once for a metric, with the tasks and subjects that it holds for."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    for block in table.blocks:
        for row in block.rows:
            for subject, cell in zip(table.subjects, row.cells, strict=True):
                if cell is not None and cell.note and not cell.verdict:
                    told.setdefault((row.label, cell.note), {}).setdefault(block.title, []).append(subject)
    reasons = [table.reason] if table.reason else []
    for (label, note), tasks in told.items():
        places = [f"{task} ({page.words.joined(subjects)})" for task, subjects in tasks.items()]
        reasons.append(f"{label}, {page.words.joined(places)}: {note}")
    for reason in reasons:
        page.line(page.text(page.words.ended(reason), "dim"), indent=2)


def _print_flips(comparison: Comparison, page: _Page) -> None:
    rows = flip_rows(comparison, page.words)
    if not rows:
        return
    page.heading("flips.heading")
    grid = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    widths = [max(cell_len(row[place]) for row in rows) for place in range(3)]
    whole = sum(widths) + _CAUSES_WIDTH <= page.console.width
    for place in range(len(rows[0])):
        grid.add_column(overflow="fold", no_wrap=whole and place < len(widths))
    for row in rows:
        grid.add_row(*map(page.text, row))
    page.console.print(Padding(grid, (0, 0, 0, 2)))


def _print_topics(comparison: Comparison, verdicts: list[SubjectVerdict], page: _Page) -> None:
    """What the table does not hold: rates, training, weights, and what was not measured."""
    several = len(verdicts) > 1
    behaviour: tuple[Topic, ...] = ("target", "retention", "training")
    topics: tuple[Topic, ...] = (*behaviour, "weights") if asks_tasks(comparison) else ("weights", *behaviour)
    for topic in topics:
        kept = folded_sentences(verdicts, topic)
        told = [(subjects, each) for subjects, each in kept if topic in ("training", "weights") or _untabled(each)]
        if not told:
            continue
        page.heading(f"topic.{topic}")
        for subjects, sentence in told:
            label = subjects_label(subjects, comparison, page.words) if several else ""
            page.line(*_sentence(label, sentence, page), indent=2)


def _untabled(sentence: Sentence) -> bool:
    """Whether the table cannot say it: no judgement of a measurement, or nothing measured."""
    return not sentence.lead or sentence.symbol == SYMBOLS["unmeasured"]


def _sentence(subject: str, sentence: Sentence, page: _Page) -> list[Text]:
    parts = [page.text(sentence.symbol, _STYLES[sentence.tone])]
    if subject:
        parts.append(page.text(f"{subject}:", "bold"))
    if sentence.lead:
        parts.append(page.text(page.words.ended(sentence.lead), _STYLES[sentence.tone]))
    return [*parts, page.text(sentence.text)]


def _print_human(comparison: Comparison, page: _Page) -> None:
    told = human_lines(comparison, page.words)
    if told:
        page.heading("section.human")
    for said in told:
        lead = page.text(page.words.ended(said.lead), _STYLES[said.tone])
        page.line(page.text(said.symbol, _STYLES[said.tone]), lead, page.text(said.text), indent=2)


def _print_gates(comparison: Comparison, page: _Page) -> None:
    if comparison.gates is not None:
        page.heading("section.gates")
        style = _STYLES["good" if comparison.gates.passed else "bad"]
        page.line(page.text(gate_headline(comparison.gates, page.words), style), indent=2)


def _print_findings(comparison: Comparison, page: _Page) -> None:
    findings = folded_findings(sorted(comparison.findings, key=lambda found: found.severity))
    urgent = [found for found in findings if found.severity in ("critical", "warning")]
    if urgent:
        page.heading("terminal.findings")
    for found in urgent:
        severity = page.text(page.words(f"severity.{found.severity}"), _STYLES[found.severity])
        for told in found.told:
            _print_told(severity, told, comparison, page)
        if found.advice:
            page.line(page.text(page.words("finding.advice"), "bold"), page.text(found.advice), indent=4)
    if len(findings) > len(urgent):
        page.line(page.text(page.words.several("terminal.more_findings", len(findings) - len(urgent)), "dim"), indent=2)


def _print_told(severity: Text, told: Told, comparison: Comparison, page: _Page) -> None:
    named = len(told.subjects) == 1 and told.subjects[0] in told.title
    of = "" if named or not told.subjects else f"{subjects_label(told.subjects, comparison, page.words)}: "
    page.line(severity, page.text(f"{of}{told.title}", "bold"), indent=2)
    for evidence in told.evidence:
        page.line(page.text(evidence), indent=4)


def _print_missing(comparison: Comparison, page: _Page) -> None:
    if not comparison.missing:
        return
    page.heading("terminal.missing")
    for area, subjects, reason in folded_missing(comparison):
        of = subjects_label(subjects, comparison, page.words)
        place = page.words.known(f"area.{area}", area) + (f", {of}" if of else "")
        page.line(page.text(f"{place}:", "bold"), page.text(reason), indent=2)
