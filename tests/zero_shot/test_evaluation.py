from __future__ import annotations

import datasets
import numpy as np
import pytest

from hf_fsl.config import EvaluationConfig, ZeroShotConfig
from hf_fsl.core.records import DataRecord
from hf_fsl.core.task import Task
from hf_fsl.data import Splits
from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.evaluation import TOGETHER, LabeledInputs, compare_methods, tuning_and_test

CONFIG = EvaluationConfig(bootstrap_resamples=200)
NAMES = ("a", "b", "c", "d")


def splits(validation: list[int], test: list[int]) -> Splits:
    def split(labels):
        return datasets.Dataset.from_dict({"text": [f"{row} {label}" for row, label in enumerate(labels)],
                                           "label": labels})  # fmt: skip

    task = Task(modality="text", label_names=NAMES)
    return Splits(split([0, 1]), split(validation), split(test), task, DataRecord(path="x"))


def test_validation_classes_are_kept_out_of_the_test():
    both = splits([0, 1, 2, 3, 0], [0, 1, 2, 3, 3])
    validation, test = tuning_and_test(both, ZeroShotConfig(validation_labels=["d", "a"]))
    assert (validation.names, validation.inputs, validation.labels.tolist()) == (["d", "a"], ["0 0", "3 3", "4 0"],
                                                                                 [1, 0, 1])  # fmt: skip
    assert (test.names, test.labels.tolist()) == (["b", "c"], [0, 1])


def test_without_them_each_split_has_the_classes_that_occur_in_it():
    validation, test = tuning_and_test(splits([0, 2], [1, 3, 1]), ZeroShotConfig())
    assert (validation.names, test.names, test.labels.tolist()) == (["a", "c"], ["b", "d"], [0, 1, 0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ZeroShotConfig(validation_labels=["a", "x"]), "validation_labels: the data has no class x"),
        (ZeroShotConfig(label_texts={"y": "why"}), "label_texts: the data has no class y"),
        (ZeroShotConfig(validation_labels=["a", "b"]), "leave some for the test"),
        (ZeroShotConfig(validation_labels=["c", "d"]), "No example of the classes c, d"),
    ],
)
def test_names_that_do_not_fit_the_data_are_refused(config, message):
    with pytest.raises(ZeroShotError, match=message):
        tuning_and_test(splits([0, 1], [0, 1]), config)


def given(count: int, seed: int) -> LabeledInputs:
    labels = np.random.default_rng(seed).integers(0, 3, count)
    return LabeledInputs(list(labels), labels, ["a", "b", "c"])


def scorer(quality: dict[str, float], bias: float = 0.0, seen: list | None = None):
    """Evidence for the true class by template; an input is its own label."""

    def run(inputs, labels, templates):
        if seen is not None:
            seen.append((len(inputs), tuple(templates)))
        noise = np.random.default_rng(len(inputs)).normal(size=(len(inputs), 3))
        truth = np.eye(3)[np.array(inputs, dtype=int)]
        strength = sum(quality[template] for template in templates) / len(templates)
        return noise + strength * truth + bias * np.array([1.0, 0, 0])

    return run


def test_the_template_and_calibration_are_chosen_on_validation_and_the_rest_is_measured_beside_them():
    quality, seen = {"good": 3.0, "bad": 0.0}, []
    validation, test, unlabeled = given(300, 0), given(400, 1), list(given(200, 2).labels)
    scorers = {"strong": scorer(quality, 6.0, seen), "weak": scorer({"good": 0.5, "bad": 0.0})}
    compared = compare_methods(scorers, ["bad", "good"], validation, test, unlabeled, CONFIG)
    rows = [(row.name, row.settings["template"], row.settings["calibrated"]) for row in compared.methods]
    assert rows[:4] == [("strong", "good", False), ("strong", "good", True), ("strong", TOGETHER, False),
                        ("strong", TOGETHER, True)]  # fmt: skip
    chosen = {row.name: row for row in compared.methods if row.chosen}
    assert chosen["strong"].settings == {"template": "good", "calibrated": True}
    # The bias towards the first class is gone once the label prior is taken out.
    assert chosen["strong"].test.value > compared.methods[0].test.value + 0.2
    strong, weak = (compared.chosen[name].argmax(1) == test.labels for name in ("strong", "weak"))
    assert chosen["strong"].test.value == strong.mean()
    assert compared.comparisons[0].difference.value == pytest.approx(strong.mean() - weak.mean())
    within = {(row.of, row.name): row for row in compared.comparisons[1:]}
    label = {(row.settings["template"], row.settings["calibrated"]): row.label for row in compared.methods[:4]}
    calibration = within[label["good", True], label["good", False]]
    assert calibration.difference.value == pytest.approx(chosen["strong"].test.value - compared.methods[0].test.value)
    assert calibration.baseline.value == compared.methods[0].test.value
    assert calibration.difference.n == 400 and calibration.difference.ci95[0] > 0
    ensemble = within[label[TOGETHER, True], label["good", True]]
    assert ensemble.difference.value == pytest.approx(compared.methods[3].test.value - compared.methods[1].test.value)
    assert [row.of.split(",")[0] for row in compared.comparisons[1:]] == ["strong", "strong", "weak", "weak"]
    assert np.exp(compared.chosen["strong"]).sum(1) == pytest.approx(np.ones(400))
    # Of the test, the template that lost on validation is not looked at.
    assert [templates for count, templates in seen if count == 400] == [("good",), ("bad", "good")]


def test_without_unlabeled_inputs_nothing_is_calibrated():
    compared = compare_methods({"one": scorer({"x": 1.0})}, ["x"], given(50, 0), given(60, 1), [], CONFIG)
    assert [row.settings for row in compared.methods] == [{"template": "x", "calibrated": False}]
    assert compared.methods[0].chosen and not compared.comparisons
