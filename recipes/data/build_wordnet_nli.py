"""Builds recipes/data/wordnet_nli: does a noun's definition entail that it is a kind of something?

apt-get install wordnet-base
python recipes/data/build_wordnet_nli.py
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
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
SIZES = {"train": 30_000, "validation": 900, "test": 1800}
"""Pairs a split: a third of each label."""
TOO_GENERAL = {
    "entity", "physical entity", "abstraction", "abstract entity", "thing", "whole", "unit", "psychological feature",
    "causal agent", "cause", "causal agency", "matter", "physical object",
}  # fmt: skip
"""Classes that nearly every definition falls under."""
FEWEST_WORDS = 4


@dataclass
class Noun:
    """A noun synset: what it is called, where it was filed, how it is defined, and what stands above it."""

    key: str
    file: int
    lemmas: list[str]
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
            lemmas = [word.replace("_", " ") for word in words[4:start:2]]
            pointers = words[start + 1 : start + 1 + 4 * int(words[start])]
            above = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
            below = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("~", "~i")]
            nouns[words[0]] = Noun(words[0], int(words[1]), lemmas, clean_gloss(gloss), above, below)
    return nouns


def ancestors(nouns: dict[str, Noun], noun: Noun) -> list[Noun]:
    """The hypernyms of a noun, and theirs, nearest first."""
    found: dict[str, Noun] = {}
    front = noun.hypernyms
    while front:
        found |= {key: nouns[key] for key in front if key not in found}
        front = [above for key in front for above in nouns[key].hypernyms if above not in found]
    return list(found.values())


class PairMaker:
    """Hypotheses for a noun: a class it belongs to, one near it, one from another branch.

    Entailed and contradicted classes are drawn in the same way, from the classes above some noun, so that a hypothesis
    alone does not give its label away. No class is called by a word that names a supersense.
    """

    def __init__(self, nouns: dict[str, Noun], generator: random.Random) -> None:
        self.nouns, self.generator = nouns, generator
        self.filed = [noun for noun in nouns.values() if noun.file in SUPERSENSES]
        # Another spelling is the same name, and so is a plural that "s" does not make.
        plurals = ["bodies", "people", "phenomena", "processes", "quantities"]
        names = "|".join([*SUPERSENSES.values(), "artefact", *plurals])
        self._names = re.compile(rf"\b({names})s?\b", re.IGNORECASE)

    def names(self, noun: Noun) -> list[str]:
        """What a class may be called in a hypothesis; nothing if it is too general or has no name of its own."""
        if TOO_GENERAL.intersection(noun.lemmas):
            return []
        return [lemma for lemma in noun.lemmas if not self._names.search(lemma)]

    def entailment(self, noun: Noun) -> Noun | None:
        """A class above it, at any height."""
        return self._any(ancestors(self.nouns, noun))

    def neutral(self, noun: Noun) -> Noun | None:
        """Something more special, or a class beside one it belongs to: the definition does not say that it is one."""
        above = ancestors(self.nouns, noun)
        own = {noun.key, *(other.key for other in above)}
        beside = [self.nouns[key] for other in above for key in other.hyponyms if key not in own]
        near = [other for other in beside if other.hyponyms and other.file == noun.file]
        return self._any([self.nouns[key] for key in noun.hyponyms] or near)

    def contradiction(self, noun: Noun) -> Noun | None:
        """A class above a noun of another supersense, and not above this one."""
        own = {other.key for other in ancestors(self.nouns, noun)}
        stranger = self.generator.choice(self.filed)
        if stranger.file == noun.file:
            return None
        return self._any([other for other in ancestors(self.nouns, stranger) if other.key not in own])

    def _any(self, classes: list[Noun]) -> Noun | None:
        usable = [noun for noun in classes if self.names(noun)]
        return self.generator.choice(usable) if usable else None


def make_pairs(nouns: dict[str, Noun], seed: int = 0) -> dict[str, list[dict[str, object]]]:
    """Premise, hypothesis and label, disjoint by premise.

    Neither the glosses of the supersense data set nor the names of its classes (as classes) occur: a model trained on
    these pairs has seen neither when it is measured there.
    """
    generator = random.Random(seed)
    rows = [{"synset": f"{n.key}-n", "file": n.file, "lemma": n.lemmas[0], "text": n.gloss} for n in nouns.values()]
    held_out = {normalise(str(row["text"])) for split in select(rows).values() for row in split}
    maker = PairMaker(nouns, generator)
    makers: dict[str, Callable[[Noun], Noun | None]] = {label: getattr(maker, label) for label in LABELS}
    premises = {
        normalise(noun.gloss): noun
        for noun in maker.filed
        if normalise(noun.gloss) not in held_out and len(noun.gloss.split()) >= FEWEST_WORDS
    }
    unique = list(premises.values())
    generator.shuffle(unique)
    pairs: dict[str, list[dict[str, object]]] = {}
    source = iter(unique)
    for split, size in SIZES.items():
        wanted = dict.fromkeys(LABELS, size // len(LABELS))
        found: list[dict[str, object]] = []
        while any(wanted.values()):
            noun = next(source)
            for label, make in makers.items():
                chosen = make(noun) if wanted[label] else None
                if chosen is not None:
                    name = generator.choice(maker.names(chosen))
                    hypothesis = generator.choice(TEMPLATES).format(name)
                    found.append({"premise": noun.gloss, "hypothesis": hypothesis, "label": label})
                    wanted[label] -= 1
        generator.shuffle(found)
        pairs[split] = found
    return pairs


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
