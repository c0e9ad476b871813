"""What ``hf-fsl predict`` reads: texts, files and the standard input, an answer for each line; what it prints."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_fsl.cli.main import main
from tests.helpers.encoders import pictures
from tests.helpers.tiny_models import WORDS, build_model, write_tokenizer

NAMES = ["bad", "good", "plain"]


def save_model(kind, folder):
    """A model that does not give one class to all."""
    model = build_model(kind).eval()
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(folder)
    if kind == "vit":
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    else:
        write_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return save_model("bert", tmp_path_factory.mktemp("text-model"))


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    return save_model("vit", tmp_path_factory.mktemp("image-model"))


@pytest.fixture
def predict(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder; returns code, rows, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(model, *arguments, stdin=None):
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(["predict", model, "--json", *arguments])
        shown = capsys.readouterr()
        return code, [json.loads(line) for line in shown.out.splitlines()], shown.err

    return run


def same(rows, others):
    assert [row["input"] for row in rows] == [row["input"] for row in others]
    for row, other in zip(rows, others, strict=True):
        assert [one["label"] for one in row["labels"]] == [one["label"] for one in other["labels"]]
        scores = [one["score"] for one in other["labels"]]
        assert [one["score"] for one in row["labels"]] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("labels", [[], ["--labels", "cat,sun"]])
def test_a_data_file_is_its_rows_and_blank_ones_keep_their_place(labels, predict, text_model, nli_model, tmp_path):
    model = str(nli_model) if labels else text_model
    texts = ["the cat, very good", "", "the sun"]
    _, expected, _ = predict(model, texts[0], texts[2], *labels)
    expected.insert(1, {"input": "", "labels": []})
    frame = pandas.DataFrame({"id": [7, 8, 9], "text": texts})
    frame.to_csv("a.csv", index=False)
    frame.to_csv("a.tsv", index=False, sep="\t")
    frame.to_parquet("a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    lines = "\n".join(texts) + "\n"
    (tmp_path / "a.txt").write_text(lines)
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl", "a.txt", "bom.txt"):
        code, rows, error = predict(model, name, *labels)
        assert code == 0, error
        same(rows, expected)
    same(predict(model, *labels, stdin=(tmp_path / "bom.txt").read_bytes())[1], expected)
    same(predict(model, "-", "a.txt", *labels, stdin=lines.encode())[1], expected * 2)


def test_plain_output_has_a_line_for_each_line(text_model, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat\n\na dog")
    assert main(["predict", text_model, str(tmp_path / "a.txt")]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 4 and lines[1] == lines[3] == "" and lines[0].startswith("the cat  ")


def test_a_column_is_named_or_the_only_one(predict, text_model, tmp_path):
    (tmp_path / "two.csv").write_text("one,two\na cat,a dog\n")
    (tmp_path / "only.csv").write_text('review\n"a cat"\n')
    expected = predict(text_model, "a cat")[1]
    same(predict(text_model, "two.csv", "--text-column", "one")[1], expected)
    code, rows, error = predict(text_model, "only.csv")
    assert rows == expected and "reading its only column, 'review'" in error
    pair = predict(text_model, "two.csv", "--text-column", "one", "--text-pair-column", "two")[1]
    same(pair, predict(text_model, '["a cat", "a dog"]')[1])
    (tmp_path / "pairs.jsonl").write_text('["a cat", "a dog"]\n')
    same(predict(text_model, "pairs.jsonl")[1], pair)


@pytest.mark.parametrize(
    ("name", "contents", "options", "why"),
    [
        ("none.txt", None, [], "there is no such file"),
        ("none.csv", None, [], "there is no such file"),
        ("dir/none.PNG", None, [], "there is no such file"),
        ("a.docx", b"PK", [], "no kind of file that is read here"),
        ("a.csv", b"x,y\na,b\n", [], "has the columns 'x', 'y': say by --text-column"),
        ("a.csv", b"x,y\na,b\n", ["--text-column", "z"], "has no column 'z'"),
        ("a.csv", b"text,y\na,b\n", ["--image-column", "y"], "--image-column: the model takes texts"),
        ("a.csv", b"text;label\na;b\n", [], "not separated by commas"),
        ("a.csv", b"text,y\na\n", [], "line 2: 1 cells, and the header has 2"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', [], "line 2: no JSON"),
        ("a.jsonl", b"[" * 100_000, [], "line 1: no JSON"),
        ("a.jsonl", b'{"text": 5}\n', [], "row 1: no text, but 5"),
        ("a.parquet", b"no parquet", [], "cannot be read"),
        ("a.txt", "gut\nschön\n".encode("latin-1"), [], "line 2: no UTF-8 .byte 0xf6"),
        ("a.txt", b"", [], "Nothing to predict"),
    ],
)
def test_files_that_cannot_be_used(name, contents, options, why, predict, text_model, tmp_path):
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    code, rows, error = predict(text_model, name, *options)
    assert code == 1 and not rows
    assert why.replace(".byte", "(byte") in error


def test_standard_input_that_is_no_utf8_is_said(predict, text_model):
    code, _, error = predict(text_model, stdin=b"one\ntwo\n\xe9t\xe9\n")
    assert code == 1 and "the standard input, line 3: no UTF-8 (byte 0xe9)" in error


def test_texts_stay_texts(predict, text_model):
    texts = ["the cat is 3.5", "https://there/a.png", "train", "[1, 2]"]
    assert [row["input"] for row in predict(text_model, *texts)[1]] == texts
    assert predict(text_model, stdin=b"none.txt\n")[1][0]["input"] == "none.txt"


@pytest.mark.parametrize("labels", [[], ["--labels", "cat,sun"]])
def test_a_picture_is_no_text(labels, predict, text_model, nli_model, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a", format="PNG")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    model = str(nli_model) if labels else text_model
    for name in ("a", "a.png"):
        code, rows, error = predict(model, name, *labels)
        assert code == 1 and not rows and "takes texts" in error
    assert predict(model, *labels, stdin=b"a.png\n")[0] == 1
    code, _, error = predict(model, "half \ud83d", *labels)
    assert code == 1 and "half of a surrogate pair" in error


def test_pictures_by_name_by_file_and_by_column(predict, image_model, tmp_path):
    drawn = pictures(3)
    paths = [f"{number}.png" for number in range(3)]
    for picture, path in zip(drawn, paths, strict=True):
        picture.save(tmp_path / path)
    _, expected, _ = predict(image_model, *paths)
    assert len(expected) == 3
    (tmp_path / "a.txt").write_text("\n".join(paths))
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(f"{path},x\n" for path in paths))
    stored = [{"bytes": (tmp_path / path).read_bytes(), "path": path} for path in paths]
    pandas.DataFrame({"picture": stored, "label": 0}).to_parquet("a.parquet")
    same(predict(image_model, "a.txt")[1], expected)
    same(predict(image_model, "a.csv", "--batch-size", "2")[1], expected)
    same(predict(image_model, "a.parquet", "--image-column", "picture")[1], expected)
    code, _, error = predict(image_model, "a text")
    assert code == 1 and "'a text' cannot be read as an image" in error
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(tmp_path / "1.png")
    code, _, error = predict(image_model, *paths)
    assert code == 1 and "mode I;16 has more than 8 bits" in error


def test_labels_come_from_a_file(predict, nli_model, tmp_path):
    (tmp_path / "classes.txt").write_text("cat\nrain, sun and snow\n\n")
    _, rows, _ = predict(str(nli_model), "the cat", "--labels", "classes.txt", "--top-k", "9")
    assert {one["label"] for one in rows[0]["labels"]} == {"cat", "rain, sun and snow"}
    code, _, error = predict(str(nli_model), "the cat", "--labels", "none.txt")
    assert code == 1 and "none.txt: there is no such file" in error


def test_several_labels_are_shown_from_a_half_on(predict, text_backbone, monkeypatch):
    every = predict(str(text_backbone), "the cat", "--labels", "cat,sun,the cat,food", "--multi-label", "--top-k", "4")
    scores = {one["label"]: one["score"] for one in every[1][0]["labels"]}
    likely = [label for label, score in scores.items() if score >= 0.5]
    assert 1 < len(likely) <= 4 and "the cat" in likely
    _, rows, _ = predict(str(text_backbone), "the cat", "--labels", "cat,sun,the cat,food", "--multi-label")
    assert [one["label"] for one in rows[0]["labels"]] == likely
    worst = min(scores, key=scores.get)
    if scores[worst] < 0.5:
        _, rows, _ = predict(str(text_backbone), "the cat", "--labels", worst, "--multi-label")
        assert [one["label"] for one in rows[0]["labels"]] == [worst]


@pytest.mark.parametrize("option", ["--batch-size", "--top-k"])
@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_numbers_below_one_are_refused(option, number, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "model", "a text", f"{option}={number}"])
    assert "a whole number of 1 or more" in capsys.readouterr().err


def test_nothing_that_is_shown_acts_on_a_terminal(predict, text_model, tmp_path, capsys):
    nasty = "the \x1b[2Jcat\x07 \x9b31m \u202e \x7f"
    assert main(["predict", text_model, nasty, "--top-k", "3"]) == 0
    shown = capsys.readouterr().out
    assert r"the \x1b[2Jcat\x07 \x9b31m" in shown and not set(shown) & set("\x1b\x07\x9b\u202e\x7f")
    assert main(["predict", text_model, nasty, "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["input"] == nasty and not set(shown) & set("\x1b\x07\x9b\u202e\x7f")
    folder = save_model("bert", tmp_path / "nasty")
    config = json.loads((tmp_path / "nasty" / "config.json").read_text())
    config["id2label"] = {str(number): f"\x1b[2J{number}" for number in range(3)}
    (tmp_path / "nasty" / "config.json").write_text(json.dumps(config | {"label2id": {}}))
    assert main(["predict", folder, WORDS[0]]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["predict", text_model, "\x1b[2J.txt"]) == 1
    shown = capsys.readouterr().err
    assert r"\x1b[2J.txt: there is no such file" in shown and "\x1b" not in shown


@pytest.mark.parametrize(("out", "err", "shown"), [(False, True, True), (True, True, False), (False, False, False)])
def test_progress_is_shown_where_the_answers_are_not_seen(out, err, shown, text_model, capsys, monkeypatch):
    bars = []
    monkeypatch.setattr("hf_fsl.cli.models.tqdm", lambda rows, **how: bars.append(not how["disable"]) or rows)
    monkeypatch.setattr("sys.stdout.isatty", lambda: out)
    monkeypatch.setattr("sys.stderr.isatty", lambda: err)
    assert main(["predict", text_model, "the cat"]) == 0
    assert bars == [shown]


def test_a_table_with_two_columns_of_one_name_is_refused(predict, text_model, tmp_path):
    (tmp_path / "a.csv").write_text("text,text\nthe cat,the sun\n")
    code, rows, error = predict(text_model, "a.csv")
    assert code == 1 and not rows and "two columns have one name" in error


def test_texts_that_are_cut_are_said_once(predict, text_model):
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 64 tokens") as said:
        assert predict(text_model, "the cat", "the cat " * 60, "--batch-size", "2")[0] == 0
    assert len([one for one in said if "longer than" in str(one.message)]) == 1


def test_a_model_of_our_own_class_is_known_to_a_process_that_has_imported_nothing(text_backbone, tmp_path):
    from hf_fsl import FewShotClassifier

    classifier = FewShotClassifier(str(text_backbone), head="cl2n", use_label_texts=False)
    classifier.fit(["the cat", "a dog", "the sun", "a river"], ["a", "a", "b", "b"]).save_pretrained(
        tmp_path / "model"
    )
    command = [sys.executable, "-m", "hf_fsl", "predict", str(tmp_path / "model"), "the cat"]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("the cat"), done.stderr[-2000:]
