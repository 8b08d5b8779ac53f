from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from lorascope.errors import DataError
from lorascope.training.label_statistics import label_matrix, label_statistics
from lorascope.training.sampling import BalancedSampler, balanced_weights

LABELS = ("common", "middle", "rare")
ITEMS = [("common",)] * 60 + [("common", "middle")] * 25 + [("rare", "common")] * 5 + [()] * 10


def weights() -> np.ndarray:
    return balanced_weights(ITEMS, label_statistics(ITEMS, LABELS))


def test_statistics_count_items_of_sets_and_of_matrices_alike():
    counted = label_statistics(ITEMS, LABELS)
    assert counted.counts.tolist() == [90, 25, 5]
    assert counted.frequencies.tolist() == [0.9, 0.25, 0.05]
    assert counted.items == 100
    assert counted.cardinality == pytest.approx(1.2)
    assert label_statistics(label_matrix(ITEMS, LABELS).astype(np.int64), LABELS).counts.tolist() == [90, 25, 5]


def test_a_label_named_twice_by_an_item_counts_once():
    assert label_statistics([("a", "a")], ("a", "b")).counts.tolist() == [1, 0]


def test_statistics_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        label_statistics(ITEMS, LABELS).counts[0] = 3


@pytest.mark.parametrize(
    ("items", "labels", "problem"),
    [
        ([], ("a",), "no training items"),
        ([("a",)], (), "no labels"),
        ([("a",)], ("a", "a"), "listed twice"),
        ([("a",), ("b",)], ("a",), "'b' is none"),
        (["a"], ("a",), "not a set"),
        (np.ones((2, 2)), ("a",), "does not fit 1 labels"),
        (np.full((2, 1), 0.5), ("a",), "other values"),
    ],
)
def test_what_cannot_be_counted_is_refused(items, labels, problem):
    with pytest.raises(DataError, match=problem):
        label_statistics(items, labels)


def test_an_item_is_drawn_by_the_frequency_of_its_rarest_label():
    given = weights()
    assert given.mean() == pytest.approx(1)
    assert given[60] / given[0] == pytest.approx(90 / 25)
    assert given[85] / given[0] == pytest.approx(90 / 5)


def test_an_item_without_labels_is_drawn_as_one_with_the_commonest():
    given = weights()
    assert given[-1] == given[0]
    few = [("a",)] * 9 + [()]
    assert balanced_weights(few, label_statistics(few, ("a", "never"))) == pytest.approx(1)


def test_weights_need_the_statistics_of_the_same_items():
    with pytest.raises(DataError, match="'middle'"):
        balanced_weights(ITEMS, label_statistics(ITEMS[:60], LABELS))
    with pytest.raises(DataError, match="nothing to balance"):
        balanced_weights([(), ()], label_statistics([(), ()], LABELS))


def test_draws_follow_the_weights():
    sampler = BalancedSampler(weights(), seed=3, draws=40_000)
    drawn = np.bincount(list(sampler), minlength=len(ITEMS)) / 40_000
    expected = weights() / weights().sum()
    deviation = np.sqrt(expected * (1 - expected) / 40_000)
    assert (np.abs(drawn - expected) < 5 * deviation).all()
    rare = label_matrix(ITEMS, LABELS)[:, 2]
    assert drawn[rare].sum() > 5 * rare.mean()


def test_an_epoch_draws_the_same_items_whenever_it_is_begun():
    sampler = BalancedSampler(weights(), seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    torch.rand(5)
    other = BalancedSampler(weights(), seed=0)
    other.set_epoch(1)
    assert list(other) == second
    assert list(other) == second
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert first != second
    assert len(first) == len(sampler) == 100


def test_epochs_of_neighbouring_seeds_share_nothing():
    sampler, neighbour = BalancedSampler(weights(), seed=1), BalancedSampler(weights(), seed=0)
    neighbour.set_epoch(1)
    assert list(sampler) != list(neighbour)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(BalancedSampler(weights(), seed=5))
    assert torch.equal(torch.rand(1), expected)


def loader():
    plain = DataLoader(torch.arange(100), batch_size=8, sampler=BalancedSampler(weights(), seed=4))
    return prepare_data_loader(plain, num_processes=1, process_index=0, put_on_device=False)


def drawn(batches) -> list[int]:
    return [int(item) for batch in batches for item in batch]


def test_a_resumed_epoch_of_accelerates_loader_goes_on_where_it_stopped():
    whole = loader()
    epochs = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        epochs.append(drawn(whole))
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = skip_first_batches(loader(), 5)
    resumed.set_epoch(1)
    assert drawn(resumed) == epochs[1][40:]


def test_two_processes_draw_one_order_between_them():
    sampler = BalancedSampler(weights(), seed=4)
    plain = DataLoader(torch.arange(100), batch_size=8, sampler=sampler)
    shards = [
        prepare_data_loader(plain, num_processes=2, process_index=rank, put_on_device=False, rng_types=[])
        for rank in range(2)
    ]
    for shard in shards:
        shard.set_epoch(2)
    given = [[batch.tolist() for batch in shard] for shard in shards]
    sampler.set_epoch(2)
    order = list(sampler)
    assert given[0][0] == order[:8]
    assert given[1][0] == order[8:16]
    assert given[0][1] == order[16:24]
