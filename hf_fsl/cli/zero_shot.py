"""``hf-fsl predict --labels``: candidate labels by an NLI model, a bi-encoder, or an image-text model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from hf_fsl.errors import UserError

PICTURES_AT_ONCE = 32


def zero_shot_answers(options: argparse.Namespace, inputs: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """For each input its labels by falling score.

    Raises:
        UserError: the model is for none of the zero-shot pipelines, or an input cannot be read.
    """
    from hf_fsl.config import ModelConfig
    from hf_fsl.pipelines.loading import load_pipeline

    task, kind = _pipeline(options.model, options.revision, options.trust_remote_code)
    settings: dict[str, Any] = {"hypothesis_template": options.template} if options.template else {}
    if task == "zero-shot-image-classification":
        if options.multi_label:
            raise UserError("--multi-label is for texts: an image model scores its labels as it was trained to.")
        settings["batch_size"] = options.batch_size or PICTURES_AT_ONCE
    else:
        if options.batch_size is not None:
            raise UserError("--batch-size is for images: with --labels, texts are batched by tokens. Leave it out.")
        settings["multi_label"] = options.multi_label
    chosen = ModelConfig(
        model_name_or_path=options.model, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    pipe = load_pipeline(kind, task, chosen)
    try:
        # A generator, so that answers come while the rest is read.
        for answer in pipe((text for text in inputs), candidate_labels=options.labels, **settings):
            if isinstance(answer, dict):
                pairs = zip(answer["labels"], answer["scores"], strict=True)
                yield [{"label": label, "score": score} for label, score in pairs]
            else:
                yield list(answer)
    except OSError as error:
        raise UserError(f"{options.model} cannot read the input: {error}") from error


def _pipeline(model: str, revision: str | None, trust_remote_code: bool) -> tuple[str, Any]:
    """The stock task that loads a model for zero-shot use, and our pipeline for it."""
    from transformers import AutoConfig

    from hf_fsl import pipelines
    from hf_fsl.backbones.weights import loading

    with loading(UserError, model, revision, "as a model for zero-shot use"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        return "zero-shot-classification", pipelines.ZeroShotTextPipeline
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return "zero-shot-image-classification", pipelines.ZeroShotImagePipeline
    if hasattr(config, "vocab_size"):
        return "feature-extraction", pipelines.ZeroShotEmbeddingPipeline
    raise UserError(
        f"{model} holds {', '.join(config.architectures or []) or 'no architecture'}: with --labels a model is an NLI "
        "classifier, a text encoder, or an image-text model such as CLIP or SigLIP."
    )
