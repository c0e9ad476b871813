"""A tiny dual encoder of two random towers."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import torch
import transformers as t
from PIL import Image

from hf_fsl.contrastive.towers import DualEncoder
from tests.helpers.tiny_models import WORDS, image_sizes, text_sizes


def tiny_dual_encoder(dropout: float = 0.0, bias: bool = False) -> DualEncoder:
    torch.manual_seed(3)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    settings = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.ViTConfig(**image_sizes(), **drop), t.BertConfig(**text_sizes(), **drop), projection_dim=16
    )
    model = t.VisionTextDualEncoderModel(settings)
    if bias:
        model.logit_bias = torch.nn.Parameter(torch.tensor(-2.0))
    return DualEncoder(model, frozenset()).train()


def pairs(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of random pictures and texts; examples 0 and 3 share a caption."""
    generator = torch.Generator().manual_seed(seed)
    captions = torch.stack([torch.arange(count), torch.arange(count) + 100], 1)
    captions[3, 1] = 100
    text = captions[:, 0].clone()
    text[3] = 100
    return {
        "pixel_values": torch.randn(count, 3, 16, 16, generator=generator),
        "input_ids": torch.randint(5, len(WORDS) + 5, (count, 6), generator=generator),
        "attention_mask": torch.ones(count, 6, dtype=torch.long),
        "text": text,
        "captions": captions,
        "index": torch.arange(count),
    }


def cut(batch: dict[str, torch.Tensor], sizes: list[int]) -> list[dict[str, torch.Tensor]]:
    rows = torch.arange(len(batch["text"])).split(sizes)
    return [{name: value[part] for name, value in batch.items()} for part in rows]


def write_pairs(path: Path) -> None:
    """A data set of three splits; each picture has a name, a class and a list of sentences."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 4), ("test", 5)):
        pictures = [Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]
        data = datasets.Dataset.from_dict(
            {
                "image": pictures,
                "name": [f"{split} {row}" for row in range(count)],
                "kind": [row % 2 for row in range(count)],
                "said": [["one", f"two {row}"] if row else ["", "only"] for row in range(count)],
            },
            features=datasets.Features(
                image=datasets.Image(), name=datasets.Value("string"),
                kind=datasets.ClassLabel(names=["food-fruit", "sky_blue"]),
                said=datasets.List(datasets.Value("string")),
            ),
        )  # fmt: skip
        data.to_parquet(path / f"{split}-00000-of-00001.parquet")
