"""Metrics against scikit-learn and against slow references."""

from __future__ import annotations

import tracemalloc

import datasets
import evaluate
import numpy as np
import pytest
from sklearn import metrics as sk

from hf_fsl.metrics import (
    MCC,
    Accuracy,
    ExpectedCalibrationError,
    MacroF1,
    MetricError,
    bootstrap_interval,
    compute_metrics,
    intervals,
    paired_difference,
    seeds_interval,
    softmax,
)


def sample(n=300, classes=5, seed=0, strength=1.5):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), labels] += strength
    return logits, labels


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_scikit_learn(seed):
    logits, labels = sample(seed=seed, classes=3 + seed)
    labels[labels == 2] = 1  # a class without examples, still predicted
    values = compute_metrics(["accuracy", "macro_f1", "mcc", "loss"], logits, labels)
    predictions = logits.argmax(-1)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="macro", zero_division=0))
    assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, predictions))
    expected = sk.log_loss(labels, softmax(logits), labels=range(logits.shape[1]))
    assert values["loss"] == pytest.approx(expected)


def test_multi_label_equal_to_scikit_learn():
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=(80, 4))
    logits = generator.normal(size=(80, 4)) + labels
    values = compute_metrics(["accuracy", "macro_f1", "loss", "ece"], logits, labels, multi_label=True)
    predictions = (logits > 0).astype(int)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, predictions, average="macro", zero_division=0))
    probabilities = 1 / (1 + np.exp(-logits))
    mean = np.mean([sk.log_loss(labels[:, c], probabilities[:, c]) for c in range(4)])
    assert values["loss"] == pytest.approx(mean)
    assert 0 < values["ece"] < 1
    with pytest.raises(MetricError, match="not defined for multi-label"):
        compute_metrics(["mcc"], logits, labels, multi_label=True)


def test_calibration_error_equals_a_slow_reference():
    logits, labels = sample(strength=3.0)
    probabilities = softmax(logits)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert compute_metrics(["ece"], logits, labels)["ece"] == pytest.approx(total)


def test_degenerate_predictions():
    logits = np.zeros((4, 3))
    logits[:, 1] = 1
    assert compute_metrics(["mcc"], logits, np.array([1, 1, 1, 1]))["mcc"] == 0.0
    assert compute_metrics(["mcc"], logits, np.array([0, 1, 2, 1]))["mcc"] == 0.0
    assert compute_metrics(["macro_f1"], logits, np.array([1, 1, 1, 1]))["macro_f1"] == 1.0


def test_evaluate_objects_alone_batched_and_combined():
    logits, labels = sample()
    predictions = logits.argmax(-1)
    expected = compute_metrics(["accuracy", "macro_f1", "mcc", "ece"], logits, labels)
    combined = evaluate.combine([Accuracy(), MacroF1(), MCC()])
    for start in range(0, 300, 50):
        combined.add_batch(predictions=predictions[start : start + 50], references=labels[start : start + 50])
    values = combined.compute()
    for name in ("accuracy", "macro_f1", "mcc"):
        assert values[name] == pytest.approx(expected[name])
    ece = ExpectedCalibrationError().compute(predictions=softmax(logits), references=labels)
    assert ece["ece"] == pytest.approx(expected["ece"])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "mcc", "ece", "loss"])
def test_bootstrap_equals_resampling_by_hand(metric):
    logits, labels = sample(n=120)
    measured = bootstrap_interval(metric, logits, labels, resamples=400, seed=3)
    generator = np.random.default_rng(3)
    draws = []
    for _ in range(2):
        for rows in generator.integers(120, size=(200, 120)):
            draws.append(compute_metrics([metric], logits[rows], labels[rows])[metric])
    assert measured.ci95 == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=1e-6)
    assert measured.value == pytest.approx(compute_metrics([metric], logits, labels)[metric])
    assert measured.n == 120


def test_bootstrap_interval_of_accuracy_agrees_with_the_binomial():
    logits, labels = sample(n=2000)
    measured = bootstrap_interval("accuracy", logits, labels)
    half = 1.96 * np.sqrt(measured.value * (1 - measured.value) / 2000)
    assert measured.ci95 == pytest.approx((measured.value - half, measured.value + half), abs=0.003)


def test_multi_label_bootstrap_contains_the_value():
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=(200, 4))
    logits = generator.normal(size=(200, 4)) + labels
    for metric in ("accuracy", "macro_f1", "ece", "loss"):
        measured = bootstrap_interval(metric, logits, labels, 300, 0, multi_label=True)
        assert measured.ci95[0] <= measured.value + 0.02 and measured.value - 0.02 <= measured.ci95[1]
        assert measured.ci95[1] - measured.ci95[0] < 0.3


def test_paired_difference_is_narrower_than_two_separate_intervals():
    generator = np.random.default_rng(0)
    theirs = generator.random(1000) < 0.7
    ours = theirs.copy()
    ours[np.flatnonzero(~theirs)[:40]] = True
    measured = paired_difference(ours, theirs)
    assert measured.value == pytest.approx(0.04)
    assert 0.02 < measured.ci95[0] < 0.04 < measured.ci95[1] < 0.06


