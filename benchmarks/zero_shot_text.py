"""Zero-shot text classification against transformers' pipeline: time, padding, and what the faster options cost.

    python benchmarks/zero_shot_text.py [--model outputs/wordnet-nli/bundle] [--texts 100] [--labels 8 16 64]

The model is the NLI model that comes along (recipes/backbones), or one given.

Time: texts of mixed length with 8, 16 and 64 labels; the stock pipeline at its default and at its best batch size, our
pipeline, and the floor: the bare forward passes of the stock model over the same pairs, padded and sorted by length,
tokenised beforehand. A shortlist has been learned beforehand, from texts that are not classified.

Quality: supersense's test split with 64 labels that the model was not trained on: the 24 supersenses and 40 classes of
wordnet_nli's other splits. Exact, int8, bfloat16, and shortlists of 8 by the bi-encoder as it is and as it is taught
by 400 unlabeled texts of the training split, all on the same texts.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, interleave, ratio, write_result
from datasets import Dataset, load_dataset
from encode import mixed_texts
from transformers import pipeline

from hf_fsl import ZeroShotTextPipeline
from hf_fsl.hub.overlay import whole_model
from hf_fsl.hub.seed import MINILM, minilm_folder
from hf_fsl.metrics import paired_difference
from hf_fsl.models.backbones.texts import token_budget
from hf_fsl.zero_shot.pairs import PairEncoder

RECIPES = Path(__file__).parents[1] / "recipes"
NLI = RECIPES / "backbones" / "minilm-wordnet-nli"
DATA = RECIPES / "data" / "wordnet_nli" / "data"
TEMPLATE = "This is a kind of {}."
PREFIX = re.compile(
    "^(This is about|This is a kind of|This describes a type of|The topic is|This definition is of|It is) "
)
"""What the hypotheses of the data set say before the class."""
STOCK_BATCHES = (8, 16, 32, 64)
SHORTLIST, TAUGHT_BY, LABELS = 8, 400, 64
SUPERSENSE = RECIPES / "data" / "supersense"


def entailed(split: str) -> list[tuple[str, str]]:
    """Definitions and the class that the split says they entail."""
    rows = Dataset.from_parquet(str(DATA / f"{split}-00000-of-00001.parquet"))
    return [(row["premise"], PREFIX.sub("", row["hypothesis"]).rstrip(".")) for row in rows if row["label"] == 0]


def class_names(count: int) -> list[str]:
    """The classes most often named in training."""
    return [name for name, _ in Counter(name for _, name in entailed("train")).most_common(count)]


def floor(pipe: Any, texts: list[str], labels: list[str]) -> Any:
    """The bare forward passes: everything but the model's own call is done beforehand."""
    pairs = np.stack(np.meshgrid(range(len(texts)), range(len(labels)), indexing="ij"), -1).reshape(-1, 2)
    encoder = PairEncoder(pipe.tokenizer, texts, [TEMPLATE.format(label) for label in labels])
    batches = [inputs for _, inputs, _ in encoder.batches(pairs, token_budget(pipe.model.device))]

    def run() -> None:
        with torch.inference_mode():
            for inputs in batches:
                pipe.model(**inputs)

    return run


