"""A model that is not known to be of use is not pushed, unless it is asked for; what was not measured is."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np
import pytest

from hf_fsl.config import EvaluationConfig, HubConfig
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import Comparison, ZeroShotMeasurement, load_record
from hf_fsl.hub import push as push_module
from hf_fsl.hub.push import UselessModel, push_bundle
from hf_fsl.hub.worth import cautions, doubt
from hf_fsl.metrics import f1_difference, macro_f1
from hf_fsl.metrics.measure import compare
from tests.helpers.launching import ROOT


def measured(low, value=0.5):
    return Measurement(value=value, ci95=(low, 0.9), n=40)


def majority(value, metric="accuracy"):
    return Comparison(
        name="majority", metric=metric, baseline=Measurement(value=value, n=40), difference=measured(0.1)
    )


@pytest.mark.parametrize(("low", "useless"), [(0.39, True), (0.4, True), (0.41, False)])
@pytest.mark.parametrize("compared", [True, False])
def test_an_interval_must_lie_above_the_most_frequent_class(make_record, low, useless, compared):
    record = make_record(metrics={"accuracy": measured(low)}, comparisons=[majority(0.4)] if compared else [])
    why = doubt(record)  # of the test examples, 16 of 40 are of the most frequent class
    assert (why is not None) == useless
    if useless:
        assert "accuracy on 40 held-out examples is 0.5000, 95 % [" in why and "the 0.4000 of always" in why


def test_what_was_not_measured_is_not_refused(make_record):
    assert doubt(make_record(metrics={"accuracy": Measurement(value=0.1)}, comparisons=[])) is None
    assert doubt(make_record(metrics={}, comparisons=[])) is None


def test_multi_label_models_are_judged_by_macro_f1(make_record):
    task = make_record().task | {"problem_type": "multi_label_classification"}
    metrics = {"accuracy": measured(0.8), "macro_f1": measured(0.0, 0.0)}
    for rows in ([], [majority(0.0, "macro_f1")]):
        assert "macro_f1" in str(doubt(make_record(task=task, metrics=metrics, comparisons=rows)))
    metrics["macro_f1"] = measured(0.2)
    assert doubt(make_record(task=task, metrics=metrics, comparisons=[])) is None
    assert doubt(make_record(task=task, metrics=metrics, comparisons=[majority(0.2, "macro_f1")])) is not None


def test_multi_label_predictions_are_compared_by_macro_f1():
    generator = np.random.default_rng(0)
    labels = (generator.random((60, 4)) > 0.7).astype(int)
    nothing, all_of_it = np.zeros_like(labels), np.ones_like(labels)
    row = compare("majority", all_of_it, nothing, labels, EvaluationConfig(bootstrap_resamples=200))
    assert (row.metric, row.baseline.value) == ("macro_f1", 0.0)
    assert row.difference.value == macro_f1(all_of_it, labels) and row.difference.ci95[0] > 0
    assert f1_difference(labels, labels, labels, 100).ci95 == (0.0, 0.0)


def test_no_better_than_the_frozen_backbone_is_a_warning(make_record):
    probe = Comparison(
        name="linear_probe", metric="accuracy", baseline=Measurement(value=0.7, n=40), difference=measured(-0.01, 0.02)
    )
    record = make_record(metrics={"accuracy": measured(0.6)}, comparisons=[probe])
    assert doubt(record) is None
    (line,) = cautions(record)
    assert "Not measurably better than a linear probe on the frozen backbone (accuracy 0.7000" in line
    probe.difference = measured(0.01)
    assert not list(cautions(record))
    record.metrics["accuracy"] = measured(0.1)
    (line,) = cautions(record)
    assert "not measurably above" in line and "Try more steps" in line


def test_a_dual_encoder_must_be_better_than_guessing():
    record = load_record(ROOT / "model_cards" / "train_contrastive_emoji" / "run_record.json")
    assert doubt(record) is None
    row = ZeroShotMeasurement(measurement=measured(0.1), chance=0.25, candidates=4)
    record = dataclasses.replace(record, tests={"test": {"accuracy": row}})
    assert "not measurably above the 0.2500 of guessing" in str(doubt(record))


def test_the_push_is_refused_with_what_to_try_and_how_to_push_anyway(make_record, tmp_path, monkeypatch):
    record, pushed = make_record(metrics={"accuracy": measured(0.1)}, comparisons=[]), []
    monkeypatch.setattr(push_module, "require_verified", lambda bundle: None)
    monkeypatch.setattr(push_module, "load_record", lambda path: record)
    monkeypatch.setattr(push_module, "_card", lambda *arguments: b"")
    monkeypatch.setattr(push_module, "push_files", lambda files, *rest, **options: pushed.append(files))
    hub = HubConfig(push_to_hub=True, hub_model_id="me/m")
    with pytest.raises(UselessModel, match=r"me/m was not pushed: accuracy on 40 .* Try more steps") as refused:
        push_bundle(tmp_path, hub)
    command = str(refused.value).rpartition(": ")[2]
    assert shlex.split(command) == ["hf-fsl", "push", str(tmp_path), "--hub_model_id", "me/m", "--push-anyway"]
    assert not pushed
    push_bundle(tmp_path, dataclasses.replace(hub, push_anyway=True))
    record.config["hub"]["push_anyway"] = True
    push_bundle(tmp_path, hub)
    assert len(pushed) == 2


def test_where_accuracy_is_not_measured_the_paired_gain_over_the_most_frequent_class_decides(make_record):
    row = majority(0.4, "macro_f1")
    no_gain = dataclasses.replace(row, difference=Measurement(value=0.0, ci95=(-0.1, 0.1), n=40))
    assert "gain in macro_f1" in str(doubt(make_record(metrics={"macro_f1": measured(0.0)}, comparisons=[no_gain])))
    assert doubt(make_record(metrics={"macro_f1": measured(0.0)}, comparisons=[row])) is None


def test_what_to_try_is_for_what_was_run(make_record):
    why = {"metrics": {"accuracy": measured(0.1)}, "comparisons": [majority(0.4)]}
    assert "num_train_epochs" in next(cautions(make_record(**why)))
    assert "num_train_epochs" not in next(cautions(make_record(**why, runs=[])))
