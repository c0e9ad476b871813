"""Image encoders of every build: maps, tokens with and without a class token, registers, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, ViTImageProcessor

from hf_fsl.models.backbones import Backbone, BackboneError
from hf_fsl.models.export import LinearHead, backbone_of, export_model
from tests.helpers.encoders import pictures

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
       "patch_size": 8}  # fmt: skip
SWIN = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 8, 16], "num_attention_heads": [1, 1, 2, 2]}
MAE = VIT | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 16}
FAMILIES = {
    "Aimv2Vision": VIT,
    "Beit": VIT,
    "Bit": RESNET | {"num_groups": 4},
    "CLIPVision": VIT,
    "ConvNext": CONVNEXT,
    "ConvNextV2": CONVNEXT,
    "Cvt": {"embed_dim": [8, 8, 16], "depth": [1, 2, 3], "num_heads": [1, 1, 2]},
    "DINOv3ConvNext": {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]},
    "DINOv3ViT": VIT | {"num_register_tokens": 4},
    "Data2VecVision": VIT,
    "DeiT": VIT,
    "Dinov2": VIT | {"mlp_ratio": 2},
    "Dinov2WithRegisters": VIT | {"mlp_ratio": 2},
    "DonutSwin": SWIN,
    "EfficientNet": {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "FocalNet": {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "Hiera": {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1,
              "masked_unit_size": [4, 4]},
    "IJepa": VIT,
    "Levit": {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1],
              "key_dim": [8, 8, 8]},
    "MLCDVision": VIT,
    "MobileNetV1": {"depth_multiplier": 0.125},
    "MobileNetV2": {"depth_multiplier": 0.125},
    "MobileViT": {"image_size": 64, "hidden_sizes": [16, 16, 16], "num_attention_heads": 2,
                  "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 32]},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.125},
    "PoolFormer": {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 8, 12, 16]},
    "Pvt": STAGES | {"image_size": 32, "sequence_reduction_ratios": [2, 1, 1, 1]},
    "PvtV2": STAGES | {"image_size": 32},
    "RegNet": RESNET | {"groups_width": 4},
    "ResNet": RESNET | {"layer_type": "basic"},
    "Segformer": STAGES,
    "SiglipVision": VIT,
    "SwiftFormer": {"image_size": 64, "embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "Swin": SWIN,
    "Swinv2": SWIN,
    "ViT": VIT,
    "ViTMAE": MAE,
    "ViTMSN": VIT,
    "VitDet": VIT,
    "Yolos": VIT | {"image_size": [32, 32], "num_detection_tokens": 5},
}  # fmt: skip


def build(family, pooling=None):
    torch.manual_seed(0)
    model = AutoModel.from_config(getattr(transformers, f"{family}Config")(**FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    size = 32 if FAMILIES[family].get("image_size") in (32, [32, 32]) else 64
    backbone = Backbone(model, None, image_processor=ViTImageProcessor(size={"height": size, "width": size}))
    backbone.modules.pooling = pooling
    return backbone


def output_of(backbone, items):
    with torch.inference_mode():
        return backbone.model(pixel_values=backbone.pixels(items))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_is_one_row_of_the_size_that_is_said_and_always_the_same(family):
    backbone, items = build(family), pictures(3)
    size = backbone.dimension
    embeddings = backbone.encode(items)
    assert embeddings.shape == (3, size)
    torch.testing.assert_close(backbone.encode(items), embeddings, atol=0, rtol=0)
    alone = torch.cat([backbone.encode([item]) for item in items])
    torch.testing.assert_close(alone, embeddings, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["Segformer", "PoolFormer", "PvtV2", "SwiftFormer", "VitDet", "Cvt"])
def test_a_feature_map_is_averaged_over_space(family):
    backbone, items = build(family), pictures(3)
    expected = output_of(backbone, items).last_hidden_state.mean((2, 3))
    torch.testing.assert_close(backbone.encode(items), expected, atol=1e-5, rtol=1e-4)
    for pooling in ("mean", "patch_mean"):
        torch.testing.assert_close(build(family, pooling).encode(items), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(BackboneError, match="gives patches only, without a class token. Use mean"):
        build(family, "cls").encode(items)


def test_without_a_class_token_no_patch_is_taken_for_it():
    backbone, items = build("IJepa"), pictures(3)
    expected = output_of(backbone, items).last_hidden_state.mean(1)
    torch.testing.assert_close(backbone.encode(items), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(build("SiglipVision", "patch_mean").encode(items),
                               build("SiglipVision", "mean").encode(items))  # fmt: skip
    with pytest.raises(BackboneError, match="without a class token"):
        build("IJepa", "cls_patch_mean").encode(items)


@pytest.mark.parametrize(
    ("family", "leading"), [("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5), ("DINOv3ViT", 5), ("Pvt", 1)]
)
def test_the_mean_of_patches_has_no_register_and_no_distillation_token(family, leading):
    items = pictures(3)
    backbone = build(family, "patch_mean")
    expected = output_of(backbone, items).last_hidden_state[:, leading:].mean(1)
    torch.testing.assert_close(backbone.encode(items), expected, atol=1e-5, rtol=1e-4)


def test_a_masked_autoencoder_sees_every_patch():
    """As a ViT of the same weights does."""
    backbone, items = build("ViTMAE", "cls"), pictures(3)
    vit = transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False).eval()
    vit.load_state_dict(backbone.model.state_dict())
    with torch.inference_mode():
        expected = vit(backbone.pixels(items)).last_hidden_state
    torch.testing.assert_close(backbone.encode(items), expected[:, 0], atol=1e-5, rtol=1e-4)
    patches = build("ViTMAE", "patch_mean").encode(items)
    torch.testing.assert_close(patches, expected[:, 1:].mean(1), atol=1e-5, rtol=1e-4)


def test_a_backbone_with_something_random_in_it_is_refused():
    backbone = build("ViT")
    backbone.model.layernorm.register_forward_hook(lambda module, inputs, output: output + torch.randn_like(output))
    with pytest.raises(BackboneError, match="ViTModel embeds one and the same image differently each time"):
        backbone.encode(pictures(2))


def test_what_embeds_no_picture_alone_is_refused():
    backbone = build("ViT")
    backbone.model.forward = lambda pixel_values, spatial_shapes: None
    with pytest.raises(BackboneError, match="ViTModel embeds no images: .*spatial_shapes"):
        backbone.encode(pictures(2))


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("Segformer", None), ("ViTMAE", None), ("ViTMAE", "patch_mean"), ("DINOv3ViT", "cls_patch_mean"),
     ("Dinov2WithRegisters", "cls_patch_mean"), ("Dinov2WithRegisters", "patch_mean"), ("IJepa", None)],
)  # fmt: skip
def test_what_is_published_pools_alike(family, pooling):
    backbone, items = build(family, pooling), pictures(4)
    embeddings = backbone.encode(items)
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(3, embeddings.shape[1], generator=generator), torch.zeros(3))
    exported = export_model(backbone, head, ["a", "b", "c"])
    assert exported.stock == (family == "Dinov2WithRegisters" and pooling == "cls_patch_mean")
    with torch.inference_mode():
        logits = exported.model(pixel_values=backbone.pixels(items)).logits
    np.testing.assert_allclose(logits, head(embeddings), atol=1e-4, rtol=1e-3)
    again = backbone_of(exported.model, exported.processor).encode(items)
    torch.testing.assert_close(again, embeddings, atol=1e-5, rtol=1e-4)
