"""Every kind of source is read, and what is not there is named together with what is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from hf_fsl.config import DataConfig
from hf_fsl.data import DataError, load_splits, sources
from hf_fsl.data.folders import CSV_OPTIONS
from hf_fsl.data.sources import read_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.parquet"])
def test_a_file_of_every_kind(name, write, rows, made):
    given = rows(30)
    splits = load_splits(made(write(name, given)))
    assert splits.task.label_names == ("animal", "food", "time")
    read = {
        (text, splits.task.label_names[label])
        for data in (splits.train, splits.validation, splits.test)
        for text, label in zip(data["text"], data["label"], strict=True)
    }
    assert read == {(row["text"], row["label"]) for row in given}
    assert splits.record.path.endswith(name) and splits.record.revision is None and splits.record.name is None


def test_a_file_with_others_beside_it(write, rows, made):
    others = {"heldout": write("b.csv", rows(6, start=50)), "dev": write("c.csv", rows(3, start=90))}
    config = made(write("a.csv", rows(12)), data_files=others, validation_split="dev", test_split="heldout")
    found = {role: (split.name, split.rows) for role, split in load_splits(config).record.splits.items()}
    assert found == {"train": ("train", 12), "validation": ("dev", 3), "test": ("heldout", 6)}


def test_data_files_of_a_folder_by_glob(write, rows, made, tmp_path):
    write("d/part-1.csv", rows(9))
    write("d/part-2.csv", rows(9, start=20))
    write("d/held.csv", rows(6, start=50))
    config = made(tmp_path / "d", data_files={"train": "part-*.csv", "test": "held.csv"}, test_split="test")
    splits = load_splits(config)
    assert len(splits.train) + len(splits.validation) == 18 and len(splits.test) == 6


def test_a_builder_with_tab_separated_files(write, rows, made):
    splits = load_splits(made("csv", data_files={"train": write("a.tsv", rows(30))}))
    assert splits.task.label_names == ("animal", "food", "time")


def test_only_an_empty_cell_of_a_csv_is_missing(made, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'None' if i % 2 else 'NA'}\n" for i in range(12)))
    assert load_splits(made(path)).task.label_names == ("NA", "None")
    path.write_text(path.read_text() + "one more,\n")
    with pytest.raises(DataError, match=r"1 examples of split 'train' have no label \(rows 12\)"):
        load_splits(made(path))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_lone_file_needs_no_settings(name, write, rows):
    splits = load_splits(DataConfig(path=write(name, rows(60)), text_column="text"))
    assert [len(data) for data in (splits.train, splits.validation, splits.test)] == [42, 6, 12]
    assert splits.record.splits["test"].name == "20% of train, stratified, seed 0"
    assert len(splits.record.notes) == 1 and splits.record.notes[0].startswith("validation, test: set aside")


def test_a_split_that_is_named_must_be_there(write, rows):
    with pytest.raises(DataError, match="no split 'dev'; it has train"):
        load_splits(DataConfig(path=write("a.csv", rows(60)), text_column="text", validation_split="dev"))


@pytest.mark.parametrize("name", ["a [1] *.csv", "A.CSV", "what?.jsonl"])
def test_a_file_of_any_name(name, write, rows, made, tmp_path):
    Path(write("plain" + Path(name).suffix.lower(), rows(30))).rename(tmp_path / name)
    assert sum(split.rows for split in load_splits(made(tmp_path / name)).record.splits.values()) == 30


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "a.csv"), ("\t", "a.csv"), (",", "a.tsv"), (";", "d/train.csv")]
)
def test_another_separator_is_told(separator, name, made, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    rows = [("text", "label"), ("one, or two, or more", "a"), ("three", "b")]
    path.write_text("".join(separator.join(row) + "\n" for row in rows))
    message = f"columns separated by {separator!r}, and a {path.suffix} file is read with"
    with pytest.raises(DataError, match=re.escape(message)):
        load_splits(made(path if "/" not in name else path.parent))


def test_a_table_whose_name_says_no_split_is_not_left_out(write, rows, made, tmp_path):
    write("d/train_1.csv", rows(9))
    write("d/more.csv", rows(9, start=20))
    with pytest.raises(DataError, match=r"1 of the 2 files in .* would not be read.*\(train\): more.csv.*data_files"):
        load_splits(made(tmp_path / "d"))
    both = load_splits(made(tmp_path / "d", data_files={"train": "*.csv"}))
    assert sum(split.rows for split in both.record.splits.values()) == 18
    write("e/train.csv", rows(9))
    write("e/train.jsonl", rows(9, start=20))
    with pytest.raises(DataError, match="1 of the 2 files in .* would not be read"):
        load_splits(made(tmp_path / "e"))
    write("f/train.csv", rows(30))
    (tmp_path / "f" / "classes.json").write_text("{}")
    assert load_splits(made(tmp_path / "f")).record.splits["train"].rows


def test_a_table_in_two_splits(write, rows, made, tmp_path):
    write("d/train_test.csv", rows(9))
    with pytest.raises(DataError, match="1 of the 1 files in .* would be read as two splits.*: train_test.csv"):
        load_splits(made(tmp_path / "d"))


def test_commas_and_tabs_in_one_folder(write, rows, made, tmp_path):
    write("d/train_1.csv", rows(9))
    write("d/train_2.tsv", rows(9, start=20))
    with pytest.raises(DataError, match="both csv and tsv files"):
        load_splits(made(tmp_path / "d"))


def test_a_folder_of_tab_separated_files(write, rows, made, tmp_path):
    write("d/train.tsv", rows(30))
    assert load_splits(made(tmp_path / "d")).task.label_names == ("animal", "food", "time")


def test_hub_layout_takes_the_default_configuration(hub_folder):
    splits = load_splits(DataConfig(path=str(hub_folder), text_column="text"))
    assert splits.task.label_names == ("a", "b", "c")
    assert splits.record.name == "large" and splits.record.license == "cc-by-4.0"
    assert splits.train.column_names == ["text", "label"]


def test_hub_layout_with_a_named_configuration(hub_folder):
    splits = load_splits(DataConfig(path=str(hub_folder), name="small", text_column="text"))
    assert splits.task.label_names == ("x", "y") and splits.record.name == "small"


def test_unknown_configuration_lists_those_there_are(hub_folder):
    with pytest.raises(DataError, match="no configuration 'smal'; it has small, large"):
        load_splits(DataConfig(path=str(hub_folder), name="smal", text_column="text"))


def test_a_configuration_of_a_folder_without_any(write, rows, tmp_path):
    write("d/train.csv", rows(6))
    with pytest.raises(DataError, match="no configuration 'small'; it has default"):
        read_source(DataConfig(path=str(tmp_path / "d"), name="small", text_column="text"))


def test_a_configuration_of_a_file(write, rows, made):
    with pytest.raises(DataError, match="has no configurations, got 'small'"):
        load_splits(made(write("a.csv", rows(6)), name="small"))


def test_several_configurations_and_no_default(hub_folder):
    card = hub_folder / "README.md"
    card.write_text(card.read_text().replace("  default: true\n", ""))
    with pytest.raises(DataError, match="has the configurations small, large; name one"):
        load_splits(DataConfig(path=str(hub_folder), text_column="text"))


def test_missing_file_lists_its_folder(write, rows, made, tmp_path):
    write("a.csv", rows(3))
    with pytest.raises(DataError, match=r"no file or folder .*b\.csv; .* holds a\.csv"):
        load_splits(made(tmp_path / "b.csv"))


def test_missing_data_file_lists_its_folder(write, rows, made, tmp_path):
    write("d/train.csv", rows(3))
    with pytest.raises(DataError, match=r"data_files\.train: nothing matches 'trian\.csv' in .*holds train\.csv"):
        load_splits(made(tmp_path / "d", data_files={"train": "trian.csv"}))


def test_two_files_for_one_split(write, rows, made):
    path = write("a.csv", rows(6))
    with pytest.raises(DataError, match="is the split 'train' already"):
        load_splits(made(path, data_files={"train": path}))


def test_a_kind_of_file_that_is_not_read(made, tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"\.xlsx is no kind of file that is read here; use \.csv, \.tsv"):
        load_splits(made(tmp_path / "a.xlsx"))


def test_a_builder_without_files(made):
    with pytest.raises(DataError, match="data_files: csv needs them"):
        load_splits(made("csv"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"PAR"), ("a.jsonl", b"{oops\n"), ("a.csv", b"\xff\xfe\x00,")]
)
def test_a_broken_file(name, content, made, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read: .+"):
        load_splits(made(tmp_path / name))


def test_an_empty_folder(made, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="cannot be read: .*doesn't contain any data files"):
        load_splits(made(tmp_path / "d"))


def test_a_hub_data_set_that_cannot_be_reached(made):
    with pytest.raises(DataError, match="'user/nothing' is no local file or folder, the Hub .* cannot be reached"):
        load_splits(made("user/nothing"))


@pytest.fixture
def cached(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What reading both configurations of user/repo at COMMIT leaves in the caches, ``small`` read last."""
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    snapshot = hub / "datasets--user--repo" / "snapshots" / COMMIT
    refs = hub / "datasets--user--repo" / "refs"
    for folder in (snapshot, refs):
        folder.mkdir(parents=True)
    shutil.copy(hub_folder / "README.md", snapshot)
    (refs / "main").write_text(COMMIT)
    for name in ("large", "small"):
        builder = datasets.load_dataset_builder(str(hub_folder), name)
        builder.download_and_prepare()
        local = Path(builder.cache_dir)
        target = tmp_path / "cache" / "user___repo" / name / local.parent.name / COMMIT
        shutil.copytree(local, target)
        assert json.loads((target / "dataset_info.json").read_text())["config_name"] == name
    return tmp_path / "cache" / "user___repo"


