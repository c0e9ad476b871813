"""Builds recipes/data/emoji: pictures of emoji in two styles, with two kinds of split over one copy.

    python recipes/data/build_emoji.py

Needs npm (``apt-get install npm``), which fetches the two packages named below; or give ``--source``, a folder that
holds both of them unpacked, such as ``node_modules``.
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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hub_layout import write_parquet
from PIL import Image
from tqdm import tqdm

STYLES = {"noto": "google", "twemoji": "twitter"}
"""Name of a style -> the vendor that its npm package is named after."""
VERSION = "16.0.0"
LEFT_OUT = {"Flags", "Component"}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
FEWEST_PICTURES = 20  # 5 shots and 15 queries
PARTS = {
    "validation": ("av-symbol", "drink", "event", "face-concerned", "office", "place-building"),
    "novel": ("animal-bird", "arrow", "food-fruit", "game", "heart", "tool", "transport-ground"),
}
"""The classes held out from ``base``. Those of people stay in base: men, women and persons who do the same thing would
sit on both sides of an episode."""

_JOINERS = {"200D", "FE0F"}
_ADULT, _FAMILY, _KEYCAP = "1F9D1", "1F46A", "20E3"
_KIN = {_ADULT, "1F468", "1F469", "1F466", "1F467", "1F9D2"}
_SAME_AS = {
    "1F468": _ADULT, "1F469": _ADULT, "1F9D4": _ADULT,  # man, woman, person with a beard: person
    "1F466": "1F9D2", "1F467": "1F9D2",  # boy, girl: child
    "1F474": "1F9D3", "1F475": "1F9D3",  # old man, old woman: older adult
    "1F46B": f"{_ADULT}-1F91D", "1F46C": f"{_ADULT}-1F91D", "1F46D": f"{_ADULT}-1F91D",  # holding hands
    "1F48F": f"{_ADULT}-2764", "1F491": f"{_ADULT}-2764",  # kiss, couple with heart
    "1F385": f"{_ADULT}-1F384", "1F936": f"{_ADULT}-1F384",  # Father and Mother Christmas: mx claus
    "1F57A": "1F483",  # man dancing: dancer
    "1F934": "1FAC5", "1F478": "1FAC5",  # prince, princess: person with crown
    "1F930": "1FAC4", "1FAC3": "1FAC4",  # pregnant woman, man: person
    **{f"{point:X}": "1F550" for point in range(0x1F550, 0x1F568)},  # the 24 clock faces
}  # fmt: skip
"""Variants of one emoji that Unicode encodes with code points of their own."""


@dataclass(frozen=True)
class Emoji:
    """One emoji, without its pictures."""

    name: str
    category: str
    subcategory: str
    unicode: str
    file: str


def base_emoji(unicode: str) -> str:
    """The same key for all variants (gender, direction, hour, digit on a key cap) of one emoji.

    >>> base_emoji("1F3C3-200D-2640-FE0F") == base_emoji("1F3C3")  # woman running, person running
    True
    >>> base_emoji("1F469-200D-1F33E") == base_emoji("1F9D1-200D-1F33E")  # woman farmer, farmer
    True
    """
    points = [point for point in unicode.split("-") if point not in _JOINERS]
    if _KEYCAP in points:
        return _KEYCAP
    if points[0] not in _KIN or len(points) == 1:
        return _SAME_AS.get(points[0], points[0])
    # Every profession starts with man, woman or person: what follows tells them apart.
    others = [point for point in points if point not in _KIN]
    return f"{_ADULT}-{others[0]}" if others else _FAMILY


def split_by_emoji(emoji: Iterable[Emoji], seed: int = 0) -> dict[str, str]:
    """Code points -> train, validation or test: stratified by category, the variants of one emoji together."""
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for one in emoji:
        groups[base_emoji(one.unicode)].append(one)
    strata: dict[str, list[list[Emoji]]] = defaultdict(list)
    for key in sorted(groups):
        strata[groups[key][0].category].append(groups[key])
    generator = random.Random(seed)
    splits = {}
    for category in sorted(strata):
        generator.shuffle(strata[category])
        filled: Counter[str] = Counter()
        for group in strata[category]:
            emptiest = min(SHARES, key=lambda name: (filled[name] + len(group) / 2) / SHARES[name])
            filled[emptiest] += len(group)
            splits.update({one.unicode: emptiest for one in group})
    return splits


def part_of(subcategory: str) -> str:
    """The part (base, validation or novel) that a subcategory belongs to."""
    return next((part for part, names in PARTS.items() if subcategory in names), "base")


def class_subcategories(emoji: Iterable[Emoji]) -> set[str]:
    """Subcategories with enough pictures for an episode.

    Raises:
        SystemExit: one that PARTS holds out has too few.
    """
    sizes = Counter(one.subcategory for one in emoji)
    for part, names in PARTS.items():
        for name in names:
            if sizes[name] < FEWEST_PICTURES:
                raise SystemExit(
                    f"A {part} class needs at least {FEWEST_PICTURES} pictures; {name!r} has {sizes[name]}. "
                    "Take it out of PARTS."
                )
    return {name for name, size in sizes.items() if size >= FEWEST_PICTURES}


def read_emoji(folder: Path) -> list[Emoji]:
    """What the package describes, in Unicode's order, without flags and skin tones."""
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    return [
        Emoji(entry["name"].lower(), entry["category"], entry["subcategory"], entry["unified"], entry["image"])
        for entry in sorted(entries, key=lambda entry: entry["sort_order"])
        if entry["category"] not in LEFT_OUT and all(entry[f"has_img_{vendor}"] for vendor in STYLES.values())
    ]


