"""Class-then-example batches."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from hf_fsl.few_shot.adaptation import AdaptationError
from hf_fsl.few_shot.adaptation.sampling import ClassBatches

LABELS = torch.arange(60) % 6


def first_batches(count: int, *args: object) -> list[torch.Tensor]:
    return list(islice(ClassBatches(*args), count))


def test_a_batch_has_so_many_examples_of_so_many_classes_each_once():
    for rows in first_batches(20, LABELS, 12, 4, 0):
        assert len(rows.unique()) == 12
        assert LABELS[rows].unique(return_counts=True)[1].tolist() == [4, 4, 4]


def test_with_few_classes_each_gives_more():
    (rows,) = first_batches(1, LABELS, 36, 2, 0)
    assert LABELS[rows].unique(return_counts=True)[1].tolist() == [6] * 6


def test_no_example_comes_again_before_all_have_come():
    rows = torch.cat(first_batches(5, LABELS, 12, 2, 0))
    assert sorted(rows.tolist()) == list(range(60))


def test_no_example_is_twice_in_a_batch_when_a_deck_ends_within_it():
    for rows in first_batches(50, LABELS, 18, 3, 1):
        assert len(rows.unique()) == len(rows)


def test_the_order_is_the_seeds_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = (torch.cat(first_batches(4, LABELS, 12, 4, seed)) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_batch_has_a_pair_even_where_most_classes_have_one_example():
    labels = torch.cat([torch.arange(30), torch.tensor([0])])
    for rows in first_batches(40, labels, 8, 2, 0):
        drawn = labels[rows]
        assert len(drawn.unique()) >= 2
        assert (drawn[:, None] == drawn).sum() > len(drawn)


@pytest.mark.parametrize(
    ("labels", "message"), [([5, 5, 5], "all labels are the same"), ([0, 1, 2], "each of the 3 classes has one")]
)
def test_labels_that_hold_no_comparison_are_refused(labels, message):
    with pytest.raises(AdaptationError, match=message):
        ClassBatches(torch.tensor(labels), 8, 2, 0)
