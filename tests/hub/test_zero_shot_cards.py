"""What a zero-shot card says of the classes that were chosen on, and of the differences between settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import Comparison, RunRecord
from hf_fsl.hub.cards import render_card

RECORD = Path(__file__).parents[2] / "model_cards" / "zero_shot_clip_emoji" / "run_record.json"


@pytest.fixture
def record():
    return RunRecord.load(RECORD)


def chosen_on(record, counts: dict[str, int], aside: list[str] | None = None) -> str:
    record.data.splits["validation"].class_counts = counts
    record.config["zero_shot"]["validation_labels"] = aside or []
    (line,) = [line for line in render_card(record).splitlines() if "Templates and calibration were chosen" in line]
    return line.split("were chosen ")[1].split(";")[0]


def test_the_classes_that_were_chosen_on_are_those_that_occur_in_the_validation_split(record):
    test = record.candidate_labels
    assert chosen_on(record, {"drink": 3, "event": 2, test[0]: 0}) == "on 2 other classes (drink, event)"
    assert chosen_on(record, dict.fromkeys(test, 2)) == "on the validation split, with the same classes"
    assert chosen_on(record, {test[0]: 1, "drink": 2}) == (
        "on 2 classes of the validation split, 1 of them also in the test"
    )
    assert chosen_on(record, dict.fromkeys(test, 2) | {"a": 1, "b": 1}, ["a", "b"]) == "on 2 other classes (a, b)"


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.01, 0.05), ""), ((-0.01, 0.05), " **No measurable difference.**"), ((-0.05, -0.01), " **Worse.**")],
)
def test_settings_of_one_scorer_are_compared_by_their_names(record, interval, verdict):
    difference = Measurement(value=sum(interval) / 2, ci95=interval, n=189)
    row = Comparison(
        name="x, plain", metric="accuracy", baseline=Measurement(value=0.5), difference=difference, of="x, calibrated"
    )
    record.comparisons = [row]
    (line,) = [line for line in render_card(record).splitlines() if "x, plain" in line]
    assert line.startswith("**x, calibrated** over **x, plain** (accuracy 0.5000): ")
    assert line.endswith(f"paired over 189 examples.{verdict}")
    assert RunRecord.from_json(record.to_json()).comparisons == [row]
