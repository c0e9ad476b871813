"""A dual encoder as it is trained: two towers, each frozen, in full, or adapted; published as a stock model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from hf_fsl.config.contrastive import ContrastiveLossConfig, DualEncoderConfig, TowerConfig
from hf_fsl.config.sections import AdapterConfig
from hf_fsl.models.adapters.attach import attach_adapter, merge_adapter
from hf_fsl.models.adapters.gradients import evaluating
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.texts import check_max_length, token_limit
from hf_fsl.models.backbones.tokenizer import load_tokenizer
from hf_fsl.models.backbones.weights import load_weights, load_whole, loading

LARGEST_SCALE = math.log(100)
"""CLIP never lets its logits be more than 100 times the cosines."""
_IMAGE_INPUTS = ("pixel_values", "image_features")


class Embedded(NamedTuple):
    """Embeddings ``(B, D)`` of length 1, and what turns their cosines into logits."""

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None


class DualEncoder(nn.Module):
    """A stock dual encoder (``.model``) with features of frozen towers taken as inputs in place of what they are of.

    Args:
        model: ``VisionTextDualEncoderModel``, ``CLIPModel``, ``SiglipModel``, or one of the same parts.
        frozen: ``image`` and ``text`` as far as they are; they stay in evaluation mode.
    """

    def __init__(self, model: Any, frozen: frozenset[str]) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen

    @property
    def image_tower(self) -> Any:
        return self.model.vision_model

    @property
    def text_tower(self) -> Any:
        return self.model.text_model

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Pooled features ``(B, D_image)``, before the projection."""
        return self.image_tower(pixel_values=pixel_values.to(self.model.logit_scale.dtype)).pooler_output

    def text_features(self, **tokens: Tensor) -> Tensor:
        """Pooled features ``(B, D_text)``, before the projection."""
        return self.text_tower(**tokens).pooler_output

    def embed_images(self, features: Tensor) -> Tensor:
        """Features to embeddings ``(B, D)`` of length 1."""
        return self._embed("visual_projection", features)

    def embed_texts(self, features: Tensor) -> Tensor:
        """Features to embeddings ``(B, D)`` of length 1."""
        return self._embed("text_projection", features)

    def _embed(self, projection: str, features: Tensor) -> Tensor:
        features = features.to(self.model.logit_scale.dtype)
        return nn.functional.normalize(getattr(self.model, projection, nn.Identity())(features), dim=-1)

    def forward(self, **inputs: Tensor) -> Embedded:
        """``pixel_values`` or ``image_features``, and token inputs or ``text_features``."""
        tokens = {name: value for name, value in inputs.items() if name not in (*_IMAGE_INPUTS, "text_features")}
        given = inputs.get("image_features")
        images = self.image_features(inputs["pixel_values"]) if given is None else given
        known = inputs.get("text_features")
        texts = self.text_features(**tokens) if known is None else known
        bias = getattr(self.model, "logit_bias", None)
        return Embedded(
            self.embed_images(images), self.embed_texts(texts), self.model.logit_scale.exp().squeeze(),
            bias.squeeze() if bias is not None else None,
        )  # fmt: skip

    def train(self, mode: bool = True) -> DualEncoder:
        super().train(mode)
        for name in self.frozen:
            getattr(self, f"{name}_tower").eval()
        return self

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        for name in {"image", "text"} - self.frozen:
            getattr(self, f"{name}_tower").gradient_checkpointing_enable(**options)

    def center_texts(self, features: Tensor) -> None:
        """Takes the mean direction of these features ``(N, D)`` out of every text embedding.

        Embeddings of captions have much in common; pictures would first, and with few of them only, learn that.
        """
        weight = self.model.text_projection.weight
        common = nn.functional.normalize(nn.functional.normalize(features, dim=-1).mean(0), dim=0).to(weight)
        with torch.no_grad():
            weight.copy_(torch.eye(len(common), device=weight.device) - torch.outer(common, common))

    def merged(self) -> Any:
        """The stock model, adapters merged into its weights."""
        self.model.vision_model = merge_adapter(self.model.vision_model)
        self.model.text_model = merge_adapter(self.model.text_model)
        return self.model


@dataclass(frozen=True)
class LoadedTowers:
    """A dual encoder ready to be trained, and what prepares its inputs."""

    encoder: DualEncoder
    tokenizer: Any
    image_processor: Any
    max_length: int | None
    pad_to: int | None
    """Length that every text is padded to (the SigLIP family); None: the longest of a batch."""

    def tokenize(self, texts: list[str]) -> dict[str, Any]:
        """Token ids and what else the text tower takes; not padded but for ``pad_to``."""
        padding: Any = "max_length" if self.pad_to else False
        encoded = self.tokenizer(texts, truncation=True, max_length=self.pad_to or self.max_length, padding=padding)
        return dict(encoded)


