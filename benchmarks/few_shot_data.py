"""The bundled data sets as embeddings, for the benchmarks of few-shot learning; read from the repository's root."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from hf_fsl import Backbone
from hf_fsl.hub.seed import minilm_folder
from hf_fsl.models.backbones import EmbeddingCache

DATA = Path("recipes/data")
CACHE = EmbeddingCache(Path.home() / ".cache" / "hf_fsl" / "benchmarks")

Pool = tuple[torch.Tensor, torch.Tensor]
"""Embeddings ``(N, D)``, labels ``(N,)``."""


def supersense() -> dict[str, Pool]:
    """Glosses by MiniLM, by split."""
    backbone = Backbone.from_pretrained(str(minilm_folder()))
    pools = {}
    for split in ("train", "validation", "test"):
        table = pq.read_table(DATA / "supersense" / "data" / f"{split}-00000-of-00001.parquet")
        texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
        pools[split] = backbone.encode(texts, cache=CACHE), torch.tensor(labels)
    return pools


def emoji(tower: str) -> dict[tuple[str, str], Pool]:
    """Pictures of the subcategories that are classes, by style and split."""
    backbone = Backbone.from_pretrained(tower)
    pools = {}
    for style in ("noto", "twemoji"):
        for split in ("base", "validation", "novel"):
            rows = []
            for path in sorted((DATA / "emoji" / style).glob(f"*-{split}.parquet")):
                rows += [row for row in pq.read_table(path).to_pylist() if row["is_class"]]
            images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
            labels = torch.tensor([row["subcategory"] for row in rows])
            pools[style, split] = backbone.encode(images, cache=CACHE), labels
    return pools


def digits() -> dict[str, Pool]:
    """Handwritten digits as their 64 pixels, by split."""
    pools = {}
    for split in ("train", "test"):
        rows = pq.read_table(DATA / "digits" / "data" / f"{split}-00000-of-00001.parquet").to_pylist()
        pictures = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("L") for row in rows]
        pixels = torch.tensor(np.stack([np.asarray(picture, dtype=np.float32).ravel() for picture in pictures]))
        pools[split] = pixels, torch.tensor([row["label"] for row in rows])
    return pools
