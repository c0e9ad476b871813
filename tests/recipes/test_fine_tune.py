"""The recipe through the real launcher, against a seeded local Hub."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file

from hf_fsl.cli.main import main
from hf_fsl.config import FineTuneConfig, config_from_command_line
from hf_fsl.core.records import RunRecord
from hf_fsl.core.task import Task
from hf_fsl.hub.verify import require_verified
from hf_fsl.training import read_log
from tests.helpers.launching import ROOT, here, hf_fsl, launch, run_here

CONFIGS = ROOT / "recipes" / "configs" / "fine_tune"
SMOKE = sorted(path.name.removesuffix(".smoke.yaml") for path in CONFIGS.glob("*.smoke.yaml"))


@pytest.fixture(scope="module")
def smoke(hub_environment, tmp_path_factory):
    """Launches a smoke config, once, and pushes it to me/NAME; gives its output folder."""
    outputs = {}

    def run(name):
        if name not in outputs:
            output = tmp_path_factory.mktemp(name)
            push = ["--hub.push_to_hub", "true", f"--hub.hub_model_id=me/{name}"]
            done = launch(hub_environment, output, CONFIGS / f"{name}.smoke.yaml", *push)
            assert done.returncode == 0, done.stderr[-3000:]
            outputs[name] = output
        return outputs[name]

    return run


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("digits", "wordnet_nli") else []) for name in SMOKE],
)
def test_smoke_config_runs_publishes_and_loads_back(name, smoke, hub):
    output = smoke(name)
    record = RunRecord.load(output / "run_record.json")
    api = HfApi(endpoint=hub, token="x")
    assert record.data.revision == api.dataset_info(record.data.path).sha
    assert record.model.base_revision == api.model_info(record.model.base_model).sha
    assert record.config["training"]["learning_rate"] > 0  # what null stands for
    rows = pq.read_table(output / "predictions.parquet").to_pylist()
    assert len(rows) == record.data.splits["test"].rows * len(record.runs)
    published = [row for row in rows if row["seed"] == record.published_seed]
    share = sum(row["correct"] for row in published) / len(published)
    assert share == pytest.approx(record.metrics["accuracy"].value)
    assert any("train/loss" in key for row in read_log(output / "metrics.jsonl") for key in row)
    require_verified(output / "bundle")
    assert api.model_info(f"me/{name}").pipeline_tag == Task.from_dict(record.task).pipeline_tag


def test_predict_and_evaluate_a_published_model(smoke, hub, hub_environment, monkeypatch, capsys):
    output = smoke("supersense")
    predicted = hf_fsl(
        hub_environment, "predict", "me/supersense", "--json", "--top-k", "2", stdin="a cat\n\na very big dog\n"
    )
    assert predicted.returncode == 0, predicted.stderr[-2000:]
    answers = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert [answer["input"] for answer in answers] == ["a cat", "", "a very big dog"]
    assert [len(answer["labels"]) for answer in answers] == [2, 0, 2]
    evaluated = hf_fsl(
        hub_environment, "evaluate", "me/supersense", "hf-fsl/supersense", "--json", "--split", "validation"
    )
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert json.loads(evaluated.stdout.splitlines()[-1])["accuracy"]["n"] == 1198

    # The other commands in this process.
    assert main(["card", str(output), "--hub_model_id", "you/there"]) == 0
    assert 'model="you/there"' in capsys.readouterr().out
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "test")
    assert main(["push", str(output / "bundle"), "--hub_model_id", "me/again", "--private"]) == 0
    assert "Pushed to" in capsys.readouterr().out
    assert HfApi(endpoint=hub, token="test").model_info("me/again").private
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["predict", "me/nowhere", "text"]) == 1
    assert "hf-fsl: me/nowhere does not load as a classification model" in capsys.readouterr().err


def test_two_processes_train_like_one(hub_environment, tmp_path):
    config = CONFIGS / "digits.smoke.yaml"
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
    local = here("digits", model="tiny-convnext")
    run_here("fine_tune", config, tmp_path / "one", *local, "--training.per_device_train_batch_size", "16")
    assert RunRecord.load(tmp_path / "one" / "run_record.json").cost.processes == 1
    losses = [
        [row["train/loss"] for row in read_log(tmp_path / name / "metrics.jsonl") if "train/loss" in row]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(number, hub_environment, tmp_path):
    config = CONFIGS / "digits.smoke.yaml"
    options = ["--training.max_steps", "300", "--training.save_steps", "20", "--training.save_total_limit", "3"]
    # Sums in another number of threads are other sums; the launcher sets its own, a bare process takes all cores.
    hub_environment = {**hub_environment, "OMP_NUM_THREADS": "1"}
    whole = launch(hub_environment, tmp_path / "whole", config, *options)
    assert whole.returncode == 0, whole.stderr[-3000:]
    output = ["--output_dir", str(tmp_path / "cut")]
    command = [sys.executable, "recipes/fine_tune.py", "--config", str(config), *output, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=hub_environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "cut" / "checkpoints" / "seed-0"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint-40").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate()[1]
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number and "Traceback" not in said
        assert "saved in" in said and said.rstrip().endswith("--training.resume_from_checkpoint auto.")
    assert not (tmp_path / "cut" / "run_record.json").exists()
    resume = launch(hub_environment, tmp_path / "cut", config, *options, "--training.resume_from_checkpoint", "auto")
    assert resume.returncode == 0, resume.stderr[-3000:]
    assert "Resumed from" in resume.stdout
    for name in ("whole", "cut"):
        rows = read_log(tmp_path / name / "metrics.jsonl")
        assert [row["step"] for row in rows if "train/loss" in row] == list(range(10, 301, 10))
    weights = [load_file(tmp_path / name / "bundle" / "model.safetensors") for name in ("whole", "cut")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_wrong_config_and_unusable_data_end_with_one_clear_message(hub_environment, tmp_path, capsys):
    config = CONFIGS / "digits.smoke.yaml"
    with pytest.raises(SystemExit) as ended:
        config_from_command_line(FineTuneConfig, None, ["--config", str(config), "--training.learning_rat", "1"])
    assert ended.value.code == 2
    assert "training.learning_rat: unknown field; did you mean learning_rate?" in capsys.readouterr().err
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
    validated = hf_fsl(hub_environment, "validate", str(CONFIGS / "digits.smoke.yaml"), "no-such-config")
    assert validated.returncode == 1 and "There is no config 'no-such-config'" in validated.stderr
    assert "torch" in hf_fsl(hub_environment, "env").stdout


@pytest.mark.slow
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
    python, script = str(tmp_path / "venv" / "bin" / "python"), site / "bin" / "hf-fsl"
    # PYTHONPATH could lead to the checkout.
    environment = {name: value for name, value in hub_environment.items() if name != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "import hf_fsl; print(hf_fsl.__file__)"], capture_output=True, text=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    assert where.stdout.startswith(str(site)), where
    # The console script as pip wrote it, but for its first line, which names the python that ran pip.
    run = [python, str(script), "run", "fine_tune", "--config", "digits.smoke"]
    command = [*run, "--accelerate-config", "cpu", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "bundle" / "README.md").read_text().startswith("---\n")
    assert str(site) in done.stdout
