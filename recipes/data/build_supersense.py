"""Builds recipes/data/supersense: WordNet noun glosses and their supersense (lexicographer file).

apt-get install wordnet-base
python recipes/data/build_supersense.py
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hub_layout import parse_arguments, write_parquet

SOURCE = Path("/usr/share/wordnet/data.noun")
SUPERSENSES = {
    4: "act", 5: "animal", 6: "artifact", 7: "attribute", 8: "body", 9: "cognition", 10: "communication", 11: "event",
    12: "feeling", 13: "food", 14: "group", 15: "location", 17: "object", 18: "person", 19: "phenomenon", 20: "plant",
    21: "possession", 22: "process", 23: "quantity", 24: "relation", 25: "shape", 26: "state", 27: "substance",
    28: "time",
}  # fmt: skip
"""Number of a lexicographer file -> its name; 03 (Tops) and 16 (motive) hold too few glosses."""
SIZES = {"train": 200, "validation": 50, "test": 100}
FEWEST_WORDS = 3


def require_source(path: Path) -> None:
    """Exits with what to install where WordNet's file is not there."""
    if not path.is_file():
        raise SystemExit(f"There is no {path}. Install WordNet (apt-get install wordnet-base) or give --source.")


def read_synsets(path: Path) -> Iterator[dict[str, Any]]:
    """The noun synsets of a WordNet ``data.noun`` file: synset id, lexicographer file, lemma, cleaned gloss."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            yield {
                "synset": f"{words[0]}-n",
                "file": int(words[1]),
                "lemma": words[4].replace("_", " "),
                "text": clean_gloss(gloss),
            }


def clean_gloss(gloss: str) -> str:
    """The definition of a gloss, without its quoted examples and what separated them.

    An example follows a separator; what follows the example (who said it, a second example) goes with it, up to the
    next semicolon. A phrase quoted inside the definition stays.

    >>> clean_gloss('a short sleep; "he took a nap" - Anon; usually by day')
    'a short sleep; usually by day'
    """
    definition = re.sub(r'(?:^|[;:]|(?<!e\.g\.),)(?:\s*"[^"]*(?:"|$)[^;"]*)+', "", gloss)
    definition = re.sub(r"\s+", " ", definition)
    return definition.strip(" ;:,")


def normalise(text: str) -> str:
    """Two glosses that differ only in case, punctuation or spacing come out equal."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]", " ", folded).split())


def select(synsets: list[dict[str, Any]], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Disjoint, shuffled splits; a class too small for the full sizes is split in the same proportions."""
    classes: dict[str, set[int]] = defaultdict(set)
    for synset in synsets:
        classes[normalise(synset["text"])].add(synset["file"])
    pools: dict[int, list[dict[str, Any]]] = defaultdict(list)
    seen: set[str] = set()
    for synset in sorted(synsets, key=lambda row: row["synset"]):
        key = normalise(synset["text"])
        # A gloss that occurs in two classes has no right answer.
        usable = synset["file"] in SUPERSENSES and len(classes[key]) == 1 and len(key.split()) >= FEWEST_WORDS
        if usable and key not in seen:
            seen.add(key)
            pools[synset["file"]].append(synset)
    generator = random.Random(seed)
    splits: dict[str, list[dict[str, Any]]] = {name: [] for name in SIZES}
    for file in sorted(pools):
        pool = pools[file]
        generator.shuffle(pool)
        share = min(1.0, len(pool) / sum(SIZES.values()))
        start = 0
        for name, size in SIZES.items():
            stop = start + int(size * share)
            splits[name] += pool[start:stop]
            start = stop
    for rows in splits.values():
        generator.shuffle(rows)
    return splits


def build(source: Path, output: Path) -> dict[str, Counter[str]]:
    """Writes the parquet files below ``output/data``. Returns the class counts of every split."""
    import datasets

    require_source(source)
    names = [SUPERSENSES[file] for file in sorted(SUPERSENSES)]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "synset": datasets.Value("string"),
            "lemma": datasets.Value("string"),
        }
    )
    counts = {}
    for split, rows in select(list(read_synsets(source))).items():
        columns = {key: [row[key] for row in rows] for key in ("text", "synset", "lemma")}
        columns["label"] = [names.index(SUPERSENSES[row["file"]]) for row in rows]
        data = datasets.Dataset.from_dict(columns, features)
        write_parquet(data, output / "data" / f"{split}-00000-of-00001.parquet")
        counts[split] = Counter(SUPERSENSES[row["file"]] for row in rows)
    return counts


if __name__ == "__main__":
    options = parse_arguments(__doc__, Path(__file__).parent / "supersense", SOURCE)
    for split, counts in build(options.source, options.output).items():
        print(f"{split}: {sum(counts.values())} glosses, {dict(sorted(counts.items()))}")