def largest_difference(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Between the scores of the same labels."""
    return max(
        abs(score - dict(zip(other["labels"], other["scores"], strict=True))[label])
        for one, other in zip(some, others, strict=True)
        for label, score in zip(one["labels"], one["scores"], strict=True)
    )


def measure_time(
    pipes: dict[str, Any], stock: Any, texts: list[str], labels: list[str], rounds: int
) -> dict[str, Any]:
    settings = {"hypothesis_template": TEMPLATE}
    sample = texts[: max(4, len(texts) // 10)]
    trial = interleave(
        {str(size): lambda size=size: stock(sample, labels, batch_size=size, **settings) for size in STOCK_BATCHES}, 3
    )
    best = int(min(trial, key=lambda size: float(np.median(trial[size]))))
    exact = pipes["exact"]
    contestants = {
        "stock": lambda: stock(texts, labels, **settings),
        "stock, best batch": lambda: stock(texts, labels, batch_size=best, **settings),
        "floor": floor(stock, texts, labels),
        **{name: lambda pipe=pipe: pipe(texts, labels, **settings) for name, pipe in pipes.items()},
    }
    if len(labels) > SHORTLIST:
        contestants["shortlist"] = lambda: exact(texts, labels, shortlist=SHORTLIST, **settings)
        exact.fit_shortlist(mixed_texts(32, longest=50, seed=1), labels, **settings)
    for pipe in pipes.values():
        pipe(sample, labels, **settings)
    seconds = interleave(contestants, rounds, warm_up=0)
    ours = seconds["exact"]
    answers = exact(texts, labels, **settings)
    result = {
        "best_batch": best,
        "median_seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
        "exact_over_stock_default": ratio(seconds["stock"], ours),
        "exact_over_stock_best_batch": ratio(seconds["stock, best batch"], ours),
        "time_over_floor": ratio(ours, seconds["floor"]),
        "padding_share": exact.scorer.padding_share,
        "largest_score_difference": largest_difference(answers, stock(texts, labels, batch_size=best, **settings)),
    }
    for name in seconds.keys() - {"stock", "stock, best batch", "floor", "exact"}:
        result[f"{name}_over_exact"] = ratio(ours, seconds[name])
        result[f"{name}_over_stock_best_batch"] = ratio(seconds["stock, best batch"], seconds[name])
    return result


def unseen_names(names: list[str]) -> list[str]:
    """``LABELS`` class names that the NLI model was not trained on, ``names`` first."""
    trained = {name for _, name in entailed("train")}
    others = {name for split in ("validation", "test") for _, name in entailed(split)} - trained - set(names)
    drawn = np.random.default_rng(0).choice(sorted(others), LABELS - len(names), replace=False)
    return names + drawn.tolist()


def measure_quality(pipes: dict[str, Any], count: int) -> dict[str, Any]:
    data = load_dataset(str(SUPERSENSE))
    names = data["test"].features["label"].names
    labels, test = unseen_names(names), data["test"].shuffle(seed=0).select(range(count))
    texts, truth = list(test["text"]), [names[label] for label in test["label"]]
    settings: dict[str, Any] = {"hypothesis_template": TEMPLATE}
    right = {}

    def measure(name: str, pipe: Any, **options: Any) -> None:
        answers = pipe(texts, labels, **settings, **options)
        right[name] = np.array([row["labels"][0] == wanted for row, wanted in zip(answers, truth, strict=True)])

    for name, pipe in pipes.items():
        measure(name, pipe)
    measure("shortlist by the plain bi-encoder", pipes["exact"], shortlist=SHORTLIST)
    unlabeled = data["train"].shuffle(seed=0).select(range(TAUGHT_BY))["text"]
    pipes["exact"].fit_shortlist(unlabeled, labels, **settings)
    measure("shortlist", pipes["exact"], shortlist=SHORTLIST)
    return {
        "texts": len(texts),
        "labels": len(labels),
        "accuracy": {name: float(values.mean()) for name, values in right.items()},
        "difference_to_exact": {
            name: vars(paired_difference(values, right["exact"], 5000))
            for name, values in right.items()
            if name != "exact"
        },
    }


def main(model: str, count: int, sizes: list[int], rounds: int, quality: int) -> None:
    """What is not asked for (no sizes, no texts for quality) stays as an earlier run left it."""
    common: dict[str, Any] = {"model": model, "device": "cpu"}
    stock = pipeline("zero-shot-classification", **common)
    common |= {"pipeline_class": ZeroShotTextPipeline, "shortlist_model": str(minilm_folder())}
    pipes = {
        "exact": pipeline("zero-shot-classification", **common),
        "int8": pipeline("zero-shot-classification", **common, runtime="int8"),
        "bfloat16": pipeline("zero-shot-classification", **common, dtype="bfloat16"),
    }
    texts = mixed_texts(count, longest=50)
    before = RESULTS / "zero_shot_text.json"
    known = json.loads(before.read_text()) if before.exists() else {}
    time = {str(size): measure_time(pipes, stock, texts, class_names(size), rounds) for size in sizes}
    measured = measure_quality(pipes, quality) if quality else known.get("quality", {})
    write_result("zero_shot_text", {"texts": count, "labels": known.get("labels", {}) | time, "quality": measured})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=NLI)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--labels", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality-texts", type=int, default=1200)
    options = parser.parse_args()
    if not options.model.is_dir():
        parser.error(f"--model is the folder of an NLI model; there is none at {options.model}.")
    with whole_model(options.model, minilm_folder(), MINILM) as folder:
        main(str(folder), options.texts, options.labels, options.rounds, options.quality_texts)
