from __future__ import annotations

import io
import json

import pytest

from hf_fsl.cli.main import main


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
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sleeps\n\ngood food\n"))
    assert main(["predict", folder, *options]) == 0
    assert answers(capsys) == given
    assert main(["predict", folder, *options, "--multi-label", "the cat sleeps"]) == 0
    assert sum(label["score"] for label in answers(capsys)[0]["labels"]) != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--template", "a {}", "text"], "go with --labels"),
        (["--labels", "a,a", "text"], "must differ"),
        (["--labels", "a,b", "--template", "none", "text"], "one place"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, text_backbone, capsys):
    assert main(["predict", str(text_backbone), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_model_for_none_of_it_is_refused(image_backbone, capsys):
    assert main(["predict", str(image_backbone), "--labels", "a,b", "picture.png"]) == 1
    assert "an image-text model" in capsys.readouterr().err


def test_options_behind_the_inputs_and_before_them_are_read(text_backbone, capsys):
    folder = str(text_backbone)
    assert main(["predict", folder, "a cat", "--labels", "cat,sun"]) == 0
    first = capsys.readouterr().out
    assert main(["predict", folder, "--labels", "cat,sun", "a cat"]) == 0
    assert capsys.readouterr().out == first != ""
    with pytest.raises(SystemExit):
        main(["predict", folder, "a cat", "--labells", "cat,sun"])
