from __future__ import annotations

import pytest
import torch
import transformers as t

from hf_fsl.zero_shot.last_layer import computing, first_token_only
from tests.helpers.image_text import image_text_model
from tests.helpers.tiny_models import build_model, image_sizes, model_inputs, text_sizes


def build(kind: str):
    if kind in ("bert", "roberta", "distilbert", "modernbert"):
        return build_model(kind).eval()
    torch.manual_seed(0)
    sizes = text_sizes() | {"max_position_embeddings": 80}
    if kind == "electra":
        return t.ElectraForSequenceClassification(t.ElectraConfig(**sizes, embedding_size=32, num_labels=3)).eval()
    config = t.XLMRobertaConfig(**sizes, num_labels=3, pad_token_id=0)
    return t.XLMRobertaForSequenceClassification(config).eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra"])
def test_the_last_layer_computes_one_token_and_the_logits_stay(kind):
    model, inputs, sizes = build(kind), model_inputs("bert"), []
    layer = getattr(model, model.base_model_prefix).encoder.layer[-1]
    chunk = layer.feed_forward_chunk
    layer.feed_forward_chunk = lambda hidden: sizes.append(hidden.shape[1]) or chunk(hidden)
    with torch.no_grad():
        expected = model(**inputs).logits
        view = first_token_only(model)
        assert view is not model
        got = view(**inputs).logits
        unmasked = view(inputs["input_ids"]).logits
        assert torch.equal(model(**inputs).logits, expected)
        assert (unmasked - model(inputs["input_ids"]).logits).abs().max() < 1e-6
    assert (got - expected).abs().max() < 1e-6
    assert sizes == [9, 1, 1, 9, 9]


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_other_models_are_left_alone(kind):
    model = build(kind)
    assert first_token_only(model) is model


def test_a_class_that_only_has_the_name_is_left_alone():
    class BertForSequenceClassification(t.BertForSequenceClassification):
        """As remote code has it: its layers may do something else."""

    model = BertForSequenceClassification(build("bert").config).eval()
    assert model.config.model_type == "bert"
    assert first_token_only(model) is model


@pytest.mark.parametrize("part", ["", "attention.self", "intermediate.dense"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_layer_with_hooks_is_left_alone(part, kind):
    model, seen = build("bert"), []
    hook = getattr(model.bert.encoder.layer[-1].get_submodule(part), kind)(lambda _, given, *rest: seen.append(given))
    assert first_token_only(model) is model
    hook.remove()
    assert first_token_only(model) is not model


def test_a_layer_in_training_or_wrapped_by_others_is_left_alone():
    model = build("bert")
    assert first_token_only(model.train()) is model
    layer = model.eval().bert.encoder.layer[-1]
    layer.forward = layer.forward
    assert first_token_only(model) is model
    assert "forward" in vars(layer)


def test_a_view_of_a_view_computes_what_both_say():
    model, inputs = build("bert"), model_inputs("bert")
    place = "bert.encoder.layer.1.intermediate.dense"
    view = computing(first_token_only(model), place, lambda layer, hidden: 0 * type(layer).forward(layer, hidden))
    with torch.no_grad():
        expected = computing(model, place, lambda layer, hidden: 0 * type(layer).forward(layer, hidden))(**inputs)
        assert (view(**inputs).logits - expected.logits).abs().max() < 1e-6
        assert (view(**inputs).logits - model(**inputs).logits).abs().max() > 1e-4
    assert not any("forward" in vars(module) for module in model.modules())


def clip_and_bert():
    vision, text = t.CLIPVisionConfig(**image_sizes()), t.BertConfig(**text_sizes())
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
    return t.VisionTextDualEncoderModel(config).eval()


@pytest.mark.parametrize("build", [lambda: image_text_model("clip"), clip_and_bert])
def test_the_image_embedding_is_the_same_from_the_class_token_alone(build):
    model, pixels = build(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels)
        output = first_token_only(model).get_image_features(pixel_values=pixels)
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
        assert first_token_only(model) is model, kind
        with torch.no_grad():
            assert model.get_image_features(pixel_values=torch.randn(1, 3, 16, 16)).last_hidden_state.shape[1] >= 4


def test_a_tower_that_only_has_the_name_is_computed_whole():
    class CLIPVisionModel(t.CLIPVisionModel):
        """As remote code has it."""

    model = image_text_model("clip")
    model.vision_model = CLIPVisionModel(model.vision_model.config).eval()
    assert first_token_only(model) is model
