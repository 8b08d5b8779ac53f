from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lorascope.errors import ConfigError, DataError
from lorascope.schema.recipe import Loss
from lorascope.training.label_statistics import label_matrix, label_statistics
from lorascope.training.losses import build_loss, decision_probability, normalised_weights, resolved_loss
from lorascope.training.losses_multi_label import Asymmetric, positive_weights
from lorascope.training.losses_plateau import plateau_loss
from lorascope.training.losses_single_label import class_weights

NAMES = ("a", "b", "c", "d", "e", "f")
MULTI = [
    Loss(),
    Loss(pos_weight="balanced"),
    Loss(pos_weight=3),
    Loss(name="focal"),
    Loss(name="focal", gamma=0.5),
    Loss(name="asymmetric"),
    Loss(name="asymmetric", gamma_negative=0.5, gamma_positive=0.5),
    Loss(name="asymmetric", gamma_negative=2.0, gamma_positive=1.0, clip=0.0),
    Loss(name="distribution_balanced"),
    Loss(name="distribution_balanced", gamma=0.0),
    Loss(name="zlpr"),
]
SINGLE = [
    Loss(),
    Loss(class_weights="balanced"),
    Loss(name="label_smoothing"),
    Loss(name="focal"),
    Loss(name="focal", gamma=0.5),
]


def written(loss: Loss) -> str:
    return " ".join(f"{name}={value}" for name, value in loss.model_dump(exclude_unset=True).items()) or "default"


def truth(rows: int = 40, seed: int = 0) -> np.ndarray:
    """No item has label f, all have label a."""
    marked = np.random.default_rng(seed).random((rows, len(NAMES))) < np.array([1.0, 0.5, 0.3, 0.2, 0.1, 0.0])
    marked[0, 1:] = False
    return marked


STATISTICS = label_statistics(truth(), NAMES)
SINGLE_STATISTICS = label_statistics([(NAMES[row % 3],) for row in range(40)], NAMES)


def multi(loss: Loss):
    return build_loss(loss, "labels", multi_label=True, statistics=STATISTICS)


def single(loss: Loss):
    return build_loss(loss, "labels", multi_label=False, statistics=SINGLE_STATISTICS)


