"""The few-shot recipe through the real launcher, against a seeded local Hub, in one process and in two."""

from __future__ import annotations

import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from hf_fsl.cli.main import main
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.verify import require_verified
from tests.helpers.launching import ROOT, here, launch, run_here, run_process

CONFIGS = ROOT / "recipes" / "configs" / "few_shot"
_STRANGER = """
import sys
from transformers import pipeline
classify = pipeline("text-classification", model="me/few", trust_remote_code=True)
assert "hf_fsl" not in sys.modules
print(classify("a small furry animal that hunts mice at night")[0]["label"])
"""
_AGAIN = """
from hf_fsl import FewShotClassifier
classifier = FewShotClassifier.from_pretrained("me/few")
classifier.add_classes(["a small narrow river", "a large body of salt water"], ["water", "water"])
print(classifier.predict(["a stream of fresh water", "the feeling of great joy"]).tolist())
"""


@pytest.fixture(scope="module")
def run(hub, hub_environment, tmp_path_factory):
    output = tmp_path_factory.mktemp("few-shot")
    done = launch(
        hub_environment, output, CONFIGS / "supersense.smoke.yaml",
        "--hub.push_to_hub", "true", "--hub.hub_model_id", "me/few", recipe="few_shot",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def test_the_smoke_config_measures_and_publishes(hub, run):
    record = RunRecord.load(run / "run_record.json")
    assert RunRecord.from_json(record.to_json()) == record
    rows = {(row.method, row.k_shot): row for row in record.episodes.results}
    assert set(rows) == {(name, k) for name in ("nearest_mean", "lda", "auto", "alpha_tim") for k in (1, 3)}
    assert rows["nearest_mean", 1].difference is None and rows["auto", 1].difference.n == 20
    assert rows["alpha_tim", 3].transductive and rows["alpha_tim", 3].unbalanced is not None
    assert rows["auto", 3].accuracy.value > 0.6  # guessing: a third
    assert record.head.shots == dict.fromkeys(["animal", "feeling", "food", "time"], 5) and record.head.stock is False
    assert record.metrics["accuracy"].value > 0.6 and set(record.head.refusal) == {"coverage", "auroc"}
    assert record.model.truncation.texts > 0 and record.model.truncation.cut_texts == 0
    require_verified(run / "bundle")
    card = (run / "bundle" / "README.md").read_text()
    assert "guessing gives 0.3333" in card and "figures/episodes.png" in card
    assert HfApi(endpoint=hub, token="x").model_info("me/few").pipeline_tag == "text-classification"


def test_what_was_published_loads_without_hf_fsl_and_grows_with_it(run, hub_environment, capsys):
    stranger = subprocess.run(
        [sys.executable, "-I", "-c", _STRANGER], env=hub_environment, capture_output=True, text=True
    )
    assert stranger.returncode == 0, stranger.stderr[-2000:]
    assert stranger.stdout.split() == ["animal"]
    again = run_process([sys.executable, "-c", _AGAIN], hub_environment)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.splitlines()[-1] == "['water', 'feeling']"
    assert main(["predict", str(run / "bundle"), "a sweet pastry filled with fruit"]) == 0
    assert "food" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_give_what_one_gives(run, hub_environment, tmp_path):
    done = launch(
        hub_environment, tmp_path, CONFIGS / "supersense.smoke.yaml", recipe="few_shot", preset="cpu_2proc"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (RunRecord.load(folder / "run_record.json") for folder in (run, tmp_path))
    assert two.cost.processes == 2 and two.episodes == one.episodes
    assert two.metrics["accuracy"] == one.metrics["accuracy"]


@pytest.mark.slow
def test_metric_learning_on_two_processes_is_that_of_one(hub_environment, tmp_path):
    """To the tolerance in docs/few_shot.md: sums over a batch are taken in another order."""
    adapters, predictions, records = [], [], []
    for preset in ("cpu", "cpu_2proc"):
        done = launch(
            hub_environment, tmp_path / preset, CONFIGS / "supersense_one_shot.smoke.yaml", recipe="few_shot",
            preset=preset,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        adapters.append(load_file(tmp_path / preset / "bundle" / "adapter" / "adapter_model.safetensors"))
        predictions.append(pq.read_table(tmp_path / preset / "predictions.parquet").to_pydict()["probability"])
        records.append(RunRecord.load(tmp_path / preset / "run_record.json"))
    one, two = (
        torch.cat([tensor.flatten() for name, tensor in each.items() if "lora_B" in name]) for each in adapters
    )
    assert float(one.norm()) > 0 and float((one - two).norm()) < 1e-3 * float(one.norm())  # B is what started from 0
    assert predictions[0] == pytest.approx(predictions[1], abs=1e-4)
    assert [record.cost.processes for record in records] == [1, 2]
    rows, others = (record.episodes.results for record in records)
    assert any(row.meta_trained for row in rows) and len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.accuracy.value == pytest.approx(other.accuracy.value, abs=0.005)


@pytest.mark.slow
def test_pictures_of_another_style_are_told_apart(hub_environment, tmp_path):
    done = launch(hub_environment, tmp_path, CONFIGS / "emoji.smoke.yaml", recipe="few_shot")
    assert done.returncode == 0, done.stderr[-3000:]
    record = RunRecord.load(tmp_path / "run_record.json")
    assert "twemoji" in record.episodes.query and "noto" in record.episodes.support
    assert record.task["modality"] == "image"
    require_verified(tmp_path / "bundle")


def test_meta_training_needs_other_classes(tmp_path):
    with pytest.raises(UserError, match="classes that are in no episode"):
        run_here(
            "few_shot", CONFIGS / "supersense.smoke.yaml", tmp_path, *here("supersense", model="minilm"),
            "--episodes.classes", "null", "--meta_training", "true",
        )  # fmt: skip
