"""A support of weight 2 is the same support given twice; left out, it is left out with all its weight."""

from __future__ import annotations

import pytest
import torch

from hf_fsl.few_shot.heads import ESTIMATORS, GrowingHead, HeadError, auto, choose_head, fit_head, held_out_logits
from hf_fsl.few_shot.heads.refusal import fit_refusal
from hf_fsl.models.export import FeatureTransform

RNG = torch.Generator().manual_seed(0)
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
SUPPORT = (torch.randn(3, 6, generator=RNG)[LABELS] + torch.randn(10, 6, generator=RNG)).double()
NAMES = torch.randn(3, 6, generator=RNG).double()
WEIGHTS = torch.tensor([1, 2, 1, 3, 1, 1, 2, 1, 1, 4])
QUERIES = torch.randn(20, 6, generator=RNG).double()
MEAN = torch.ones(6, dtype=torch.float64)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("wide", [False, True])
def test_weight_two_is_given_twice(name, wide):
    pad = torch.randn(10, 40, generator=torch.Generator().manual_seed(1)).double()
    support = torch.cat([SUPPORT, pad], 1) if wide else SUPPORT
    queries = torch.nn.functional.pad(QUERIES, (0, support.shape[1] - 6))
    names = (
        torch.nn.functional.pad(NAMES, (0, support.shape[1] - 6)) if ESTIMATORS[name].uses_label_embeddings else None
    )
    weighed = fit_head(name, support, LABELS, label_embeddings=names, weights=WEIGHTS)
    twice = fit_head(
        name, support.repeat_interleave(WEIGHTS, 0), LABELS.repeat_interleave(WEIGHTS), label_embeddings=names
    )
    torch.testing.assert_close(weighed(queries), twice(queries), rtol=1e-4, atol=1e-4 if name == "logistic" else 1e-7)
    plain = fit_head(name, support, LABELS, label_embeddings=names)
    assert not torch.allclose(weighed(queries), plain(queries), rtol=1e-3)
    ones = fit_head(name, support, LABELS, label_embeddings=names, weights=torch.ones(10))
    torch.testing.assert_close(ones(queries), plain(queries))


HELD = {
    "nearest_mean": {},
    "cosine": {},
    "cl2n": {"base_mean": MEAN},
    "lda": {"class_prior": "counts"},
    "ridge": {"unit": 3.0},
    "anchored": {"unit": 3.0},
    "named_lda": {"shrinkage": 1.0, "middle": MEAN, "unit": 2.0, "normalize": False},
    "cache": {},
}


@pytest.mark.parametrize("name", HELD)
def test_a_weighed_support_is_left_out_whole(name):
    names = NAMES if ESTIMATORS[name].uses_label_embeddings else None
    options = {"label_embeddings": names, "num_classes": 3, **HELD[name]}
    found = held_out_logits(name, SUPPORT, LABELS, weights=WEIGHTS, **options)
    for row in range(10):
        rest = torch.arange(10) != row
        head = fit_head(name, SUPPORT[rest], LABELS[rest], weights=WEIGHTS[rest], **options)
        ours, theirs = (logits - logits.mean() for logits in (found[row], head(SUPPORT[row : row + 1])[0]))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["named_lda", "ridge", "logistic", "cache"])
def test_a_weighed_head_grows_as_it_was_fitted(name, tmp_path):
    head = fit_head(name, SUPPORT, LABELS, label_embeddings=NAMES, weights=WEIGHTS)
    settings = {"label_embeddings": NAMES, "num_classes": 3, "keep_embeddings": True, "transform": head.transform}
    first = GrowingHead.of(name, SUPPORT[:8], LABELS[:8], weights=WEIGHTS[:8], **settings)
    grown = GrowingHead.from_state(*first.state()).add_examples(SUPPORT[8:], LABELS[8:], weights=WEIGHTS[8:])
    torch.testing.assert_close(grown.head()(QUERIES), head(QUERIES), rtol=1e-4, atol=1e-5)
    unweighed = GrowingHead.of(name, SUPPORT[:8], LABELS[:8], **settings)
    mixed = unweighed.add_examples(SUPPORT[8:], LABELS[8:], weights=WEIGHTS[8:]).head()
    both = fit_head(name, SUPPORT, LABELS, label_embeddings=NAMES, weights=torch.cat([torch.ones(8), WEIGHTS[8:]]))
    torch.testing.assert_close(mixed(QUERIES), both(QUERIES), rtol=1e-4, atol=1e-5)


