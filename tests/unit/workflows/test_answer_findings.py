"""Answers that are none are counted for base and subject side by side, and warned of where they are the subject's."""

from __future__ import annotations

from collections.abc import Sequence

from lorascope.data.tasks import LoadedTask
from lorascope.schema.comparison import Finding
from lorascope.schema.items import GenerateAnswer, GenerateItem, LikelihoodAnswer, LikelihoodItem
from lorascope.schema.suite import SuiteTask
from lorascope.workflows.answer_findings import find_in_answers
from lorascope.workflows.measuring import Pair, TaskAnswers
from lorascope.workflows.scoring import Asked

PAIRS = [Pair("x", "base")]
RIGHT = "a small library for parsing dates"
POOR = "a small tool"


def answers(cut: bool = False, stop: str | None = None, **said: Sequence[str]) -> TaskAnswers:
    count = len(next(iter(said.values())))
    items = tuple(GenerateItem(item_id=str(at), prompt="Q", references=(RIGHT,)) for at in range(count))
    spec = SuiteTask(name="syn", kind="generate", data="x.jsonl")
    asked = {
        name: Asked(items, [GenerateAnswer(text=text, truncated=cut, stop=stop) for text in texts])
        for name, texts in said.items()
    }
    return TaskAnswers(LoadedTask(spec, "generate", items, (), (), "f"), (), asked)


def found(base: Sequence[str], x: Sequence[str], **how: bool | str | None) -> list[Finding]:
    return find_in_answers([answers(base=base, x=x, **how)], PAIRS)  # type: ignore[arg-type]


def test_more_empty_answers_than_the_base_are_a_warning_with_both_counts() -> None:
    [finding] = found([POOR] * 30, [" \n"] * 12 + [POOR] * 18)
    assert finding.severity == "warning"
    assert finding.title == "Of 30 answers of x to syn: 12 empty"
    assert finding.evidence == [
        "base, of 30 answers: none empty, in a loop, in another script or cut",
        "x, of 30 answers: 12 empty",
    ]
    assert "end-of-text" in str(finding.advice)


def test_loops_and_other_scripts_are_counted() -> None:
    [finding] = found([POOR] * 30, ["for " * 40] * 9 + ["一个小小的日期解析库"] * 8 + [POOR] * 13)
    assert finding.severity == "warning"
    assert finding.title.endswith("9 in a loop, 8 in another script than the references")
    assert "fewer epochs" in str(finding.advice)


def test_what_the_base_does_too_is_information_unless_it_is_most() -> None:
    some = [""] * 6 + [POOR] * 24
    [finding] = found(some, some)
    assert (finding.severity, finding.advice) == ("info", None)
    most = [""] * 16 + [POOR] * 14
    [finding] = found(most, most)
    assert finding.severity == "warning"


def test_a_few_and_right_ones_are_no_finding() -> None:
    assert found([POOR] * 30, ["", "", *[POOR] * 28]) == []
    assert found([RIGHT] * 30, [RIGHT] * 30, cut=True) == []


def test_answers_that_are_cut_as_the_bases_are_no_warning() -> None:
    [finding] = found([POOR] * 30, [POOR] * 30, cut=True)
    assert finding.severity == "info"
    assert "30 cut by max_new_tokens" in finding.title


def test_stop_strings_that_end_empty_answers_are_named() -> None:
    [finding] = found([POOR] * 30, [""] * 20 + [POOR] * 10, stop="\n")
    assert "20 of the empty ones ended by a stop string" in finding.evidence[1]


def test_two_checkpoints_that_can_do_nothing_are_said_to_be_so() -> None:
    [finding] = found([""] * 41 + ["zzz"] * 19, [""] * 53 + ["zzz"] * 7)
    assert finding.severity == "warning"
    assert finding.title == "Neither base nor x can do syn"
    assert finding.evidence[0].startswith("rougeL 0.000 (base) and 0.000 (x), both below 0.02")
    assert finding.evidence[1:] == ["base, of 60 answers: 41 empty", "x, of 60 answers: 53 empty"]


def test_a_reference_in_a_loop_makes_loops_right_and_unknown_scripts_are_no_fault() -> None:
    task = answers(base=[POOR] * 20, x=["na " * 20 + "small library"] * 20)
    assert find_in_answers([task], PAIRS) == []
    items = tuple(GenerateItem(item_id=str(at), prompt="Q", references=("1970 small " * 9, "1")) for at in range(20))
    given = [GenerateAnswer(text="small " + "1970 small " * 12, truncated=False)] * 20
    task.asked = {name: Asked(items, given) for name in ("base", "x")}
    assert find_in_answers([task], PAIRS) == []


def test_each_subject_once_alone_where_the_base_did_not_answer_and_only_generated_text() -> None:
    task = answers(x=[""] * 20, y=[POOR] * 20)
    [finding] = find_in_answers([task], [Pair("x", "base"), Pair("y", "base"), Pair("x", "y")])
    assert finding.evidence == ["x, of 20 answers: 20 empty"]
    text = LikelihoodItem(item_id="0", text="a")
    spec = SuiteTask(name="lm", kind="likelihood", data="x.jsonl")
    other = TaskAnswers(LoadedTask(spec, "likelihood", (text,), (), (), "f"))
    other.asked = {"x": Asked([text], [LikelihoodAnswer(logprob=-1.0, tokens=1, bytes=1)])}
    assert find_in_answers([other], PAIRS) == []
