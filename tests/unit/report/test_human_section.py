"""The human test in the report: words that respect the interval, every number printed, older results as before."""

from __future__ import annotations

import io
import re
from types import ModuleType

import pytest
from rich.console import Console

from lorascope.report.html import render_html
from lorascope.report.human_section import human_context
from lorascope.report.human_words import alpha_meaning, favoured, human_lines, pair_said, share, side_said, two_digits
from lorascope.report.terminal import print_summary
from lorascope.report.texts import load_texts
from lorascope.schema.comparison import Comparison
from lorascope.schema.human import Alpha, HumanReport, HumanStudy, MetricAgreement, RaterQuality, SignTest, Votes
from lorascope.schema.values import Estimate

EN = load_texts("en")
BASE, LORA, FULL = "llama-tiny", "lora-r16", "full-ft"


def rate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=118, method="stratified")


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    assert found is not None
    return plain(re.sub(r"\s+", " ", found.group(0)))


def bare(factory: ModuleType, *studies: HumanStudy) -> Comparison:
    """Checkpoints, the human test and nothing else, which renders fast."""
    base = factory.checkpoint(BASE, role="base", kind="model", method=None)
    found = [factory.measurement(LORA, "win_rate", None, 0.62, area="human")]
    checkpoints = [base, factory.checkpoint(LORA), factory.checkpoint(FULL)]
    human = HumanReport(studies=list(studies)) if studies else None
    return factory.comparison(checkpoints, measurements=found, human=human)


@pytest.fixture(scope="module")
def page(factory: ModuleType) -> str:
    return section(render_html(bare(factory, factory.human_study()), None), "human")


@pytest.fixture
def study(factory: ModuleType) -> HumanStudy:
    return factory.human_study()


def said(study: HumanStudy, causal: Comparison, place: int = 0) -> tuple[str, str, str]:
    found = pair_said(study.pairs[place], study, causal, EN)
    return found.tone, plain(found.lead), plain(found.text)


def test_a_preference_is_said_with_its_numbers(study: HumanStudy, causal: Comparison) -> None:
    tone, lead, text = said(study, causal)
    assert tone == "good"
    assert (
        lead
        == "Raters preferred lora-r16 to llama-tiny: lora-r16 took 62 % of the votes (95 % interval [54 %, 70 %]), "
        "ties counted half, averaged over items"
    )
    assert text == (
        "Sign test p = 0.012 (64 items for lora-r16, 38 for llama-tiny, 16 undecided), 118 items (3 with identical "
        "answers), in the whole study 2 raters (1 more excluded), α (nominal) 0.41 [0.30, 0.52]."
    )


def test_a_preference_for_the_base_is_turned_round(study: HumanStudy, causal: Comparison) -> None:
    tone, lead, _ = said(study, causal, 1)
    assert tone == "bad"
    assert lead.startswith(
        "Raters preferred llama-tiny to full-ft: llama-tiny took 59 % of the votes (95 % interval [52 %, 66 %])"
    )


def test_an_interval_that_holds_one_half_shows_no_preference(study: HumanStudy, causal: Comparison) -> None:
    tone, lead, _ = said(study, causal, 2)
    assert tone == "unclear"
    assert lead.startswith("The registered test does not settle a preference between lora-r16 and full-ft")
    assert "lora-r16 took 54 % of the votes (95 % interval [45 %, 63 %])" in lead
    assert "equal" not in lead


def test_between_adapted_checkpoints_no_side_is_the_good_one(study: HumanStudy, causal: Comparison) -> None:
    study.pairs[2].win_rate = rate(0.7, 0.6, 0.8)
    study.pairs[2].sign_test = SignTest(wins=60, losses=30, undecided=28, p_value=0.002)
    assert said(study, causal, 2)[0] == "neutral"


def test_without_an_interval_nothing_is_shown(study: HumanStudy, causal: Comparison) -> None:
    study.plan = None
    study.pairs[0].win_rate = rate(1.0, None, None)
    study.pairs[0].sign_test = SignTest(wins=0, losses=0, undecided=2)
    tone, lead, text = said(study, causal)
    assert tone == "unclear"
    assert "no preference is shown" in lead
    assert text.startswith("On no item do the raters prefer a side (2 undecided)")


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "wins", "losses", "doubt"),
    [
        (0.62, 0.54, 0.7, 0.2, 60, 50, "does not confirm it"),
        (0.55, 0.47, 0.63, 0.01, 70, 40, "does show one"),
        (0.62, 0.54, 0.7, 0.01, 40, 70, "does show one"),
        (0.62, 0.54, 0.7, 0.01, 70, 40, ""),
        (0.5, 0.42, 0.58, None, 0, 0, ""),
    ],
)
def test_where_interval_and_test_differ_it_is_said(
    study: HumanStudy, causal: Comparison, value: float, low: float, high: float, p: float | None, wins: int,
    losses: int, doubt: str,
) -> None:  # fmt: skip
    study.plan = None
    study.pairs[0].win_rate = rate(value, low, high)
    study.pairs[0].sign_test = SignTest(wins=wins, losses=losses, undecided=8, p_value=p)
    text = said(study, causal)[2]
    assert ("The sign test, in which" in text) == bool(doubt)
    assert doubt in text