def flatten(picture: Image.Image) -> Image.Image:
    """RGB on white. The colours under transparent pixels are noise, which ``convert("RGB")`` would bring to light."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def encode(picture: Image.Image) -> bytes:
    """The smallest PNG with exactly these RGB pixels: with a palette where 256 colours suffice."""
    pixels = np.asarray(picture)
    colours, indices = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    candidates = [picture]
    if len(colours) <= 256:
        paletted = Image.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8))
        paletted.putpalette(colours.tobytes())
        candidates.append(paletted)
    encoded = []
    for candidate in candidates:
        buffer = io.BytesIO()
        candidate.save(buffer, "PNG", optimize=True)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def drop_duplicates(
    emoji: list[Emoji], pictures: dict[str, dict[str, Image.Image]]
) -> tuple[list[Emoji], list[Emoji]]:
    """Emoji that look like no earlier one in any style, and those that do: both styles lose the same ones."""
    seen: set[tuple[str, str]] = set()
    kept, dropped = [], []
    for one in emoji:
        keys = {(style, hashlib.sha256(pictures[style][one.unicode].tobytes()).hexdigest()) for style in pictures}
        if keys & seen:
            dropped.append(one)
        else:
            seen |= keys
            kept.append(one)
    return kept, dropped


def package(vendor: str) -> str:
    return f"emoji-datasource-{vendor}"


def fetch(vendor: str, folder: Path) -> None:
    """Unpacks emoji.json and the 64-pixel pictures of an npm package into ``folder``/<package>.

    Raises:
        SystemExit: npm is missing or fails.
    """
    if shutil.which("npm") is None:
        raise SystemExit("npm fetches the emoji, and is not installed. apt-get install npm, or give --source.")
    wanted = f"{package(vendor)}@{VERSION}"
    run = subprocess.run(
        ["npm", "pack", "--silent", wanted], cwd=folder, stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode != 0:
        raise SystemExit(f"npm pack {wanted} failed with code {run.returncode}. Unpack the package and give --source.")
    wanted_files = ("package/emoji.json", f"package/img/{vendor}/64/")
    unpacked = folder / f"{package(vendor)}.unpacked"
    with tarfile.open(folder / run.stdout.split()[-1]) as archive:
        members = [member for member in archive if member.name.startswith(wanted_files)]
        archive.extractall(unpacked, members, filter="data")
    (unpacked / "package").rename(folder / package(vendor))


def build(source: Path, output: Path) -> Counter[tuple[str, str]]:
    """Writes ``output``/<style>/<split>-<part>.parquet. Returns the number of emoji in each of these cells."""
    import datasets

    for vendor in STYLES.values():
        if not (source / package(vendor) / "emoji.json").is_file():
            raise SystemExit(
                f"--source is a folder with {' and '.join(package(one) for one in STYLES.values())} unpacked; "
                f"{source} has no {package(vendor)}/emoji.json. Leave --source out to fetch them with npm."
            )
    found = read_emoji(source / package(STYLES["noto"]))
    pictures: dict[str, dict[str, Image.Image]] = {}
    for style, vendor in STYLES.items():
        folder = source / package(vendor) / "img" / vendor / "64"
        pictures[style] = {}
        for one in found:
            with Image.open(folder / one.file) as picture:
                pictures[style][one.unicode] = flatten(picture)
    emoji, dropped = drop_duplicates(found, pictures)
    print(f"{len(emoji)} emoji; dropped because they look like another: {', '.join(one.name for one in dropped)}")

    splits, classes = split_by_emoji(emoji), class_subcategories(emoji)
    features = datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "name": datasets.Value("string"),
            "category": datasets.ClassLabel(names=list(dict.fromkeys(one.category for one in emoji))),
            "subcategory": datasets.ClassLabel(names=sorted({one.subcategory for one in emoji})),
            "unicode": datasets.Value("string"),
            "is_class": datasets.Value("bool"),
        }
    )
    cells: dict[tuple[str, str], list[Emoji]] = defaultdict(list)
    for one in random.Random(0).sample(emoji, len(emoji)):  # so that the classes are interleaved
        cells[splits[one.unicode], part_of(one.subcategory)].append(one)
    with tqdm(total=len(emoji) * len(STYLES), desc="encoding", unit="picture") as progress:
        for style in STYLES:
            for (split, part), members in sorted(cells.items()):
                rows = []
                for one in members:
                    png = {"bytes": encode(pictures[style][one.unicode]), "path": one.file}
                    rows.append(
                        {
                            "image": png, "name": one.name, "category": one.category, "subcategory": one.subcategory,
                            "unicode": one.unicode, "is_class": one.subcategory in classes,
                        }
                    )  # fmt: skip
                    progress.update()
                data = datasets.Dataset.from_list(rows, features)
                write_parquet(data, output / style / f"{split}-{part}.parquet")
    return Counter({cell: len(members) for cell, members in cells.items()})


def main() -> None:
    import datasets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="folder with both npm packages unpacked; fetched if left out")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "emoji")
    options = parser.parse_args()
    datasets.disable_progress_bars()  # one bar, not one a file
    with tempfile.TemporaryDirectory() as folder:
        if options.source is None:
            for vendor in STYLES.values():
                fetch(vendor, Path(folder))
        counts = build(options.source or Path(folder), options.output)
    for (split, part), count in sorted(counts.items()):
        print(f"{split}-{part}: {count}")


if __name__ == "__main__":
    main()