def test_the_choice_is_by_weighed_losses():
    plain, ones = choose_head(SUPPORT, LABELS), choose_head(SUPPORT, LABELS, weights=torch.ones(10))
    torch.testing.assert_close(plain.head(QUERIES), ones.head(QUERIES))
    assert plain.reason == ones.reason
    for candidates in (None, ["lda", "ridge"]):
        heavy = choose_head(SUPPORT, LABELS, weights=100.0 * (LABELS == 0) + 1, candidates=candidates)
        assert heavy.head(QUERIES).argmax(-1).tolist() != plain.head(QUERIES).argmax(-1).tolist()
        # One logits matrix judged by the weights: the loss of the table is the weighed one.
        losses = torch.nn.functional.cross_entropy(heavy.held_out_logits, LABELS, reduction="none")
        weights = 100.0 * (LABELS == 0) + 1
        best = min(heavy.table, key=lambda trial: trial.loss) if candidates else heavy.table[-1]
        assert best.loss == pytest.approx(float((losses @ weights.double()) / weights.sum()), rel=1e-4)


def test_a_threshold_is_about_weighed_means():
    transform = FeatureTransform()
    weighed = fit_refusal(SUPPORT, LABELS, coverage=0.5, transform=transform, weights=WEIGHTS)
    own = SUPPORT[LABELS == 1]
    expected = (own * WEIGHTS[LABELS == 1].unsqueeze(-1)).sum(0) / WEIGHTS[LABELS == 1].sum()
    torch.testing.assert_close(weighed.means[1], expected)
    plain = fit_refusal(SUPPORT, LABELS, coverage=0.5)
    scaled = fit_refusal(SUPPORT, LABELS, coverage=0.5, weights=1.0 + LABELS)  # equal within each class
    assert scaled.threshold == pytest.approx(plain.threshold) and weighed.threshold != pytest.approx(plain.threshold)


@pytest.mark.parametrize("weights", [torch.ones(9), torch.zeros(10), torch.full((10,), torch.nan)])
def test_weights_that_are_none_are_told(weights):
    with pytest.raises(HeadError, match="Weights are one finite number above 0 a support"):
        fit_head("lda", SUPPORT, LABELS, weights=weights)


def test_of_thousands_of_classes_a_part_is_held_out(monkeypatch):
    """The choice then costs as much as there are classes, not their square; of few classes nothing changes."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(40).repeat_interleave(2)
    support = torch.randn(40, 30, generator=rng)[labels] + 0.8 * torch.randn(80, 30, generator=rng)
    whole = choose_head(support, labels)
    assert "on 80 examples" in whole.reason
    monkeypatch.setattr(auto, "HELD_OUT_CELLS", 40 * 60)
    monkeypatch.setattr(auto, "HELD_OUT_LEAST", 10)
    part = choose_head(support, labels)
    assert "on 60 examples" in part.reason
    held = part.held_out_logits.isfinite().all(-1)
    assert int(held.sum()) == 60
    queries = support + 0.2 * torch.randn(80, 30, generator=rng)
    assert (part.head(queries).argmax(-1) == whole.head(queries).argmax(-1)).float().mean() > 0.95
    assert part.temperature == pytest.approx(whole.temperature, rel=0.2)
    expected = held_out_logits("named_lda", support, labels, **part.hyperparameters)[held] / part.temperature
    torch.testing.assert_close(part.held_out_logits[held], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(choose_head(support, labels).head(queries), part.head(queries))