def test_offline_the_default_configuration_is_read(cached):
    source = read_source(DataConfig(path="user/repo", text_column="text"))
    assert (source.name, source.revision, source.license) == ("large", COMMIT, "cc-by-4.0")
    assert source.splits["train"].features["label"].names == ["a", "b", "c"]


def test_offline_with_only_another_configuration_in_the_cache(cached):
    shutil.rmtree(cached / "large")
    with pytest.raises(DataError, match=r"(?s)user/repo cannot be read: .*config 'large'.*\['small'\]"):
        read_source(DataConfig(path="user/repo", text_column="text"))


def test_offline_a_named_configuration_and_revision(cached):
    for revision in (None, "main", COMMIT, COMMIT[:12]):
        source = read_source(DataConfig(path="user/repo", name="small", revision=revision, text_column="text"))
        assert (source.name, source.revision) == ("small", COMMIT)


def test_offline_a_csv_data_set_is_found_as_it_was_read(tmp_path, monkeypatch, write):
    """On the Hub its words for nothing were read as labels, which is in the name of its folder in the cache."""
    folder = Path(write("repo/train.csv", [{"text": "a", "label": "NA"}, {"text": "b", "label": "b"}])).parent
    builder = datasets.load_dataset_builder(str(folder), **CSV_OPTIONS)
    builder.download_and_prepare()
    local = Path(builder.cache_dir)
    shutil.copytree(local, tmp_path / "cache" / "user___repo" / local.parent.parent.name / "0.0.0" / COMMIT)
    source = read_source(DataConfig(path="user/repo", text_column="text"))
    assert source.splits["train"]["label"][:] == ["NA", "b"] and source.revision == COMMIT


