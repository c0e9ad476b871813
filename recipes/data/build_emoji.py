"""Builds recipes/data/emoji: emoji pictures in two styles, with category, subcategory and name.

    python recipes/data/build_emoji.py                 # fetches both packages with npm
    python recipes/data/build_emoji.py --source DIR    # DIR/google and DIR/twitter hold the unpacked packages
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import datasets
from hub_layout import write_parquet
from PIL import Image
from tqdm import tqdm

VERSION = "16.0.0"
STYLES = {"noto": "google", "twemoji": "twitter"}
LEFT_OUT = ("Component", "Flags")
FEWEST = 20
"""A subcategory counts as a class with this many pictures: 5 shots and 15 queries."""
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
PARTS = ("novel", "base", "validation", "base")
"""Class subcategories, in the order of their categories, go to these parts in turn."""
_PEOPLE = {"1F468", "1F469", "1F9D1", "2642", "2640", "FE0F", "200D", "1F466", "1F467", "1F9D2"}


def read_emoji(source: Path) -> list[dict[str, Any]]:
    """The emoji that both styles draw, without flags and skin tones, pictures lossless and none twice in a style."""
    rows = json.loads((source / "google" / "emoji.json").read_text(encoding="utf-8"))
    wanted = [
        row
        for row in sorted(rows, key=lambda row: row["sort_order"])
        if row["category"] not in LEFT_OUT and row["has_img_google"] and row["has_img_twitter"]
    ]
    seen: dict[str, set[str]] = defaultdict(set)
    emoji = []
    for row in tqdm(wanted, desc="encoding", unit="emoji"):
        pictures = {}
        for style, vendor in STYLES.items():
            pictures[style] = Image.open(source / vendor / "img" / vendor / "64" / row["image"]).convert("RGBA")
        digests = {style: hashlib.sha256(_on_white(picture)).hexdigest() for style, picture in pictures.items()}
        if any(digest in seen[style] for style, digest in digests.items()):
            continue
        for style, digest in digests.items():
            seen[style].add(digest)
        emoji.append(
            {
                "name": row["name"].lower(),
                "category": row["category"],
                "subcategory": row["subcategory"],
                "unicode": row["unified"],
                "group": variant_group(row["unified"]),
                **{style: _png(picture) for style, picture in pictures.items()},
            }
        )
    return emoji


def variant_group(unified: str) -> str:
    """Emoji that differ only in who is shown (woman, man, person, child) share a group, and so a split."""
    points = [point for point in unified.split("-") if point not in _PEOPLE]
    return "-".join(points) or "people"


def split_by_emoji(emoji: list[dict[str, Any]], seed: int = 0) -> list[str]:
    """Train, validation or test for every emoji: 70/10/20 within each category, whole variant groups at a time."""
    generator = random.Random(seed)
    splits = {}
    for category in sorted({row["category"] for row in emoji}):
        sizes = Counter(row["group"] for row in emoji if row["category"] == category)
        groups = sorted(sizes)
        generator.shuffle(groups)
        total, filled = sum(sizes.values()), Counter[str]()
        for group in groups:
            split = max(SHARES, key=lambda name: SHARES[name] - filled[name] / total)
            splits[category, group] = split
            filled[split] += sizes[group]
    return [splits[row["category"], row["group"]] for row in emoji]


def split_by_subcategory(emoji: list[dict[str, Any]]) -> dict[str, str]:
    """Base, validation or novel for every subcategory; those too small to be a class are in base."""
    sizes = Counter((row["category"], row["subcategory"]) for row in emoji)
    large = [key for key, size in sizes.items() if size >= FEWEST]
    classes = sorted(large, key=lambda key: (key[0], -sizes[key], key[1]))
    parts = {key[1]: "base" for key in sizes}
    parts |= {key[1]: PARTS[position % len(PARTS)] for position, key in enumerate(classes)}
    return parts


def build(source: Path, output: Path) -> dict[str, Any]:
    """Writes ``output/<style>/<split>-<part>.parquet``. Returns counts, and the class subcategories of each part."""
    emoji = read_emoji(source)
    splits, parts = split_by_emoji(emoji), split_by_subcategory(emoji)
    sizes = Counter(row["subcategory"] for row in emoji)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "name": datasets.Value("string"),
            "category": datasets.ClassLabel(names=sorted({row["category"] for row in emoji})),
            "subcategory": datasets.ClassLabel(names=sorted(sizes)),
            "is_class": datasets.Value("bool"),
            "unicode": datasets.Value("string"),
        }
    )
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row, split in zip(emoji, splits, strict=True):
        cells[split, parts[row["subcategory"]]].append(row)
    for (split, part), rows in cells.items():
        random.Random(0).shuffle(rows)
        for style in STYLES:
            columns = {key: [row[key] for row in rows] for key in ("name", "category", "subcategory", "unicode")}
            columns["is_class"] = [sizes[row["subcategory"]] >= FEWEST for row in rows]
            columns["image"] = [{"bytes": row[style], "path": None} for row in rows]
            write_parquet(datasets.Dataset.from_dict(columns, features), output / style / f"{split}-{part}.parquet")
    classes = {
        part: sorted(name for name, size in sizes.items() if size >= FEWEST and parts[name] == part)
        for part in ("base", "validation", "novel")
    }
    return {
        "splits": Counter(splits),
        "parts": Counter(parts[row["subcategory"]] for row in emoji),
        "classes": classes,
    }


def fetch(folder: Path) -> None:
    """Unpacks the pictures of 64 pixels of both packages into ``folder``, fetched with npm."""
    if shutil.which("npm") is None:
        raise SystemExit("npm is not installed. Install it (apt-get install npm) or give --source.")
    for vendor in STYLES.values():
        package = f"emoji-datasource-{vendor}"
        subprocess.run(["npm", "pack", "--silent", f"{package}@{VERSION}"], cwd=folder, check=True)
        with tarfile.open(folder / f"{package}-{VERSION}.tgz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if member.isfile() and (name == "emoji.json" or name.startswith(f"img/{vendor}/64/")):
                    member.name = name
                    archive.extract(member, folder / vendor, filter="data")


def _on_white(picture: Image.Image) -> bytes:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").tobytes()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "emoji")
    options = parser.parse_args()
    if options.source is not None:
        print(json.dumps(build(options.source, options.output), indent=1))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            fetch(Path(scratch))
            print(json.dumps(build(Path(scratch), options.output), indent=1))
