"""``hf-fsl predict`` and ``hf-fsl evaluate`` by models in a folder: of texts, of pairs of texts, of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViTImageProcessor

from hf_fsl.cli.main import main
from tests.helpers.tiny_models import WORDS, build_model, write_tokenizer

NAMES = ["bad", "good", "plain"]


def named(classifier):
    classifier.config.id2label = dict(enumerate(NAMES))
    classifier.config.label2id = {name: index for index, name in enumerate(NAMES)}
    return classifier


def read(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def model(tmp_path):
    """Folder with a model that knows its classes by name, and what it answers to WORDS."""
    classifier = named(build_model("bert").eval())
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
    classifier = named(build_model("bert"))
    classifier.config.problem_type = "multi_label_classification"
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
    (tmp_path / "data.csv").write_text(
        "text,label,bad,good,plain\n"
        + "".join(
            f"{row['text']},{'; '.join(row['label'])},{','.join(str(int(name in row['label'])) for name in NAMES)}\n"
            for row in rows
        )
    )
    for options in (["--label-separator", ";"], ["--label-column", "plain", "bad", "good"]):
        other = ["evaluate", str(multi_label_model), str(tmp_path / "data.csv"), "--json", *options]
        assert main(other) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == measured
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


@pytest.fixture
def image_model(tmp_path):
    """Folder with an image model, pictures in a folder of each class, and the class it gives each."""
    classifier = build_model("vit").eval()
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(9)]
    with torch.inference_mode():
        batch = processor(pictures, return_tensors="pt")
        classifier.classifier.bias -= classifier(**batch).logits.mean(0)
        answers = [NAMES[number] for number in classifier(**batch).logits.argmax(-1)]
    assert set(answers) == set(NAMES)
    named(classifier).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    paths = []
    for number, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
        (tmp_path / "pictures" / answer).mkdir(parents=True, exist_ok=True)
        paths.append(str(tmp_path / "pictures" / answer / f"{number}.png"))
        picture.save(paths[-1])
    return str(tmp_path / "model"), paths, answers


def test_an_image_model_predicts_and_is_evaluated(image_model, tmp_path, capsys):
    folder, paths, answers = image_model
    assert main(["predict", folder, "--json", "--top-k", "3", *paths]) == 0
    rows = read(capsys)
    assert [row["input"] for row in rows] == paths
    assert [row["labels"][0]["label"] for row in rows] == answers
    assert all({label["label"] for label in row["labels"]} == set(NAMES) for row in rows)
    evaluate = ["evaluate", folder, str(tmp_path / "pictures"), "--split", "train", "--json"]
    assert main(evaluate) == 0
    (measured,) = read(capsys)
    assert measured["accuracy"]["value"] == measured["macro_f1"]["value"] == 1 and measured["accuracy"]["n"] == 9
    Path(paths[0]).rename(tmp_path / "pictures" / next(name for name in NAMES if name != answers[0]) / "0.png")
    assert main(evaluate) == 0
    assert read(capsys)[0]["accuracy"]["value"] == pytest.approx(8 / 9)
    assert main(["predict", folder, str(tmp_path / "none.png")]) == 1
    assert "none.png: there is no such file" in capsys.readouterr().err


def test_a_text_pair_model_predicts_and_is_evaluated(model, tmp_path, capsys):
    folder, _ = model
    pairs = [[first, second] for first, second in zip(WORDS, reversed(WORDS), strict=True)]
    classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        batch = tokenizer(*zip(*pairs, strict=True), return_tensors="pt", padding=True)
        classifier.classifier.bias -= classifier(**batch).logits.mean(0)
        classifier.save_pretrained(folder)
        answers = [NAMES[number] for number in classifier(**batch).logits.argmax(-1)]
    assert set(answers) == set(NAMES)

    assert main(["predict", str(folder), "--json", *map(json.dumps, pairs)]) == 0
    assert [row["labels"][0]["label"] for row in read(capsys)] == answers
    rows = [{"one": a, "two": b, "kind": name} for (a, b), name in zip(pairs, answers, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = ["--text-column", "one", "--text-pair-column", "two", "--label-column", "kind"]
    evaluate = ["evaluate", str(folder), str(tmp_path / "pairs.jsonl"), "--split", "train", *columns]
    assert main([*evaluate, "--json"]) == 0
    assert read(capsys)[0]["accuracy"]["value"] == 1
    assert main([*evaluate, "--metrics", "accuracy"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(WORDS)} examples" in shown and "accuracy   1.0000  95 % [" in shown
    assert main([*evaluate[:-4], "--label-column", "kind", "--metrics", "accuracy", "--json"]) == 0
    assert read(capsys)[0]["accuracy"]["value"] < 1  # the second texts matter