@pytest.mark.parametrize(
    ("value", "low", "high", "p", "wins", "tone", "lead", "doubt"),
    [
        (0.62, 0.54, 0.7, 0.012, 64, "good", "Raters preferred lora-r16 to llama-tiny", ""),
        (0.62, 0.54, 0.7, 0.05, 64, "good", "Raters preferred lora-r16 to llama-tiny", ""),
        (0.62, 0.54, 0.7, 0.06, 64, "unclear", "The registered test does not settle", "does not reject"),
        (0.62, 0.54, 0.7, None, 0, "unclear", "The registered test does not settle", "does not reject"),
        (0.62, 0.54, 0.7, 0.01, 20, "unclear", "The registered test does not settle", "not lie on its side"),
        (0.55, 0.47, 0.63, 0.01, 64, "good", "Raters preferred lora-r16 to llama-tiny", "all items, does not"),
        (0.62, None, None, 0.01, 64, "good", "Raters preferred lora-r16 to llama-tiny: lora-r16 "
         "took 62 % of the votes (no interval)", "all items, does not"),
        (0.45, 0.37, 0.53, 0.01, 20, "bad", "Raters preferred llama-tiny to lora-r16: llama-tiny took 55 % of the "
         "votes (95 % interval [47 %, 63 %])", "weighted to all items, does not"),
        (0.50, 0.42, 0.58, 0.01, 64, "unclear", "The registered test does not settle", "not lie on its side"),
        (0.55, 0.47, 0.63, 0.3, 64, "unclear", "The registered test does not settle", ""),
    ],
)  # fmt: skip
def test_with_a_plan_its_test_decides(
    study: HumanStudy, causal: Comparison, value: float, low: float | None, high: float | None, p: float | None,
    wins: int, tone: str, lead: str, doubt: str,
) -> None:  # fmt: skip
    study.pairs[0].win_rate = rate(value, low, high)
    losses = 40 if p is not None else 0
    study.pairs[0].sign_test = SignTest(wins=wins, losses=losses, undecided=8, p_value=p)
    found = said(study, causal)
    assert found[0] == tone
    assert found[1].startswith(lead)
    assert doubt in found[2]
    assert found[2].endswith("].") == (not doubt)


def test_the_test_is_judged_at_the_registered_level(study: HumanStudy, causal: Comparison) -> None:
    study.pairs[0].sign_test = SignTest(wins=64, losses=40, undecided=14, p_value=0.02)
    assert said(study, causal)[0] == "good"
    study.alpha = 0.01
    tone, _, text = said(study, causal)
    assert tone == "unclear"
    assert "does not reject at the registered level 0.01" in text


def test_counts_of_one_are_singular(study: HumanStudy, causal: Comparison) -> None:
    study.pairs[0].sign_test = SignTest(wins=1, losses=0, undecided=117, p_value=1.0)
    assert "(1 item for lora-r16, 0 for llama-tiny, 117 undecided)" in said(study, causal)[2]


def test_a_single_pair_has_the_study_for_itself(study: HumanStudy, causal: Comparison) -> None:
    assert ", in the whole study 2 raters" in said(study, causal)[2]
    study.pairs = study.pairs[:1]
    assert "whole study" not in said(study, causal)[2]


