"""What the page shows, section by section, as plain records for the templates."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from lorascope.report import charts, numbers
from lorascope.report.curve_charts import distinct_runs
from lorascope.report.flip_section import flip_context
from lorascope.report.folding import folded_findings, folded_missing, shared_sentences, subjects_label
from lorascope.report.gate_section import gate_context
from lorascope.report.human_section import human_context
from lorascope.report.label_section import label_context, shows_labels
from lorascope.report.leak_section import leak_context, shows_leaks, without_leaks
from lorascope.report.lookup import asks_tasks, measurements, references
from lorascope.report.repair_section import repair_context
from lorascope.report.samples import OUTCOMES, Samples
from lorascope.report.sentences import subject_verdicts
from lorascope.report.sweep_section import sweep_context
from lorascope.report.tables import FullRow, Section, Table, full_rows, metric_meaning, section_tables
from lorascope.report.texts import TEMPLATES, Language, Texts, load_texts
from lorascope.report.verdicts import Sentence, SubjectVerdict
from lorascope.report.weight_section import weight_context
from lorascope.schema.comparison import CheckpointInfo, Comparison

_GLYPHS = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "cross": "✚",
    "triangle-right": "▶",
    "triangle-left": "◀",
    "stroke": "▬",
}
_SEVERITY_SYMBOLS = {"critical": "✕", "warning": "!", "info": "i", "good": "✓"}
OUTCOME_SYMBOLS = {
    "broken": "▼", "fixed": "▲", "changed": "≠", "both_wrong": "✕", "both_right": "✓", "same": "=", "unpaired": "∅",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """One subject's verdict with its sentences grouped by topic."""

    verdict: SubjectVerdict
    method: str
    topics: tuple[tuple[str, tuple[Sentence, ...]], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one section shows of the measurements against one reference."""

    reference: str
    charts: tuple[str, ...]
    table: Table | None
    slices: tuple[Table, ...]
    full: tuple[FullRow, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.charts or self.table or self.slices)


@dataclass(frozen=True, slots=True)
class GlossaryEntry:
    """What a metric means, and the signatures of the computations that produced it here."""

    metric: str
    meaning: str
    signatures: tuple[str, ...]


def subject_glyphs(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return the colour and the sign that stand for each subject."""
    marks = charts.subject_marks(comparison)
    return {name: {"colour": colour, "glyph": _GLYPHS[shape]} for name, (colour, shape) in marks.items()}


def page_context(
    comparison: Comparison, embedded: Samples | None, specs: dict[str, charts.Spec], language: Language
) -> dict[str, Any]:
    """Return all that the templates need; charts are added to ``specs`` under the names that the sections use."""
    words = load_texts(language)
    parts = _parts(comparison, specs, language)
    others = [_other(comparison, name, specs, language) for name in references(comparison)[1:]]
    subjects = comparison.subjects
    verdicts = subject_verdicts(comparison, language)
    title = words("page.title", subjects=words.joined([each.name for each in subjects]), base=comparison.base.name)
    return {
        "t": words,
        "lang": "zh-Hans" if language == "zh" else "en",
        "title": title,
        "comparison": comparison,
        "created": comparison.created.replace("T", " ").replace("Z", " UTC"),
        "subjects": subjects,
        "marks": subject_glyphs(comparison),
        "items": sum(task.items for task in comparison.tasks),
        "parts": parts,
        "others": others,
        "samples": embedded,
        "sections": _sections(comparison, parts, others, embedded, words),
        "cards": _cards(comparison, verdicts, words),
        "asked": asks_tasks(comparison),
        "shared": shared_sentences(verdicts),
        "missing": folded_missing(comparison),
        "label_of": lambda names: subjects_label(names, comparison, words),
        **_number_formats(),
        **_findings(comparison),
        **_weights(comparison, specs, language),
        **repair_context(comparison, specs, language),
        **sweep_context(comparison, specs, language),
        **label_context(comparison, specs, language),
        **leak_context(comparison, specs, language),
        **flip_context(comparison, embedded),
        **human_context(comparison, words),
        **gate_context(comparison, words),
        **_closing(comparison, words),
        "flips_chart": _named(specs, "flips", charts.flips_chart(comparison, language)),
    }


def _number_formats() -> dict[str, Any]:
    return {
        "absent": numbers.ABSENT,
        "plain": numbers.plain,
        "percent": numbers.percent,
        "count": numbers.count,
        "duration": numbers.duration,
        "outcomes": OUTCOMES,
        "outcome_symbols": OUTCOME_SYMBOLS,
        "severity_symbols": _SEVERITY_SYMBOLS,
    }


def _named(specs: dict[str, charts.Spec], name: str, spec: charts.Spec | None) -> str | None:
    """Keep a chart under its name and return the name, or None where there is no chart."""
    if spec is None:
        return None
    specs[name] = spec
    return name


def _keep(specs: dict[str, charts.Spec], prefix: str, drawn: dict[str, charts.Spec]) -> tuple[str, ...]:
    names = [f"{prefix}-{place}" for place, _ in enumerate(drawn)]
    specs.update(zip(names, drawn.values(), strict=True))
    return tuple(names)


def _parts(comparison: Comparison, specs: dict[str, charts.Spec], language: Language) -> dict[str, Part]:
    words, base = load_texts(language), comparison.base.name
    curves = {name: charts.curve_chart(comparison, name, language) for name in distinct_runs(comparison)}
    drawn = {
        "metrics": _keep(specs, "forest", charts.forest_charts(comparison, base, language)),
        "forgetting": _keep(specs, "category", charts.category_charts(comparison, language)),
        "drift": tuple(filter(None, [_named(specs, "drift", charts.drift_chart(comparison, language))])),
        "training": _keep(specs, "curve", {name: spec for name, spec in curves.items() if spec is not None}),
    }
    names: tuple[Section, ...] = (
        "metrics", "checks", "forgetting", "drift", "training", "weights", "cost", "human"
    )  # fmt: skip
    parts: dict[str, Part] = {}
    elsewhere = without_leaks(comparison)
    for name in names:
        shown = _in_totals(comparison) if name == "weights" else frozenset()
        table, slices = section_tables(elsewhere, name, base, words, shown)
        full = tuple(full_rows(comparison, base, words)) if name == "metrics" else ()
        parts[name] = Part(base, drawn.get(name, ()), table, tuple(slices), full)
    return parts


def _other(comparison: Comparison, reference: str, specs: dict[str, charts.Spec], language: Language) -> Part:
    words = load_texts(language)
    forests = _keep(specs, f"forest-{len(specs)}", charts.forest_charts(comparison, reference, language))
    table, slices = section_tables(comparison, None, reference, words)
    return Part(reference, forests, table, tuple(slices), tuple(full_rows(comparison, reference, words)))


def _sections(
    comparison: Comparison, parts: dict[str, Part], others: list[Part], embedded: Samples | None, words: Texts
) -> list[tuple[str, str]]:
    present = {
        "verdict": True,
        "sweep": comparison.sweep is not None,
        "metrics": bool(others) or not (parts["metrics"].empty and parts["checks"].empty),
        "flips": bool(comparison.flips),
        "labels": shows_labels(comparison),
        "leaks": shows_leaks(comparison),
        "answers": embedded is not None,
        "forgetting": not (parts["forgetting"].empty and parts["drift"].empty),
        "training": not parts["training"].empty,
        "weights": bool(comparison.weights) or not parts["weights"].empty,
        "repair": comparison.repair is not None,
        "cost": not parts["cost"].empty or any(each.cost for each in comparison.checkpoints),
        "human": bool(comparison.human and comparison.human.studies) or not parts["human"].empty,
        "gates": comparison.gates is not None,
        "provenance": True,
    }
    return [(name, words(f"section.{name}")) for name, shown in present.items() if shown]


def _cards(comparison: Comparison, verdicts: list[SubjectVerdict], words: Texts) -> list[Card]:
    """One card per subject; what is the same for all of them stands below the cards."""
    shared = shared_sentences(verdicts)
    cards = []
    for checkpoint, verdict in zip(comparison.subjects, verdicts, strict=True):
        own = [sentence for sentence in verdict.sentences if sentence not in shared]
        topics = dict.fromkeys(sentence.topic for sentence in own)
        grouped = tuple((topic, tuple(sentence for sentence in own if sentence.topic == topic)) for topic in topics)
        cards.append(Card(verdict, _method(checkpoint, words), grouped))
    return cards


def _method(checkpoint: CheckpointInfo, words: Texts) -> str:
    name = checkpoint.method or checkpoint.kind
    parts = [words.known(f"method.{name}", name)]
    counts = checkpoint.parameters
    changed = counts.trainable if counts.trainable is not None else counts.delta
    if changed is not None:
        parts.append(words("method.trainable", count=numbers.count(changed), total=numbers.count(counts.total)))
    return " · ".join(parts)


def _findings(comparison: Comparison) -> dict[str, Any]:
    order = ("critical", "warning", "good", "info")
    ranked = folded_findings(sorted(comparison.findings, key=lambda found: order.index(found.severity)))
    return {
        "urgent": [found for found in ranked if found.severity in order[:2]],
        "quiet": [found for found in ranked if found.severity in order[2:]],
    }


def _weights(comparison: Comparison, specs: dict[str, charts.Spec], language: Language) -> dict[str, Any]:
    groups = charts.weight_charts(comparison, language)
    return {
        **weight_context(comparison, load_texts(language)),
        "weight_charts": {group: _keep(specs, group, drawn) for group, drawn in groups.items()},
    }


def _in_totals(comparison: Comparison) -> frozenset[str]:
    """Metrics that every measured subject's weight report has among its totals."""
    found = measurements(comparison, area="weights", by=None)
    reports = comparison.weights
    return frozenset(
        each.metric
        for each in found
        if all(other.subject in reports and each.metric in reports[other.subject].totals for other in found)
    )


def _closing(comparison: Comparison, words: Texts) -> dict[str, Any]:
    import vl_convert

    return {
        "training_costs": [(each.name, each.cost) for each in comparison.checkpoints if each.cost],
        "command": shlex.join(comparison.command),
        "glossary": _glossary(comparison, words),
        "licence": (TEMPLATES / "licence.txt").read_text(encoding="utf-8"),
        "vega": {
            "vega": vl_convert.get_vega_version(),
            "lite": vl_convert.get_vegalite_versions()[-1],
            "embed": vl_convert.get_vega_embed_version(),
        },
    }


def _glossary(comparison: Comparison, words: Texts) -> list[GlossaryEntry]:
    signatures: dict[str, dict[str, None]] = {}
    for found in comparison.measurements:
        signatures.setdefault(found.metric, {})[found.signature] = None
    return [GlossaryEntry(metric, metric_meaning(metric, words), tuple(known)) for metric, known in signatures.items()]
