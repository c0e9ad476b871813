from __future__ import annotations

import pytest
import torch
import transformers as t

from hf_fsl.zero_shot.class_token import class_token_only
from tests.helpers.image_text import image_text_model
from tests.helpers.tiny_models import image_sizes, text_sizes


def clip_and_bert():
    vision, text = t.CLIPVisionConfig(**image_sizes()), t.BertConfig(**text_sizes())
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
    return t.VisionTextDualEncoderModel(config).eval()


@pytest.mark.parametrize("build", [lambda: image_text_model("clip"), clip_and_bert])
def test_the_image_embedding_is_the_same_from_the_class_token_alone(build):
    model, pixels = build(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels)
        output = class_token_only(model).get_image_features(pixel_values=pixels)
        after = model.get_image_features(pixel_values=pixels)
    assert output.last_hidden_state.shape == (3, 1, 32)
    torch.testing.assert_close(output.pooler_output, expected.pooler_output)
    assert torch.equal(after.last_hidden_state, expected.last_hidden_state)


def test_other_towers_and_watched_layers_are_computed_whole():
    models = {kind: image_text_model(kind) for kind in ("siglip", "dual", "clip")}
    models["eager"] = image_text_model("clip")
    models["eager"].set_attn_implementation("eager")
    models["clip"].vision_model.encoder.layers[-1].register_forward_hook(lambda *_: None)
    models["training"] = image_text_model("clip").train()
    for kind, model in models.items():
        assert class_token_only(model) is model, kind
        with torch.no_grad():
            assert model.get_image_features(pixel_values=torch.randn(1, 3, 16, 16)).last_hidden_state.shape[1] >= 4


def test_a_tower_that_only_has_the_name_is_computed_whole():
    class CLIPVisionModel(t.CLIPVisionModel):
        """As remote code has it."""

    model = image_text_model("clip")
    model.vision_model = CLIPVisionModel(model.vision_model.config).eval()
    assert class_token_only(model) is model
