"""encode() against a one-by-one reference, for texts, images and dual encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import models
from transformers import AutoTokenizer

from hf_fsl.hub.seed import minilm_folder
from hf_fsl.models.backbones import Backbone, BackboneError, EmbeddingCache
from tests.helpers.tiny_models import WORDS, build_model, image_sizes, text_sizes, write_tokenizer


def texts(count=23, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(1, 20))) for _ in range(count)]


def pictures(count=5):
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def one_by_one(backbone, items, pooling):
    rows = []
    for text in items:
        encoded = backbone.tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            output = backbone.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
        hidden = output.last_hidden_state[0]
        rows.append(
            {
                "mean": hidden.mean(0),
                "cls": hidden[0],
                "last": hidden[-1],
                "pooler": output.get("pooler_output", [0])[0],
            }[pooling]
        )
    return torch.stack(rows)


@pytest.mark.parametrize("max_tokens", [16, 64, 4096])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "pooler"])
def test_encode_equals_one_by_one_in_the_order_given(text_backbone, pooling, max_tokens):
    backbone = Backbone.from_pretrained(str(text_backbone), pooling=pooling)
    items = texts()
    embeddings = backbone.encode([*items, items[3]], max_tokens=max_tokens)
    expected = one_by_one(backbone, [*items, items[3]], pooling)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=1e-4)
    assert embeddings.dtype == torch.float32 and embeddings.shape == (24, backbone.dimension)


def test_duplicates_are_encoded_once_and_none_gives_none(text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    assert backbone.dimension == 32  # measured once, by passes of its own
    seen = []
    backbone.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    backbone.encode(["good film", "bad film", "good film"] * 5)
    assert sum(seen) == 2
    assert backbone.encode([]).shape == (0, 32)


def test_minilm_modules_are_read():
    modules = Backbone.from_pretrained(str(minilm_folder())).modules
    assert (modules.pooling, modules.normalize, modules.max_length) == ("mean", True, 256)


@pytest.mark.parametrize("kind", ["vit", "convnext", "dinov2"])
def test_images_of_every_encoder(kind, tmp_path, image_backbone):
    from transformers import ViTImageProcessor

    model = build_model(kind)
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    items = pictures()
    embeddings = backbone.encode([*items, items[0]])
    assert embeddings.shape == (6, backbone.dimension)
    with torch.inference_mode():
        pixels = backbone.image_processor(items[2], return_tensors="pt")["pixel_values"]
        output = backbone.model(pixels)
        # The encoder of a ViT classifier has no pooler: then it is the first token.
        expected = output.last_hidden_state[0, 0] if kind == "vit" else output.pooler_output.flatten()
    torch.testing.assert_close(embeddings[2], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embeddings[0], embeddings[5])


def test_dual_encoder_takes_texts_and_images(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = text_sizes() | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0, "projection_dim": 16}
    config = CLIPConfig(vision_config=image_sizes() | {"projection_dim": 16}, text_config=sizes, projection_dim=16)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    items = texts(6)
    with torch.inference_mode():
        features = [backbone.model.get_text_features(**_inputs(tokenizer, text)) for text in items]
        expected = torch.cat([f if isinstance(f, torch.Tensor) else f.pooler_output for f in features])
    torch.testing.assert_close(backbone.encode(items), expected, atol=1e-5, rtol=1e-4)
    assert backbone.encode(pictures()).shape == (5, 16)


def _inputs(tokenizer, text):
    encoded = tokenizer(text, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def test_cache_saves_the_work_and_knows_what_it_is_of(text_backbone, tmp_path):
    backbone, cache = Backbone.from_pretrained(str(text_backbone)), EmbeddingCache(tmp_path)
    items = texts()
    first = backbone.encode(items, cache=cache)
    calls = []
    handle = backbone.model.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(backbone.encode(items, cache=cache), first, atol=0, rtol=0)
    assert calls == []
    backbone.encode([*items, "not seen before is the cat"], cache=cache)
    assert len(calls) == 1
    handle.remove()
    assert len(list(tmp_path.iterdir())) == 2
    for file in tmp_path.iterdir():
        file.write_bytes(b"damaged")
    torch.testing.assert_close(backbone.encode(items, cache=cache), first, atol=1e-6, rtol=0)
    with torch.no_grad():
        next(backbone.model.parameters()).add_(0.5)
    assert not torch.allclose(backbone.encode(items, cache=cache), first)


def test_cache_tells_apart_weights_that_add_up_to_the_same_and_tokenizers(text_backbone, tmp_path):
    backbone, cache = Backbone.from_pretrained(str(text_backbone)), EmbeddingCache(tmp_path)
    first = backbone.encode(texts(), cache=cache)
    words = next(backbone.model.parameters())
    with torch.no_grad():
        words[[10, 11]] = words[[11, 10]]
    swapped = backbone.encode(texts(), cache=cache)
    assert not torch.allclose(swapped, first)
    ids = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed(WORDS)])}
    backbone.tokenizer.backend_tokenizer.model = models.WordLevel(ids, unk_token="[UNK]")
    assert not torch.allclose(backbone.encode(texts(), cache=cache), swapped)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_wrong_modality_is_refused(text_backbone):
    with pytest.raises(BackboneError, match="encodes texts, not images"):
        Backbone.from_pretrained(str(text_backbone)).encode(pictures())


def test_missing_model_is_named(tmp_path):
    with pytest.raises(BackboneError, match="does not load as an encoder"):
        Backbone.from_pretrained(str(tmp_path / "nowhere"))


def test_a_pooler_without_weights_is_not_used(tmp_path):
    from transformers import ViTImageProcessor, ViTModel

    ViTModel(build_model("vit").config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    first, second = (Backbone.from_pretrained(str(tmp_path)).encode(pictures()) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    with pytest.raises(BackboneError, match="this model has no pooler"):
        Backbone.from_pretrained(str(tmp_path), pooling="pooler").encode(pictures())
