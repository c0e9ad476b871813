"""encode() against sentence-transformers: throughput on texts of mixed length (5 to 256 tokens), MiniLM, one run.

python benchmarks/encode.py [--texts 512] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from common import interleave, ratio, write_result
from datasets import Dataset

from hf_fsl.hub.seed import minilm_folder
from hf_fsl.models.backbones import Backbone

GLOSSES = Path(__file__).parents[1] / "recipes" / "data" / "supersense" / "data" / "train-00000-of-00001.parquet"
BATCH_SIZES = (8, 16, 32, 64)
"""sentence-transformers' default is 32."""


def mixed_texts(count: int, seed: int = 0, longest: int = 200) -> list[str]:
    """Definitions strung together to lengths spread evenly from 3 words to the longest (200: about 256 tokens)."""
    generator = random.Random(seed)
    glosses = Dataset.from_parquet(str(GLOSSES))["text"]
    words = " ".join(generator.sample(list(glosses), 2000)).split()
    texts = []
    for number in range(count):
        length = 3 + ((longest - 3) * number) // count
        start = generator.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    generator.shuffle(texts)
    return texts


def padding_share(lengths: list[int], batch_size: int) -> float:
    """Share of padding of batches of a fixed size sorted by length, as sentence-transformers makes them."""
    order = sorted(lengths, reverse=True)
    padded = sum(len(order[i : i + batch_size]) * order[i] for i in range(0, len(order), batch_size))
    return 1 - sum(order) / padded


def main(count: int, rounds: int) -> None:
    from sentence_transformers import SentenceTransformer

    texts = mixed_texts(count)
    folder = str(minilm_folder())
    ours, theirs = Backbone.from_pretrained(folder), SentenceTransformer(folder, device="cpu")
    difference = float(np.abs(ours.encode(texts).numpy() - theirs.encode(texts)).max())
    contestants = {"hf_fsl": lambda: ours.encode(texts)}
    for size in BATCH_SIZES:
        contestants[f"sentence-transformers, batch {size}"] = lambda size=size: theirs.encode(texts, batch_size=size)
    seconds = interleave(contestants, rounds)
    rivals = {name: taken for name, taken in seconds.items() if name != "hf_fsl"}
    best = min(rivals, key=lambda name: float(np.median(rivals[name])))
    lengths = [min(len(ids), 256) for ids in ours.tokenizer(texts)["input_ids"]]
    write_result(
        "encode",
        {
            "texts": count,
            "tokens": {"mean": float(np.mean(lengths)), "least": min(lengths), "most": max(lengths)},
            "median_seconds": {name: float(np.median(taken)) for name, taken in seconds.items()},
            "throughput_over_default": ratio(rivals["sentence-transformers, batch 32"], seconds["hf_fsl"]),
            "throughput_over_best_batch": ratio(rivals[best], seconds["hf_fsl"]) | {"best": best},
            "padding_share": {
                "hf_fsl": ours.padding_share,
                **{f"batch {size}": padding_share(lengths, size) for size in BATCH_SIZES},
            },
            "largest_difference": difference,
        },
        peers=["sentence-transformers"],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    main(options.texts, options.rounds)
