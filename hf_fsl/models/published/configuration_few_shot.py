"""The configuration of a published few-shot model.

This file is published beside the weights of such a model, for those who load it without hf_fsl: it imports torch and
transformers only.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class FewShotConfig(PreTrainedConfig):
    """``encoder -> pooling -> dense layers -> L2-normalisation -> head``.

    Args:
        backbone_config: the encoder's own configuration.
        modality: ``text`` or ``image``.
        pooling: token states -> one vector: ``mean``, ``cls``, ``last``, ``pooler``, ``patch_mean`` (of the patches)
            or ``cls_patch_mean`` (the first token, then that mean).
        leading_tokens: before the patches: class token, distillation token, registers.
        dense: layers behind the pooling, each ``{"in_features", "out_features", "bias", "activation"}``, the
            activation a class of ``torch.nn``; a projection of a dual encoder is one of them.
        normalize_embeddings: whether embeddings are given length 1.
        max_tokens: a text may have; longer ones are cut, the last ``closing_tokens`` kept.
        closing_tokens: special tokens at the end of every text.
        prompt: what the tokenizer puts before every text.
        skipped_tokens: tokens at the start of a text (those of a prompt) that are attended to and not pooled.
        head: ``linear``, ``transform(z) Wᵀ + b``; or ``cache``, a key-value cache over the training examples
            (Tip-Adapter, arXiv:2207.09519).
        embedding_size: D, of the embeddings z.
        feature_size: D', of the features that the head is linear in.
        centre, projection: whether the transform takes a centre from the embeddings and projects them.
        normalize_features: whether it gives the result length 1.
        cache_size: training examples in the cache.
        logit_temperature: by which the logits have been divided, so that their softmax is calibrated.
        refusal_threshold: a score above which a prediction is to be refused; None: nothing is.
        backbone_name: id and commit of the encoder's repository, as far as known.
        hf_fsl_version: that wrote the model.
        id2label, label2id, problem_type, …: as in every configuration of transformers.
    """

    model_type = "few-shot"
    sub_configs = {"backbone_config": AutoConfig}
    _auto_class = "AutoConfig"

    def __init__(
        self,
        backbone_config: Any = None,
        modality: str = "text",
        pooling: str = "mean",
        leading_tokens: int = 1,
        dense: Any = (),
        normalize_embeddings: bool = False,
        max_tokens: int | None = None,
        closing_tokens: int = 0,
        prompt: str = "",
        skipped_tokens: int = 0,
        head: str = "linear",
        embedding_size: int = 1,
        feature_size: int = 1,
        centre: bool = False,
        projection: bool = False,
        normalize_features: bool = False,
        cache_size: int = 0,
        logit_temperature: float | None = None,
        refusal_threshold: float | None = None,
        backbone_name: str = "",
        hf_fsl_version: str = "",
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            settings = dict(backbone_config)
            backbone_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.backbone_config = backbone_config
        self.modality = modality
        self.pooling = pooling
        self.leading_tokens = leading_tokens
        self.dense = [dict(layer) for layer in dense]
        self.normalize_embeddings = normalize_embeddings
        self.max_tokens = max_tokens
        self.closing_tokens = closing_tokens
        self.prompt = prompt
        self.skipped_tokens = skipped_tokens
        self.head = head
        self.embedding_size = embedding_size
        self.feature_size = feature_size
        self.centre = centre
        self.projection = projection
        self.normalize_features = normalize_features
        self.cache_size = cache_size
        self.logit_temperature = logit_temperature
        self.refusal_threshold = refusal_threshold
        self.backbone_name = backbone_name
        self.hf_fsl_version = hf_fsl_version
        super().__init__(**kwargs)
