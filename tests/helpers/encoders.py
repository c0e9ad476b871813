"""Tiny random encoders of every family that has a stock class for a few-shot head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.tiny_models import WORDS, image_sizes, text_sizes, write_tokenizer

TEXT_FAMILIES = ("bert", "roberta", "distilbert", "eurobert", "modernbert")
IMAGE_FAMILIES = ("vit", "dinov2", "clip", "siglip", "convnext", "resnet", "beit")


def build_encoder(family: str) -> Any:
    """The encoder, its norms and biases unlike those it starts from, so that none is the identity by accident."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text, image = text_sizes() | {"pad_token_id": 0}, image_sizes()
    dual_text = text | {"eos_token_id": 3, "bos_token_id": 2, "projection_dim": 16}
    model: Any = {
        "bert": lambda: t.BertModel(t.BertConfig(**text, **still)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**text | {"max_position_embeddings": 80}, **still)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(vocab_size=len(WORDS) + 10, dim=32, hidden_dim=64, n_layers=2, n_heads=2)
        ),
        "eurobert": lambda: t.EuroBertModel(t.EuroBertConfig(**text, num_key_value_heads=2)),
        "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**text, global_attn_every_n_layers=1)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**image)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**image, mlp_ratio=2)),
        "clip": lambda: t.CLIPModel(
            t.CLIPConfig(vision_config=image | {"projection_dim": 16}, text_config=dual_text, projection_dim=16)
        ),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(vision_config=image, text_config=dual_text)),
        "convnext": lambda: t.ConvNextModel(
            t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16)
        ),
        "resnet": lambda: t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
        "beit": lambda: t.BeitModel(t.BeitConfig(**image, **still)),
    }[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_encoder(family: str, folder: Path) -> Path:
    """A repository with the encoder and its tokenizer or image processor, or both."""
    from transformers import ViTImageProcessor

    build_encoder(family).save_pretrained(folder)
    if family not in IMAGE_FAMILIES or family in ("clip", "siglip"):
        write_tokenizer(folder)
    if family in IMAGE_FAMILIES:
        size = 32 if family in ("convnext", "resnet") else 16
        ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def texts(count: int = 16, seed: int = 0) -> list[str]:
    """Texts of 1 to 20 words, some longer than others."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(count)]


def pictures(count: int = 12) -> list[Image.Image]:
    """Noise."""
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]
