"""Against NumPy, an episode at a time, and α-TIM's descent against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_fsl.few_shot.heads import HeadError
from hf_fsl.few_shot.heads.transductive import alpha_tim, bd_cspn, soft_k_means
from hf_fsl.models.export import FeatureTransform, LinearHead

METHODS = {"soft_k_means": soft_k_means, "bd_cspn": bd_cspn, "alpha_tim": alpha_tim}
RNG = torch.Generator().manual_seed(0)
CENTRES = torch.randn(4, 3, 6, generator=RNG, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 0, 1]).expand(4, -1)
QUERY_LABELS = torch.tensor([0, 1, 2, 2, 2, 1, 0, 2, 2]).expand(4, -1)


def _around(labels: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(4, labels.shape[1], 6, generator=RNG, dtype=torch.float64)
    return CENTRES.gather(1, labels.unsqueeze(-1).expand(-1, -1, 6)) + 0.8 * noise


SUPPORT, QUERIES = _around(LABELS), _around(QUERY_LABELS)
CENTRE = torch.randn(6, generator=RNG, dtype=torch.float64)
HEAD = LinearHead(torch.zeros(4, 3, 6).double(), torch.zeros(4, 3).double(), FeatureTransform(centre=CENTRE))


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def _episode(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    known, unknown = (_unit((part[number] - CENTRE).numpy()) for part in (SUPPORT, QUERIES))
    labels = LABELS[number].numpy()
    return known, labels, unknown, [known[labels == kind].mean(0) for kind in range(3)]


def _softmax(values: np.ndarray) -> np.ndarray:
    exp = np.exp(values - values.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_soft_k_means_is_its_formula():
    head = soft_k_means(HEAD, SUPPORT, LABELS, QUERIES, scale=4.0, steps=2)
    for number in range(4):
        known, labels, unknown, means = _episode(number)
        for _ in range(2):
            shares = _softmax(np.array([[-4 * np.sum((z - mean) ** 2) for mean in means] for z in unknown]))
            means = [
                (known[labels == kind].sum(0) + shares[:, kind] @ unknown)
                / ((labels == kind).sum() + shares[:, kind].sum())
                for kind in range(3)
            ]
        logits = head(QUERIES)[number].softmax(-1).numpy()
        assert np.allclose(logits, _softmax(-4 * ((unknown[:, None] - np.array(means)) ** 2).sum(-1)), atol=1e-10)


def test_bd_cspn_is_its_formula():
    head = bd_cspn(HEAD, SUPPORT, LABELS, QUERIES, sharpness=3.0, scale=1.0)
    for number in range(4):
        known, labels, unknown, means = _episode(number)
        moved = unknown + known.mean(0) - unknown.mean(0)
        first = _unit(np.array(means))
        guessed = (_unit(moved) @ first.T).argmax(-1)
        prototypes = []
        for kind in range(3):
            members = np.concatenate([known[labels == kind], moved[guessed == kind]])
            weights = np.exp(3 * _unit(members) @ first[kind])
            prototypes.append(weights @ members / weights.sum())
        cosines = _unit(moved) @ _unit(np.array(prototypes)).T
        logits = head(QUERIES)[number].numpy()
        assert np.allclose(logits, cosines * np.linalg.norm(moved, axis=-1, keepdims=True), atol=1e-10)
        assert (logits.argmax(-1) == cosines.argmax(-1)).all()


def _alpha_tim_loss(flat: np.ndarray, known, labels, unknown, alpha: float, temperature: float) -> float:
    prototypes = flat.reshape(3, -1)

    def predicted(points):
        return _softmax(-temperature / 2 * ((points[:, None] - prototypes) ** 2).sum(-1))

    fit = -np.log(predicted(known)[np.arange(len(labels)), labels]).mean()
    mean = predicted(unknown).mean(0)
    spread = (1 - (mean**alpha).sum()) / (alpha - 1)
    doubt = np.mean([(1 - (row**alpha).sum()) / (alpha - 1) for row in predicted(unknown)])
    return fit - spread + doubt


def test_alpha_tim_descends_its_loss_by_adam():
    alpha, temperature, rate, steps = 3.0, 6.0, 0.05, 4
    head = alpha_tim(HEAD, SUPPORT, LABELS, QUERIES, alpha=alpha, temperature=temperature, steps=steps,
                     learning_rate=rate)  # fmt: skip
    for number in range(4):
        known, labels, unknown, means = _episode(number)
        point, first, second = np.concatenate(means), 0.0, 0.0
        for step in range(1, steps + 1):
            nudges = 1e-6 * np.eye(point.size)
            gradient = np.array([
                _alpha_tim_loss(point + nudge, known, labels, unknown, alpha, temperature)
                - _alpha_tim_loss(point - nudge, known, labels, unknown, alpha, temperature) for nudge in nudges
            ]) / 2e-6  # fmt: skip
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            point = point - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        assert np.allclose(head.weight[number].numpy(), temperature * point.reshape(3, 6), atol=1e-4)
        assert np.allclose(head.bias[number].numpy(), -temperature / 2 * (point.reshape(3, 6) ** 2).sum(-1), atol=1e-4)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_episodes_do_not_see_one_another(method):
    together = method(HEAD, SUPPORT, LABELS, QUERIES)
    one = LinearHead(HEAD.weight[2], HEAD.bias[2], HEAD.transform)
    alone = method(one, SUPPORT[2], LABELS[2], QUERIES[2])
    assert torch.allclose(together.weight[2], alone.weight, atol=1e-10)
    assert torch.allclose(together(QUERIES)[2], alone(QUERIES[2]), atol=1e-10)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_queries_sharpen_a_head_fitted_to_one_odd_example(method):
    rng = torch.Generator().manual_seed(1)
    centres = 2 * torch.eye(5, 20)
    labels = torch.arange(5).expand(200, -1)
    query_labels = torch.arange(5).repeat_interleave(15).expand(200, -1)
    support = centres + 0.7 * torch.randn(200, 5, 20, generator=rng)
    queries = centres[query_labels] + 0.7 * torch.randn(200, 75, 20, generator=rng)
    head = LinearHead(2 * support, -support.square().sum(-1))
    before = (head(queries).argmax(-1) == query_labels).float().mean()
    after = (method(head, support, labels, queries)(queries).argmax(-1) == query_labels).float().mean()
    assert after > before + 0.02


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_bad_input_is_refused(method):
    with pytest.raises(HeadError, match="class 2 of 3 has no support"):
        method(HEAD, SUPPORT[:, :2], LABELS[:, :2], QUERIES)
    with pytest.raises(HeadError, match="go together"):
        method(HEAD, SUPPORT, LABELS[:, :2], QUERIES)
    with pytest.raises(HeadError, match="at least one query"):
        method(HEAD, SUPPORT, LABELS, QUERIES[:, :0])
    broken = QUERIES.clone()
    broken[0, 1, 2] = torch.nan
    with pytest.raises(HeadError, match="Supports and queries must be finite"):
        method(HEAD, SUPPORT, LABELS, broken)


def test_alpha_is_above_one():
    with pytest.raises(HeadError, match="above 1, not 1"):
        alpha_tim(HEAD, SUPPORT, LABELS, QUERIES, alpha=1.0)
