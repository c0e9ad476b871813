"""The search's recipe through the real launcher: published, loaded back, joined by two workers, reproduced."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import yaml
from huggingface_hub import HfApi, snapshot_download

from hf_fsl.cli.main import main
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.verify import require_verified
from hf_fsl.search.report import SearchReport
from tests.helpers.launching import ROOT, here, launch, run_here

SMOKE = ROOT / "recipes" / "configs" / "search_adapters" / "supersense.smoke.yaml"


def run(environment, output, *options, **launching):
    done = launch(environment, output, SMOKE, *options, recipe="search_adapters", **launching)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def tiny(text_backbone):
    """Overrides: a tiny model instead of the config's, which learns fast, and the data of the checkout."""
    model = ["--model.model_name_or_path", str(text_backbone)]
    return [*here("supersense"), *model, "--space.layers", "[0, 1]", "--space.learning_rate", "[0.03]"]


@pytest.fixture(scope="module")
def finished(hub_environment, tiny, tmp_path_factory):
    output = tmp_path_factory.mktemp("search")
    done = run(hub_environment, output, *tiny, "--hub.push_to_hub", "true", "--hub.hub_model_id", "me/searched")
    return hub_environment, output, done


def test_the_winner_is_published_and_the_others_are_adapters_beside_it(finished, hub, text_backbone, tmp_path):
    environment, output, done = finished
    record, report = RunRecord.load(output / "run_record.json"), SearchReport.load(output / "report.json")
    assert len(report.trials) == 4 and report.verdict in done.stdout
    assert report.chosen == record.search["chosen"] and (
        report.matters is not None or "of like size" in report.verdict
    )
    assert record.metrics["accuracy"].n == record.data.splits["test"].rows == 48
    require_verified(output / "bundle")
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page.replace("http-equiv", "")

    folder = snapshot_download("me/searched", cache_dir=tmp_path, endpoint=hub, token="test")
    card = (output / "bundle" / "README.md").read_text()
    assert report.verdict in card and "figures/search_front.png" in card
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    published = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(["a big cat", "to run"], padding=True, return_tensors="pt")
    others = [row.name for row in report.members if not row.baseline and not row.chosen]
    assert record.search["adapters"] == others and others
    own = [""] if report.peft_config else []  # the head alone may be what is best
    for name in [*own, *others]:
        base = AutoModelForSequenceClassification.from_pretrained(text_backbone, num_labels=24)
        model = PeftModel.from_pretrained(base, folder, subfolder=f"adapter/{name}".rstrip("/")).eval()
        with torch.inference_mode():
            same = torch.allclose(model(**tokens).logits, published(**tokens).logits, atol=1e-5)
        assert same == (name == ""), name
    assert (output / "bundle" / "adapter" / "adapter_config.json").is_file() == bool(own)
    assert HfApi(endpoint=hub, token="test").model_info("me/searched").pipeline_tag == "text-classification"


@pytest.mark.slow
def test_the_chosen_config_trains_the_same_model_again(finished, tmp_path):
    environment, output, _ = finished
    record = RunRecord.load(output / "run_record.json")
    again = launch(environment, tmp_path, output / "fine_tune.yaml")
    assert again.returncode == 0, again.stderr[-3000:]
    reproduced = RunRecord.load(tmp_path / "run_record.json")
    assert [run.test["loss"].value for run in reproduced.runs] == [run.test["loss"].value for run in record.runs]
    assert reproduced.metrics["accuracy"] == record.metrics["accuracy"]


def test_a_finished_search_is_shown_and_not_run_again(finished, tiny, capsys):
    _, output, _ = finished
    assert main(["search", "show", str(output)]) == 0
    assert SearchReport.load(output / "report.json").verdict in capsys.readouterr().out
    assert main(["search", "show", str(output), "--live"]) == 0
    live = capsys.readouterr().out
    assert "4 of" in live and "Front on validation" in live
    before = json.loads((output / "report.json").read_text())["trials"]
    run_here("search_adapters", SMOKE, output, *tiny)
    assert json.loads((output / "report.json").read_text())["trials"] == before
    with pytest.raises(UserError, match=r"(?s)is about something else than this worker.*shots 3 there, 4 here"):
        run_here("search_adapters", SMOKE, output, *tiny, "--few_shot.shots", "4")
    assert main(["search", "show", "no/such/search"]) == 1
    assert "There is no search at no/such/search" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_one_launch_search_like_one(finished, tiny, tmp_path):
    environment, output, _ = finished
    run(environment, tmp_path, *tiny, "--few_shot.per_device_train_batch_size", "4", preset="cpu_2proc")
    one, two = (SearchReport.load(folder / "report.json") for folder in (output, tmp_path))
    assert [row.architecture for row in one.trials] == [row.architecture for row in two.trials]
    assert [row.values["loss"] for row in two.trials] == pytest.approx(
        [row.values["loss"] for row in one.trials], rel=1e-3
    )


@pytest.mark.slow
def test_two_launches_work_on_one_study_and_one_of_them_finishes_it(finished, tmp_path):
    environment, _, _ = finished
    options = ("--search.trials", "8", "--space.steps", "[12]", "--search.sampler", "random")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run(environment, tmp_path, *options), range(2)))
    report, record = SearchReport.load(tmp_path / "report.json"), RunRecord.load(tmp_path / "run_record.json")
    assert len(report.trials) == 8 and report.chosen == record.search["chosen"]
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    finished_trials = [trial for trial in trials if trial.state != optuna.trial.TrialState.FAIL]
    assert len(finished_trials) == 8
    assert sorted(trial.user_attrs["ordinal"] for trial in finished_trials) == list(range(8))
    assert sum("Another worker has finished the search" in done.stdout for done in both) == 1
    assert sum("waiting for it to finish" in done.stdout for done in both) == 1
    assert sum("Verified, not pushed" in done.stdout for done in both) == 1
    require_verified(tmp_path / "bundle")


def test_wrong_settings_are_said_before_anything_runs(tmp_path, capsys):
    settings = yaml.safe_load(SMOKE.read_text())
    settings["strategy"] = "supernet"
    settings["search"] |= {"trials": None, "rungs": [0.5, 0.2], "objectives": ["parameters"]}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(settings))
    assert main(["validate", str(tmp_path / "wrong.yaml")]) == 2
    said = capsys.readouterr().err
    for problem in (
        "strategy: supernet is gone",
        "search.trials, seconds or token_flops: at least one of them",
        "search.rungs: ascending shares between 0 and 1",
        "search.objectives: the first is a metric",
    ):
        assert problem in said
