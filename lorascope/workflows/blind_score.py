"""Take filled-in sheets of a blind study into the result that it was made from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from lorascope.blind.candidates import Candidate, find_candidates
from lorascope.blind.formats import read_sheet
from lorascope.blind.human_measurements import outcome_measurements
from lorascope.blind.key import StudyItem, StudyKey, read_key, row_digest
from lorascope.blind.metric_agreement import item_metrics
from lorascope.blind.rows import FilledSheet, Language, SheetRow
from lorascope.blind.scoring import score_study
from lorascope.errors import DataError, InvalidComparison, OutputError
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.human import EarlierRate, EarlierScore, HumanReport, HumanStudy, PairOutcome
from lorascope.schema.values import Estimate
from lorascope.workflows.output import REPORT, SAMPLES, naming, write_whole
from lorascope.workflows.publish import document, load_result, load_samples

if TYPE_CHECKING:
    import pyarrow

_Item = tuple[str, str]
"""Task and id of an item."""
_Cell = tuple[frozenset[str], str | None]
"""Two systems and the task on which they were compared; None for several tasks."""
_NAMED = 3


def score_study_files(
    sheets: Sequence[Path],
    key_path: Path,
    result_path: Path,
    console: Console,
    *,
    allow_partial: bool = False,
    language: Language = "en",
) -> HumanStudy:
    """Check and score the sheets, and write result and report again with area ``human``.

    The study's own earlier score is replaced; where it was made from other sheets, what it said is kept in
    ``HumanReport.earlier``. Another study of the same systems and tasks stays beside this one; measurements are those
    of the study scored last. Both are told, and are deviations of a study with a plan.

    InvalidComparison when the key belongs to other checkpoints or tasks than the result, or the samples beside it hold
    other answers than were rated; DataError for sheets that cannot be read, all of them named; OutputError when result
    or report cannot be replaced. Both files are as they were then.
    """
    key = read_key(key_path)
    comparison = load_result(result_path)
    _check_fit(key, comparison, key_path)
    samples = load_samples(result_path)
    if samples is not None:
        _check_samples(samples, comparison, key, result_path.parent / SAMPLES)
    metrics = {} if samples is None else item_metrics(samples, comparison, key)
    files = _files(sheets)
    read = [read_sheet(path) for path in files]
    study = score_study(read, key, metrics=metrics, allow_partial=allow_partial)
    if samples is None:
        note = "no samples beside the result: the automatic metrics were not compared with the raters"
        study = study.model_copy(update={"notes": [*study.notes, note]})
    study = _with_hashes(study, key, dict(zip(files, read, strict=True)))
    study, report = _traced(study, comparison.human or HumanReport(studies=[]))
    page = _publish(_with_study(comparison, study, report), samples, result_path, language)
    _tell(study, report, page, console)
    return study


def _files(sheets: Sequence[Path]) -> list[Path]:
    """The files as given; a folder would hand in every format of a sheet, filled or not, so it is refused."""
    for path in sheets:
        if path.is_dir():
            remedy = "name the files that the raters filled in: one for each rater"
            raise DataError("a sheet is a file, this is a folder", where=str(path), remedy=remedy)
    return list(sheets)


def _check_fit(key: StudyKey, comparison: Comparison, key_path: Path) -> None:
    hashes = {each.name: each.content_hash for each in comparison.checkpoints}
    fingerprints = {each.name: each.fingerprint for each in comparison.tasks}
    others = [system.name for system in key.systems if hashes.get(system.name) != system.content_hash]
    tasks = [name for name, found in key.tasks.items() if fingerprints.get(name) != found]
    if others or tasks:
        named = ", ".join([*(f"checkpoint {name!r}" for name in others), *(f"task {name!r}" for name in tasks)])
        problem = f"the key belongs to another result: {named} is not the one that was rated"
        raise InvalidComparison(problem, where=str(key_path), remedy="give the result that the study was exported from")


def _check_samples(samples: pyarrow.Table, comparison: Comparison, key: StudyKey, path: Path) -> None:
    """The samples must hold the answers that were rated: metrics of others would be compared with these votes."""
    names = {system.name for system in key.systems}
    systems = [each for each in comparison.checkpoints if each.name in names]
    try:
        found = find_candidates(samples, systems, list(key.tasks), comparison.base.name).items
    except DataError as error:
        raise _other_samples(error.problem, path) from error
    held = {(each.task, each.item_id): each for each in found}
    items = list(dict.fromkeys((each.task, each.item_id) for each in key.items))
    differing = _differing(key, held)
    if differing:
        named = [f"{task} {name}" for task, name in items if (task, name) in differing]
        few = ", ".join(named[:_NAMED]) + (", …" if len(named) > _NAMED else "")
        raise _other_samples(f"of {len(items)} drawn items, {len(named)} have other texts ({few})", path)


def _differing(key: StudyKey, held: Mapping[_Item, Candidate]) -> set[_Item]:
    """Drawn items whose question or answers are not those of the key: by the rows' digests, and by lengths.

    Nobody rates identical answers, so these have no row; they must still be identical.
    """
    found = {(item.task, item.item_id) for item in key.items if not _fits(item, held)}
    for row in key.rows:
        item = key.items[row.item]
        place = item.task, item.item_id
        if row.kind == "rated" and place not in found:
            answers = held[place].answers
            texts = SheetRow(row.id, held[place].question, answers[row.a], answers[row.b])
            if row_digest(key.salt, texts) != row.digest:
                found.add(place)
    return found


def _fits(item: StudyItem, held: Mapping[_Item, Candidate]) -> bool:
    candidate = held.get((item.task, item.item_id))
    if candidate is None:
        return False
    first, second = candidate.answers[item.first], candidate.answers[item.second]
    return (len(first), len(second)) == item.lengths and (first == second) == item.identical


def _other_samples(why: str, path: Path) -> InvalidComparison:
    problem = f"the samples beside the result are not those the study was exported from: {why}"
    remedy = "put the samples of the export back, or move these away to score without automatic metrics"
    return InvalidComparison(problem, where=str(path), remedy=remedy)


def _with_hashes(study: HumanStudy, key: StudyKey, read: Mapping[Path, FilledSheet]) -> HumanStudy:
    """Every rater's quality with the hash of that rater's file, found by its rows: file names may be alike."""
    owners = {row.id: row.rater for row in key.rows}
    hashes = {}
    for path, sheet in read.items():
        rater = next((owners[row.id] for row in sheet.rows if row.id in owners), None)
        if rater is not None:
            hashes[rater] = f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}"
    raters = [
        each.model_copy(update={"sheet_hash": hashes.get(each.rater) if each.present else None})
        for each in study.raters
    ]
    return study.model_copy(update={"raters": raters})


def _traced(study: HumanStudy, report: HumanReport) -> tuple[HumanStudy, HumanReport]:
    """The study with what came before it, and the report in which it is the last.

    A score of the same study from other sheets goes to ``earlier``; the same sheets keep the time of their first
    scoring and add nothing. With a plan, having chosen among scores or studies departs from it.
    """
    old = next((each for each in report.studies if each.study == study.study), None)
    same = old is not None and _sheets(old) == _sheets(study)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    scored = old.scored if old is not None and same and old.scored else now
    earlier = [*report.earlier, *([] if old is None or same else [_earlier(old)])]
    others = [each for each in report.studies if each.study != study.study]
    changes: dict[str, object] = {"scored": scored}
    if study.plan is not None:
        changes["deviations"] = [*study.deviations, *_told(study, earlier, others)]
    traced = study.model_copy(update=changes)
    return traced, HumanReport(studies=[*others, traced], earlier=earlier)


def _sheets(study: HumanStudy) -> list[str]:
    return sorted(each.sheet_hash or "" for each in study.raters if each.present)


def _earlier(old: HumanStudy) -> EarlierScore:
    """The old score. It names no sheet where the hash of any is missing: nobody knows whether they were others."""
    rates = [EarlierRate(first=each.first, second=each.second, win_rate=each.win_rate) for each in old.pairs]
    sheets = _sheets(old)
    named = sheets if all(sheets) else []
    return EarlierScore(study=old.study, scored=old.scored, sheets=named, win_rates=rates, plan=old.plan)


def _told(study: HumanStudy, earlier: Sequence[EarlierScore], others: Sequence[HumanStudy]) -> list[str]:
    """What else was scored into the result, in one sentence each: own scores from other sheets, then other studies."""
    told = [
        f"scored before{_with_sheets(each)}{_when(each.scored)}: {_rates(each.win_rates)}"
        for each in earlier
        if each.study == study.study
    ]
    asked = [each for each in others if each.asks_like(study)]
    return told + [f"{each.study} asked the same{_when(each.scored)}: {_rates(each.pairs)}" for each in asked]


def _with_sheets(score: EarlierScore) -> str:
    return " with other sheets" if score.sheets else ", with sheets that its record does not name"


def _when(scored: str | None) -> str:
    """The time as the report has it."""
    return "" if scored is None else f" ({scored.replace('T', ' ').replace('+00:00', ' UTC')})"


def _rates(found: Sequence[EarlierRate | PairOutcome]) -> str:
    return "; ".join(f"{each.first} against {each.second} win rate {_rate(each.win_rate)}" for each in found)


def _rate(rate: Estimate) -> str:
    interval = "" if rate.low is None or rate.high is None else f", 95 % interval [{rate.low:.3f}, {rate.high:.3f}]"
    return f"{rate.value:.3f}{interval}"


def _with_study(comparison: Comparison, study: HumanStudy, report: HumanReport) -> Comparison:
    """The comparison with the study's measurements in place of all that were made of its pairs and tasks before.

    The signature names the study, since another of the same question may stand beside it.
    """
    found = [
        each.model_copy(update={"signature": f"{each.signature}|study:{study.study}"})
        for each in outcome_measurements(study, comparison)
    ]
    replaced = _cells(study)
    kept = [each for each in comparison.measurements if each.area != "human" or _cell(each) not in replaced]
    rated = {name for pair in study.pairs for name in (pair.first, pair.second)}
    missing = [each for each in comparison.missing if each.area != "human" or each.subject not in rated]
    return comparison.model_copy(
        update={"measurements": [*kept, *found], "human": report, "missing": missing},
    )


def _cells(study: HumanStudy) -> set[_Cell]:
    """Every pair of the study's systems, those without a vote too: an earlier score may have had some."""
    task = study.tasks[0] if len(study.tasks) == 1 else None
    return {(frozenset(pair), task) for pair in itertools.combinations(study.systems, 2)}


