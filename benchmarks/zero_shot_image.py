"""Zero-shot image classification against the stock pipeline: seconds an image at 10, 100 and 1,000 candidate labels.

    python benchmarks/zero_shot_image.py [--images 200] [--rounds 5] [--labels 10 100 1000] [--threads 1]

CLIP-B/32 with random weights: speed does not depend on them. Images are in memory as PIL; resizing and normalising
them is part of every contestant's time, the image tower's alone included. The stock pipeline's time is linear in the
images (its text tower runs again for each batch), so with many labels it is measured on fewer and scaled to one. A
quick look: ``--images 16 --rounds 1 --labels 10 100``. The whole takes about three quarters of an hour.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from common import interleave, ratio, write_result
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import pipeline

from hf_fsl import ZeroShotImagePipeline
from hf_fsl.zero_shot.clip import IMAGE_TEMPLATE

TASK = "zero-shot-image-classification"
STOCK_BATCHES = (1, 8, 32)
"""1 is the stock pipeline's default."""
SCORED = {10: 1.0, 100: 0.25, 1000: 0.02}
"""Share of the images the stock pipeline is measured on, by labels."""
WARM_BAR = 1.1
"""What warm may take, in times of the image tower alone; cold may take that and one text pass."""
KINDS = (
    "red", "blue", "green", "small", "big", "old", "new", "wooden", "striped", "empty", "broken", "wet", "dark",
    "tall", "bright", "round", "flat", "soft", "cold", "warm",
)  # fmt: skip
THINGS = (
    "cat", "dog", "horse", "bird", "fish", "cow", "sheep", "bear", "lion", "tiger", "car", "truck", "bus",
    "train", "hat", "boat", "bicycle", "plane", "house", "bridge", "tower", "tree", "flower", "river",
    "mountain", "beach", "forest", "road", "field", "chair", "table", "lamp", "bed", "sofa", "clock", "book",
    "phone", "cup", "plate", "knife", "spoon", "shirt", "shoe", "bag", "umbrella", "ball", "kite", "guitar",
)  # fmt: skip


def label_names(count: int) -> list[str]:
    """Of one word or two: with the template 9 or 10 tokens, start and end included."""
    names = [*THINGS, *(f"{kind} {thing}" for kind in KINDS for thing in THINGS)]
    return [names[row] for row in np.random.default_rng(0).permutation(len(names))[:count]]


def tokenizer() -> Any:
    """Whole words, with the ids of CLIP's vocabulary and its start and end."""
    words = sorted({*KINDS, *THINGS, *IMAGE_TEMPLATE.replace("{}.", ".").lower().split()})
    vocab = {word: 1000 + 97 * row for row, word in enumerate(words)}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    built = Tokenizer(models.WordLevel(vocab, unk_token="<|endoftext|>"))
    built.normalizer, built.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    built.post_processor = processors.BertProcessing(("<|endoftext|>", 49407), ("<|startoftext|>", 49406))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<|endoftext|>", unk_token="<|endoftext|>", eos_token="<|endoftext|>",
        bos_token="<|startoftext|>", model_max_length=77, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (375, 500, 3), dtype=np.uint8)) for _ in range(count)]


def compare(stock: Any, ours: Any, images: list[Image.Image], count: int, rounds: int) -> dict[str, Any]:
    """Every contestant at so many labels."""
    labels = label_names(count)
    scorer = ours.scorer

    def cold() -> None:
        scorer.labels_in_memory.clear()
        ours(images, labels)

    def text_pass() -> None:
        scorer.labels_in_memory.clear()
        scorer.label_embeddings(labels)

    @torch.no_grad()
    def image_tower() -> None:
        for start in range(0, len(images), 32):
            pixels = stock.image_processor(images=images[start : start + 32], return_tensors="pt")
            stock.model.get_image_features(**pixels)

    contestants: dict[str, Callable[[], Any]] = {
        "hf_fsl, cold": cold,
        "hf_fsl, warm": lambda: ours(images, labels),
        "image tower": image_tower,
        "text pass": text_pass,
    }
    measured = dict.fromkeys(contestants, len(images))
    measured["text pass"] = 1
    for size in STOCK_BATCHES:
        name, share = f"stock, batch {size}", SCORED.get(count, 1.0)
        measured[name] = min(len(images), max(round(share * len(images)), 2 * size))
        some = images[: measured[name]]
        contestants[name] = lambda some=some, size=size: stock(some, candidate_labels=labels, batch_size=size)
    ours(images[:2], labels)
    seconds = interleave(contestants, rounds, warm_up=0)
    each = {name: [value / measured[name] for value in values] for name, values in seconds.items()}
    median = {name: float(np.median(values)) for name, values in each.items()}
    best = min((name for name in each if name.startswith("stock")), key=median.__getitem__)
    allowed = [
        WARM_BAR * tower + text / len(images)
        for tower, text in zip(each["image tower"], each["text pass"], strict=True)
    ]
    return {
        "images": {name: images for name, images in measured.items() if name != "text pass"},
        "median_seconds_an_image": {name: value for name, value in median.items() if name != "text pass"},
        "median_seconds_text_pass": median["text pass"],
        "speed_over_stock_default": {
            "cold": ratio(each["stock, batch 1"], each["hf_fsl, cold"]),
            "warm": ratio(each["stock, batch 1"], each["hf_fsl, warm"]),
        },
        "speed_over_stock_best": {"best": best, "cold": ratio(each[best], each["hf_fsl, cold"])},
        "warm_time_over_image_tower": ratio(each["hf_fsl, warm"], each["image tower"]),
        "cold_time_over_warm_bar_and_text_pass": ratio(each["hf_fsl, cold"], allowed),
        "largest_score_difference": largest_difference(stock, ours, images[:2], labels),
    }


def largest_difference(stock: Any, ours: Any, images: list[Image.Image], labels: list[str]) -> float:
    answers = [
        [{row["label"]: row["score"] for row in answer} for answer in pipe(images, candidate_labels=labels)]
        for pipe in (stock, ours)
    ]
    return max(abs(own[label] - theirs[label]) for theirs, own in zip(*answers, strict=True) for label in labels)


def main(count: int, rounds: int, label_counts: list[int], threads: int | None) -> None:
    transformers.logging.set_verbosity(logging.ERROR)
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    parts = {
        "model": transformers.CLIPModel(transformers.CLIPConfig()).eval(),
        "tokenizer": tokenizer(),
        "image_processor": transformers.CLIPImageProcessor(),
        "device": "cpu",
    }
    stock, ours = pipeline(TASK, **parts), pipeline(TASK, pipeline_class=ZeroShotImagePipeline, **parts)
    images = pictures(count)
    texts = [IMAGE_TEMPLATE.format(label) for label in label_names(max(label_counts))]
    lengths = [len(ids) for ids in parts["tokenizer"](texts)["input_ids"]]
    write_result(
        "zero_shot_image",
        {
            "model": "CLIP-B/32, random weights",
            "image_preprocessing": "in every contestant's time; images in memory, 500 x 375",
            "stock_scaled": "measured on the number of images given, divided by it",
            "label_tokens": {"mean": float(np.mean(lengths)), "least": min(lengths), "most": max(lengths)},
            "by_labels": {
                str(labels): compare(stock, ours, images, labels, rounds) for labels in label_counts
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--threads", type=int, help="of torch; as many as there are cores if not given")
    options = parser.parse_args()
    main(options.images, options.rounds, options.labels, options.threads)
