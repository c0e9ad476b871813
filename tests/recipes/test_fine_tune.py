"""The recipe through the real launcher, against a seeded local Hub."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from launching import ROOT, hf_fsl, launch
from safetensors.torch import load_file

from hf_fsl.hub.verify import require_verified
from hf_fsl.records import RunRecord
from hf_fsl.tasks import Task
from hf_fsl.training import read_log

SMOKE = sorted((ROOT / "recipes" / "configs" / "fine_tune").glob("*.smoke.yaml"))


@pytest.mark.parametrize("config", SMOKE, ids=lambda path: path.name.removesuffix(".smoke.yaml"))
def test_smoke_config_runs_publishes_and_loads_back(config, hub, hub_environment, tmp_path):
    name = f"me/{config.name.removesuffix('.smoke.yaml')}"
    done = launch(hub_environment, tmp_path, config, "--hub.push_to_hub", "true", "--hub.hub_model_id", name)
    assert done.returncode == 0, done.stderr[-3000:]
    record = RunRecord.load(tmp_path / "run_record.json")
    api = HfApi(endpoint=hub, token="x")
    assert record.data.revision == api.dataset_info(record.data.path).sha
    assert record.model.base_revision == api.model_info(record.model.base_model).sha
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert len(rows) == record.data.splits["test"].rows * len(record.runs)
    published = [row for row in rows if row["seed"] == record.published_seed]
    share = sum(row["correct"] for row in published) / len(published)
    assert share == pytest.approx(record.metrics["accuracy"].value)
    assert any("train/loss" in key for row in read_log(tmp_path / "metrics.jsonl") for key in row)
    require_verified(tmp_path / "bundle")
    assert api.model_info(name).pipeline_tag == Task.from_dict(record.task).pipeline_tag


def test_predict_and_evaluate_a_published_model(hub_environment, tmp_path):
    config = ROOT / "recipes" / "configs" / "fine_tune" / "supersense.smoke.yaml"
    done = launch(
        hub_environment, tmp_path, config, "--hub.push_to_hub=true", "--hub.hub_model_id=me/cli",
        "--training.seeds", "[0]", "--evaluation.baselines", "[majority]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    predicted = hf_fsl(
        hub_environment, "predict", "me/cli", "--json", "--top-k", "2", stdin="a cat\n\na very big dog\n"
    )
    assert predicted.returncode == 0, predicted.stderr[-2000:]
    answers = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert [answer["input"] for answer in answers] == ["a cat", "a very big dog"]
    assert all(len(answer["labels"]) == 2 for answer in answers)
    evaluated = hf_fsl(hub_environment, "evaluate", "me/cli", "hf-fsl/supersense", "--json", "--split", "validation")
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert json.loads(evaluated.stdout.splitlines()[-1])["accuracy"]["n"] == 1198
    card = hf_fsl(hub_environment, "card", str(tmp_path), "--hub_model_id", "you/there")
    assert 'model="you/there"' in card.stdout
    pushed = hf_fsl(hub_environment, "push", str(tmp_path / "bundle"), "--hub_model_id", "me/again", "--private")
    assert pushed.returncode == 0 and "Pushed to" in pushed.stdout, pushed.stderr
    missing = hf_fsl(hub_environment, "predict", "me/nowhere", "text")
    assert missing.returncode == 1 and "hf-fsl: me/nowhere cannot be loaded" in missing.stderr


def test_two_processes_train_like_one(hub_environment, tmp_path):
    config = ROOT / "recipes" / "configs" / "fine_tune" / "digits.smoke.yaml"
    two = launch(
        hub_environment, tmp_path / "two", config, "--training.per_device_train_batch_size", "8",
        "--training.save_steps", "2", "--training.resume_from_checkpoint", "auto", preset="cpu_2proc",
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    record = RunRecord.load(tmp_path / "two" / "run_record.json")
    assert record.cost.processes == 2 and record.data.splits["test"].rows == 50
    assert pq.read_table(tmp_path / "two" / "predictions.parquet").num_rows == 50
    checkpoints = sorted(path.name for path in (tmp_path / "two" / "checkpoints" / "seed-0").iterdir())
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]
    one = launch(hub_environment, tmp_path / "one", config, "--training.per_device_train_batch_size", "16")
    assert one.returncode == 0, one.stderr[-3000:]
    losses = [
        [row["train/loss"] for row in read_log(tmp_path / name / "metrics.jsonl") if "train/loss" in row]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(hub_environment, tmp_path):
    config = ROOT / "recipes" / "configs" / "fine_tune" / "digits.smoke.yaml"
    options = ["--training.max_steps", "300", "--training.save_steps", "20", "--training.save_total_limit", "3"]
    # Sums in another number of threads are other sums; the launcher sets its own, a bare process takes all cores.
    hub_environment = {**hub_environment, "OMP_NUM_THREADS": "1"}
    whole = launch(hub_environment, tmp_path / "whole", config, *options)
    assert whole.returncode == 0, whole.stderr[-3000:]
    output = ["--output_dir", str(tmp_path / "cut")]
    command = [sys.executable, "recipes/fine_tune.py", "--config", str(config), *output, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=hub_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder = tmp_path / "cut" / "checkpoints" / "seed-0"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint-40").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "cut" / "run_record.json").exists()
    resume = launch(hub_environment, tmp_path / "cut", config, *options, "--training.resume_from_checkpoint", "auto")
    assert resume.returncode == 0, resume.stderr[-3000:]
    weights = [load_file(tmp_path / name / "bundle" / "model.safetensors") for name in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_wrong_config_and_unusable_data_end_with_one_clear_message(hub_environment, tmp_path):
    config = ROOT / "recipes" / "configs" / "fine_tune" / "digits.smoke.yaml"
    typo = launch(hub_environment, tmp_path, config, "--training.learning_rat", "1")
    assert "training.learning_rat: unknown field; did you mean learning_rate?" in typo.stderr
    wrong = launch(hub_environment, tmp_path, config, "--data.image_column", "picture")
    assert wrong.returncode != 0
    message = "error: data.image_column: split 'train' of hf-fsl/digits has no column 'picture'; it has image, label."
    assert message in wrong.stderr


def test_run_prints_the_command_it_stands_for(hub_environment):
    done = hf_fsl(
        hub_environment, "run", "fine_tune", "--config", "digits.smoke", "--dry-run", "--training.max_steps", "2"
    )
    assert done.returncode == 0
    assert "accelerate.commands.launch" in done.stdout and done.stdout.strip().endswith("--training.max_steps 2")
    refused = hf_fsl(hub_environment, "run", "fine_tune", "--config", "digits.smoke", "--training.max_step", "2")
    assert refused.returncode == 2 and "did you mean max_steps?" in refused.stderr
    validated = hf_fsl(hub_environment, "validate", str(SMOKE[0]), "no-such-config")
    assert validated.returncode == 1 and "There is no config 'no-such-config'" in validated.stderr
    assert "torch" in hf_fsl(hub_environment, "env").stdout


def test_wheel_runs_a_recipe_on_its_own(hub_environment, tmp_path):
    """The wheel in an environment that cannot see the checkout: recipes, configs and templates come from inside it."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # A plain path in a .pth file: the packages of this environment, but not its own .pth files, so not the checkout.
    packages = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in packages))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    where = subprocess.run(
        [python, "-c", "import hf_fsl; print(hf_fsl.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert where.stdout.startswith(str(site)), where
    run = [python, "-m", "hf_fsl.cli.main", "run", "fine_tune", "--config", "digits.smoke"]
    command = [*run, "--accelerate-config", "cpu", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=hub_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "bundle" / "README.md").read_text().startswith("---\n")
    assert str(site) in done.stdout
