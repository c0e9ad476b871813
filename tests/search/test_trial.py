"""A trial trains what fine_tune trains, goes on from its checkpoint exactly, and counts what it takes."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hf_fsl.config import DataConfig, FineTuneConfig, ModelConfig
from hf_fsl.config.search import ShotsConfig, StudyConfig
from hf_fsl.core.errors import UserError
from hf_fsl.search.errors import SearchError
from hf_fsl.search.few_shot import examples_fingerprint, few_shot_splits
from hf_fsl.search.space import Architecture, to_adapter_config
from hf_fsl.search.study import Infeasible, TrialContext, TrialStopped
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training import make_accelerator, predict_logits
from hf_fsl.training.fine_tune import fine_tune_seed
from tests.helpers.few_texts import NAMES, text_splits

SHOTS = ShotsConfig(shots=6, validation_shots=2, per_device_train_batch_size=4)
LORA = Architecture("lora", ((0, 2, 0), (4, 0, 1)), scaling=2.0, dropout=0.1, learning_rate=1e-2, steps=8)


@pytest.fixture(scope="module")
def make_trial(text_backbone):
    model = ModelConfig(model_name_or_path=str(text_backbone))

    def make(shots=SHOTS, **options):
        splits = few_shot_splits(text_splits(), shots)
        return AdapterTrial(model, splits, shots, StudyConfig(**options), make_accelerator())

    return make


@pytest.fixture(scope="module")
def trial(make_trial):
    return make_trial(objectives=["loss", "parameters", "accuracy", "token_flops"])


def test_few_shots_are_drawn_by_class_without_overlap():
    splits = few_shot_splits(text_splits(), SHOTS)
    assert splits.record.splits["train"].class_counts == dict.fromkeys(NAMES, 4)
    assert [splits.train["label"][:].count(i) for i in range(3)] == [4, 4, 4]
    assert [splits.validation["label"][:].count(i) for i in range(3)] == [2, 2, 2]
    assert not set(splits.train["text"][:]) & set(splits.validation["text"][:])
    again, other = few_shot_splits(text_splits(), SHOTS), few_shot_splits(text_splits(), ShotsConfig(shots=6, seed=1))
    assert examples_fingerprint(again.train) == examples_fingerprint(splits.train)
    assert examples_fingerprint(other.train) != examples_fingerprint(splits.train)
    with pytest.raises(SearchError, match=r"few_shot.shots=13 needs .*'cat' has 12"):
        few_shot_splits(text_splits(), ShotsConfig(shots=13))


@pytest.mark.parametrize("initialization", ["gradient", "random"])
@pytest.mark.parametrize("loss", ["cross_entropy", "prototypical"])
def test_a_trial_gives_what_fine_tune_gives(loss, initialization, make_trial, text_backbone, tmp_path):
    architecture = LORA.replace(loss=loss)
    trial = make_trial(dataclasses.replace(SHOTS, initialization=initialization), objectives=["loss", "parameters"])
    found = trial(architecture, TrialContext(folder=tmp_path / "trial", rungs=[0.25, 0.5]))
    config = FineTuneConfig(
        data=DataConfig(path="tiny", text_column="text"),
        model=ModelConfig(model_name_or_path=str(text_backbone)),
        adapter=dataclasses.replace(to_adapter_config(architecture, trial.sites), initialization=initialization),
        training=trial.training_config(architecture, None),
        output_dir=str(tmp_path / "fine_tune"),
    )
    tuned = fine_tune_seed(config, few_shot_splits(text_splits(), SHOTS), make_accelerator(), 0)
    assert found.values["loss"] == pytest.approx(tuned.outcome.record.validation["loss"], rel=1e-6)
    assert found.details["accuracy"] == tuned.outcome.record.validation["accuracy"]
    assert found.values["parameters"] == tuned.count.trainable
    low, high = found.details["interval"]
    assert low < found.values["loss"] < high


class Killed(BaseException):
    pass


@pytest.mark.parametrize("rung", [0, 1])
def test_a_trial_that_was_killed_goes_on_from_its_checkpoint_to_the_same_end(rung, trial, tmp_path):
    reports = {}

    def note(number, values):
        reports[number] = values
        return True

    whole = trial(LORA, TrialContext(folder=tmp_path / "whole", rungs=[0.25, 0.5], decide=note))
    assert set(reports) == {0, 1} and reports[0]["token_flops"] < reports[1]["token_flops"]

    def die(number, values):
        if number == rung:
            raise Killed
        return True

    first = TrialContext(folder=tmp_path / "cut", rungs=[0.25, 0.5], decide=die)
    with pytest.raises(Killed):
        trial(LORA, first)
    assert [path.name for path in (tmp_path / "cut").glob("*")] == (["checkpoint-2"] if rung else [])
    seen = []
    second = TrialContext(
        folder=tmp_path / "cut", rungs=[0.25, 0.5], reported=first.reported,
        decide=lambda number, values: seen.append(number) or True,
    )  # fmt: skip
    again = trial(LORA, second)
    assert again == whole
    assert seen == ([1] if rung == 0 else [])


def test_a_checkpoint_of_other_examples_is_refused(trial, make_trial, tmp_path):
    def die(number, values):
        raise Killed

    with pytest.raises(Killed):
        trial(LORA, TrialContext(folder=tmp_path, rungs=[0.25, 0.5], decide=lambda n, v: n == 0 or die(n, v)))
    with pytest.raises(UserError, match="model and examples"):
        make_trial(dataclasses.replace(SHOTS, seed=1))(LORA, TrialContext(folder=tmp_path, rungs=[0.25, 0.5]))


def test_a_trial_that_is_behind_stops_and_the_next_one_is_as_if_it_had_not_been(trial, tmp_path):
    context = TrialContext(folder=tmp_path / "a", rungs=[0.5], decide=lambda rung, values: False)
    with pytest.raises(TrialStopped):
        trial(LORA, context)
    assert context.token_flops > 0 and context.seconds > 0
    values = [trial(LORA, TrialContext(folder=tmp_path / name, rungs=[])).values for name in ("b", "c")]
    assert values[0] == values[1]
    assert values[0]["token_flops"] > context.token_flops


def test_validation_logits_that_are_not_finite_are_a_diverged_trial_not_a_broken_worker(trial, tmp_path, monkeypatch):
    def diverged(*arguments):
        logits = predict_logits(*arguments)
        logits[1, 0] = float("nan")
        return logits

    monkeypatch.setattr("hf_fsl.search.trial.predict_logits", diverged)
    with pytest.raises(FloatingPointError, match="Logits of 1 of 6 validation examples are not finite"):
        trial(LORA.replace(steps=1), TrialContext(folder=tmp_path / "trial", rungs=[]))


def test_operations_are_counted_from_tokens_and_the_lowest_adapted_layer(trial, tmp_path):
    head_only, upper, lower = (
        trial(architecture, TrialContext(folder=tmp_path / str(i), rungs=[])).values["token_flops"]
        for i, architecture in enumerate(
            Architecture(method, ranks, steps=4)
            for method, ranks in (
                ("head", ((0, 0, 0), (0, 0, 0))), ("lora", ((0, 0, 0), (2, 0, 0))), ("lora", ((2, 0, 0), (0, 0, 0))),
            )
        )
    )  # fmt: skip
    layer = trial.meter.layer_parameters[0]
    trained = 4 * 4 * 8  # steps, examples a step, tokens of an example
    assert 2 * 2 * layer * (trained + 6 * 8) < head_only < upper < lower
    assert lower - upper == pytest.approx(2 * layer * trained)


def test_latency_is_measured_limited_and_taken_from_a_record(make_trial, tmp_path):
    objectives = ["loss", "latency", "merged_latency"]
    found = make_trial(objectives=objectives)(LORA, TrialContext(folder=tmp_path / "a", rungs=[]))
    assert found.values["latency"] > 0 and found.values["merged_latency"] > 0
    with pytest.raises(Infeasible) as caught:
        make_trial(max_latency=1e-6)(LORA, TrialContext(folder=tmp_path / "b", rungs=[]))
    assert caught.value.excess["max_latency"] > 1
    record = tmp_path / "report.json"
    record.write_text(json.dumps({"trials": [{"key": LORA.key, "details": {"latency": 2.0, "merged_latency": 1.0}}]}))
    recorded = make_trial(objectives=objectives, latencies=str(record))
    assert recorded(LORA, TrialContext(folder=tmp_path / "c", rungs=[])).values["latency"] == 2.0
    with pytest.raises(SearchError, match="is no report of a search"):
        make_trial(latencies=str(tmp_path / "nowhere.json"))


def test_modules_to_save_are_trained_beside_the_head(text_backbone):
    shots = ShotsConfig(shots=6, modules_to_save=["bert.pooler"])
    splits = few_shot_splits(text_splits(), shots)
    model = ModelConfig(model_name_or_path=str(text_backbone))
    assert AdapterTrial(model, splits, shots, StudyConfig(), make_accelerator()).head == ("classifier", "bert.pooler")


def test_modules_to_save_that_the_model_does_not_have_are_refused(text_backbone):
    shots = ShotsConfig(shots=6, modules_to_save=["classifier", "bert.poller"])
    with pytest.raises(SearchError, match="has no bert.poller; its own head is classifier"):
        AdapterTrial(
            ModelConfig(model_name_or_path=str(text_backbone)),
            few_shot_splits(text_splits(), shots), shots, StudyConfig(), make_accelerator(),
        )  # fmt: skip
