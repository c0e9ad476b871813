from __future__ import annotations

import pytest
import torch

from hf_fsl.models.export import CacheHead, FeatureTransform, LinearHead

EMBEDDINGS = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))


def _head(normalize: bool = False, batch: tuple[int, ...] = ()) -> LinearHead:
    rng = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=rng)

    return LinearHead(draw(4, 2), draw(4), FeatureTransform(draw(5), draw(5, 2), normalize))


def test_a_batched_head_is_its_heads_one_by_one():
    head = _head(True, (3,))
    centre, projection = head.transform.centre, head.transform.projection
    one = [
        LinearHead(head.weight[i], head.bias[i], FeatureTransform(centre[i], projection[i], True))(EMBEDDINGS[i])
        for i in range(3)
    ]
    assert torch.allclose(head(EMBEDDINGS), torch.stack(one), atol=1e-6)


def test_folding_keeps_the_logits():
    head = _head()
    assert torch.allclose(head.folded()(EMBEDDINGS), head(EMBEDDINGS), atol=1e-5)
    assert head.folded().weight.shape == (4, 5)


def test_normalised_features_do_not_fold():
    with pytest.raises(ValueError, match="cannot be folded"):
        _head(normalize=True).folded()


def test_scaling_multiplies_logits():
    assert torch.allclose(_head().scaled(0.25)(EMBEDDINGS), _head()(EMBEDDINGS) / 4, atol=1e-6)


def test_the_cache_is_its_formula():
    rng = torch.Generator().manual_seed(2)
    keys = torch.nn.functional.normalize(torch.randn(6, 5, generator=rng), dim=-1)
    values = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 2, 2])).float()
    prior = torch.randn(3, 5, generator=rng)
    head = CacheHead(keys, values, prior, alpha=2.0, beta=5.0)
    z = EMBEDDINGS[0] / EMBEDDINGS[0].norm(dim=-1, keepdim=True)
    wanted = 2.0 * torch.exp(-5.0 * (1 - z @ keys.T)) @ values + z @ prior.T
    assert torch.allclose(head(EMBEDDINGS[0]), wanted, atol=1e-6)
    assert torch.allclose(head.scaled(0.5)(EMBEDDINGS[0]), wanted / 2, atol=1e-6)
