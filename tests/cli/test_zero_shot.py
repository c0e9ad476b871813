from __future__ import annotations

import io
import json
import shutil

import pytest

from hf_fsl.cli.main import main
from hf_fsl.zero_shot.clip import ImageTextScorer
from tests.helpers.image_text import image_text_model, images, processors


def answers(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("model", ["text_backbone", "nli_model"])
def test_candidate_labels_by_a_bi_encoder_or_an_nli_model(model, request, capsys, monkeypatch):
    folder = str(request.getfixturevalue(model))
    options = ["--labels", "cat, food,sun", "--template", "the {}", "--template", "a {}", "--top-k", "3", "--json"]
    assert main(["predict", folder, *options, "the cat sleeps", "good food"]) == 0
    given = answers(capsys)
    assert [row["input"] for row in given] == ["the cat sleeps", "good food"]
    assert all({label["label"] for label in row["labels"]} == {"cat", "food", "sun"} for row in given)
    assert sum(label["score"] for label in given[0]["labels"]) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the cat sleeps\n\ngood food\n")))
    assert main(["predict", folder, *options]) == 0
    assert answers(capsys) == [given[0], {"input": "", "labels": []}, given[1]]
    assert main(["predict", folder, *options, "--multi-label", "the cat sleeps"]) == 0
    assert sum(label["score"] for label in answers(capsys)[0]["labels"]) != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--template", "a {}", "text"], "go with --labels"),
        (["--labels", "a,a", "text"], "must differ"),
        (["--labels", "a,b", "--template", "none", "text"], "one place"),
        (["--labels", "", "text"], "at least one candidate label"),
        (["--labels", "a,b", "--batch-size", "4", "text"], "--batch-size is for images"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, text_backbone, capsys):
    assert main(["predict", str(text_backbone), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_model_for_none_of_it_is_refused(image_backbone, capsys):
    assert main(["predict", str(image_backbone), "--labels", "a,b", "picture.png"]) == 1
    assert "an image-text model" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["model", "tokenizer"])
@pytest.mark.parametrize("model", ["text_backbone", "nli_model"])
def test_a_repository_that_lacks_a_part_is_refused(model, missing, request, capsys, tmp_path):
    shutil.copytree(request.getfixturevalue(model), tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob(f"{missing}*"):
        path.unlink()
    assert main(["predict", str(tmp_path), "--labels", "cat,sun", "the cat"]) == 1
    assert f"{tmp_path} does not load " in capsys.readouterr().err


def test_the_batch_size_reaches_the_image_pipeline(tmp_path, capsys, monkeypatch):
    model, folder = image_text_model("clip"), tmp_path / "model"
    for part in (model, *processors("clip", tmp_path / "tokenizer").values()):
        part.save_pretrained(folder)
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for path, picture in zip(paths, images(5), strict=True):
        picture.save(path)
    sizes, embed = [], ImageTextScorer.embed_images
    monkeypatch.setattr(ImageTextScorer, "embed_images", lambda self, x: sizes.append(len(x)) or embed(self, x))
    assert main(["predict", str(folder), "--labels", "cat,sun", "--batch-size", "2", "--json", *paths]) == 0
    assert sizes == [2, 2, 1] and len(answers(capsys)) == 5
    assert main(["predict", str(folder), "--labels", "cat,sun", "--multi-label", paths[0]]) == 1


def test_options_behind_the_inputs_and_before_them_are_read(text_backbone, capsys):
    folder = str(text_backbone)
    assert main(["predict", folder, "a cat", "--labels", "cat,sun"]) == 0
    first = capsys.readouterr().out
    assert main(["predict", folder, "--labels", "cat,sun", "a cat"]) == 0
    assert capsys.readouterr().out == first != ""
    with pytest.raises(SystemExit):
        main(["predict", folder, "a cat", "--labells", "cat,sun"])
