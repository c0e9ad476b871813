"""Records that another version wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_fsl.core.errors import UserError
from hf_fsl.core.records import RunRecord, load_record
from hf_fsl.core.serialization import SerializationError

EXAMPLE = Path(__file__).parents[1] / "hub" / "example_record.json"


def test_record_of_another_schema_is_refused():
    text = EXAMPLE.read_text().replace('"schema_version": 1', '"schema_version": 99')
    with pytest.raises(UserError, match="schema 1, the file has 99"):
        RunRecord.from_json(text)


@pytest.mark.parametrize(("trainable", "method"), [(1000, "full"), (0, "none")])
def test_full_fine_tuning_is_read_from_records_that_call_it_none(trainable, method):
    values = json.loads(EXAMPLE.read_text())
    values["model"] |= {"adapter": {"method": "none", "r": 8}, "trainable_parameters": trainable}
    assert RunRecord.from_json(json.dumps(values)).model.adapter == {"method": method, "r": 8}


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["metrics"]["accuracy"].update(value="high"),
        lambda values: values.update(runs={"seed": 1}),
        lambda values: values["data"].pop("path"),
        lambda values: values.update(unknown=1),
        lambda values: values["cost"].update(processes=[]),
    ],
)
def test_a_damaged_record_is_named(tmp_path, change):
    values = json.loads(EXAMPLE.read_text())
    change(values)
    path = tmp_path / "run_record.json"
    path.write_text(json.dumps(values))
    for load in (RunRecord.load, load_record):
        with pytest.raises(SerializationError, match="run_record.json is damaged: it is no RunRecord"):
            load(path)
    path.write_text(json.dumps(values)[:500])
    for load in (RunRecord.load, load_record):
        with pytest.raises(SerializationError, match="run_record.json is damaged: it is not JSON, or cut off"):
            load(path)


def test_few_shot_records_of_before_have_the_new_names():
    path = Path(__file__).parents[2] / "model_cards" / "few_shot_emoji" / "run_record.json"
    written = json.loads(path.read_text())
    assert "prior" in [row["method"] for row in written["episodes"]["results"]], "as it was written"
    written["head"] |= {"estimator": "prior"}
    texts = written["head"]["words"]
    record = RunRecord.from_json(json.dumps(written))
    assert record.head.estimator == "anchored" and record.head.label_texts == texts
    methods = [row.method for row in record.episodes.results]
    assert "anchored" in methods and "prior" not in methods
    assert RunRecord.from_json(record.to_json()) == record
