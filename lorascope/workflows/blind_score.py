"""Take filled-in sheets of a blind study into the result that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lorascope.blind.formats import read_sheet
from lorascope.blind.human_measurements import outcome_measurements
from lorascope.blind.key import StudyKey, read_key
from lorascope.blind.metric_agreement import item_metrics
from lorascope.blind.rows import Language
from lorascope.blind.scoring import score_study
from lorascope.errors import DataError, InvalidComparison
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.human import HumanReport, HumanStudy
from lorascope.workflows.output import write_whole
from lorascope.workflows.publish import document, load_result, load_samples, render


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

    The study's own earlier scores are replaced, and those of any study that measured the same pair on the same tasks.
    InvalidComparison when the key belongs to other checkpoints or tasks than the result; DataError for sheets that
    cannot be read, all of them named. Nothing is written then.
    """
    key = read_key(key_path)
    comparison = load_result(result_path)
    _check_fit(key, comparison, key_path)
    samples = load_samples(result_path)
    metrics = {} if samples is None else item_metrics(samples, comparison, key)
    read = [read_sheet(path) for path in _files(sheets)]
    study = score_study(read, key, metrics=metrics, allow_partial=allow_partial)
    text = document(_with_study(comparison, study))
    write_whole(result_path, lambda part: part.write_text(text, encoding="utf-8"))
    page = render(result_path, language=language)
    _tell(study, page, console)
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


def _with_study(comparison: Comparison, study: HumanStudy) -> Comparison:
    found = outcome_measurements(study, comparison)
    places = {_place(each) for each in found}
    rated = {name for pair in study.pairs for name in (pair.first, pair.second)}
    kept = [each for each in comparison.measurements if each.area != "human" or _place(each) not in places]
    earlier = comparison.human.studies if comparison.human else []
    studies = [each for each in earlier if each.study != study.study and not _same_question(each, study)]
    missing = [each for each in comparison.missing if each.area != "human" or each.subject not in rated]
    return comparison.model_copy(
        update={
            "measurements": [*kept, *found],
            "human": HumanReport(studies=[*studies, study]),
            "missing": missing,
        }
    )


def _place(found: Measurement) -> tuple[str, str, str | None, str]:
    return found.subject, found.reference, found.task, found.metric


def _same_question(one: HumanStudy, other: HumanStudy) -> bool:
    return sorted(one.systems) == sorted(other.systems) and sorted(one.tasks) == sorted(other.tasks)


def _tell(study: HumanStudy, page: Path, console: Console) -> None:
    lines = []
    for pair in study.pairs:
        rate = pair.win_rate
        interval = "" if rate.low is None or rate.high is None else f" [{rate.low:.3f}, {rate.high:.3f}]"
        sign = "" if pair.sign_test.p_value is None else f", sign test p = {pair.sign_test.p_value:.3g}"
        lines.append(
            f"{pair.first} against {pair.second}: win rate {rate.value:.3f}{interval}, {pair.items} items{sign}"
        )
    absent = [rater.rater for rater in study.raters if not rater.present]
    out = [f"{rater.rater} is left out: {rater.excluded}" for rater in study.raters if rater.excluded]
    lines += [f"no sheet from {', '.join(absent)}"] if absent else []
    lines += [*out, *(f"departs from the plan: {each}" for each in study.deviations)]
    lines += [f"note: {each}" for each in study.notes]
    lines.append(f"report: {page}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
