"""The recipe through the real launcher, against a seeded local Hub."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from huggingface_hub import HfApi, constants

from hf_fsl.cli.main import main
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.verify import require_verified
from tests.helpers.launching import ROOT, here, launch, run_here
from tests.helpers.tiny_models import text_sizes, write_tokenizer

CONFIG = ROOT / "recipes" / "configs" / "zero_shot_nli" / "supersense.smoke.yaml"
_STOCK = """
import json, sys
from transformers import pipeline
pipe = pipeline("zero-shot-classification", model=sys.argv[1])
assert "hf_fsl" not in sys.modules
print(json.dumps(pipe("a cat", candidate_labels="animal, food")))
"""


@pytest.fixture(scope="module")
def decided_nli(tmp_path_factory):
    """Folder with a random NLI model whose scores lie far apart.

    It reads the words of the data, and its weights are large. A model to which all texts are alike gives its labels
    scores that differ by less than float sums do between two orders of adding; who wins is then the machine's choice.
    """
    folder = tmp_path_factory.mktemp("decided-nli")
    texts = pq.read_table(ROOT / "recipes" / "data" / "supersense" / "data", columns=["text"])["text"].to_pylist()
    tokenizer = write_tokenizer(folder).train_new_from_iterator(texts, vocab_size=4000)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    names = ["entailment", "neutral", "contradiction"]
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    sizes = text_sizes() | {"vocab_size": len(tokenizer)}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, **classes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
        model.classifier.weight.mul_(8)
    model.save_pretrained(folder)
    return folder


def test_the_smoke_config_measures_publishes_and_loads_back(hub, hub_environment, decided_nli, tmp_path, capsys):
    model = ["--model.model_name_or_path", str(decided_nli)]
    done = launch(
        hub_environment, tmp_path / "one", CONFIG, *model, "--hub.push_to_hub", "true", "--hub.hub_model_id", "me/zs",
        recipe="zero_shot_nli", preset="cpu_2proc",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = RunRecord.load(tmp_path / "one" / "run_record.json")
    assert RunRecord.from_json(record.to_json()) == record and record.cost.processes == 2
    tuned = set(record.config["zero_shot"]["validation_labels"])
    assert len(tuned) == 4 and len(record.candidate_labels) == 20 and not tuned & set(record.candidate_labels)
    assert {row.name for row in record.methods if row.chosen} == {"nli", "bi-encoder"}
    for name in ("nli", "bi-encoder"):
        own = [row for row in record.methods if row.name == name]
        assert [row.chosen for row in own].index(True) == max(range(len(own)), key=lambda i: own[i].validation.value)
    rows = pq.read_table(tmp_path / "one" / "predictions.parquet").to_pylist()
    nli = [row for row in rows if row["scorer"] == "nli"]
    assert sum(row["correct"] for row in nli) / len(nli) == pytest.approx(record.metrics["accuracy"].value)
    assert not tuned & {row["label"] for row in rows}
    require_verified(tmp_path / "one" / "bundle")
    assert HfApi(endpoint=hub, token="x").model_info("me/zs").pipeline_tag == "zero-shot-classification"
    card = (tmp_path / "one" / "bundle" / "README.md").read_text()
    assert "guessing at random gives 0.0500" in card and (tmp_path / "one" / "bundle/figures/methods.png").is_file()

    stock = subprocess.run(
        [sys.executable, "-I", "-c", _STOCK, "me/zs"], env=hub_environment, capture_output=True, text=True
    )
    assert stock.returncode == 0, stock.stderr[-2000:]
    capsys.readouterr()
    bundle = str(tmp_path / "one" / "bundle")
    assert main(["predict", bundle, "--labels", "animal, food", "--json", "--top-k", "2", "a cat"]) == 0
    answer, expected = json.loads(capsys.readouterr().out), json.loads(stock.stdout.splitlines()[-1])
    assert [row["label"] for row in answer["labels"]] == expected["labels"]
    assert [row["score"] for row in answer["labels"]] == pytest.approx(expected["scores"], abs=1e-5)

    run_here("zero_shot_nli", CONFIG, tmp_path / "two", *model, *here("supersense", bi_encoder="minilm"))
    again = RunRecord.load(tmp_path / "two" / "run_record.json")
    assert again.cost.processes == 1
    assert [vars(row.test) for row in again.methods] == [vars(row.test) for row in record.methods]


def test_bad_input_is_refused_before_anything_is_measured(nli_model, text_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = ["--model.model_name_or_path", str(nli_model)]
    for overrides, message in (
        ([*model, "--zero_shot.validation_labels", "[food, foood]"], "no class foood"),
        ([*model, "--zero_shot.templates", "[no place]"], "one place {}"),
        (["--model.model_name_or_path", str(text_backbone)], "no weights for classifier"),
        (["--model.model_name_or_path", "me/nowhere"], "me/nowhere does not load for zero-shot-classification"),
    ):
        with pytest.raises(UserError, match=message):
            run_here("zero_shot_nli", CONFIG, tmp_path, *here("supersense", bi_encoder="minilm"), *overrides)
    assert not list(tmp_path.iterdir())
