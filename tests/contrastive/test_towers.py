"""Towers put together: mean pooling in a stock class, what is trained, what is published."""

from __future__ import annotations

import pytest
import torch
import transformers
from huggingface_hub import constants
from PIL import Image

from hf_fsl.config import ContrastiveLossConfig, DualEncoderConfig, TowerConfig
from hf_fsl.contrastive.inputs import TextFeatures
from hf_fsl.contrastive.towers import load_towers
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.backbones.errors import BackboneError

TEXTS = ["good cat", "the big red house is very small and not green", "dog", "a bird runs"]


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory):
    """A tiny BERT whose states differ from token to token as those of a trained one do."""
    from tests.helpers.tiny_models import build_model, write_tokenizer

    folder = tmp_path_factory.mktemp("sentence-encoder")
    model = build_model("bert").bert
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def assembled(text, image, **fields):
    settings = {"text_projection": "identity", "projection_dim": 32} | fields
    text_tower = TowerConfig(model_name_or_path=str(text), method="frozen", pooling=settings.pop("pooling", "mean"))
    image_tower = TowerConfig(model_name_or_path=str(image), method=settings.pop("method", "full"))
    config = DualEncoderConfig(image=image_tower, text=text_tower, **settings)
    return load_towers(config, settings.pop("loss", ContrastiveLossConfig()))


def test_mean_pooled_tower_has_the_cosines_of_the_mean(sentence_encoder, image_backbone):
    towers = assembled(sentence_encoder, image_backbone)
    ours = TextFeatures(towers.encoder, towers).embeddings(TEXTS)
    mean = Backbone.from_pretrained(str(sentence_encoder), pooling="mean").encode(TEXTS)
    # one direction of 32 is lost to the layer norm: compared without it
    mean = torch.nn.functional.normalize(mean - mean.mean(-1, keepdim=True), dim=-1)
    torch.testing.assert_close(ours, mean, atol=2e-3, rtol=0)
    pooler = assembled(sentence_encoder, image_backbone, pooling="pooler")
    other = TextFeatures(pooler.encoder, pooler).embeddings(TEXTS)
    assert (other @ other.T - ours @ ours.T).abs().max() > 0.02


def test_mean_pooling_is_saved_and_loaded_by_the_stock_class(sentence_encoder, image_backbone, tmp_path):
    towers = assembled(sentence_encoder, image_backbone)
    expected = TextFeatures(towers.encoder, towers).embeddings(TEXTS)
    towers.encoder.merged().save_pretrained(tmp_path)
    stock = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokens = towers.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = stock(**tokens, pixel_values=torch.zeros(1, 3, 16, 16))
    torch.testing.assert_close(out.text_embeds, expected, atol=1e-5, rtol=0)


def test_pretrained_towers_keep_their_weights(sentence_encoder, image_backbone):
    towers = assembled(sentence_encoder, image_backbone, pooling="pooler")
    for name, source in (("text", sentence_encoder), ("image", image_backbone)):
        state = transformers.AutoModel.from_pretrained(source).state_dict()
        for key, value in getattr(towers.encoder, f"{name}_tower").state_dict().items():
            if name == "image" and key.startswith("pooler"):
                continue  # the checkpoint has none
            assert torch.equal(value, state[key]), (name, key)


def test_centering_takes_the_common_direction_out(sentence_encoder, image_backbone):
    towers = assembled(sentence_encoder, image_backbone, text_projection="centered")
    features = TextFeatures(towers.encoder, towers)
    before = features.embeddings(TEXTS).mean(0).norm()
    towers.encoder.center_texts(features(TEXTS))
    assert features.embeddings(TEXTS).mean(0).norm() < 0.7 * before
    assert not towers.encoder.model.text_projection.weight.requires_grad


def test_frozen_towers_stay_in_evaluation_mode(sentence_encoder, image_backbone):
    encoder = assembled(sentence_encoder, image_backbone).encoder.train()
    assert not any(module.training for module in encoder.text_tower.modules())
    assert encoder.image_tower.training
    assert not any(parameter.requires_grad for parameter in encoder.text_tower.parameters())