def test_what_was_scored_besides_is_said(factory: ModuleType) -> None:
    pair = factory.human_study().pairs[0]
    other = factory.human_study(study="s-second", scored=None, systems=[BASE, LORA], pairs=[pair])
    apart = factory.human_study(study="s-third", tasks=["another"])
    comparison = bare(factory, factory.human_study(), other, apart)
    assert comparison.human is not None
    comparison.human.earlier = [factory.earlier_score()]
    views = human_context(comparison, EN)["human_studies"]
    before = "Scored before with other sheets (2026-05-03 09:30:00 UTC): win rate lora-r16 against llama-tiny 48 %"
    assert plain(views[0].traces[0]) == f"{before} [40 %, 56 %]"
    asked = "Another study of the same question, s-second: win rate lora-r16 against llama-tiny 62 % [54 %, 70 %]"
    assert [plain(each) for each in views[0].traces[1:]] == [asked]
    assert "s-4f1c2d7a (2026-05-04 16:12:00 UTC)" in views[1].traces[0]
    assert views[2].traces == ()
    lines = [plain(each.lead) for each in human_lines(comparison, EN)]
    assert f"{before} [40 %, 56 %]" in lines
    shown = section(render_html(comparison, None), "human")
    assert before in shown
    assert "此前用其他评分表计过分" in section(render_html(comparison, None, language="zh"), "human")


def test_the_ends_of_an_interval_decide() -> None:
    assert favoured(rate(0.6, 0.5, 0.7)) == 0
    assert favoured(rate(0.6, 0.501, 0.7)) == 1
    assert favoured(rate(0.4, 0.3, 0.499)) == -1
    assert favoured(rate(0.9, None, None)) == 0


@pytest.mark.parametrize(
    ("value", "low", "key"),
    [
        (0.41, 0.3, "low"),
        (0.05, -0.08, "chance"),
        (0.7, 0.6, "tentative"),
        (0.84, 0.8, "reliable"),
        (0.3, 0.0, "chance"),
    ],
)
def test_what_an_agreement_means(value: float, low: float, key: str) -> None:
    alpha = Alpha(name="overall", level="nominal", estimate=rate(value, low, 1.0), units=118)
    assert alpha_meaning(alpha, EN) == EN(f"human.alpha.{key}")


def test_an_agreement_that_is_not_defined_says_why() -> None:
    why = Alpha(name="logic", level="ordinal", units=0, missing_reason="one rater only")
    assert alpha_meaning(why, EN) == "one rater only"
    assert alpha_meaning(why.model_copy(update={"missing_reason": None}), EN) == EN("human.alpha.unknown")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (rate(0.56, 0.52, 0.6), "raters leaned to it"),
        (rate(0.44, 0.4, 0.48), "raters leaned to B"),
        (rate(0.52, 0.48, 0.56), "no leaning to a side is shown"),
        (rate(0.52, None, None), "too few for an interval."),
    ],
)
def test_a_leaning_to_one_side(study: HumanStudy, found: Estimate, words: str) -> None:
    study.left_rate = found
    assert words in side_said(study, EN)
    study.left_rate = None
    assert side_said(study, EN) == ""


def test_bars_and_tracks_stand_where_the_numbers_are(study: HumanStudy, causal: Comparison) -> None:
    causal.human = HumanReport(studies=[study])
    view = human_context(causal, EN)["human_studies"][0]
    pair = view.pairs[0]
    assert sum(vote.width for vote in pair.votes) == pytest.approx(100, abs=0.05)
    assert [vote.kind for vote in pair.votes] == ["first_much", "first", "tie", "both_bad", "second", "second_much"]
    assert [vote.count for vote in pair.votes] == ["60", "110", "52", "22", "70", "31"]
    span = pair.rates[0].span
    assert (span.value, span.low, span.width) == (62.0, 54.0, 16.0)
    assert [plain(each.value) for each in pair.rates] == ["62 %", "64 %", "57 %"]
    base = next(each for each in view.standings if each.label == BASE)
    assert (base.span.value, base.span.low) == (50.0, None)
    assert [each.label for each in view.standings] == [LORA, BASE, FULL]
    edges = [end for each in view.standings for end in (each.span.low, each.span.value) if end is not None]
    assert all(0 <= end <= 100 for end in edges)


def test_a_study_without_votes_or_further_numbers(factory: ModuleType) -> None:
    pair = factory.human_pair(
        LORA, BASE, 0.5, 0.0, p=None, wins=0, losses=0, votes=Votes(), ratings=[], metrics=[], strata=[],
        length_adjusted=None, identical=118, notes=["lengths do not vary"],
    )  # fmt: skip
    study = factory.human_study(
        pairs=[pair], raters=[RaterQuality(rater="rater-1", present=True)], alphas=[], left_rate=None, standings=[],
        plan=None, registered=None, deviations=[], notes=[],
    )  # fmt: skip
    shown = section(render_html(bare(factory, study), None), "human")
    assert "No plan was registered" in shown
    assert "lengths do not vary" in shown
    for heading in ("human.standings", "human.ratings", "human.metrics", "human.strata", "human.deviations"):
        assert f">{EN(heading)}<" not in shown
    assert "0 votes" in shown


