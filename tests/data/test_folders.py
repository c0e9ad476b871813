"""Folders of pictures: every picture is read, as the class and the split that its folder says, or none is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hf_fsl.config import DataConfig
from hf_fsl.data import DataError, load_splits
from hf_fsl.data.folders import files_below
from hf_fsl.data.sources import read_source


def read(root, **options):
    """split -> picture below the folder -> class."""
    source = read_source(DataConfig(path=str(root), image_column="image", **options))
    found = {}
    for split, data in source.splits.items():
        names, raw = (
            data.features["label"].names,
            data.cast_column("image", type(data.features["image"])(decode=False)),
        )
        found[split] = {
            os.path.relpath(image["path"], root): names[label]
            for image, label in zip(raw["image"][:], data["label"][:], strict=True)
        }
    return found


NAMES = [
    "cat/train_3.png", "cat/1.png", "cat/val.png", "dog/test_rat.png", "dog/1.PNG", "dog/2.Png", "steam-train/1.jpeg",
    "steam-train/eval 2.jpg", "test_rig/1.bmp", "test_rig/a [1] *?.png",
]  # fmt: skip


def test_words_in_names_are_no_splits(place):
    assert read(place(*NAMES)) == {"train": {name: name.split("/")[0] for name in NAMES}}


def test_a_class_called_train(place):
    names = ["train/1.png", "plane/2.png", "test/3.png"]
    assert read(place(*names[:2])) == {"train": {name: name.split("/")[0] for name in names[:2]}}
    with pytest.raises(DataError, match=r"\(plane, test, train\) are neither train, validation and test, nor classes"):
        read(place(*names))
    found = read(place(*names), data_files={"train": "*/*"})
    assert found == {"train": {name: name.split("/")[0] for name in names}}


def test_every_picture_makes_the_splits_of_a_run(place):
    names = [f"{kind}/{word}_{number}.png" for kind in ("cat", "steam-train") for word in ("train", "test", "x")
             for number in range(10)]  # fmt: skip
    splits = load_splits(DataConfig(path=str(place(*names)), image_column="image"))
    assert splits.task.label_names == ("cat", "steam-train")
    assert [split.rows for split in splits.record.splits.values()] == [42, 6, 12]


@pytest.mark.parametrize("validation", ["validation", "val", "dev", "valid", "Val"])
def test_split_folders(validation, place):
    names = [
        f"{split}/{kind}/{split}_1.png" for split in ("train", validation, "test") for kind in ("cat", "test-rig")
    ]
    found = read(place(*names))
    assert list(found) == ["train", "validation", "test"]
    assert found["validation"] == {name: name.split("/")[1] for name in names[2:4]}


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/1.png", "train/dog/1.png", "extra/cat/1.png"],
        ["2019/train/cat/1.png", "2020/test/cat/1.png", "2019/train/dog/1.png"],
        ["train_images/cat/1.png", "test_images/cat/2.png", "train_images/dog/1.png"],
    ],
)
def test_folders_that_are_half_splits_are_refused(names, place):
    with pytest.raises(DataError, match="neither train, validation and test, nor classes. Rename or move them"):
        read(place(*names))


def test_folders_around_all_are_no_level(place):
    names = [f"pictures/v2/{split}/{kind}/1.png" for split in ("train", "test") for kind in ("cat", "dog")]
    found = read(place(*names))
    assert found == {
        "train": {name: name.split("/")[3] for name in names[:2]},
        "test": {name: name.split("/")[3] for name in names[2:]},
    }
    assert read(place("only/train/cat/1.png", "only/train/dog/1.png", root="r")).keys() == {"train"}


def test_classes_in_groups(place):
    names = ["pets/cat/1.png", "pets/dog/1.png", "wild/lion/1.png"]
    assert read(place(*names)) == {"train": {name: name.split("/")[1] for name in names}}


def test_pictures_beside_class_folders_are_refused(place):
    with pytest.raises(DataError, match=r"1 pictures in .* lie higher or deeper than the others: lost\.png"):
        read(place("cat/1.png", "dog/1.png", "dog/2.png", "lost.png"))


def test_pictures_without_classes_have_no_label(place):
    for names in (["1.png", "2.png"], ["train/1.png", "test/2.png"]):
        with pytest.raises(DataError, match="has no column 'label'; it has image"):
            load_splits(
                DataConfig(path=str(place(*names, root=names[0][:2])), image_column="image", validation_split=None)
            )


def test_a_format_that_cannot_be_read_is_not_left_out(place):
    root = place("cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png")
    for name in ("dog/2.heic", "dog/2.svg"):
        (root / name).write_bytes(b"no picture for Pillow")
        with pytest.raises(DataError, match=rf"Image 3 of split 'train' \(.*{name}\) cannot be read"):
            load_splits(DataConfig(path=str(root), image_column="image"))
        (root / name).unlink()


def test_a_picture_without_a_suffix_is_one(place):
    root = place("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    (root / "dog" / "1.png").rename(root / "dog" / "00001")
    for name in ("dog/notes", "dog/Thumbs.db", "cat/.hidden.png", "__MACOSX/cat/1.png", ".git/cat/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"something else")
    assert sorted(read(root)["train"]) == ["cat/1.png", "cat/2.png", "dog/00001", "dog/2.png"]


def test_links_are_followed_once(place, tmp_path):
    place("1.png", "2.png", root="elsewhere")
    root = place("cat/1.png", "cat/2.png")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "around").symlink_to(root)
    assert [str(path.relative_to(root)) for path in files_below(root)] == [
        "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["pictures [1]", "what*", "test", "my train"])
def test_a_folder_of_any_name(name, place):
    assert len(read(place(*NAMES, root=name))["train"]) == len(NAMES)


def test_archives_beside_pictures_are_refused(place):
    root = place("cat/1.png", "dog/1.png")
    (root / "more.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"archives beside them, which are not read: more\.zip"):
        read(root)


def test_tables_with_some_pictures_beside_them(place, write, rows, made):
    root = place("figure.png", root="d")
    for name in ("train", "test", "validation"):
        write(f"d/{name}.csv", rows(6))
    assert set(read_source(DataConfig(path=str(root), image_column="image")).splits) == {"train", "validation", "test"}


def describe(folder: Path, rows: list[dict[str, str]], kind: str = "csv") -> None:
    if kind == "csv":
        lines = [",".join(row) for row in [rows[0], *(row.values() for row in rows)]]
    else:
        lines = [json.dumps(row) for row in rows]
    (folder / f"metadata.{kind}").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata(kind, place):
    root = place("train_1.png", "images/test_2.png", "3.png", "4.png")
    labels = {"train_1.png": "NA", "images/test_2.png": "b", "3.png": "NA", "4.png": "b"}
    describe(root, [{"file_name": name, "label": label} for name, label in labels.items()], kind)
    source = read_source(DataConfig(path=str(root), image_column="image"))
    assert source.splits["train"].column_names == ["label", "image"]
    assert source.splits["train"]["label"][:] == ["NA", "b", "NA", "b"]
    assert source.splits["train"][1]["image"].size == (8, 8)


def test_metadata_of_each_split(place):
    root = place("train/1.png", "train/2.png", "test/1.png")
    describe(root / "train", [{"file_name": "1.png", "label": "a"}, {"file_name": "2.png", "label": "b"}])
    describe(root / "test", [{"file_name": "1.png", "label": "b"}])
    source = read_source(DataConfig(path=str(root), image_column="image"))
    assert {split: data["label"][:] for split, data in source.splits.items()} == {"train": ["a", "b"], "test": ["b"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file_name": "1.png", "label": "a"}], r"1 of the 2 pictures .* not in its metadata: .*2\.png"),
        (
            [{"file_name": f"{number}.png", "label": "a"} for number in (1, 2, 3)],
            r"1 rows of the metadata .* name no picture that is there \(.*3\.png\)",
        ),
        ([{"file_name": "../x.png", "label": "a"}], r"names '\.\./x\.png', which is not in its folder"),
        ([{"profile_name": "1.png", "label": "a"}], "has no column file_name, but label, profile_name"),
    ],
)
def test_metadata_and_pictures_that_differ(rows, message, place):
    root = place("1.png", "2.png")
    describe(root, rows)
    with pytest.raises(DataError, match=message):
        read_source(DataConfig(path=str(root), image_column="image"))


def test_another_column_of_pictures(place):
    root = place("1.png", "2.png")
    describe(root, [{"photo_file_name": f"{number}.png", "label": "a"} for number in (1, 2)])
    data = read_source(DataConfig(path=str(root), image_column="photo")).splits["train"]
    assert data[0]["photo"].size == (8, 8)
