"""The bundled data sets hold what their cards say, and their splits are disjoint by content."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import yaml
from PIL import Image

DATA = Path(__file__).parents[2] / "recipes" / "data"
CONFIGS = {
    "supersense": ["default"],
    "emoji": ["noto", "twemoji", "noto-subcategory", "twemoji-subcategory"],
}
STYLES = ["noto", "twemoji"]


def read_card(name: str) -> tuple[dict[str, Any], str]:
    _, front, text = (DATA / name / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def table_counts(text: str) -> list[tuple[str, int]]:
    """(split, rows) of every line of the card's tables that counts a split."""
    splits = "train|validation|test|base|novel"
    return [(name, int(n.replace(",", ""))) for name, n in re.findall(rf"^\| ({splits}) \| ([\d,]+) \|", text, re.M)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, datasets.DatasetDict]:
    """Every config, loaded as a user loads it."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return {
        f"{name}/{config}": datasets.load_dataset(str(DATA / name), config, cache_dir=cache)
        for name, configs in CONFIGS.items()
        for config in configs
    }


@pytest.fixture(scope="module", params=["build_supersense", "build_emoji"])
def builder(request: pytest.FixtureRequest, builders: dict[str, ModuleType]) -> ModuleType:
    return builders[request.param]


@pytest.fixture(scope="module")
def builders() -> Iterator[dict[str, ModuleType]]:
    """The build scripts, which import their neighbour as scripts do."""
    sys.path.insert(0, str(DATA))
    try:
        import build_emoji
        import build_supersense

        yield {"build_emoji": build_emoji, "build_supersense": build_supersense}
    finally:
        sys.path.remove(str(DATA))


@pytest.mark.parametrize("name", CONFIGS)
def test_cards_count_what_is_there(name: str, loaded: dict[str, datasets.DatasetDict]) -> None:
    front, text = read_card(name)
    infos = front["dataset_info"] if isinstance(front["dataset_info"], list) else [front["dataset_info"]]
    assert [info.get("config_name", "default") for info in infos] == CONFIGS[name]
    counted = []
    for config, info in zip(CONFIGS[name], infos, strict=True):
        sizes = {split: len(rows) for split, rows in loaded[f"{name}/{config}"].items()}
        assert {split["name"]: split["num_examples"] for split in info["splits"]} == sizes
        counted += list(sizes.items())
    assert table_counts(text)
    assert set(table_counts(text)) == set(counted)


def test_supersense_is_typed_and_balanced(
    loaded: dict[str, datasets.DatasetDict], builders: dict[str, ModuleType]
) -> None:
    names = list(builders["build_supersense"].SUPERSENSES.values())
    front, _ = read_card("supersense")
    in_card = next(
        f["dtype"]["class_label"]["names"] for f in front["dataset_info"]["features"] if f["name"] == "label"
    )
    assert list(in_card.values()) == names
    assert len(names) == 24 and {"animal", "food", "feeling"} < set(names)
    for split, size, shape in (("train", 200, 193), ("validation", 50, 48), ("test", 100, 96)):
        data = loaded["supersense/default"][split]
        assert data.features["label"] == datasets.ClassLabel(names=names)
        assert all(data.features[column] == datasets.Value("string") for column in ("text", "synset", "lemma"))
        expected = {name: shape if name == "shape" else size for name in names}
        assert Counter(names[label] for label in data["label"]) == expected
        assert len(set(data["label"][:100])) > 12, "classes alternate"


def test_supersense_splits_are_disjoint(
    loaded: dict[str, datasets.DatasetDict], builders: dict[str, ModuleType]
) -> None:
    rows = [row for split in loaded["supersense/default"].values() for row in split]
    normalise = builders["build_supersense"].normalise
    assert len({row["synset"] for row in rows}) == len(rows)
    assert len({normalise(row["text"]) for row in rows}) == len(rows)


def test_supersense_glosses_are_clean(loaded: dict[str, datasets.DatasetDict]) -> None:
    for split in loaded["supersense/default"].values():
        for row in split:
            text = row["text"]
            assert text == " ".join(text.split()).strip(";:, ")
            assert not re.search(r';\s*"|;\s*;|^"', text) and text.count('"') % 2 == 0, text
            assert len(re.findall(r"\w+", text)) >= 3, text
            assert re.fullmatch(r"\d{8}-n", row["synset"]) and "_" not in row["lemma"]


@pytest.mark.parametrize("config", CONFIGS["emoji"])
def test_emoji_is_typed(config: str, loaded: dict[str, datasets.DatasetDict]) -> None:
    for data in loaded[f"emoji/{config}"].values():
        assert data.features["image"] == datasets.Image(mode="RGB")
        assert len(data.features["category"].names) == 8
        assert not {"Flags", "Component"} & set(data.features["category"].names)
        assert len(data.features["subcategory"].names) == 95
        assert data.features["is_class"] == datasets.Value("bool")
        picture = data[0]["image"]
        assert picture.size == (64, 64) and picture.mode == "RGB"
        assert all(name == name.lower() for name in data["name"])


def test_emoji_styles_and_configs_hold_the_same_emoji(loaded: dict[str, datasets.DatasetDict]) -> None:
    for suffix in ("", "-subcategory"):
        noto, twemoji = (loaded[f"emoji/{style}{suffix}"] for style in STYLES)
        for split in noto:
            for column in ("unicode", "name", "category", "subcategory", "is_class"):
                assert noto[split][column] == twemoji[split][column]
    by_emoji, by_subcategory = (
        sorted(code for split in loaded[config].values() for code in split["unicode"])
        for config in ("emoji/noto", "emoji/noto-subcategory")
    )
    assert by_emoji == by_subcategory


def test_emoji_pictures_are_unique(loaded: dict[str, datasets.DatasetDict]) -> None:
    for style in STYLES:
        rows = [row for split in loaded[f"emoji/{style}"].values() for row in split]
        assert len({row["unicode"] for row in rows}) == len(rows), "one row an emoji"
        assert len({hashlib.sha256(row["image"].tobytes()).digest() for row in rows}) == len(rows)


def test_emoji_variants_share_a_split_and_categories_are_stratified(
    loaded: dict[str, datasets.DatasetDict], builders: dict[str, ModuleType]
) -> None:
    splits = loaded["emoji/noto"]
    base = builders["build_emoji"].base_emoji
    keys = {split: {base(code) for code in rows["unicode"]} for split, rows in splits.items()}
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]
    for category in range(8):
        sizes = {split: Counter(rows["category"])[category] for split, rows in splits.items()}
        for split, share in builders["build_emoji"].SHARES.items():
            assert sizes[split] / sum(sizes.values()) == pytest.approx(share, abs=0.02)


def test_emoji_parts_are_disjoint_and_as_listed(
    loaded: dict[str, datasets.DatasetDict], builders: dict[str, ModuleType]
) -> None:
    _, text = read_card("emoji")
    table = dict(re.findall(r"^\| (base|validation|novel) \| [\d,]+ \| (\d+ \| \d+) \|", text, re.M))
    seen: set[str] = set()
    for part, data in loaded["emoji/noto-subcategory"].items():
        names = data.features["subcategory"].names
        sizes = Counter(names[row["subcategory"]] for row in data.remove_columns("image"))
        classes = {names[row["subcategory"]] for row in data.remove_columns("image") if row["is_class"]}
        assert classes == {name for name, size in sizes.items() if size >= 20}
        assert not seen & set(sizes)
        seen |= set(sizes)
        assert len(classes) >= 5
        assert part == "base" or classes == set(sizes), "small subcategories are in base only"
        assert table[part] == f"{sum(data['is_class'])} | {len(classes)}"
        listed = re.search(rf"^- \*\*{part}\*\*: (.*?)(?=\n- |\n\n)", text, re.M | re.S)
        assert listed is not None
        assert dict(re.findall(r"([a-z&-][a-z& -]*) \((\d+)\)", " ".join(listed[1].split()))) == {
            name: str(sizes[name]) for name in classes
        }
        categories = {
            data.features["category"].int2str(c)
            for c in data.filter(lambda x: x, input_columns="is_class")["category"]
        }
        assert len(categories) >= 5, "categories are mixed"
    assert f"The other {len(seen) - 29} subcategories" in text


def test_size_and_licences() -> None:
    files = [path for name in CONFIGS for path in (DATA / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert {path.name for path in files if path.name.startswith("LICENSE")} == {
        "LICENSE", "LICENSE-NOTO", "LICENSE-TWEMOJI", "LICENSE-EMOJI-DATASOURCE",
    }  # fmt: skip
    assert {path.suffix for path in files} == {".parquet", ".md", ""}, "nothing half-written"


@pytest.mark.parametrize(
    ("gloss", "definition"),
    [
        ("the act of finalizing  \n", "the act of finalizing"),
        ('a full stop; "it came to a halt"; "a halt"', "a full stop"),
        ('a stroke; "his was straight"; made with a racket', "a stroke; made with a racket"),
        ('(golf) a short stroke (on a green); "a putt"', "(golf) a short stroke (on a green)"),
        ('readiness for war: "mobilization"', "readiness for war"),
        ('easy earnings, "a fast buck"', "easy earnings"),
        ('a golden rule; "do unto others" (Matthew 7:12)', "a golden rule"),
        ('a bard; "all the world\'s a stage"- Shakespeare; of England', "a bard; of England"),
        ('a remove; "one from" or "many from";', "a remove"),
        ('progress (as in the phrase "make strides"); "big strides"', 'progress (as in the phrase "make strides")'),
        ('a report (e.g., "he said so")', 'a report (e.g., "he said so")'),
        ('an announcement; "a notice of sale', "an announcement"),
        ('"only an example"', ""),
    ],
)
def test_clean_gloss(gloss: str, definition: str, builders: dict[str, ModuleType]) -> None:
    assert builders["build_supersense"].clean_gloss(gloss) == definition


def test_read_synsets(tmp_path: Path, builders: dict[str, ModuleType]) -> None:
    source = tmp_path / "data.noun"
    source.write_text(
        "  1 This software and database is being provided  \n"
        '00021939 06 n 02 ice_cream 0 icecream 0 001 @ 00022903 n 0000 | a frozen dessert; "an ice" | x  \n'
    )
    (synset,) = builders["build_supersense"].read_synsets(source)
    assert synset == {"synset": "00021939-n", "file": 6, "lemma": "ice cream", "text": "a frozen dessert"}


def test_normalise_ignores_case_punctuation_and_spacing(builders: dict[str, ModuleType]) -> None:
    normalise = builders["build_supersense"].normalise
    assert normalise("A well-known  Man; (the ﬁrst)") == normalise("a well known man the first")


def test_ambiguous_and_short_glosses_are_left_out(builders: dict[str, ModuleType]) -> None:
    rows = [
        {"synset": f"{i:08}-n", "file": file, "lemma": "x", "text": text}
        for i, (file, text) in enumerate([(5, "one in two classes"), (13, "One in two classes."), (5, "too short")])
    ]
    kept = [{"synset": f"1{i:07}-n", "file": 5, "lemma": "x", "text": f"a long gloss {i}"} for i in range(35)]
    splits = builders["build_supersense"].select(rows + kept + kept[:3])
    assert {split: len(members) for split, members in splits.items()} == {"train": 20, "validation": 5, "test": 10}
    assert {row["synset"] for members in splits.values() for row in members} == {row["synset"] for row in kept}


@pytest.mark.parametrize(
    "variants",
    [
        ["1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-27A1-FE0F"],  # running
        ["1F9D1-200D-1F33E", "1F468-200D-1F33E", "1F469-200D-1F33E"],  # farmers
        ["1F48F", "1F491", "1F469-200D-2764-FE0F-200D-1F48B-200D-1F468"],  # couples
        ["1F46B", "1F46C", "1F9D1-200D-1F91D-200D-1F9D1"],  # holding hands
        ["1F46A", "1F468-200D-1F467", "1F9D1-200D-1F9D1-200D-1F9D2"],  # families
        ["1F468", "1F469", "1F9D1", "1F9D4-200D-2640-FE0F"],  # adults
        ["1F550", "1F567"],  # clock faces
        ["0031-FE0F-20E3", "002A-FE0F-20E3"],  # key caps
    ],
)
def test_variants_have_one_base(variants: list[str], builders: dict[str, ModuleType]) -> None:
    base = builders["build_emoji"].base_emoji
    assert len({base(variant) for variant in variants}) == 1
    assert base(variants[0]) not in {base("1F33E"), base("1F91D"), base("1F600")}


def test_encoding_is_lossless(builders: dict[str, ModuleType]) -> None:
    few = Image.new("RGB", (64, 64), (1, 2, 3))
    few.putpixel((5, 7), (200, 100, 0))
    many = Image.new("RGB", (64, 64))
    many.putdata([(i % 64, i // 64, i % 251) for i in range(64 * 64)])
    for picture in (few, many):
        decoded = Image.open(io.BytesIO(builders["build_emoji"].encode(picture))).convert("RGB")
        assert decoded.tobytes() == picture.tobytes()


def test_colours_under_transparent_pixels_do_not_show(builders: dict[str, ModuleType]) -> None:
    stray = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert builders["build_emoji"].flatten(stray).getextrema() == ((255, 255),) * 3


def test_pictures_that_look_the_same_are_dropped_in_all_styles(builders: dict[str, ModuleType]) -> None:
    build = builders["build_emoji"]
    emoji = [build.Emoji(code, "c", "s", code, f"{code}.png") for code in "ABC"]
    one, two, three = (Image.new("RGB", (2, 2), colour) for colour in ("red", "green", "blue"))
    pictures = {"x": {"A": one, "B": two, "C": three}, "y": {"A": one, "B": one, "C": two}}
    kept, dropped = build.drop_duplicates(emoji, pictures)
    assert [e.name for e in kept] == ["A", "C"] and [e.name for e in dropped] == ["B"]


def test_a_missing_source_names_the_way_out(builder: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="apt-get install wordnet-base|Leave --source out"):
        builder.build(tmp_path / "nowhere", tmp_path)
