from __future__ import annotations

from typing import get_args

import pytest
import torch

from hf_fsl.models.published.pooling import POOLINGS, Pooling, pool


def test_every_pooling_has_a_function_but_the_models_own():
    assert {*POOLINGS, "pooler"} == set(get_args(Pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_mask_of_ones_changes_nothing_and_a_feature_map_is_a_row_of_patches(pooling):
    states = torch.randn(3, 6, 4)
    embeddings = pool(states, None, pooling)
    torch.testing.assert_close(pool(states, torch.ones(3, 6), pooling), embeddings)
    torch.testing.assert_close(pool(states.mT.reshape(3, 4, 2, 3), None, pooling), embeddings)


def test_the_right_tokens_are_pooled_on_either_side_of_padding():
    hidden = torch.randn(2, 4, 3)
    right, left = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    torch.testing.assert_close(pool(hidden, right, "last"), torch.stack([hidden[0, 1], hidden[1, 3]]))
    torch.testing.assert_close(pool(hidden, left, "last"), torch.stack([hidden[0, 3], hidden[1, 3]]))
    torch.testing.assert_close(pool(hidden, left, "cls"), torch.stack([hidden[0, 2], hidden[1, 0]]))
    torch.testing.assert_close(pool(hidden, left, "mean")[0], hidden[0, 2:].mean(0))
