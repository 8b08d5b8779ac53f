"""Runs that other tools really wrote, imported whole: our numbers are theirs, and the report is made."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from lorascope.data.imported.eval_archive import EvalArchive
from lorascope.data.imported.runs import Tool
from lorascope.data.tasks import LoadedTask
from lorascope.errors import DataError, InvalidComparison, OutputError, UsageError
from lorascope.measures.core import Scored
from lorascope.schema.comparison import Comparison, Measurement
from lorascope.schema.items import GenerateAnswer, GenerateItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows import scoring
from lorascope.workflows.imported import ImportOptions, import_runs
from lorascope.workflows.imported_scores import Agreement, agreement_findings, own_names
from lorascope.workflows.publish import load_result
from lorascope.workflows.scoring import Asked

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
    assert (comparison.provenance.device, comparison.provenance.engine) == ("none", "import:lm-eval")
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


def test_where_the_tool_judges_otherwise_its_verdicts_hold(tmp_path: Path) -> None:
    """The harness counts case where ours does not: its own is the number to quote, and ours is said to differ."""
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
    assert [each.metric for each in comparison.measurements] == ["exact_match_lm_eval"]
    assert values(one(comparison, "tiny_generate", "exact_match_lm_eval")) == (0.0, 0.0)
    [told] = [found for found in comparison.findings if found.id == "import:agreement:tiny_generate:exact_match"]
    assert told.evidence[0].startswith("20 of 20 answers differ, by 1 at most")
    assert "case counts" in told.evidence[1]
    [ledger] = comparison.flips
    assert ledger.both_wrong == 10


def worked(path: Path, right: Sequence[bool], *, results: bool = True) -> str:
    """A task like GSM8K: the target is a whole solution, the answer its last number, and the harness knows that."""
    [file] = (FIXTURES / "lm-eval" / "base").glob("samples_tiny_generate_*")
    first = json.loads(file.read_text("utf-8").splitlines()[0])
    path.mkdir()
    rows = [
        first
        | {"doc_id": n, "doc_hash": f"{n:064d}"[::-1], "target": f"Adding gives {n}.\n#### {n}"}
        | {"filtered_resps": [str(n if fine else n + 1)], "filter": "strict", "metrics": ["exact_match"]}
        | {"exact_match": float(fine), "arguments": {"gen_args_0": {"arg_0": f"What is {n}?", "arg_1": {}}}}
        for n, fine in enumerate(right)
    ]
    (path / file.name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if results:
        [header] = (FIXTURES / "lm-eval" / "base").glob("results_*")
        (path / header.name).write_bytes(header.read_bytes())
    return str(path)


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("role", ["target", "retention"])
def test_an_answer_taken_out_of_a_solution_is_judged_as_the_harness_does(
    tmp_path: Path, role: str, results: bool
) -> None:
    base = worked(tmp_path / "base", [n % 6 > 0 for n in range(60)], results=results)
    tuned = worked(tmp_path / "tuned", [n % 3 == 1 for n in range(60)], results=results)
    comparison = imported(
        "lm-eval", tmp_path / "out", base=base, adapted=(tuned,),
        retention=("tiny_generate",) if role == "retention" else (),
    )  # fmt: skip
    found = one(comparison, "tiny_generate", "exact_match_lm_eval")
    assert values(found) == pytest.approx((50 / 60, 20 / 60))
    assert found.delta is not None
    assert found.delta.verdict == "regressed"
    assert "exact_match" not in {each.metric for each in comparison.measurements}
    [task] = comparison.tasks
    assert task.metrics[0] == "exact_match_lm_eval"
    [ledger] = comparison.flips
    assert (ledger.both_right + ledger.broken, ledger.both_right + ledger.fixed) == (50, 20)
    kind = "learning" if role == "target" else "forgetting"
    [told] = [each for each in comparison.findings if each.id == f"{kind}:tiny_generate:tuned"]
    assert told.evidence[0].startswith("exact_match_lm_eval 0.8333 → 0.3333")
    if role == "retention":
        assert one(comparison, "tiny_generate", "forgotten_rate").adapted is not None
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert {(row["exact_match_lm_eval_base"], row["flip"]) for row in rows} >= {(1.0, "broken"), (0.0, "both_wrong")}


def test_a_third_run_without_the_task_is_missing_under_the_tools_metric(tmp_path: Path) -> None:
    base, tuned = (worked(tmp_path / name, [n > 3 for n in range(9)]) for name in ("base", "tuned"))
    comparison = imported("lm-eval", tmp_path / "out", base=base, adapted=(tuned, third(tmp_path)))
    [absent] = [each for each in comparison.measurements if each.subject == "third"]
    assert (absent.metric, absent.adapted) == ("exact_match_lm_eval", None)
    assert absent.missing_reason


def third(path: Path) -> str:
    """A run that has another task alone."""
    (path / "third").mkdir()
    [file] = (FIXTURES / "lm-eval" / "tuned").glob("samples_tiny_choice_*")
    (path / "third" / file.name).write_bytes(file.read_bytes())
    return str(path / "third")


def epochs_log(path: Path, name: str, right: Sequence[Sequence[bool]]) -> str:
    header = {"status": "success", "eval": {"task": "t", "scorers": [{"name": "judge"}], "config": {"epochs": 2}}}
    with zipfile.ZipFile(path / f"{name}.eval", "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        for key, turns in enumerate(right):
            for epoch, fine in reversed(list(enumerate(turns, 1))):
                said = {"completion": f"I say {'yes' if fine else 'no'}"}
                sample = {"id": key, "epoch": epoch, "input": f"{key}?", "target": "yes", "output": said}
                sample["scores"] = {"judge": {"value": "C" if fine else "I"}}
                archive.writestr(f"samples/{key}_epoch_{epoch}.json", json.dumps(sample))
    return str(path / f"{name}.eval")


def test_of_several_epochs_the_first_is_right_or_wrong_and_all_are_in_the_mean(tmp_path: Path) -> None:
    base = epochs_log(tmp_path, "base", [(True, True)] * 30 + [(True, False)] * 10)
    tuned = epochs_log(tmp_path, "tuned", [(False, True)] * 30 + [(True, False)] * 10)
    comparison = imported("inspect", tmp_path / "out", base=base, adapted=(tuned,))
    found = one(comparison, "t", "judge")
    assert values(found) == (35 / 40, 20 / 40)
    assert found.delta is not None
    assert (found.unit, found.delta.margin, found.delta.verdict) == ("fraction", 0.02, "regressed")
    [ledger] = comparison.flips
    assert (ledger.broken, ledger.fixed, ledger.both_right) == (30, 0, 10)


def test_metrics_of_the_tool_take_no_other_column(tmp_path: Path) -> None:
    runs = []
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        [file] = (FIXTURES / "lm-eval" / name).glob("samples_tiny_choice_*")
        more = {"metrics": ["acc", "gold_logprob", "a b", "a-b"], "gold_logprob": 7.0, "a b": 1.0, "a-b": 0.0}
        rows = [json.loads(line) | more for line in file.read_text("utf-8").splitlines()]
        (tmp_path / name / file.name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs.append(str(tmp_path / name))
    comparison = imported("lm-eval", tmp_path / "out", base=runs[0], adapted=(runs[1],))
    assert values(one(comparison, "tiny_choice", "a-b")) == (0.0, 0.0)
    assert values(one(comparison, "tiny_choice", "a-b_2")) == (1.0, 1.0)
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert {row["lm_eval_gold_logprob_base"] for row in rows} == {7.0}
    assert all(row["gold_logprob_base"] < 0 for row in rows)
    assert {(row["a-b_base"], row["a-b_2_base"]) for row in rows} == {(0.0, 1.0)}


def test_names_of_the_tools_metrics_are_all_different() -> None:
    given = ["a b", "a-b", "a:b", "exact_match", "exact_match_lm_eval", "", "gold_logprob_change"]
    names = own_names(given, "lm-eval")
    assert len(set(names.values())) == len(given)
    assert names["a-b"] == "a-b"
    assert names["gold_logprob_change"] == "lm_eval_gold_logprob_change"


def test_equality_is_claimed_only_for_what_was_compared() -> None:
    part = Agreement("t", "m", "o", 3, 4, 0, 0.0, "", None)
    none = replace(part, items=0)
    assert not part.equal
    assert not none.equal
    [told] = agreement_findings("inspect", [part, none])
    assert told.title.endswith("that both have a value for")
    assert told.evidence == ["t: m is our o on 3 of 4 answers; ours is undefined on the others"]


def test_each_runs_answers_are_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Asked] = []
    scorer = scoring._SCORERS["generate"]

    def counting(task: LoadedTask, asked: Asked) -> dict[str, Scored]:
        calls.append(asked)
        return scorer(task, asked)

    monkeypatch.setitem(scoring._SCORERS, "generate", counting)
    base, tuned = predictions(tmp_path / "a.jsonl", ["x", "y"]), predictions(tmp_path / "b.jsonl", ["x", "z"])
    imported("files", tmp_path / "out", base=base, adapted=(tuned,))
    assert len(calls) == 2


def test_verdicts_go_with_their_items_and_statistics_do_not() -> None:
    items = [GenerateItem(item_id=name, prompt=name, references=("yes",)) for name in "abc"]
    asked = Asked(items, [GenerateAnswer(text="yes", truncated=False)] * 3, (), (True, False, True))
    task = LoadedTask(SuiteTask(name="t", kind="generate", data=""), "generate", tuple(items), (), (), "f")
    assert scoring.right(task, asked) == [True, False, True]
    assert scoring.right(task, asked.subset([2, 1])) == [True, False]
    first = scoring.score(task, asked)
    first.clear()
    assert len(scoring.score(task, asked)["exact_match"].item_values()) == 3
    assert len(scoring.score(task, asked.subset([0]))["exact_match"].item_values()) == 1
    none = replace(task, spec=task.spec.model_copy(update={"metrics": []}))
    assert scoring.score(none, asked) == {}
    other = replace(asked, answers=[GenerateAnswer(text="no", truncated=False)] * 3)
    assert sum(scoring.score(task, other)["exact_match"].item_values()) == 0


def test_a_failure_before_the_statistics_leaves_no_folder(tmp_path: Path) -> None:
    base = epochs_log(tmp_path, "base", [(True, True), (True,)])
    tuned = epochs_log(tmp_path, "tuned", [(True, True), (True, True)])
    with pytest.raises(DataError, match="items of t have 1 to 2 answers in base"):
        imported("inspect", tmp_path / "out", base=base, adapted=(tuned,))
    assert not (tmp_path / "out").exists()


def test_names_that_make_a_folders_too_long_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base, tuned = predictions(tmp_path / "a.jsonl", ["x", "y"]), predictions(tmp_path / "b.jsonl", ["x", "z"])
    for last in "de":
        options = ImportOptions(tool="files", base=f"{'长' * 80}={base}", adapted=(f"{'名' * 60}{last}={tuned}",))
        assert len(import_runs(options).parent.name.encode()) <= 255
    assert len(list((tmp_path / "reports").iterdir())) == 2
    with pytest.raises(UsageError, match="longer than file systems take"):
        import_runs(ImportOptions(tool="files", base=base, adapted=(f"{'长' * 90}={tuned}",)))


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