def test_siglip_pads_to_its_length_and_keeps_its_bias(tmp_path):
    from tests.helpers.tiny_models import image_sizes, text_sizes, write_tokenizer

    settings = transformers.SiglipConfig(vision_config=image_sizes(), text_config=text_sizes())
    model = transformers.SiglipModel(settings)
    with torch.no_grad():
        model.logit_bias.fill_(-7.0)
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    transformers.SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    tower = TowerConfig(method="lora", target_modules=["q_proj", "v_proj"])
    config = DualEncoderConfig(model_name_or_path=str(tmp_path), image=tower, text=tower)
    towers = load_towers(config, ContrastiveLossConfig(name="siglip"))
    assert {len(ids) for ids in towers.tokenize(TEXTS)["input_ids"]} == {64}
    pixels = towers.image_processor([Image.new("RGB", (20, 20), "red")] * 4, return_tensors="pt")["pixel_values"]
    tokens = {name: torch.tensor(rows) for name, rows in towers.tokenize(TEXTS).items() if name == "input_ids"}
    out = towers.encoder.eval()(pixel_values=pixels, **tokens)
    with torch.no_grad():
        stock = transformers.AutoModel.from_pretrained(tmp_path).eval()(pixel_values=pixels, **tokens)
    assert out.bias.item() == -7.0 and out.bias.requires_grad
    torch.testing.assert_close(out.scale * out.images @ out.texts.T + out.bias, stock.logits_per_image)


def test_a_pooler_without_weights_is_trained_or_refused(sentence_encoder, image_backbone):
    tower = assembled(sentence_encoder, image_backbone, method="lora").encoder.image_tower
    trained = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
    assert any("pooler" in name for name in trained) and any("lora_A" in name for name in trained)
    with pytest.raises(BackboneError, match="no weights for pooler.dense, which a frozen tower would never learn"):
        assembled(sentence_encoder, image_backbone, method="frozen")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projection_dim": 16}, "identity needs projection_dim 32, the size of the text tower, got 16"),
        ({"image": "nowhere"}, "model.image.model_name_or_path: nowhere does not load as an image tower"),
    ],
)
def test_towers_that_do_not_fit_are_refused(sentence_encoder, image_backbone, fields, message, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # or a Hub that does not answer is asked again and again
    with pytest.raises(BackboneError, match=message):
        assembled(sentence_encoder, fields.pop("image", image_backbone), **fields)


def test_mean_pooling_of_other_layers_is_refused(image_backbone):
    from hf_fsl.contrastive.towers import with_mean_pooling

    with pytest.raises(BackboneError, match="mean is for bert"):
        with_mean_pooling(transformers.AutoModel.from_pretrained(image_backbone))


def test_a_classifier_is_no_dual_encoder(text_backbone, image_backbone):
    with pytest.raises(BackboneError, match="does not load as a dual encoder|not a dual encoder"):
        load_towers(DualEncoderConfig(model_name_or_path=str(text_backbone)), ContrastiveLossConfig())


def test_an_image_tower_has_the_size_of_what_it_pools_and_pools_something(sentence_encoder, tmp_path):
    sizes = {"embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3], "image_size": 32}
    plain = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    models = {
        "focalnet": transformers.FocalNetModel(transformers.FocalNetConfig(**sizes)),
        "mae": transformers.ViTMAEModel(transformers.ViTMAEConfig(**plain, image_size=32, patch_size=8)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / name)
    towers = assembled(sentence_encoder, tmp_path / "focalnet")
    with torch.no_grad():
        pixels = torch.randn(2, 3, 32, 32)
        assert towers.encoder.merged().get_image_features(pixel_values=pixels).pooler_output.shape == (2, 32)
    with pytest.raises(BackboneError, match="mae .vit_mae. gives no pooled embedding of a picture"):
        assembled(sentence_encoder, tmp_path / "mae")
