"""``hf-fsl predict --labels``: candidate labels by an NLI model, a bi-encoder, or an image-text model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from hf_fsl.cli.inputs import Given, read_labels
from hf_fsl.core.errors import UserError

PICTURES_AT_ONCE = 32
_PIPELINES = {
    "zero-shot-classification": "ZeroShotTextPipeline",
    "zero-shot-image-classification": "ZeroShotImagePipeline",
    "feature-extraction": "ZeroShotEmbeddingPipeline",
}


def zero_shot_answers(
    options: argparse.Namespace, task: str, items: Sequence[Given]
) -> Iterator[list[dict[str, Any]]]:
    """For each input its labels to show, by falling score.

    Args:
        task: see :func:`zero_shot_task`.

    Raises:
        UserError: options that do not go with the model, or an input that cannot be read.
    """
    from hf_fsl.config.sections import ModelConfig
    from hf_fsl.zero_shot import pipelines
    from hf_fsl.zero_shot.pipelines.loading import load_pipeline

    settings: dict[str, Any] = {"hypothesis_template": options.template} if options.template else {}
    if task == "zero-shot-image-classification":
        if options.multi_label:
            raise UserError("--multi-label is for texts: an image model scores its labels as it was trained to.")
        settings["batch_size"] = options.batch_size or PICTURES_AT_ONCE
    else:
        if options.batch_size is not None:
            raise UserError("--batch-size is for images: with --labels, texts are batched by tokens. Leave it out.")
        settings["multi_label"] = options.multi_label
    for number, one in enumerate(items):
        if isinstance(one.value, dict):
            raise UserError(f"Input {number} is a pair of texts; with --labels a model takes one text. Give one.")
    chosen = ModelConfig(
        model_name_or_path=options.model, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    labels = read_labels(options.labels)
    pipe = load_pipeline(getattr(pipelines, _PIPELINES[task]), task, chosen)
    try:
        # A generator, so that answers come while the rest is read.
        for answer in pipe((one.value for one in items), candidate_labels=labels, **settings):
            rows = answer
            if isinstance(answer, dict):
                pairs = zip(answer["labels"], answer["scores"], strict=True)
                rows = [{"label": label, "score": score} for label, score in pairs]
            yield likely(rows) if options.multi_label and options.top_k is None else rows[: options.top_k or 1]
    except OSError as error:
        raise UserError(f"{options.model} cannot read the input: {error}") from error


def likely(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of labels on their own, by falling score, those from 0.5 on, or the best."""
    return [row for row in rows if row["score"] >= 0.5] or rows[:1]


def zero_shot_task(model: str, revision: str | None, trust_remote_code: bool) -> str:
    """The stock task that loads a model for zero-shot use. Raises UserError where it is for none."""
    from transformers import AutoConfig

    from hf_fsl.models.backbones.weights import loading

    with loading(UserError, model, revision, "as a model for zero-shot use"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        return "zero-shot-classification"
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return "zero-shot-image-classification"
    if hasattr(config, "vocab_size"):
        return "feature-extraction"
    raise UserError(
        f"{model} holds {', '.join(config.architectures or []) or 'no architecture'}: with --labels a model is an NLI "
        "classifier, a text encoder, or an image-text model such as CLIP or SigLIP."
    )
