"""Few-shot classifiers as models of transformers: a frozen encoder, and a head made from a few examples.

This file is published beside the weights of such a model, together with those it imports from its own folder, for
those who load it without hf_fsl: they import torch and transformers only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from .cache_head import CacheHead
from .configuration_few_shot import FewShotConfig
from .linear_head import FeatureTransform, LinearHead
from .pooling import pool

ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}


class FewShotHead(nn.Module):
    """The tensors of a :class:`LinearHead` or :class:`CacheHead`, by the names that these have."""

    def __init__(self, config: FewShotConfig) -> None:
        super().__init__()
        self.normalize = config.normalize_features
        classes: Any = config.num_labels
        size = config.feature_size
        self.register_buffer("centre", torch.zeros(config.embedding_size) if config.centre else None)
        shape = (config.embedding_size, size)
        self.register_buffer("projection", torch.zeros(shape) if config.projection else None)
        if config.head == "linear":
            self.weight = nn.Parameter(torch.zeros(classes, size))
            self.bias = nn.Parameter(torch.zeros(classes))
        else:
            self.keys = nn.Parameter(torch.zeros(config.cache_size, size))
            self.values = nn.Parameter(torch.zeros(config.cache_size, classes))
            self.prior = nn.Parameter(torch.zeros(classes, size))
            for name in ("alpha", "beta", "scale"):
                self.register_buffer(name, torch.ones(()))

    def head(self) -> LinearHead | CacheHead:
        """The head, in float32."""
        tensors: dict[str, Any] = {name: value.float() for name, value in self.named_parameters()}
        tensors |= {name: value.float() for name, value in self.named_buffers()}
        transform = FeatureTransform(tensors.pop("centre", None), tensors.pop("projection", None), self.normalize)
        kind = LinearHead if "weight" in tensors else CacheHead
        return kind(**tensors, transform=transform)

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(B, D)`` -> logits ``(B, C)``, float32."""
        return self.head()(embeddings.float())


class FewShotPreTrainedModel(PreTrainedModel):
    """Encoder, pooling, dense layers and head; subclasses say what goes in."""

    config_class = FewShotConfig
    base_model_prefix = "backbone"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["head"]

    def __init__(self, config: FewShotConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = AutoModel.from_config(config.backbone_config, trust_remote_code=False)
        pooler = getattr(self.backbone, "pooler", None)
        if config.pooling != "pooler" and pooler is not None and any(True for _ in pooler.parameters()):
            self.backbone.pooler = None  # published without it: nothing reads what it gives
        self.dense = nn.ModuleList(
            nn.Sequential(
                nn.Linear(layer["in_features"], layer["out_features"], bias=layer["bias"]),
                ACTIVATIONS[layer["activation"]](),
            )
            for layer in config.dense
        )
        self.head = FewShotHead(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Every weight comes from a checkpoint or from the head that was fitted."""

    def embeddings_of(self, output: Any, mask: Tensor | None) -> Tensor:
        """What the encoder gave -> embeddings ``(B, D)``."""
        if self.config.pooling == "pooler":
            embeddings = output.pooler_output.flatten(1)
        else:
            embeddings = pool(output.last_hidden_state, mask, self.config.pooling, self.config.leading_tokens)
        for layer in self.dense:
            embeddings = layer(embeddings)
        return nn.functional.normalize(embeddings, dim=-1) if self.config.normalize_embeddings else embeddings

    def loss_of(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Cross-entropy with class indices ``(B,)``."""
        return None if labels is None else nn.functional.cross_entropy(logits, labels.to(logits.device))


class FewShotForSequenceClassification(FewShotPreTrainedModel):
    """A few-shot classifier of texts."""

    _auto_class = "AutoModelForSequenceClassification"

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits of texts.

        Args:
            input_ids: ``(B, T)``, padded on the right; what is longer than the encoder's limit is cut.
            attention_mask: ``(B, T)``, 1 where there is a token.
            labels: class indices ``(B,)``, for a loss.
        """
        input_ids, attention_mask = self._cut(input_ids, attention_mask)
        counted = attention_mask
        if self.config.skipped_tokens:
            counted = torch.ones_like(input_ids) if attention_mask is None else attention_mask.clone()
            counted[:, : self.config.skipped_tokens] = 0
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        logits = self.head(self.embeddings_of(output, counted))
        return SequenceClassifierOutput(loss=self.loss_of(logits, labels), logits=logits)

    def _cut(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Texts cut as the tokenizer cuts them, which pipelines ask for only where their caller does."""
        limit, closing = self.config.max_tokens, self.config.closing_tokens
        if limit is None or ids.shape[1] <= limit:
            return ids, mask
        lengths = torch.full_like(ids[:, 0], ids.shape[1]) if mask is None else mask.sum(1)
        columns = torch.arange(limit, device=ids.device).expand(len(ids), limit)
        columns = columns + (columns >= limit - closing) * (lengths - limit).clamp(min=0).unsqueeze(1)
        return ids.gather(1, columns), None if mask is None else mask.gather(1, columns)


class FewShotForImageClassification(FewShotPreTrainedModel):
    """A few-shot classifier of images."""

    main_input_name = "pixel_values"
    input_modalities: Any = ("image",)
    _auto_class = "AutoModelForImageClassification"

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> ImageClassifierOutput:
        """Logits of images.

        Args:
            pixel_values: ``(B, 3, H, W)``.
            labels: class indices ``(B,)``, for a loss.
        """
        pixels = pixel_values.to(self.backbone.dtype)
        output = self.backbone(pixel_values=pixels, **self._unshuffled(pixels))
        logits = self.head(self.embeddings_of(output, None))
        return ImageClassifierOutput(loss=self.loss_of(logits, labels), logits=logits)

    def _unshuffled(self, pixels: Tensor) -> dict[str, Tensor]:
        """ViT-MAE sorts its patches by noise even where it hides none; here they keep their order."""
        if self.config.backbone_config.model_type != "vit_mae":
            return {}
        count = self.backbone.embeddings.patch_embeddings.num_patches
        return {"noise": torch.arange(count, device=pixels.device).expand(len(pixels), -1)}