def test_the_section_shows_everything(page: str) -> None:
    for words in (
        "62 % of the votes (95 % interval [54 %, 70 %]), ties counted half, averaged over items",
        "lora-r16 much better <strong>60</strong>",
        "At equal length",
        "Standings",
        "+0.48",
        "[+0.20, +0.60]",
        "0.819",
        "cannot be told from chance",
        "all ratings are equal",
        "passed 33 % of the checks, the plan asks for 67 %",
        "11 / 12",
        "98 % (118 / 120)",
        "no sheet",
        "raters leaned to it",
        "118 items were rated, 273 were planned",
        "<li>Primary endpoint: the win rate over items.</li><li>Items: 273.</li>",
        "sha256-77aa",
        "support · short · flipped",
        "4.17",
        "it prefers a side nowhere",
        "+0.31",
        "rater-4 gave no sheet back",
        "hmac-9f2c",
        "win_rate",
    ):
        assert words in page, words
    assert page.count('class="votes"') == 3
    assert page.count('class="track"') == 3 * 3 + 3 + 3 + 3 * 2


def test_the_section_in_chinese(factory: ModuleType) -> None:
    shown = section(render_html(bare(factory, factory.human_study()), None, language="zh"), "human")
    assert "lora-r16 的得票率为 62 %（95% 区间 [54 %, 70 %]），平局计一半，按样本平均" in shown
    assert "登记的检验未能确定对 lora-r16 或 full-ft 的偏好" in shown
    assert "与随机一致无法区分" in shown


def test_the_chinese_section_says_where_english_follows(factory: ModuleType) -> None:
    study = factory.human_study()
    study.pairs[0].notes = ["lengths do not vary"]
    words = "以下说明为英文原文"
    shown = section(render_html(bare(factory, study), None, language="zh"), "human")
    assert shown.count(words) == 5
    for before, after in (("与计划的偏离", "118 items were rated"), ("说明</h4>", "rater-4 gave no sheet back")):
        assert re.search(rf"{before}.{{0,60}}{words}.{{0,60}}{after}", shown)
    study.deviations, study.notes = [], []
    for pair in study.pairs:
        pair.metrics, pair.notes = [], []
    study.alphas, study.raters = study.alphas[:1], study.raters[:2]
    assert words not in section(render_html(bare(factory, study), None, language="zh"), "human")
    assert EN("human.english") not in section(render_html(bare(factory, factory.human_study()), None), "human")


def test_two_studies_are_told_apart(factory: ModuleType) -> None:
    both = factory.human_study(), factory.human_study(study="s-second")
    shown = section(render_html(bare(factory, *both), None), "human")
    assert shown.count('<h3 class="study">') == 2
    assert "Study s-second" in shown


def test_results_without_a_study_still_render(factory: ModuleType) -> None:
    without = bare(factory)
    shown = section(render_html(without, None), "human")
    assert "win_rate" in shown
    assert "<details" not in shown
    without.measurements = []
    for empty in (None, HumanReport(studies=[])):
        without.human = empty
        assert '<section id="human"' not in render_html(without, None)
    assert human_lines(without, EN) == []


def test_the_terminal_says_pairs_and_who_was_left_out(causal: Comparison) -> None:
    lines = human_lines(causal, EN)
    assert len(lines) == 5
    assert lines[3].lead.startswith("Scored before with other sheets")
    assert plain(lines[-1].lead) == "rater-3 was left out: passed 33 % of the checks, the plan asks for 67 %"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_summary_has_the_human_test_and_the_gates(factory: ModuleType, encoding: str) -> None:
    comparison = bare(factory, factory.human_study())
    comparison.gates = factory.gate_report()
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=80)
    print_summary(comparison, console)
    text = " ".join(plain(raw.getvalue().decode(encoding)).split())
    assert "Human test" in text
    assert (
        "lora-r16 took 62 % of the votes (95 % interval [54 %, 70 %]), ties counted half, averaged over items." in text
    )
    assert ("alpha (nominal) 0.41" if encoding == "ascii" else "α (nominal) 0.41") in text
    assert "rater-3 was left out" in text
    assert "Gates A gate failed (1 FAIL, 1 INCONCLUSIVE, 1 PASS)" in text


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("en", "<p>Agreement (α): not defined for these votes (all ratings that count are by one rater).</p>"),
        ("zh", "<p>一致性 (α): 对这些投票没有定义 (计入的评分都来自一名评审)。</p>"),
    ],
)
def test_one_sentence_where_no_agreement_can_be_had(factory: ModuleType, language: str, sentence: str) -> None:
    why = "all ratings that count are by one rater"
    names = ("overall", "accuracy", "completeness", "logic", "fluency")
    alphas = [Alpha(name=name, level="ordinal", units=0, missing_reason=why) for name in names]
    shown = section(render_html(bare(factory, factory.human_study(alphas=alphas)), None, language=language), "human")
    assert sentence in shown
    assert shown.count(why) == (language == "en")
    assert 'class="counts agreement stacked"' not in shown
    alphas[0] = Alpha(name="overall", level="ordinal", units=8, missing_reason="all ratings are the same value")
    shown = section(render_html(bare(factory, factory.human_study(alphas=alphas)), None, language=language), "human")
    assert 'class="counts agreement stacked"' in shown


