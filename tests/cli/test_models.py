"""``hf-fsl evaluate`` and ``predict`` on a model in a folder."""

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


@pytest.fixture
def multi_label_model(tmp_path):
    """Folder with a model that gives every text 0.8, 0.3 and 0.6."""
    classifier = build_model("bert")
    classifier.config.problem_type = "multi_label_classification"
    classifier.config.id2label = dict(enumerate(NAMES))
    classifier.config.label2id = {name: index for index, name in enumerate(NAMES)}
    with torch.no_grad():
        classifier.classifier.weight.zero_()
        classifier.classifier.bias.copy_(torch.logit(torch.tensor([0.8, 0.3, 0.6])))
    classifier.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def test_multi_label_model_is_evaluated_by_the_metrics_that_it_has(multi_label_model, tmp_path, capsys):
    rows = [{"text": word, "label": ["bad", "plain"] if index % 2 else ["good"]} for index, word in enumerate(WORDS)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["evaluate", str(multi_label_model), str(tmp_path / "data.jsonl"), "--split", "train", "--json"]
    assert main(command) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["accuracy"]["value"] == pytest.approx(len(WORDS) // 2 / len(WORDS)) and "mcc" not in measured
    assert main([*command, "--metrics", "mcc"]) == 1
    assert "mcc is not defined for multi-label tasks" in capsys.readouterr().err


def test_multi_label_model_shows_every_label_from_a_half_on_or_the_best(multi_label_model, capsys):
    def shown(*options):
        assert main(["predict", str(multi_label_model), "a cat", "--json", *options]) == 0
        return [row["label"] for row in json.loads(capsys.readouterr().out.splitlines()[-1])["labels"]]

    assert shown() == ["bad", "plain"]
    assert shown("--top-k", "1") == ["bad"]
    model = type(build_model("bert")).from_pretrained(multi_label_model)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-2.0, -1.0, -3.0]))
    model.save_pretrained(multi_label_model)
    assert shown() == ["good"]


def test_long_texts_are_cut_to_what_the_positions_allow_where_the_tokenizer_names_no_limit(tmp_path, capsys):
    build_model("roberta").save_pretrained(tmp_path)
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path)
    texts = [" ".join([word] * 100) for word in WORDS[:6]]
    (tmp_path / "data.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": f"LABEL_{index % 3}"}) for index, text in enumerate(texts))
    )
    assert main(["predict", str(tmp_path), *texts]) == 0
    assert main(["evaluate", str(tmp_path), str(tmp_path / "data.jsonl"), "--split", "train"]) == 0