def batch(rows: int = 7, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """With a row of no label and a row of all."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, len(NAMES), generator=draw, dtype=torch.float64)
    targets = (torch.rand(rows, len(NAMES), generator=draw) < 0.3).double()
    targets[0], targets[1] = 0, 1
    return logits, targets


def classes(rows: int = 7) -> torch.Tensor:
    return torch.arange(rows) % 3


@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_gradients_of_several_labels_are_right(loss):
    logits, targets = batch(3)
    weights = torch.linspace(0.2, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda given: multi(loss)(given, targets, weights=weights), logits.requires_grad_(True)
    )


@pytest.mark.parametrize("loss", SINGLE, ids=written)
def test_gradients_of_one_label_are_right(loss):
    logits, _ = batch(3)
    assert torch.autograd.gradcheck(lambda given: single(loss)(given, classes(3)), logits.requires_grad_(True))


@pytest.mark.parametrize("kind", ["generate", "tokens"])
def test_gradients_of_tokens_are_right(kind):
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, -100, 2], [-100, -100, 1, 0]])
    loss = build_loss(Loss(name="label_smoothing"), kind, multi_label=False)
    assert torch.autograd.gradcheck(lambda given: loss(given, targets), logits)


@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_the_order_of_items_changes_nothing(loss):
    logits, targets = batch()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(multi(loss)(logits[order], targets[order]), multi(loss)(logits, targets))


@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_the_order_of_labels_changes_nothing(loss):
    logits, targets = batch()
    order = [4, 0, 5, 1, 3, 2]
    turned = label_statistics(truth()[:, order], [NAMES[place] for place in order])
    there = build_loss(loss, "labels", multi_label=True, statistics=turned)
    torch.testing.assert_close(there(logits[:, order], targets[:, order]), multi(loss)(logits, targets))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_huge_logits_of_several_labels_give_finite_values_and_slopes(loss, dtype):
    logits = torch.tensor([[1e4, -1e4, 0, 80, -80, 20], [-1e4, 1e4, 0, -80, 80, -20]], dtype=dtype)
    for target in (0.0, 1.0):
        given = logits.clone().requires_grad_(True)
        value = multi(loss)(given, torch.full_like(given, target))
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loss", SINGLE, ids=written)
def test_huge_logits_of_one_label_give_finite_values_and_slopes(loss, dtype):
    given = torch.tensor([[1e4, -1e4, 0, 80, -80, 20]] * 2, dtype=dtype, requires_grad=True)
    value = single(loss)(given, torch.tensor([0, 1]))
    value.backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_half_precision_is_computed_in_single_precision(loss):
    logits, targets = batch()
    half = logits.bfloat16()
    torch.testing.assert_close(multi(loss)(half, targets), multi(loss)(half.float(), targets), rtol=0, atol=0)


@pytest.mark.parametrize("loss", MULTI, ids=written)
def test_weights_of_one_are_no_weights_and_weights_scale_rows(loss):
    logits, targets = batch()
    plain = multi(loss)(logits, targets)
    torch.testing.assert_close(multi(loss)(logits, targets, weights=torch.ones(7)), plain)
    weights = torch.tensor([0.0, 3.0, 1.0, 0.5, 0.25, 1.25, 1.0])
    alone = torch.stack([multi(loss)(logits[row : row + 1], targets[row : row + 1]) for row in range(7)])
    expected = (alone * weights).mean()
    torch.testing.assert_close(multi(loss)(logits, targets, weights=weights), expected)


def test_weights_count_in_a_batch_of_one_row():
    logits, targets = batch(2)
    one = multi(Loss())(logits[:1], targets[:1])
    torch.testing.assert_close(multi(Loss())(logits[:1], targets[:1], weights=torch.tensor([0.25])), one * 0.25)


def test_batches_divided_by_the_count_of_the_step_add_up_to_its_mean():
    logits, targets = batch()
    for loss in (Loss(), Loss(name="zlpr")):
        parts = [multi(loss)(logits[part], targets[part], count=7) for part in (slice(0, 2), slice(2, 7))]
        torch.testing.assert_close(parts[0] + parts[1], multi(loss)(logits, targets))


def test_tokens_divided_by_the_count_of_the_step_add_up_to_its_mean():
    loss = build_loss(Loss(), "tokens", multi_label=False)
    logits, targets = torch.randn(3, 4, 5), torch.tensor([[0, 1, -100, 2], [3, -100, -100, -100], [-100] * 4])
    parts = [loss(logits[row : row + 1], targets[row : row + 1], count=4) for row in range(3)]
    torch.testing.assert_close(sum(parts), loss(logits, targets))


def test_a_batch_in_which_no_token_is_asked_has_no_loss_and_no_slope():
    logits = torch.randn(1, 3, 5, requires_grad=True)
    value = build_loss(Loss(), "generate", multi_label=False)(logits, torch.full((1, 3), -100))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def test_texts_are_shifted_in_decoders_and_not_in_encoder_decoders():
    logits, targets = torch.randn(2, 4, 5), torch.randint(0, 5, (2, 4))
    decoder = build_loss(Loss(), "generate", multi_label=False)
    torch.testing.assert_close(
        decoder(logits, targets), functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    )
    other = build_loss(Loss(), "generate", multi_label=False, shifted=False)
    torch.testing.assert_close(
        other(logits, targets), functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    )


def test_weights_of_rows_reach_their_tokens():
    loss = build_loss(Loss(), "tokens", multi_label=False)
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[0, 1, -100], [2, 3, 4]])
    cells = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
    expected = (cells.view(2, 3) * torch.tensor([[2.0], [0.5]])).sum() / 5
    torch.testing.assert_close(loss(logits, targets, weights=torch.tensor([2.0, 0.5])), expected)


def test_scores_of_one_column_and_of_none_are_the_same():
    loss = build_loss(Loss(), "score", multi_label=False)
    predicted, targets = torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0])
    assert loss(predicted, targets).item() == pytest.approx(2.5)
    assert loss(predicted[:, 0], targets).item() == pytest.approx(2.5)
    assert loss(predicted, targets[:, None]).item() == pytest.approx(2.5)
    assert loss(predicted, targets.long()).item() == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("function", "logits", "targets"),
    [
        (multi(Loss()), torch.zeros(2, 6), torch.zeros(2)),
        (multi(Loss()), torch.zeros(2, 6), torch.zeros(2, 5)),
        (single(Loss()), torch.zeros(2, 6), torch.zeros(2, 6)),
        (single(Loss()), torch.zeros(2, 6), torch.zeros(2)),
        (build_loss(Loss(), "score", multi_label=False), torch.zeros(2, 2), torch.zeros(2)),
        (build_loss(Loss(), "tokens", multi_label=False), torch.zeros(2, 3, 4), torch.zeros(2, 2).long()),
    ],
)
def test_targets_that_do_not_fit_are_refused_and_not_broadcast(function, logits, targets):
    with pytest.raises(DataError, match="do not belong together"):
        function(logits, targets)


def test_weights_of_another_number_of_rows_are_refused():
    logits, targets = batch()
    with pytest.raises(DataError, match="exactly one weight a row"):
        multi(Loss())(logits, targets, weights=torch.ones(1))


def test_a_head_of_another_width_than_the_statistics_is_refused():
    with pytest.raises(DataError, match="5 outputs, the label statistics 6"):
        multi(Loss(pos_weight="balanced"))(torch.zeros(2, 5), torch.zeros(2, 5))


def test_a_single_class_has_no_focal_loss():
    with pytest.raises(DataError, match="nothing to learn"):
        single(Loss(name="focal"))(torch.zeros(2, 1), torch.zeros(2).long())


@pytest.mark.parametrize(
    ("loss", "kind", "several", "where"),
    [
        (Loss(name="bce"), "labels", False, "loss.name"),
        (Loss(name="zlpr"), "labels", False, "loss.name"),
        (Loss(name="cross_entropy"), "labels", True, "loss.name"),
        (Loss(name="label_smoothing"), "labels", True, "loss.name"),
        (Loss(name="focal"), "generate", False, "loss.name"),
        (Loss(name="mse"), "labels", True, "loss.name"),
        (Loss(name="bce"), "score", False, "loss.name"),
        (Loss(pos_weight="balanced"), "labels", False, "loss.pos_weight"),
        (Loss(pos_weight=2.0), "score", False, "loss.pos_weight"),
        (Loss(class_weights="balanced"), "labels", True, "loss.class_weights"),
        (Loss(class_weights="balanced"), "tokens", False, "loss.class_weights"),
    ],
)
def test_a_loss_that_the_task_cannot_have_is_refused_by_its_key(loss, kind, several, where):
    with pytest.raises(ConfigError) as caught:
        build_loss(loss, kind, multi_label=several, statistics=STATISTICS)
    assert caught.value.where == where


@pytest.mark.parametrize("loss", [Loss(pos_weight="balanced"), Loss(name="distribution_balanced")])
def test_what_is_weighted_by_the_data_needs_its_statistics(loss):
    with pytest.raises(ConfigError, match="were not counted"):
        build_loss(loss, "labels", multi_label=True)


def test_the_default_loss_is_that_of_the_kind():
    assert resolved_loss(Loss(), "labels", multi_label=True) == "bce"
    assert resolved_loss(Loss(), "labels", multi_label=False) == "cross_entropy"
    assert resolved_loss(Loss(), "generate", multi_label=False) == "cross_entropy"
    assert resolved_loss(Loss(), "score", multi_label=False) == "mse"


def test_positive_weights_balance_both_sides_and_stay_within_the_cap():
    statistics = label_statistics(np.arange(100)[:, None] < np.array([100, 50, 10, 1, 0]), "abcde")
    weights = positive_weights(statistics, cap=50)
    assert weights.tolist() == [0.01, 1.0, 9.0, 50.0, 50.0]
    assert statistics.never == ("e",)
    assert statistics.always == ("a",)


def test_class_weights_have_a_mean_of_one_over_the_items_and_none_is_infinite():
    counts = np.array([30, 9, 1, 0])
    statistics = label_statistics(
        [(name,) for name, count in zip("abcd", counts, strict=True) for _ in range(count)], "abcd"
    )
    weights = class_weights(statistics)
    assert (weights * counts).sum() == pytest.approx(40)
    assert weights[1] / weights[0] == pytest.approx(30 / 9)
    assert weights[3] == weights[2]


def test_class_weights_count_in_a_batch_of_one_row():
    logits = torch.zeros(1, len(NAMES))
    uneven = label_statistics([("a",)] * 9 + [("b",)], NAMES)
    loss = build_loss(Loss(class_weights="balanced"), "labels", multi_label=False, statistics=uneven)
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(5 * math.log(6))


def test_sample_weights_are_scaled_to_a_mean_of_one():
    assert normalised_weights([1.0, 3.0, 0.0, 4.0]).tolist() == [0.5, 1.5, 0.0, 2.0]
    assert normalised_weights([7.0, 7.0]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [0.0, 0.0]])
def test_sample_weights_that_are_none_are_refused(weights):
    with pytest.raises(DataError):
        normalised_weights(weights)


def test_the_output_at_which_the_answer_is_yes():
    assert {decision_probability(name) for name in ("bce", "focal", "asymmetric", "zlpr")} == {0.5}
    assert decision_probability("cross_entropy") is None


def best_output(loss, chance: float) -> float:
    logits = torch.linspace(-6, 6, 12001, dtype=torch.float64)[:, None]
    true, false = loss(logits, torch.ones_like(logits)), loss(logits, torch.zeros_like(logits))
    return torch.sigmoid(logits[(chance * true + (1 - chance) * false).argmin()]).item()


def test_what_an_output_of_one_half_means_is_as_documented():
    asymmetric = Asymmetric(4.0, 0.0, 0.05)
    assert best_output(asymmetric, 0.5) == pytest.approx(0.68, abs=0.005)
    assert best_output(asymmetric, 0.128) == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("loss", [MULTI[1], MULTI[3], MULTI[5], MULTI[8], MULTI[10]], ids=written)
def test_no_constant_output_is_below_the_plateau_and_one_is_on_it(loss):
    marked = truth()
    plateau = plateau_loss(multi(loss), marked, multi=True)
    targets = torch.from_numpy(marked).double()
    constant = torch.logit(torch.from_numpy(marked.mean(axis=0)).clamp(1e-3, 1 - 1e-3)).requires_grad_(True)
    optimiser = torch.optim.Adam([constant], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        value = multi(loss)(constant.expand(len(targets), -1), targets)
        value.backward()
        optimiser.step()
    assert plateau <= value.item() * (1 + 1e-4)
    assert plateau == pytest.approx(value.item(), rel=0.02)


def test_plain_plateaus_are_entropies_of_the_frequencies():
    marked = truth()
    frequency = marked.mean(axis=0)[1:5]
    entropy = -(frequency * np.log(frequency) + (1 - frequency) * np.log(1 - frequency)).sum() / 6
    assert plateau_loss(multi(Loss()), marked, multi=True) == pytest.approx(entropy, rel=1e-3)
    alone = label_matrix([(NAMES[row % 3],) for row in range(39)], NAMES)
    assert plateau_loss(single(Loss()), alone, multi=False) == pytest.approx(math.log(3), rel=1e-3)


def test_a_plateau_of_weighted_draws_is_that_of_the_items_so_often():
    marked = truth()
    often = np.random.default_rng(2).integers(1, 5, len(marked))
    assert plateau_loss(multi(Loss()), marked, multi=True, weights=often * 3.0) == pytest.approx(
        plateau_loss(multi(Loss()), np.repeat(marked, often, axis=0), multi=True), rel=1e-3
    )


def test_a_plateau_of_one_label_needs_exactly_one():
    with pytest.raises(DataError, match="exactly one"):
        plateau_loss(single(Loss()), truth(), multi=False)
