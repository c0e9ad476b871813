"""What encode refuses, and how it says which input it was."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image
from transformers.pipelines.pt_utils import KeyDataset

from hf_fsl.core.errors import UserError
from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.backbones.inputs import input_keys, read_inputs
from tests.helpers.encoders import pictures, save_encoder


@pytest.fixture(scope="module")
def truncated():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()[:1500]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["cat", " "], "Input 1 is an empty text"),
        (["cat", 3], "input 1 is int"),
        ([3], "input 0 is int"),
        ([Image.new("RGB", (2, 2)), "cat"], "not mixed; input 0 is an image, input 1 a text"),
        (["cat", None], "input 1 is NoneType. It is missing"),
        (["cat", float("nan")], "input 1 is float. It is missing"),
        (pandas.Series(["cat", pandas.NA], dtype="string"), "input 1 is NAType. It is missing"),
        ([{"text": "cat"}], r"input 0 is dict. .*KeyDataset\(rows, 'text'\)"),
        ([["cat"]], "input 0 is list"),
        (["cat", "half \ud83d"], r"Input 1 holds half of a surrogate pair \(U\+D83D, character 5\)"),
        (b"cat", "got bytes. Decode a text"),
        ([b"cat"], "input 0 is bytes"),
        ({"text": ["cat"]}, "got dict. Give a list, or one column of it"),
        ({"cat", "dog"}, "got set"),
        (5, "got int"),
        (None, "got NoneType"),
        (pandas.DataFrame({"text": ["cat"], "label": [0]}), r"DataFrame of 2 columns \('text', 'label'\). Give one"),
        (datasets.Dataset.from_dict({"a": ["cat"], "b": ["dog"]}), "Dataset of 2 columns"),
        (pyarrow.table({"a": ["cat"], "b": ["dog"]}), "Table of 2 columns"),
        (np.zeros((4, 4, 3), np.uint8), r"array of uint8 and shape \(4, 4, 3\). .*Image.fromarray"),
        (np.array([["cat", "dog"]]), r"shape \(1, 2\)"),
    ],
)
def test_what_is_no_list_of_texts_or_images_is_refused(text_backbone, items, message):
    with pytest.raises(BackboneError, match=message):
        Backbone.from_pretrained(str(text_backbone)).encode(items)


def test_an_image_that_cannot_be_decoded_is_named(image_backbone, truncated):
    backbone = Backbone.from_pretrained(str(image_backbone))
    pictures = [Image.new("RGB", (16, 16)), Image.open(io.BytesIO(truncated))]
    with pytest.raises(BackboneError, match="Input 1 is an image that cannot be decoded: .*truncated"):
        backbone.encode(pictures)
    good = io.BytesIO()
    pictures[0].save(good, format="PNG")
    column = datasets.Dataset.from_dict({"image": [{"bytes": good.getvalue()}, {"bytes": truncated}]})
    with pytest.raises(BackboneError, match="Input 1 is an image that cannot be decoded"):
        backbone.encode(column.cast_column("image", datasets.Image())["image"])


def test_equal_contents_have_equal_keys():
    red, same = Image.new("RGB", (2, 2), "red"), Image.new("RGBA", (2, 2), "red")
    first, second, other = input_keys(read_inputs(iter([red, same, Image.new("RGB", (2, 2), "blue")])))
    assert first == second != other


TEXTS = ["the cat sleeps", "good food"]


@pytest.mark.parametrize(
    "column",
    [
        tuple(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        (text for text in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pandas.Series(TEXTS, index=[7, 5]),
        pandas.DataFrame({"any": TEXTS}),
        datasets.Dataset.from_dict({"any": TEXTS}),
        datasets.Dataset.from_dict({"any": TEXTS})["any"],
        pyarrow.table({"any": TEXTS}),
        KeyDataset([{"any": text} for text in TEXTS], "any"),
    ],
    ids=lambda column: type(column).__name__,
)
def test_columns_are_their_rows(column):
    assert read_inputs(column) == TEXTS


@pytest.mark.parametrize("one", ["the cat", np.array("the cat"), np.str_("the cat")])
def test_one_text_is_one_input(one, text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    assert read_inputs(one) == ["the cat"] and type(read_inputs(one)[0]) is str
    torch.testing.assert_close(backbone.encode(one), backbone.encode(["the cat"]))


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Pictures and the paths of their files; one has no suffix."""
    folder, drawn = tmp_path_factory.mktemp("pictures"), pictures(3)
    paths = [folder / "a.png", folder / "b.PNG", folder / "c"]
    for picture, path in zip(drawn, paths, strict=True):
        picture.save(path, format="PNG")
    return drawn, paths


@pytest.mark.parametrize("family", ["clip", "vit"])
def test_the_path_of_a_picture_is_the_picture_where_there_is_an_image_tower(family, named, tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder(family, tmp_path)))
    drawn, paths = named
    expected = backbone.encode(drawn)
    torch.testing.assert_close(backbone.encode(paths), expected)
    torch.testing.assert_close(backbone.encode(list(map(str, paths))), expected)
    torch.testing.assert_close(backbone.encode(str(paths[2])), expected[2:])
    assert backbone.encode(drawn[0]).shape == expected[:1].shape
    with pytest.raises(BackboneError, match="Input 0.*none.png"):
        backbone.encode(["none.png"])
    with pytest.raises(BackboneError, match="http://127.0.0.1:9/a"):
        backbone.encode(["http://127.0.0.1:9/a"])
    sixteen = tmp_path / "sixteen.png"
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(sixteen)
    with pytest.raises(BackboneError, match="Input 1: A picture of mode I;16"):
        backbone.encode([str(paths[0]), str(sixteen)])


def test_a_model_of_both_takes_other_strings_for_texts_and_mixes_nothing(named, tmp_path):
    backbone = Backbone.from_pretrained(str(save_encoder("clip", tmp_path)))
    path = str(named[1][0])
    assert backbone.read(["a cat", "is it in a.png", "https://a b"]) == ["a cat", "is it in a.png", "https://a b"]
    with pytest.raises(BackboneError, match="not mixed; input 0 is an image, input 1 a text"):
        backbone.encode([path, "a cat"])
    # What a client sent is never opened.
    assert backbone.read([path, "http://127.0.0.1:9/a"], open_files=False) == [path, "http://127.0.0.1:9/a"]
    with pytest.raises(BackboneError, match="input 0 is PosixPath"):
        backbone.read([named[1][0]], open_files=False)


def test_a_model_of_texts_refuses_the_path_of_a_picture_and_takes_a_url_for_a_text(named, text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    for path in (*named[1], *map(str, named[1])):
        with pytest.raises(BackboneError, match="Input 1 .* is the path of a picture, and the model takes texts"):
            backbone.encode(["a cat", path])
    assert backbone.encode(["http://127.0.0.1:9/a.png", "none.png"]).shape == (2, 32)


def test_a_stream_of_lines_in_another_encoding_is_no_damaged_image(tmp_path):
    (tmp_path / "latin.txt").write_bytes("gut\nschön\n".encode("latin-1"))
    with (
        (tmp_path / "latin.txt").open(encoding="utf-8") as lines,
        pytest.raises(BackboneError, match="no text in the"),
    ):
        read_inputs(lines)


def test_an_error_of_whoever_makes_the_inputs_is_theirs():
    def texts():
        yield "the cat"
        raise UserError("The table is gone.")

    with pytest.raises(UserError, match="^The table is gone.$"):
        list(read_inputs(texts()))