def test_pictures_of_a_hub_data_set_are_read_or_refused(monkeypatch, tmp_path, image_folder):
    files = ["README.md", ".gitattributes", "cat/train_1.png", "cat/1.png", "steam-train/1.PNG"]

    def builder(config):
        made = datasets.load_dataset_builder(str(image_folder))
        read = [file for file in files if "train" in file] if config.data_files is None else files[2:]
        made.config.data_files, made.hash = {"train": [f"hf://datasets/u/d@{COMMIT}/{file}" for file in read]}, COMMIT
        return made

    monkeypatch.setattr(sources, "_hub_builder", builder)
    monkeypatch.setattr(sources, "_read", lambda builder, config: datasets.DatasetDict())
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *arguments, **options: files)
    with pytest.raises(
        DataError, match=r"1 of the 3 files in u/d would not be read.*: cat/1\.png\. Say in data\.data_f"
    ):
        read_source(DataConfig(path="u/d", image_column="image"))
    assert read_source(DataConfig(path="u/d", image_column="image", data_files={"train": "**"})).revision == COMMIT


@pytest.mark.parametrize("revision", ["f" * 40, "v2"])
def test_offline_another_revision_than_the_cached_one(cached, revision):
    with pytest.raises(DataError, match=f"is of commit {COMMIT}, not of '{revision}'"):
        read_source(DataConfig(path="user/repo", name="small", revision=revision, text_column="text"))
