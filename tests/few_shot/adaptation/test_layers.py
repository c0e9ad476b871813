"""A cut encoder against the whole one."""

from __future__ import annotations

import pytest
import torch

from hf_fsl import Backbone
from hf_fsl.few_shot.adaptation import AdaptationError
from hf_fsl.few_shot.adaptation.adapt import AdaptationInputs
from hf_fsl.few_shot.adaptation.layers import StateStore
from tests.helpers.tiny_models import build_model, image_sizes, model_inputs, write_tokenizer

TEXTS = ["good film", "the big red house is very small", "a cat sleeps and a dog runs", "rain", "sun and rain"]


def backbone_of(kind: str, tmp_path) -> Backbone:
    from transformers import ViTImageProcessor

    model = build_model(kind)
    body = getattr(model, model.base_model_prefix) if hasattr(model, model.base_model_prefix) else model
    if kind in ("vit", "dinov2", "convnext"):
        size = image_sizes()["image_size"]
        processor = ViTImageProcessor(size={"height": size, "width": size})
        return Backbone(body.eval(), None, image_processor=processor)
    return Backbone(body.eval(), write_tokenizer(tmp_path))


def pictures(count: int) -> list:
    from PIL import Image

    pixels = model_inputs("vit", count)["pixel_values"]
    return [Image.fromarray((p.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy()) for p in pixels]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "vit", "dinov2"])
def test_embeddings_and_gradients_above_the_cut_are_those_of_the_whole_encoder(kind, tmp_path):
    backbone = backbone_of(kind, tmp_path)
    inputs = pictures(5) if kind in ("vit", "dinov2") else TEXTS
    whole, cut = AdaptationInputs(backbone, inputs, 1 << 20), AdaptationInputs(backbone, inputs, 1 << 20)
    above = cut.cut_below(1)
    results = []
    for examples in (whole, cut):
        cut.embed([4, 0])  # so that some states are known, of another batch
        backbone.model.zero_grad()
        embeddings = examples.embed([3, 1, 0, 4])
        embeddings.square().sum().backward()
        gradients = [p.grad.clone() for p in above.parameters() if p.grad is not None]
        results.append((embeddings.detach(), gradients))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(
        results[0][0], AdaptationInputs(backbone, inputs, 0).embed(range(5))[[3, 1, 0, 4]], atol=1e-5
    )
    assert len(results[0][1]) == len(results[1][1]) > 4
    for expected, got in zip(results[0][1], results[1][1], strict=True):
        assert torch.allclose(expected, got, atol=1e-4, rtol=1e-4)


def test_layers_below_the_cut_run_once_an_example(text_backbone):
    backbone = Backbone.from_pretrained(str(text_backbone))
    examples = AdaptationInputs(backbone, TEXTS, 1 << 20)
    examples.cut_below(1)
    ran: list[int] = []
    inside = backbone.model.encoder.layer[0].attention
    handle = inside.register_forward_hook(lambda module, given, out: ran.append(len(given[0])))
    examples.embed([0, 1, 2])
    examples.embed([2, 1, 3])
    handle.remove()
    assert sum(ran) == 4
    assert "forward" not in vars(backbone.model.encoder.layer[0])


def test_a_model_that_is_no_stack_of_layers_and_a_layer_that_is_not_there_are_refused(tmp_path, text_backbone):
    with pytest.raises(AdaptationError, match="no plain stack"):
        AdaptationInputs(backbone_of("convnext", tmp_path), pictures(2), 0).cut_below(1)
    with pytest.raises(AdaptationError, match="first_layer=2: the encoder has layers 0 to 1"):
        AdaptationInputs(Backbone.from_pretrained(str(text_backbone)), TEXTS, 0).cut_below(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_come_back_from_memory_and_from_the_file(dtype):
    store = StateStore(100)
    states = {row: torch.randn(row + 2, 3).to(dtype) for row in range(6)}
    for row, value in states.items():
        store.put(row, value)
    assert store.kept and store.places
    for row, value in states.items():
        assert row in store
        assert torch.equal(store.get(row), value)
    padded = store.padded([5, 0])
    assert padded.shape == (2, 7, 3)
    assert torch.equal(padded[1, :2], states[0]) and not padded[1, 2:].any()
    store.clear()
    assert 0 not in store and 5 not in store