def test_seeds_interval_is_students():
    from scipy import stats

    values = [0.78, 0.80, 0.79]
    measured = seeds_interval(values)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert measured.ci95 == pytest.approx(expected)
    assert seeds_interval([0.5]).ci95 is None


def test_bad_input_is_named():
    logits, labels = sample(n=10)
    with pytest.raises(MetricError, match="bootstrap_interval knows accuracy"):
        bootstrap_interval("f1", logits, labels)
    with pytest.raises(MetricError, match=r"logits \(10, 5\) and labels \(9,\)"):
        compute_metrics(["accuracy"], logits, labels[:9])
    with pytest.raises(MetricError, match="N above 0"):
        compute_metrics(["accuracy"], logits[:0], labels[:0])
    with pytest.raises(MetricError, match="'no_such_metric' is neither one of accuracy"):
        compute_metrics(["no_such_metric"], logits, labels, trust_remote_code=True)


@pytest.mark.parametrize(
    ("labels", "found"), [([0, 5, 1], "example 1 has 5"), ([0, 1, -1], "example 2 has -1"), ([0.5, 1, 1], "has 0.5")]
)
def test_labels_that_are_no_class_are_refused(labels, found):
    with pytest.raises(MetricError, match=rf"class indices from 0 to 4.*{found}"):
        compute_metrics(["loss"], np.zeros((3, 5)), np.array(labels))


def test_multi_label_labels_are_multi_hot():
    with pytest.raises(MetricError, match=r"multi-hot \(0 or 1\).*example 1 has \[0 2\] \(1 such"):
        compute_metrics(["accuracy"], np.zeros((2, 2)), np.array([[0, 1], [0, 2]]), multi_label=True)


def test_nan_among_logits_is_refused():
    logits, labels = sample(n=10)
    logits[3, 1] = np.nan
    with pytest.raises(MetricError, match="1 of 10 examples are NaN, the first of example 3.*learning_rate"):
        bootstrap_interval("macro_f1", logits, labels)


@pytest.mark.parametrize("metric", ["macro_f1", "mcc"])
def test_the_bootstrap_of_many_classes_and_examples_takes_little_memory(metric):
    logits, labels = sample(n=3000, classes=400, strength=3)
    bootstrap_interval(metric, logits[:50], labels[:50], resamples=100)  # what is imported on first use does not count
    tracemalloc.start()
    try:
        bootstrap_interval(metric, logits, labels, resamples=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6  # (N, C²) alone would be 1.9 GB


def test_how_many_are_drawn_at_a_time_changes_nothing(monkeypatch):

    logits, labels = sample(n=120)
    whole = bootstrap_interval("macro_f1", logits, labels, resamples=300, seed=1)
    monkeypatch.setattr(intervals, "_DRAWS", 1000)
    assert bootstrap_interval("macro_f1", logits, labels, resamples=300, seed=1) == whole


class OfEvaluate(evaluate.Metric):
    """Takes what the script of evaluate's f1 takes: multi-hot rows under its configuration "multilabel" alone."""

    def _info(self):
        kind = datasets.Value("int32")
        if self.config_name == "multilabel" and self.takes_rows:
            kind = datasets.List(kind)
        features = datasets.Features({"predictions": kind, "references": kind})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, average="binary"):
        return {"f1": sk.f1_score(references, predictions, average=average, zero_division=0)}


@pytest.mark.parametrize("takes_rows", [True, False])
def test_a_metric_of_evaluate_is_right_for_multi_label_tasks_or_refused(takes_rows, monkeypatch):
    monkeypatch.setattr(OfEvaluate, "takes_rows", takes_rows, raising=False)
    monkeypatch.setattr(evaluate, "load", lambda name, config=None: OfEvaluate(config_name=config))
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(2, size=(50, 4)), generator.normal(size=(50, 4))
    if takes_rows:
        values = compute_metrics(["f1"], logits, labels, multi_label=True, trust_remote_code=True)
        assert values["f1"] == pytest.approx(sk.f1_score(labels, logits > 0, average="macro"))
    else:
        with pytest.raises(MetricError, match="'f1' of evaluate does not take the multi-hot predictions"):
            compute_metrics(["f1"], logits, labels, multi_label=True, trust_remote_code=True)


def test_f1_of_evaluate_is_macro_even_where_only_two_of_three_classes_occur(monkeypatch):
    monkeypatch.setattr(OfEvaluate, "takes_rows", False, raising=False)
    monkeypatch.setattr(evaluate, "load", lambda name, config=None: OfEvaluate(config_name=config))
    labels, logits = np.array([0, 1, 1]), np.eye(3)
    expected = sk.f1_score(labels, [0, 1, 2], average="macro", zero_division=0)
    assert compute_metrics(["f1"], logits, labels, trust_remote_code=True)["f1"] == pytest.approx(expected)
