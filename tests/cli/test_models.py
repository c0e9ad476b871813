"""``hf-fsl evaluate`` on a model in a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import WORDS, build_model, write_tokenizer

from hf_fsl.cli.main import main

NAMES = ["bad", "good", "plain"]


@pytest.fixture
def model(tmp_path):
    """Folder with a model that knows its classes by name, and what it answers to WORDS."""
    classifier = build_model("bert").eval()
    classifier.config.id2label = dict(enumerate(NAMES))
    classifier.config.label2id = {name: index for index, name in enumerate(NAMES)}
    tokenizer = write_tokenizer(tmp_path / "model")
    with torch.inference_mode():
        batch = tokenizer(WORDS, return_tensors="pt", padding=True, return_token_type_ids=False)
        classifier.classifier.bias -= classifier(**batch).logits.mean(0)  # so that not all words get one class
        answers = classifier(**batch).logits.argmax(-1).numpy()
    assert len(set(answers)) == 3
    classifier.save_pretrained(tmp_path / "model")
    return tmp_path / "model", answers


def test_numbered_labels_are_evaluated_by_the_names_given_for_them(model, tmp_path, capsys):
    folder, answers = model
    given = ["plain", "bad", "good"]  # the data set numbers the classes in another order than the model
    numbers = [given.index(NAMES[answer]) for answer in answers]
    rows = [json.dumps({"text": word, "label": number}) for word, number in zip(WORDS, numbers, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    command = ["evaluate", str(folder), str(tmp_path / "data.jsonl"), "--split", "train", "--json"]
    assert main([*command, "--label-names", *given]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]["value"] == 1.0
    wrong = np.mean([NAMES[number] == NAMES[answer] for number, answer in zip(numbers, answers, strict=True)])
    assert main([*command, "--label-names", *NAMES]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]["value"] == pytest.approx(wrong)
    assert main(command) == 1
    assert "hf-fsl evaluate: --label-names" in capsys.readouterr().err
