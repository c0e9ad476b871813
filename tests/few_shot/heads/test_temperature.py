from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from hf_fsl.few_shot.heads import HeadError
from hf_fsl.few_shot.heads.temperature import fit_temperature


def _case(seed: int = 0, count: int = 40, true: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose right temperature is known: labels are drawn from the softmax of logits / true."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5)) * 6
    chances = np.exp(log_softmax(logits / true, -1))
    labels = [rng.choice(5, p=row) for row in chances]
    return torch.from_numpy(logits), torch.tensor(labels)


def _objective(logits: np.ndarray, labels: np.ndarray, strength: float):
    spread = (logits - logits.mean(-1, keepdims=True)).std()

    def value(log_beta: float) -> float:
        beta = np.exp(log_beta)
        loss = -log_softmax(beta * logits, -1)[np.arange(len(labels)), labels].sum()
        return loss + strength * (beta * spread - np.log(beta * spread))

    return value


@pytest.mark.parametrize("strength", [0.01, 1.0, 5.0])
def test_it_is_the_minimum_that_scipy_finds(strength):
    for seed in range(5):
        logits, labels = _case(seed)
        objective = _objective(logits.numpy(), labels.numpy(), strength)
        best = minimize_scalar(objective, bounds=(-12, 12), method="bounded", options={"xatol": 1e-10})
        found = fit_temperature(logits, labels, prior_strength=strength)
        assert found.dtype == torch.float64
        assert np.log(found.item()) == pytest.approx(-best.x, abs=1e-6)


def test_many_examples_give_the_temperature_that_they_were_drawn_with():
    assert fit_temperature(*_case(count=20_000)).item() == pytest.approx(3.0, rel=0.03)


def test_the_unit_of_the_logits_does_not_matter_nor_what_all_classes_share():
    logits, labels = _case()
    found = fit_temperature(logits, labels)
    assert fit_temperature(1000 * logits, labels).item() == pytest.approx(1000 * found.item(), rel=1e-9)
    assert fit_temperature(logits + 50 * torch.arange(40)[:, None], labels).item() == pytest.approx(found.item())


def test_perfect_separation_and_misleading_logits_stay_bounded():
    labels = torch.arange(3).repeat(4)
    perfect = torch.nn.functional.one_hot(labels, 3).double()
    sure = (perfect / fit_temperature(perfect, labels)).softmax(-1)[0, 0].item()
    assert 0.9 < sure < 0.999
    more = torch.nn.functional.one_hot(labels.repeat(50), 3).double()
    assert (more / fit_temperature(more, labels.repeat(50))).softmax(-1)[0, 0].item() > sure
    wrong = fit_temperature(-perfect, labels)
    assert (-perfect / wrong).softmax(-1).min().item() > 0 and wrong.isfinite()
    assert fit_temperature(torch.zeros(6, 3), torch.arange(6) % 3).item() == pytest.approx(1.0)


def test_a_batch_is_its_parts():
    cases = [_case(seed) for seed in range(4)]
    together = fit_temperature(torch.stack([case[0] for case in cases]), torch.stack([case[1] for case in cases]))
    assert torch.allclose(together, torch.stack([fit_temperature(*case) for case in cases]), rtol=1e-12)


def test_bad_input_is_refused():
    logits, labels = _case()
    with pytest.raises(HeadError, match="two examples of every class"):
        fit_temperature(torch.full_like(logits, torch.nan), labels)
    with pytest.raises(HeadError, match="n above 0"):
        fit_temperature(logits[:0], labels[:0])
    with pytest.raises(HeadError, match=r"\(40, 5\) and \(39,\)"):
        fit_temperature(logits, labels[1:])
    with pytest.raises(HeadError, match="run from 0 to 4, got 0 to 5"):
        fit_temperature(logits, torch.arange(40) % 6)
    with pytest.raises(HeadError, match="above 0, not 0"):
        fit_temperature(logits, labels, prior_strength=0)
