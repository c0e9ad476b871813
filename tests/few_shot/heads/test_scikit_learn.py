"""Where scikit-learn has the same method, it gives the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import NearestCentroid

from hf_fsl.few_shot.heads import fit_head

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(4), [5, 5, 5, 5])
UNEQUAL = np.repeat(np.arange(4), [2, 3, 6, 9])
MEANS = RNG.normal(size=(4, 8))
NOISE = RNG.normal(size=(20, 8))
QUERIES = RNG.normal(size=(50, 8))


def fitted(name: str, labels: np.ndarray, **settings):
    support = torch.from_numpy(MEANS[labels] + NOISE)
    return fit_head(name, support, torch.from_numpy(labels), **settings)(torch.from_numpy(QUERIES)).numpy()


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(-1, keepdims=True)


@pytest.mark.parametrize("shrinkage", [0.2, 1.0])
@pytest.mark.parametrize(("labels", "prior"), [(LABELS, "uniform"), (UNEQUAL, "counts")])
def test_lda(labels, prior, shrinkage):
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(MEANS[labels] + NOISE, labels)
    ours = fitted("lda", labels, shrinkage=shrinkage, class_prior=prior)
    np.testing.assert_allclose(centred(ours), centred(model.decision_function(QUERIES)), atol=1e-8)


@pytest.mark.parametrize("labels", [LABELS, UNEQUAL])
def test_ridge(labels):
    ours = fitted("ridge", labels, penalty=2.5, unit=1.0)
    model = Ridge(alpha=2.5).fit(MEANS[labels] + NOISE, np.eye(4)[labels])
    np.testing.assert_allclose(ours, model.predict(QUERIES), atol=1e-8)
    classifier = RidgeClassifier(alpha=2.5).fit(MEANS[labels] + NOISE, labels)
    assert (ours.argmax(-1) == classifier.predict(QUERIES)).all()


@pytest.mark.parametrize("labels", [LABELS, UNEQUAL, np.repeat([0, 1], 10)])
def test_logistic(labels):
    model = LogisticRegression(C=0.5, max_iter=1000).fit(MEANS[labels] + NOISE, labels)
    probabilities = torch.from_numpy(fitted("logistic", labels, inverse_penalty=0.5)).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, model.predict_proba(QUERIES), atol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, UNEQUAL])
def test_nearest_mean(labels):
    model = NearestCentroid().fit(MEANS[labels] + NOISE, labels)
    assert (fitted("nearest_mean", labels).argmax(-1) == model.predict(QUERIES)).all()
