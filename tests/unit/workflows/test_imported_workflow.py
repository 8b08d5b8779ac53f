"""Runs that other tools really wrote, imported whole: our numbers are theirs, and the report is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.runs import Tool
from lorascope.errors import InvalidComparison, OutputError, UsageError
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.workflows.imported import ImportOptions, import_runs
from lorascope.workflows.publish import load_result

FIXTURES = Path(__file__).parents[1] / "data" / "fixtures" / "imported"


def imported(tool: Tool, out: Path, **options: Any) -> Comparison:
    given = {"base": str(FIXTURES / tool / "base"), "adapted": (str(FIXTURES / tool / "tuned"),)} | options
    return load_result(import_runs(ImportOptions(tool=tool, out=out, **given)))


def one(comparison: Comparison, task: str, metric: str) -> Measurement:
    [found] = [each for each in comparison.measurements if (each.task, each.metric, each.slice) == (task, metric, None)]
    return found


def values(found: Measurement) -> tuple[float, float]:
    assert found.base is not None
    assert found.adapted is not None
    return found.base.value, found.adapted.value


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    out = tmp_path_factory.mktemp("lm-eval") / "out"
    return imported("lm-eval", out), out


def test_every_number_of_the_harness_comes_out_again(harness: tuple[Comparison, Path]) -> None:
    comparison, _ = harness
    results = [
        json.loads(next((FIXTURES / "lm-eval" / name).glob("results_*")).read_text()) for name in ("base", "tuned")
    ]
    names = {
        ("tiny_choice", "accuracy"): ("tiny_choice", "acc,none"),
        ("tiny_choice", "accuracy_norm"): ("tiny_choice", "acc_norm,none"),
        ("tiny_choice", "exact_match_lm_eval"): ("tiny_choice", "exact_match,none"),
        ("tiny_generate-whole", "exact_match"): ("tiny_generate", "exact_match,whole"),
        ("tiny_generate-first-word", "exact_match"): ("tiny_generate", "exact_match,first-word"),
        ("tiny_rolling", "bits_per_byte"): ("tiny_rolling", "bits_per_byte,none"),
        ("tiny_rolling", "word_perplexity"): ("tiny_rolling", "word_perplexity,none"),
        ("tiny_rolling", "byte_perplexity"): ("tiny_rolling", "byte_perplexity,none"),
    }
    for (task, metric), (theirs, key) in names.items():
        expected = [document["results"][theirs][key] for document in results]
        assert values(one(comparison, task, metric)) == pytest.approx(expected, rel=1e-9), (task, metric)


def test_tasks_that_are_scored_differently_have_other_fingerprints(harness: tuple[Comparison, Path]) -> None:
    prints = [task.fingerprint for task in harness[0].tasks]
    assert len(set(prints)) == len(prints) == 4


def test_the_agreement_with_the_harness_is_a_finding(harness: tuple[Comparison, Path]) -> None:
    comparison, _ = harness
    [agreed] = [found for found in comparison.findings if found.id == "import:agreement"]
    assert agreed.severity == "good"
    assert "tiny_choice: acc is our accuracy on all 20 answers" in agreed.evidence
    assert "tiny_rolling: bits_per_byte is our bits_per_byte on all 20 answers" in agreed.evidence


def test_choices_have_margins_and_flips(harness: tuple[Comparison, Path]) -> None:
    comparison, out = harness
    assert one(comparison, "tiny_choice", "gold_margin").delta is not None
    [ledger] = [found for found in comparison.flips if found.task == "tiny_choice"]
    assert ledger.items == 10
    right = values(one(comparison, "tiny_choice", "accuracy"))
    assert ((ledger.both_right + ledger.broken) / 10, (ledger.both_right + ledger.fixed) / 10) == right
    rows = pyarrow.parquet.read_table(out / "samples.parquet").to_pylist()
    assert {row["task"] for row in rows} == {task.name for task in comparison.tasks}
    assert {"exact_match_lm_eval_base", "exact_match_lm_eval_adapted"} <= set(rows[0])


def test_what_is_not_known_of_the_checkpoints_is_null(harness: tuple[Comparison, Path]) -> None:
    comparison, out = harness
    assert (comparison.base.dtype, comparison.base.parameters.total) == ("float32", 38048)
    assert comparison.base.architecture == "not recorded"
    assert comparison.provenance.device == "none"
    assert {found.area for found in comparison.missing} == {"weights", "curves"}
    assert (out / "report.html").stat().st_size > 10_000


def test_perplexities_of_the_tool_have_no_verdict_and_their_direction(harness: tuple[Comparison, Path]) -> None:
    found = one(harness[0], "tiny_rolling", "word_perplexity")
    assert (found.direction, found.unit) == ("lower", "perplexity")
    assert found.delta is not None
    assert found.delta.verdict is None
    assert found.delta.low is not None


def test_inspects_accuracies_come_out_again(tmp_path: Path) -> None:
    comparison = imported("inspect", tmp_path / "out")
    theirs = {}
    for name in ("base", "tuned"):
        for task in ("facts", "letters"):
            header = EvalArchive(FIXTURES / "inspect" / name / f"{task}.eval").document("header.json")
            for score in header["results"]["scores"]:
                theirs[name, task, score["name"]] = score["metrics"]["accuracy"]["value"]
    for task, scorer, metric in (("facts", "match", "exact_match"), ("letters", "choice", "exact_match"),
                                 ("facts", "includes", "includes")):  # fmt: skip
        expected = (theirs["base", task, scorer], theirs["tuned", task, scorer])
        assert values(one(comparison, task, metric)) == pytest.approx(expected)
    assert comparison.base.parameters.total is None
    judged = one(comparison, "facts", "includes").delta
    assert judged is not None
    assert (judged.margin, judged.verdict) == (0.02, "inconclusive")


def test_lightevals_numbers_come_out_again(tmp_path: Path) -> None:
    comparison = imported("lighteval", tmp_path / "out", retention=("tiny_choice|0",))
    files = [next((FIXTURES / "lighteval" / name).glob("results_*")) for name in ("base", "tuned")]
    results = [json.loads(file.read_text())["results"] for file in files]
    for task, metric, theirs in (("tiny_choice|0", "accuracy", "acc"), ("tiny_generate|0", "exact_match", "em")):
        assert values(one(comparison, task, metric)) == pytest.approx([result[task][theirs] for result in results])
    assert {task.name: task.role for task in comparison.tasks}["tiny_choice|0"] == "retention"
    assert one(comparison, "tiny_choice|0", "retained_fraction").area == "forgetting"


def predictions(path: Path, said: list[str], **more: Any) -> str:
    rows = [
        {"id": n, "prompt": f"{n}?", "prediction": text, "reference": f"it is {n}"} | more
        for n, text in enumerate(said)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_two_files_give_a_verdict_and_say_what_differs(tmp_path: Path) -> None:
    right = [f"it is {n}" for n in range(60)]
    base = predictions(tmp_path / "base.jsonl", ["no idea"] * 30 + right[30:])
    tuned = predictions(tmp_path / "tuned.jsonl", right[:59])
    comparison = imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    assert [each.name for each in comparison.checkpoints] == ["base", "tuned"]
    found = one(comparison, "predictions", "exact_match")
    assert found.delta is not None
    assert (found.delta.verdict, found.delta.n) == ("improved", 59)
    [alone] = [finding for finding in comparison.findings if finding.id.startswith("import:unpaired")]
    assert alone.title == "1 of 60 items of predictions in base are not in every run"


def test_another_template_is_a_warning(tmp_path: Path) -> None:
    base = predictions(tmp_path / "base.jsonl", ["it is 0", "no"])
    tuned = predictions(tmp_path / "tuned.jsonl", ["it is 0", "it is 1"], prompt="<s>")
    comparison = imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    [finding] = [found for found in comparison.findings if found.id.startswith("import:prompts")]
    assert finding.severity == "warning"
    assert finding.evidence[0].startswith("predictions: 2 of 2 prompts differ")


def test_scores_that_are_not_ours_are_reported_beside_ours(tmp_path: Path) -> None:
    """The harness counts case where ours does not: both numbers stand in the result, with the item that differs."""
    for name in ("base", "tuned"):
        folder = tmp_path / name
        folder.mkdir()
        for file in (FIXTURES / "lm-eval" / name).iterdir():
            if "tiny_generate" in file.name:
                rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
                for row in rows:
                    row |= {"target": "Red", "filtered_resps": ["red"], "exact_match": 0.0}
                (folder / file.name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    comparison = imported(
        "lm-eval", tmp_path / "out", base=str(tmp_path / "base"), adapted=(str(tmp_path / "tuned"),),
        filter_name="whole",
    )  # fmt: skip
    assert values(one(comparison, "tiny_generate", "exact_match")) == (1.0, 1.0)
    assert values(one(comparison, "tiny_generate", "exact_match_lm_eval")) == (0.0, 0.0)
    [told] = [found for found in comparison.findings if found.id == "import:agreement:tiny_generate:exact_match"]
    assert told.evidence[0].startswith("20 of 20 answers differ, by 1 at most")
    assert "case counts" in told.evidence[1]


def test_runs_with_other_settings_are_refused_or_critical(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for file in (FIXTURES / "lm-eval" / "tuned").iterdir():
        text = file.read_text("utf-8")
        if file.suffix == ".json":
            header = json.loads(text)
            header["n-shot"]["tiny_choice"] = 5
            text = json.dumps(header)
        (folder / file.name).write_text(text, "utf-8")
    with pytest.raises(InvalidComparison, match="few-shot examples of tiny_choice differ"):
        imported("lm-eval", tmp_path / "out", adapted=(str(folder),))
    comparison = imported(
        "lm-eval", tmp_path / "out", adapted=(str(folder),), allow_different=True, tasks=("tiny_choice",)
    )
    assert comparison.findings[0].severity == "critical"
    assert comparison.findings[0].evidence == ["base: 0", "tuned: 5"]


def test_a_setting_that_differs_in_all_tasks_is_said_once(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    for file in (FIXTURES / "lm-eval" / "tuned").iterdir():
        (folder / file.name).write_text(file.read_text("utf-8").replace('"torch.float32"', '"torch.float16"'), "utf-8")
    comparison = imported("lm-eval", tmp_path / "out", adapted=(str(folder), str(FIXTURES / "lm-eval" / "tuned")))
    [told] = [found for found in comparison.findings if found.id.startswith("import:setting")]
    assert told.severity == "warning"
    assert told.title.endswith(
        "number type of tiny_choice, tiny_generate-whole, tiny_generate-first-word, tiny_rolling"
    )
    assert len({each.name for each in comparison.checkpoints}) == 3
    assert [each.dtype for each in comparison.checkpoints] == ["float32", "float16", "float32"]


def test_the_same_command_resumes_and_another_is_refused(tmp_path: Path) -> None:
    base, tuned = predictions(tmp_path / "a.jsonl", ["x", "y"]), predictions(tmp_path / "b.jsonl", ["x", "z"])
    first = imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    again = imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    assert again.measurements == first.measurements
    predictions(tmp_path / "b.jsonl", ["x", "changed"])
    with pytest.raises(OutputError, match="another command"):
        imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    imported("files", tmp_path / "out", base=base, adapted=(tuned,), overwrite=True)


def test_without_samples_no_text_is_in_any_output(tmp_path: Path) -> None:
    base = predictions(tmp_path / "a.jsonl", ["secret one", "y"])
    tuned = predictions(tmp_path / "b.jsonl", ["secret two", "z"])
    out = tmp_path / "out"
    imported("files", out, base=base, adapted=(tuned,), keep_samples=False)
    assert not (out / "samples.parquet").exists()
    assert all(b"secret" not in file.read_bytes() for file in out.iterdir())


def test_names_and_usage(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generated_predictions.jsonl").write_text('{"prompt": "p", "predict": "a", "label": "b"}\n')
    given = [str(tmp_path / name / "generated_predictions.jsonl") for name in ("one", "two")]
    comparison = imported("llamafactory", tmp_path / "out", base=given[0], adapted=(given[1], f"mine={given[1]}"))
    assert [each.name for each in comparison.checkpoints] == ["one", "two", "mine"]
    with pytest.raises(UsageError, match="only one run"):
        imported("llamafactory", tmp_path / "out2", base=given[0], adapted=())
    with pytest.raises(UsageError, match="--retention names nothing"):
        imported("llamafactory", tmp_path / "out2", base=given[0], adapted=(given[1],), retention=("nothing",))
