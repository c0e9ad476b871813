"""The recipe through the real launcher, with a tiny dual encoder, against a seeded local Hub."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from hf_fsl.cli.main import main
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.verify import require_verified
from tests.helpers.image_text import image_text_model, processors
from tests.helpers.image_text import images as image_text_images
from tests.helpers.launching import ROOT, hf_fsl, launch

CONFIG = ROOT / "recipes" / "configs" / "zero_shot_clip" / "emoji.smoke.yaml"
_STOCK = """
import json, sys
from transformers import pipeline
pipe = pipeline("zero-shot-image-classification", model=sys.argv[1])
assert "hf_fsl" not in sys.modules
print(json.dumps(pipe(sys.argv[2], candidate_labels=["bird", "heart"])))
"""


@pytest.fixture(scope="module")
def dual_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual-encoder")
    image_text_model("dual").save_pretrained(folder)
    for part in processors("dual", folder).values():
        part.save_pretrained(folder)
    return folder


def test_the_smoke_config_measures_publishes_and_loads_back(hub, hub_environment, dual_encoder, tmp_path, capsys):
    done = launch(
        hub_environment, tmp_path, CONFIG, "--model.model_name_or_path", str(dual_encoder),
        "--hub.push_to_hub", "true", "--hub.hub_model_id", "me/see", recipe="zero_shot_clip",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = RunRecord.load(tmp_path / "run_record.json")
    assert RunRecord.from_json(record.to_json()) == record
    assert len(record.candidate_labels) == 7 and record.metrics["accuracy"].n == 36
    assert len(record.confusion_matrix) == 7 and sum(map(sum, record.confusion_matrix)) == 36
    assert sum(row.chosen for row in record.methods) == 1 and len(record.methods) == 11
    usual = [", Tip-Adapter", ", kernel ridge around the names", ", LDA + zero-shot"]
    assert [row.name for row in record.methods[4:]] == [
        *(f"1 labelled of each class{name}" for name in ("", *usual[:2])),
        *(f"2 labelled of each class{name}" for name in ("", *usual)),
    ]
    require_verified(tmp_path / "bundle")
    assert HfApi(endpoint=hub, token="x").model_info("me/see").pipeline_tag == "zero-shot-image-classification"
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "guessing at random gives 0.1429" in card and "| 2 labelled of each class |" in card

    image_text_images(1)[0].save(tmp_path / "one.png")
    stock = subprocess.run(
        [sys.executable, "-I", "-c", _STOCK, "me/see", str(tmp_path / "one.png")], env=hub_environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert stock.returncode == 0, stock.stderr[-2000:]
    ours = hf_fsl(
        hub_environment, "predict", "me/see", "--labels", "bird,heart", "--json", "--top-k", "2",
        str(tmp_path / "one.png"),
    )  # fmt: skip
    assert ours.returncode == 0, ours.stderr[-2000:]
    expected = {row["label"]: row["score"] for row in json.loads(stock.stdout.splitlines()[-1])}
    assert {row["label"]: row["score"] for row in json.loads(ours.stdout)["labels"]} == pytest.approx(
        expected, abs=1e-5
    )
    bundle, missing = str(tmp_path / "bundle"), str(tmp_path / "none.png")
    assert main(["predict", bundle, "--labels", "bird,heart", missing]) == 1
    assert "there is no such file" in capsys.readouterr().err
