"""Multinomial logistic regression, scikit-learn's: the reference that the closed forms are compared with."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hf_fsl.few_shot.heads.estimator import Estimator
from hf_fsl.few_shot.heads.support import HeadError, SupportSet


def logistic(support: SupportSet, *, inverse_penalty: float = 1.0, iterations: int = 1000) -> tuple[Tensor, Tensor]:
    """W and b of ``LogisticRegression(C=inverse_penalty)``, one episode after the other.

    Raises:
        HeadError: an inverse_penalty that is not above 0.
    """
    if not inverse_penalty > 0:
        raise HeadError(f"inverse_penalty must be above 0, got {inverse_penalty}.")
    batch = support.labels.shape[:-1]
    features = support.features.double().flatten(0, -3) if batch else support.features.double().unsqueeze(0)
    labels = support.labels.flatten(0, -2) if batch else support.labels.unsqueeze(0)
    sample_weights = (support.weights.flatten(0, -2) if batch else support.weights.unsqueeze(0)).double()
    fitted = [
        _fitted(one.cpu().numpy(), own.cpu().numpy(), each.cpu().numpy(), inverse_penalty, iterations)
        for one, own, each in zip(features, labels, sample_weights, strict=True)
    ]
    weights, biases = (torch.as_tensor(np.stack(parts), device=features.device) for parts in zip(*fitted, strict=True))
    return weights.reshape(*batch, *weights.shape[1:]), biases.reshape(*batch, *biases.shape[1:])


def _fitted(
    features: np.ndarray, labels: np.ndarray, sample_weights: np.ndarray, inverse: float, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    model = LogisticRegression(C=inverse, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One example a class is no regression problem here.
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        model.fit(features, labels, sample_weights)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:
        # Of two classes scikit-learn keeps the difference.
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


LOGISTIC = Estimator("logistic", logistic, grid=tuple({"inverse_penalty": one} for one in (0.1, 1.0, 10.0)))