def load_towers(config: DualEncoderConfig, loss: ContrastiveLossConfig) -> LoadedTowers:
    """Loads or assembles the dual encoder and makes trainable what the config says.

    Seed torch before the call: projections, and towers from a config alone, start from random weights.

    Args:
        config: a whole dual encoder, or its two towers, and how each is trained.
        loss: which says what temperature and bias start from.

    Raises:
        BackboneError: a tower does not exist, or is none.
        AdapterError: an adapter cannot be attached.
    """
    if config.model_name_or_path is not None:
        model, tokenizer, images = _whole(config, config.model_name_or_path)
        fresh: dict[str, list[str]] = {"image": [], "text": []}
    else:
        model, tokenizer, images, fresh = _assembled(config)
    if not all(hasattr(model, part) for part in ("vision_model", "text_model", "logit_scale")):
        raise BackboneError(
            f"{config.model_name_or_path} is a {type(model).__name__}, not a dual encoder like CLIP, SigLIP or "
            "VisionTextDualEncoder. Name one of these, or two towers (model.image, model.text)."
        )
    _start(model, loss)
    model.requires_grad_(True)
    model.vision_model = _made_trainable(model.vision_model, config.image, fresh["image"])
    model.text_model = _made_trainable(model.text_model, config.text, fresh["text"])
    if config.text_projection != "trained":
        model.text_projection.requires_grad_(False)
    if loss.name == "clip" and getattr(model, "logit_bias", None) is not None:
        model.logit_bias.requires_grad_(False)
    frozen = frozenset(name for name in ("image", "text") if getattr(config, name).method == "frozen")
    siglip = "siglip" in model.config.model_type
    check_max_length(model, config.max_length)
    longest = token_limit(model, tokenizer, config.max_length)
    return LoadedTowers(DualEncoder(model, frozen), tokenizer, images, longest, longest if siglip else None)


def _whole(config: DualEncoderConfig, name: str) -> tuple[Any, Any, Any]:
    with loading(BackboneError, name, config.revision, "as a dual encoder", "model.model_name_or_path: "):
        model = load_whole(AutoModel, name, revision=config.revision, dtype=getattr(torch, config.dtype))
        tokenizer = load_tokenizer(name, revision=config.revision)
        images = AutoImageProcessor.from_pretrained(name, revision=config.revision, trust_remote_code=False)
    return model, tokenizer, images


def _assembled(
    config: DualEncoderConfig,
) -> tuple[Any, Any, Any, dict[str, list[str]]]:
    image, images, new_in_image = _tower(config.image, "image", config.dtype)
    text, tokenizer, new_in_text = _tower(config.text, "text", config.dtype)
    if config.text.pooling == "mean":
        text = with_mean_pooling(text)
    # The stock class asks for the size of what is pooled; a hierarchy of stages says nothing of it, or another one.
    image.config.hidden_size = _pooled_size(config.image, image, images)
    for tower in (image, text):
        tower.config._name_or_path = ""
    settings = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        image.config, text.config, projection_dim=config.projection_dim
    )
    weights = [{name: value.clone() for name, value in tower.state_dict().items()} for tower in (image, text)]
    model: Any = transformers.VisionTextDualEncoderModel(config=settings, vision_model=image, text_model=text)
    # The stock class initialises again whatever did not come straight out of from_pretrained.
    for tower, state in zip((model.vision_model, model.text_model), weights, strict=True):
        tower.load_state_dict(state)
    if config.text_projection != "trained":
        if config.projection_dim != text.config.hidden_size:
            raise BackboneError(
                f"model.text_projection: {config.text_projection} needs projection_dim "
                f"{text.config.hidden_size}, the size of the text tower, got {config.projection_dim}."
            )
        nn.init.eye_(model.text_projection.weight)
    fresh = {"image": new_in_image, "text": new_in_text}
    return model.to(getattr(torch, config.dtype)), tokenizer, images, fresh


def _tower(config: TowerConfig, kind: str, dtype: str) -> tuple[Any, Any, list[str]]:
    """The tower, what prepares its inputs, and which of its modules start from random weights."""
    name = str(config.model_name_or_path)
    source: dict[str, Any] = {"revision": config.revision, "trust_remote_code": False}
    where = f"model.{kind}.model_name_or_path: "
    with loading(BackboneError, name, config.revision, f"as an {kind} tower", where):
        settings = AutoConfig.from_pretrained(name, **source)
        part = {"image": "vision_config", "text": "text_config"}[kind]
        prepare: Any = AutoImageProcessor.from_pretrained if kind == "image" else load_tokenizer
        if config.from_config:
            return AutoModel.from_config(settings, trust_remote_code=False), prepare(name, **source), []
        model, fresh = load_weights(AutoModel, name, dtype=getattr(torch, dtype), **source)
        prepares = prepare(name, **source)
    if hasattr(settings, part):
        return model.vision_model if kind == "image" else model.text_model, prepares, []
    missing = sorted({key.rpartition(".")[0] for key in fresh})
    if config.pooling == "mean":
        missing = [module for module in missing if not module.startswith("pooler")]
    if missing and config.method == "frozen":
        raise BackboneError(
            f"model.{kind}: {name} has no weights for {', '.join(missing)}, which a frozen tower would never learn. "
            f"Set model.{kind}.method to lora or full{', or text.pooling to mean' if kind == 'text' else ''}."
        )
    return model, prepares, missing


