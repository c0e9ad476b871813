"""Tiny random image-text models and their processors, as the tests of scorer and pipeline need them."""

from __future__ import annotations

import numpy as np
import torch
import transformers as t
from PIL import Image

from tests.helpers.tiny_models import WORDS, image_sizes, text_sizes, write_tokenizer

KINDS = ("clip", "siglip", "siglip2", "dual")


def image_text_model(kind, seed=0):
    """With large weights, so that different images and labels get scores that differ."""
    torch.manual_seed(seed)
    sizes = {"text_config": text_sizes() | {"eos_token_id": 3, "pad_token_id": 0}, "vision_config": image_sizes()}
    if kind == "clip":
        model = t.CLIPModel(t.CLIPConfig(**sizes, projection_dim=16))
    elif kind == "siglip":
        model = t.SiglipModel(t.SiglipConfig(**sizes))
    elif kind == "siglip2":
        sizes["vision_config"] |= {"num_patches": 16}
        model = t.Siglip2Model(t.Siglip2Config(**sizes))
    else:
        assert kind == "dual"
        vision, text = t.ViTConfig(**image_sizes()), t.BertConfig(**text_sizes())
        config = t.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
        model = t.VisionTextDualEncoderModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            elif "logit" in name:
                parameter.fill_(2.0 if name == "logit_scale" else -1.0)
    return model.eval()


def processors(kind, folder):
    tokenizer = write_tokenizer(folder)
    if kind != "dual":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if kind == "siglip2":  # keeps the aspect ratio: as many patches as fit, and a mask
        return {"tokenizer": tokenizer, "image_processor": t.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)}
    return {"tokenizer": tokenizer, "image_processor": t.ViTImageProcessor(size={"height": 16, "width": 16})}


def images(count, seed=0):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(10, 40, (count, 2))
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def label_names(count):
    """Of one to five words each, all different."""
    generator = np.random.default_rng(1)
    names = {}
    while len(names) < count:
        names[" ".join(generator.choice(WORDS, generator.integers(1, 6)))] = True
    return list(names)


def count_calls(monkeypatch, model, name):
    """A list that grows by the number of inputs at each forward pass of a tower."""
    calls, original = [], getattr(model, name)

    def counted(**inputs):
        calls.append(len(next(iter(inputs.values()))))
        return original(**inputs)

    monkeypatch.setattr(model, name, counted)
    return calls
