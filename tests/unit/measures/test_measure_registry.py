from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import lorascope.measures as measures
from lorascope.errors import ConfigError, DataError
from lorascope.measures.core import Measure, Scored, item_rows, mean_of_items, ratio, same_length
from lorascope.measures.registry import MEASURES, define, find_spec, names_of

CONTRACT = """
rouge1 rouge2 rougeL rougeLsum bleu chrf bleu_nltk sentence_bleu_nltk exact_match token_f1
bleu4_llamafactory rouge1_llamafactory rouge2_llamafactory rougeL_llamafactory
f1_micro f1_macro f1_samples f1_weighted precision_micro recall_micro subset_accuracy hamming_loss lrap
average_precision_macro ece accuracy mcc pearson spearman mse entity_f1
accuracy_norm accuracy_bytes gold_margin bits_per_byte perplexity kl_to_base
retained_fraction forgotten_rate gained_rate final_gap best_step overfit_step spikes cka cosine
intruder_count intruder_energy relative_change effective_rank stable_rank
train_seconds tokens_per_second peak_memory_bytes trainable_parameters latency_ms_per_item inference_memory_bytes
win_rate accuracy_rating completeness_rating logic_rating fluency_rating alpha leaked_fraction noise_flip_rate
cooccurrence_gap cardinality_error empty_set_rate unseen_set_rate frequency_skill output_spread
tuned_threshold leaked_gain
"""


def test_table_holds_the_public_names_and_no_others() -> None:
    assert sorted(MEASURES) == sorted(CONTRACT.split())


def test_rows_are_complete() -> None:
    for spec in MEASURES.values():
        assert spec.description.endswith(".")
        assert len(spec.description) > 20
        assert spec.unit
        assert spec.kinds


def test_default_margins() -> None:
    for spec in MEASURES.values():
        expected = {"0-1": 0.02, "-1-1": 0.02, "0-100": 2.0}.get(spec.scale)
        if spec.direction == "none":
            assert spec.margin is None
        elif expected is not None:
            assert spec.margin == expected
    points = [name for name, spec in MEASURES.items() if spec.scale == "0-100"]
    compatible = ["bleu4_llamafactory", "rouge1_llamafactory", "rouge2_llamafactory", "rougeL_llamafactory"]
    assert points == ["bleu", "chrf", *compatible]


def test_falling_measures_are_marked() -> None:
    falling = {"hamming_loss", "ece", "mse", "bits_per_byte", "perplexity", "forgotten_rate", "cooccurrence_gap"}
    scored = {s.name for kind in ("text", "labels", "score", "tokens", "choice", "likelihood", "forgetting")
              for s in MEASURES.values() if kind in s.kinds and s.direction == "lower"}  # fmt: skip
    assert scored == falling


def test_gap_rows_follow_their_metric() -> None:
    spec = find_spec("rougeL_gap")
    assert (spec.kinds, spec.unit, spec.direction, spec.margin) == (("gap",), "fraction", "none", None)
    assert find_spec("final_gap").kinds == ("curves",)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="rougeLsum"):
        find_spec("rougelsum")
    with pytest.raises(ConfigError, match="known measures"):
        find_spec("zzz_gap")


def test_accuracy_serves_two_kinds() -> None:
    assert "accuracy" in names_of("choice")
    assert "accuracy" in names_of("labels")


def test_public_names_exist() -> None:
    for name in measures.__all__:
        assert getattr(measures, name) is not None
    assert "score_text" in dir(measures)
    with pytest.raises(AttributeError, match="no_such_name"):
        measures.no_such_name  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, lorascope.measures; print([m for m in ('numpy', 'torch', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_scoring_never_loads_torch() -> None:
    code = (
        "import sys; from lorascope.measures import score_text, estimate;"
        "estimate(score_text(['a b', 'c'], [['a b'], ['d']], ['rougeL'])['rougeL'], seed=0);"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_ratio_is_undefined_over_zero() -> None:
    assert ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0]))[0] == 0.5
    assert np.isnan(ratio(np.array([1.0, 0.0]), np.array([0.0, 0.0]))).all()


def test_statistics_must_be_finite_rows() -> None:
    measure = define("rougeL", mean_of_items)
    with pytest.raises(DataError, match="finite"):
        Scored(measure, item_rows([1.0, np.inf]), "x")
    with pytest.raises(DataError, match="no items"):
        Scored(measure, np.zeros((0, 2)), "x")
    with pytest.raises(ValueError, match="1 axes"):
        Scored(measure, np.zeros(3), "x")


def test_weightless_items_have_no_value() -> None:
    scored = Scored(define("rougeL", mean_of_items), item_rows([0.5, 0.7], [0.0, 1.0]), "x")
    assert scored.value == 0.7
    assert np.isnan(scored.item_values()[0])
    assert scored.subset([0]).value is None


def test_a_measure_is_additive_or_brings_its_own_resampling() -> None:
    with pytest.raises(ValueError, match="additive"):
        Measure("x", "fraction", "0-1", "higher", False, mean_of_items)


def test_lengths_are_named() -> None:
    assert same_length(answers=[1, 2], references=(3, 4)) == 2
    with pytest.raises(DataError, match="2 answers, 1 references"):
        same_length(answers=[1, 2], references=[1])