def test_an_agreement_below_chance_is_said_to_be_below() -> None:
    below = Alpha(name="overall", level="nominal", estimate=rate(-0.11, -0.18, -0.02), units=118)
    assert alpha_meaning(below, EN) == "raters agree less than chance would have it"
    touching = below.model_copy(update={"estimate": rate(-0.11, -0.18, 0.0)})
    assert alpha_meaning(touching, EN) == "cannot be told from chance"


def test_the_headline_has_the_nominal_agreement_wherever_it_stands(study: HumanStudy, causal: Comparison) -> None:
    ordinal = Alpha(name="overall", level="ordinal", estimate=rate(0.77, 0.7, 0.8), units=118)
    study.alphas = [ordinal, *study.alphas]
    assert "α (nominal) 0.41" in said(study, causal)[2]
    study.alphas = [ordinal]
    assert "α" not in said(study, causal)[2]


def test_small_shares_are_cut_off() -> None:
    assert [plain(share(each)) for each in (0.0, 0.00011, 0.001, 0.05, 0.5)] == [
        "0 %",
        "< 0.1 %",
        "0.1 %",
        "5.0 %",
        "50 %",
    ]


def test_ratings_have_two_decimals_and_keep_their_side() -> None:
    assert two_digits(rate(0.3, -0.00011, 0.59), with_sign=True) == "[−0.00,\u00a0+0.59]"
    assert two_digits(rate(0.00006, 0.0, 0.0023)) == "[0.00,\u00a00.00]"


def test_agreement_and_correlation_have_their_own_items(factory: ModuleType) -> None:
    both = MetricAgreement(
        task="support", metric="rougeL", items=96,
        agreement=Estimate(value=0.6, n=31, method="m"), correlation=Estimate(value=0.2, n=94, method="m"),
    )  # fmt: skip
    study = factory.human_study()
    study.pairs = study.pairs[:1]
    study.pairs[0].metrics = [both]
    shown = section(render_html(bare(factory, study), None), "human")
    row = re.search(r"support · rougeL.*?</tr>", shown)
    assert row is not None
    assert re.findall(r'data-label="n"><span>([^<]*)<', row.group(0)) == ["31", "94"]


def test_ratings_stand_under_the_names_of_the_systems(page: str) -> None:
    assert f'<th scope="col" class="num">{FULL}</th><th scope="col" class="num">{BASE}</th>' in page
    assert page.count('class="rated stacked"') == 3
    assert f'data-label="{FULL}"' in page
    assert ">First<" not in page


def test_another_score_is_told_once(factory: ModuleType) -> None:
    written = "scored before with other sheets (2026-05-03 09:30:00 UTC): lora-r16 against llama-tiny win rate 0.480"
    study = factory.human_study(deviations=[written, "s-second asked the same: win rate 0.500"])
    second = factory.human_study(study="s-second")
    comparison = bare(factory, study, second)
    assert comparison.human is not None
    comparison.human.earlier = [factory.earlier_score()]
    view = human_context(comparison, EN)["human_studies"][0]
    assert view.deviations == ()
    assert view.departs
    assert len(view.traces) == 2
    comparison.human.studies = [study]
    shown = section(render_html(comparison, None), "human")
    assert shown.count("cored before with other sheets") == 1
    assert "a departure from the plan" in shown
    assert EN("human.no_deviation") not in shown


def test_sheets_that_an_older_record_does_not_name_are_not_called_others(factory: ModuleType) -> None:
    comparison = bare(factory, factory.human_study())
    assert comparison.human is not None
    comparison.human.earlier = [factory.earlier_score(sheets=[])]
    (trace,) = human_context(comparison, EN)["human_studies"][0].traces
    assert trace.startswith("Scored before (2026-05-03 09:30:00 UTC), with sheets that its record does not name")
    assert "other sheets:" not in trace
