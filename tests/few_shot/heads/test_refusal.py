from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_fsl.few_shot.heads import HeadError
from hf_fsl.few_shot.heads.refusal import Refusal, fit_refusal, leave_one_out_scores
from hf_fsl.models.export import FeatureTransform

CENTRES = 1.5 * torch.randn(6, 20, generator=torch.Generator().manual_seed(0))


def _draw(shots: int, seed: int, queries: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(6).repeat(shots)
    support = CENTRES[labels] + torch.randn(len(labels), 20, generator=rng)
    others = CENTRES.repeat(queries // 6 + 1, 1)
    return support, labels, others + torch.randn(len(others), 20, generator=rng)


def test_scores_are_leave_one_out_with_the_mean_of_one_fewer_set_right():
    support, labels, _ = _draw(4, 0)
    labels[-1] = 0  # classes of 5, 4 and 3
    scores, means = leave_one_out_scores(support, labels, transform=FeatureTransform())
    points = support.double().numpy()
    for row, label in enumerate(labels.tolist()):
        distances = []
        for kind in range(6):
            members = [other for other in range(len(labels)) if labels[other] == kind and other != row]
            squared = ((points[row] - points[members].mean(0)) ** 2).sum()
            own = len(members) + 1
            distances.append(squared * (own**2 - 1) / own**2 if kind == label else squared)
        assert scores[row].item() == pytest.approx(np.sqrt(min(distances)), rel=1e-9)
    assert torch.allclose(means[0], support[labels == 0].double().mean(0))


@pytest.mark.parametrize(("shots", "coverage"), [(2, 5 / 7), (3, 0.9), (8, 0.9), (8, 0.5)])
def test_coverage_is_right_on_average_over_draws(shots, coverage):
    kept = []
    for seed in range(300):
        support, labels, queries = _draw(shots, seed)
        kept.append(1 - fit_refusal(support, labels, coverage=coverage).refuses(queries).double().mean().item())
    assert np.mean(kept) == pytest.approx(coverage, abs=0.012)


def test_without_the_correction_coverage_is_wrong_at_two_shots():
    """What the correction is for: without it, in either direction, the test above fails."""
    inside, left_out = [], []
    for seed in range(100):
        support, labels, queries = _draw(2, seed)
        scores, means = leave_one_out_scores(support, labels, transform=FeatureTransform())
        query_scores = Refusal(means, 0.0, 0.9).score(queries)
        raw = torch.cdist(support.double(), means).gather(1, labels[:, None]).squeeze(1)
        inside.append((query_scores <= raw.quantile(0.9)).double().mean().item())
        left_out.append((query_scores <= (2 * raw).quantile(0.9)).double().mean().item())
    assert np.mean(inside) < 0.5 and np.mean(left_out) > 0.95


def test_other_classes_are_refused_more_often():
    support, labels, queries = _draw(8, 0)
    refusal = fit_refusal(support, labels)
    strange = 1.5 * torch.randn(200, 20, generator=torch.Generator().manual_seed(9))
    assert refusal.refuses(strange).double().mean() > 0.8 > 0.3 > refusal.refuses(queries).double().mean()


def test_a_refusal_is_the_same_from_a_file(tmp_path):
    support, labels, queries = _draw(4, 0)
    full = FeatureTransform(torch.ones(20), torch.randn(20, 7, generator=torch.Generator().manual_seed(1)), True)
    for transform in (FeatureTransform(normalize=True), full):
        refusal = fit_refusal(support, labels, coverage=0.8, transform=transform)
        save_file(refusal.to_tensors(), tmp_path / "refusal.safetensors")
        again = Refusal.from_tensors(load_file(tmp_path / "refusal.safetensors"))
        assert again.threshold == refusal.threshold and again.coverage == 0.8
        assert torch.equal(again.score(queries), refusal.score(queries))
        assert again.refuses(queries).any() and not again.refuses(queries).all()


def test_bad_input_is_refused():
    support, labels, _ = _draw(2, 0)
    with pytest.raises(HeadError, match="at least two supports of every class.* class 0 has 1"):
        fit_refusal(support[:6], labels[:6])
    with pytest.raises(HeadError, match="class 6 has 0"):
        fit_refusal(support, labels, num_classes=7)
    with pytest.raises(
        HeadError, match=r"0.9 cannot be told from 12 supports.* 6 independent .* takes 9: .* from 0.15 to 0.85"
    ):
        fit_refusal(support, labels, coverage=0.9)
    with pytest.raises(HeadError, match="above 0 and below 1, not 1"):
        fit_refusal(support, labels, coverage=1)
    with pytest.raises(HeadError, match=r"\(12, 20\) and \(11,\)"):
        fit_refusal(support, labels[1:])
    with pytest.raises(HeadError, match="must be finite"):
        fit_refusal(support * torch.nan, labels)


def test_a_threshold_is_about_weighed_means():
    rng, labels = torch.Generator().manual_seed(0), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    support = (torch.randn(3, 6, generator=rng)[labels] + torch.randn(10, 6, generator=rng)).double()
    weights = torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1, 4])
    transform = FeatureTransform()
    weighed = fit_refusal(support, labels, coverage=0.5, transform=transform, weights=weights)
    own = support[labels == 1]
    expected = (own * weights[labels == 1].unsqueeze(-1)).sum(0) / weights[labels == 1].sum()
    torch.testing.assert_close(weighed.means[1], expected)
    plain = fit_refusal(support, labels, coverage=0.5)
    scaled = fit_refusal(support, labels, coverage=0.5, weights=1.0 + labels)  # equal within each class
    assert scaled.threshold == pytest.approx(plain.threshold) and weighed.threshold != pytest.approx(plain.threshold)