def _cell(found: Measurement) -> _Cell:
    return frozenset((found.subject, found.reference)), found.task


def _publish(comparison: Comparison, samples: pyarrow.Table | None, result: Path, language: Language) -> Path:
    """Replace the report, then the result; where either cannot be, both are as they were."""
    from lorascope.report.html import render_html

    page, text = render_html(comparison, samples, language=language), document(comparison)
    report = result.parent / REPORT
    try:
        with naming(report):
            before = report.read_bytes() if report.is_file() else None
        write_whole(report, lambda part: part.write_text(page, encoding="utf-8"))
        try:
            write_whole(result, lambda part: part.write_text(text, encoding="utf-8"))
        except OutputError:
            _put_back(report, before)
            raise
    except OutputError as error:
        remedy = "make it and its folder writable, with room on the disk, and score again; nothing was changed"
        raise OutputError(error.problem, where=error.where, remedy=remedy) from error
    return report


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _put_back(report: Path, before: bytes | None) -> None:
    if before is None:
        with naming(report):
            report.unlink()
    else:
        write_whole(report, lambda part: part.write_bytes(before))


def _tell(study: HumanStudy, report: HumanReport, page: Path, console: Console) -> None:
    lines = []
    for pair in study.pairs:
        sign = "" if pair.sign_test.p_value is None else f", sign test p {_p_value(pair.sign_test.p_value)}"
        items = f"{pair.items} {'item' if pair.items == 1 else 'items'}"
        lines.append(f"{pair.first} against {pair.second}: win rate {_rate(pair.win_rate)}, {items}{sign}")
    absent = [rater.rater for rater in study.raters if not rater.present]
    out = [f"{rater.rater} is left out: {rater.excluded}" for rater in study.raters if rater.excluded]
    lines += [f"no sheet from {', '.join(absent)}"] if absent else []
    lines += [*out, *(f"departs from the plan: {each}" for each in study.deviations)]
    if study.plan is None:
        lines += _told(study, report.earlier, report.studies[:-1])
    lines += [f"note: {each}" for each in study.notes]
    lines.append(f"report: {page}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
