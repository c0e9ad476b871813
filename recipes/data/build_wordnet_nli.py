"""Builds recipes/data/wordnet_nli: does a noun's definition entail that it is a kind of something?

apt-get install wordnet-base
python recipes/data/build_wordnet_nli.py
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from build_supersense import SOURCE, SUPERSENSES, clean_gloss, normalise, require_source, select
from hub_layout import parse_arguments, write_parquet

LABELS = ["entailment", "neutral", "contradiction"]
TEMPLATES = [
    "This is about {}.", "This is a kind of {}.", "This describes a type of {}.", "The topic is {}.", "It is {}.",
    "This definition is of {}.",
]  # fmt: skip
SIZES = {"train": 9000, "validation": 900, "test": 1800}
"""Pairs a split: a third of each label."""
CLIMB = 3
"""Hypernyms up to this many steps above count as entailed classes."""


@dataclass
class Noun:
    """A noun synset: what it is called, where it was filed, how it is defined, and what stands above it."""

    key: str
    file: int
    lemma: str
    gloss: str
    hypernyms: list[str]
    hyponyms: list[str] = field(default_factory=list)


def read_nouns(path: Path) -> dict[str, Noun]:
    """Synset offset -> noun, with hypernym (@) and hyponym (~) pointers, instances (@i, ~i) included."""
    nouns = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            start = 4 + 2 * int(words[3], 16)
            pointers = words[start + 1 : start + 1 + 4 * int(words[start])]
            above = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
            below = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("~", "~i")]
            lemma = words[4].replace("_", " ")
            nouns[words[0]] = Noun(words[0], int(words[1]), lemma, clean_gloss(gloss), above, below)
    return nouns


def ancestors(nouns: dict[str, Noun], noun: Noun, steps: int) -> list[Noun]:
    """The hypernyms of a noun, nearest first, up to a number of steps."""
    found: dict[str, Noun] = {}
    front = noun.hypernyms
    for _ in range(steps):
        found |= {key: nouns[key] for key in front if key not in found}
        front = [above for key in front for above in nouns[key].hypernyms]
    return list(found.values())


def make_pairs(nouns: dict[str, Noun], seed: int = 0) -> dict[str, list[dict[str, object]]]:
    """Premise, hypothesis and label, disjoint by premise.

    Neither the glosses of the supersense data set nor the names of its classes occur: a model trained on these pairs
    has seen neither when it is measured there.
    """
    generator = random.Random(seed)
    rows = [{"synset": f"{n.key}-n", "file": n.file, "lemma": n.lemma, "text": n.gloss} for n in nouns.values()]
    held_out = {normalise(str(row["text"])) for split in select(rows).values() for row in split}
    names = set(SUPERSENSES.values()) | {"human action", "human activity"}
    usable = [
        noun
        for noun in nouns.values()
        if noun.file in SUPERSENSES and normalise(noun.gloss) not in held_out and len(noun.gloss.split()) >= 4
    ]
    unique = list({normalise(noun.gloss): noun for noun in usable}.values())
    generator.shuffle(unique)
    classes = [noun for noun in unique if len(noun.hyponyms) >= 3 and noun.lemma not in names]
    by_file: dict[int, list[Noun]] = {}
    for noun in classes:
        by_file.setdefault(noun.file, []).append(noun)
    pairs: dict[str, list[dict[str, object]]] = {}
    source = iter(unique)
    for split, size in SIZES.items():
        wanted = dict.fromkeys(LABELS, size // len(LABELS))
        found: list[dict[str, object]] = []
        while any(wanted.values()):
            noun = next(source)
            for label in LABELS:
                chosen = _hypothesis(nouns, noun, label, by_file, names, generator) if wanted[label] else None
                if chosen is not None:
                    template = generator.choice(TEMPLATES)
                    found.append({"premise": noun.gloss, "hypothesis": template.format(chosen.lemma), "label": label})
                    wanted[label] -= 1
        generator.shuffle(found)
        pairs[split] = found
    return pairs


def _hypothesis(
    nouns: dict[str, Noun], noun: Noun, label: str, by_file: dict[int, list[Noun]], names: set[str],
    generator: random.Random,
) -> Noun | None:  # fmt: skip
    above = ancestors(nouns, noun, CLIMB)
    if label == "entailment":
        options = [other for other in above if other.lemma not in names and other.file != 3]
    elif label == "neutral":
        # Something more special: the definition leaves open whether it is one.
        near = [nouns[key] for key in noun.hyponyms]
        siblings = [nouns[key] for other in above[:1] for key in other.hyponyms if key != noun.key]
        near = near or [sibling for sibling in siblings if sibling.hyponyms]
        options = [other for other in near if other.lemma not in names]
    else:
        kinds = [file for file in by_file if file != noun.file]
        options = by_file[generator.choice(kinds)]
        taken = {other.key for other in ancestors(nouns, noun, 20)}
        options = [other for other in options if other.key not in taken]
    return generator.choice(options) if options else None


def build(source: Path, output: Path) -> dict[str, Counter[object]]:
    """Writes the parquet files below ``output/data``. Returns the label counts of every split."""
    require_source(source)
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=LABELS),
        }
    )
    counts = {}
    for split, rows in make_pairs(read_nouns(source)).items():
        data = datasets.Dataset.from_dict({key: [row[key] for row in rows] for key in features}, features)
        write_parquet(data, output / "data" / f"{split}-00000-of-00001.parquet")
        counts[split] = Counter(row["label"] for row in rows)
    return counts


if __name__ == "__main__":
    options = parse_arguments(__doc__, Path(__file__).parent / "wordnet_nli", SOURCE)
    print(build(options.source, options.output))