def _pooled_size(config: TowerConfig, tower: Any, processor: Any) -> int:
    """The size of what an image tower's pooler gives, measured on a picture."""
    pixels = processor([Image.linear_gradient("L").convert("RGB")], return_tensors="pt")["pixel_values"]
    with evaluating(tower), torch.inference_mode():
        pooled = getattr(tower(pixel_values=pixels.to(tower.dtype)), "pooler_output", None)
    if pooled is None or pooled.ndim != 2:
        raise BackboneError(
            f"model.image: {config.model_name_or_path} ({tower.config.model_type}) gives no pooled embedding of a "
            "picture, by which two towers are put together. Choose another, such as ViT, DINOv2, ConvNeXt or Swin."
        )
    return int(pooled.shape[1])


def _made_trainable(tower: Any, config: TowerConfig, fresh: list[str]) -> Any:
    """The tower as its config says; modules that start from random weights are trained in full with an adapter."""
    if config.method == "full":
        return tower
    if config.method == "frozen":
        return tower.requires_grad_(False)
    adapter = AdapterConfig(
        method="lora", r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
    )  # fmt: skip
    return attach_adapter(tower, adapter, fresh)


def _start(model: Any, loss: ContrastiveLossConfig) -> None:
    """Temperature and bias to start from."""
    with torch.no_grad():
        if loss.temperature is not None:
            model.logit_scale.fill_(-math.log(loss.temperature))
        if loss.name == "siglip" and getattr(model, "logit_bias", None) is None:
            # Not part of the stock class: softmax and ranking are the same without it.
            model.logit_bias = nn.Parameter(torch.tensor(-10.0))
        if loss.bias is not None:
            model.logit_bias.fill_(loss.bias)


MEAN_POOLED = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose encoder layers are BERT's."""
_RESIDUAL = 1e-3
"""Weight of the first token's own state beside the mean."""
_TANH = 1e-3
"""What the pooler multiplies by: tanh(x) = x to 1e-4 for features up to 17 spreads from their mean."""


def with_mean_pooling(model: Any) -> Any:
    """A copy of an encoder, one layer deeper, whose ``pooler_output`` points where the mean over tokens does.

    ``VisionTextDualEncoderModel`` reads the text tower's ``pooler_output``: a dense layer and a tanh over the first
    token, which no sentence embedding comes from. A layer whose queries and keys are zero attends evenly to every
    token that is not padding; with values left as they are its attention output is the mean. It is scaled up until the
    residual beside it vanishes in the layer norm, which takes the mean of the features off and divides by their
    spread; the feed-forward part is zero, and the pooler multiplies by a number so small that tanh is linear. So the
    direction of the embedding is kept but for its component along (1, …, 1), and cosine similarities are those of the
    mean.

    Args:
        model: a ``BertModel``, ``RobertaModel``, or one of the same layers.

    Raises:
        BackboneError: its layers are not BERT's.
    """
    if model.config.model_type not in MEAN_POOLED:
        raise BackboneError(
            f"text.pooling: mean is for {', '.join(MEAN_POOLED)}, not {model.config.model_type}, whose layers are "
            "others. Use pooler, or another text tower."
        )
    settings = copy.deepcopy(model.config)
    settings.num_hidden_layers += 1
    with torch.device("meta"):
        deeper = type(model)(settings)
    deeper = deeper.to_empty(device="cpu").to(model.dtype).train(model.training)
    own = {**model.state_dict(), **{name: b for name, b in model.named_buffers()}}
    for name, tensor in {**dict(deeper.named_parameters()), **dict(deeper.named_buffers())}.items():
        tensor.data.copy_(own[name]) if name in own else tensor.data.zero_()
    layer, size = deeper.encoder.layer[-1], settings.hidden_size
    with torch.no_grad():
        nn.init.eye_(layer.attention.self.value.weight)
        layer.attention.output.dense.weight.copy_(torch.eye(size) / _RESIDUAL)
        layer.attention.output.LayerNorm.weight.fill_(1)
        layer.output.LayerNorm.weight.fill_(1)
        deeper.pooler.dense.weight.copy_(torch.eye(size) * _TANH)
        deeper.pooler.dense.bias.zero_()
    return deeper
