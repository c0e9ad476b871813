"""Zero-shot image classification: the stock pipeline's answers, label texts encoded once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Pipeline

from hf_fsl.core.images import PictureError
from hf_fsl.models.backbones.backbone import IMAGES_PER_BATCH
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.inputs import read_inputs, rows_of
from hf_fsl.models.templates import ZeroShotError, as_labels, as_templates, fill_templates
from hf_fsl.zero_shot.clip import IMAGE_TEMPLATE, ImageTextScorer
from hf_fsl.zero_shot.pipelines.cutting import CUTTING
from hf_fsl.zero_shot.pipelines.streaming import Answers, require_options

_OPTIONS = (
    "candidate_labels", "hypothesis_template", "label_texts", "timeout", "open_files", "progress", *CUTTING,
)  # fmt: skip


class ZeroShotImagePipeline(Pipeline):
    """CLIP or SigLIP zero-shot classification: drops in for transformers' pipeline, the same scores.

    Images go through the image tower in batches; label texts go through the text tower once, not once a batch.

    Example::

        model = "openai/clip-vit-base-patch32"
        pipe = pipeline("zero-shot-image-classification", model=model, pipeline_class=ZeroShotImagePipeline)
        pipe("parrots.png", candidate_labels=["animals", "humans", "landscape"])

    Args:
        label_folder: where label embeddings are kept for other processes; None: in memory only.
        batch_size: images at a time.
        num_workers: threads that read and resize the images of a batch; 0: none but the caller's.

    Raises:
        ZeroShotError: the model has not both towers, or tokenizer or image processor is missing.
    """

    _load_tokenizer: Any = True
    _load_image_processor: Any = True
    _load_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args: Any, label_folder: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scorer = ImageTextScorer(self.model, self.tokenizer, self.image_processor, label_folder=label_folder)

    def __call__(  # type: ignore[override]  # the stock pipeline has these names
        self,
        image: Any = None,
        candidate_labels: Any = None,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **options: Any,
    ) -> Any:
        """Scores candidate labels.

        Args:
            image: an image (PIL, path, URL or base64), a list or column of them, a generator, or a data set of them.
            candidate_labels: a list, or one string with commas.
            hypothesis_template: with one place ``{}`` for the label; several are averaged (their embeddings).
            label_texts: label -> the words that stand for it in the template.
            batch_size, num_workers: as for the pipeline.
            timeout: seconds to wait for an image from the web.
            open_files: False: paths and URLs are not opened. A server must not open those that a client sent.
            tokenizer_kwargs: passed to the tokenizer of the labels.
            truncation, max_length, padding: the same, one by one.
            progress: shows a progress bar.

        Returns:
            ``[{"score", "label"}, …]`` by falling score; a list of such lists for a list; an iterator of them, which
            reads one batch ahead, for a generator or a data set.

        Raises:
            ZeroShotError: no labels, the same label twice, a template without a place, an image that cannot be read.
        """
        image = options.pop("images", image)
        single, labels, logits = self._scored(image, candidate_labels, options, batch_size, num_workers)
        answers = (self.postprocess((labels, row)) for batch in logits for row in self.scorer.scores(batch))
        if single:
            return next(answers)
        return list(answers) if isinstance(image, (list, tuple)) else Answers(answers, image)

    def evidence(self, images: Any, candidate_labels: Any = None, **options: Any) -> np.ndarray:
        """Logits ``(N, C)`` that a call's scores are made from, in the order of the labels; arguments as in a call."""
        _, labels, logits = self._scored(images, candidate_labels, options)
        rows = [batch.cpu() for batch in logits]
        return torch.cat(rows).numpy() if rows else np.empty((0, len(labels)), np.float32)

    def preprocess(self, input_: Any, **settings: Any) -> Any:
        """An image with its number -> what the image tower takes."""
        number, image = input_
        reading = {"open_files": settings.get("open_files", True), "timeout": settings.get("timeout")}
        try:
            (loaded,) = read_inputs([image], text=False, first=number, **reading)
            if isinstance(loaded, str):
                raise BackboneError(
                    f"Input {number} is a text, and with open_files=False what it names is not opened."
                )
            return self.scorer.image_inputs(loaded)
        except BackboneError as error:
            raise ZeroShotError(str(error)) from error
        except PictureError as error:
            raise ZeroShotError(f"Input {number}: {error}.") from error

    def _forward(self, input_tensors: Any, **_: Any) -> Any:
        embeddings = self.scorer.embed_images(input_tensors["images"])
        return {"logits": self.scorer.compare(embeddings, input_tensors["labels"])}

    def postprocess(self, model_outputs: Any, **_: Any) -> list[dict[str, Any]]:
        """Labels and their scores ``(C,)`` -> the answer."""
        labels, scores = model_outputs
        ranked = scores.sort(descending=True, stable=True)
        return [
            {"score": score, "label": labels[row]}
            for score, row in zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        ]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        require_options(self, kwargs, _OPTIONS)
        return kwargs, {}, {}

    def _scored(
        self,
        images: Any,
        candidate_labels: Any,
        options: dict[str, Any],
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> tuple[bool, list[str], Iterator[Tensor]]:
        """Whether it is one image, the candidate labels, and the logits ``(B, C)`` of one batch after the other."""
        single, images, total = _images(images)
        if candidate_labels is not None:
            options = {**options, "candidate_labels": candidate_labels}
        settings = {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}
        size = _first(batch_size, self._batch_size, IMAGES_PER_BATCH)
        if size < 1:
            raise ZeroShotError(f"batch_size: at least 1, got {size}.")
        labels = as_labels(settings.get("candidate_labels", ()))
        templates = as_templates(settings.get("hypothesis_template", IMAGE_TEMPLATE))
        filled = fill_templates(labels, templates, settings.get("label_texts"))
        tokenizing = {**(settings.get("tokenizer_kwargs") or {})}
        tokenizing |= {name: settings[name] for name in CUTTING if name in settings and name != "tokenizer_kwargs"}
        embeddings = self.scorer.embeddings_of(filled, tokenizing).to(self.model.device)
        workers = _first(num_workers, self._num_workers, 0)
        return single, labels, self._logits(images, total, embeddings, size, workers, settings)

    def _logits(
        self,
        images: Iterable[Any],
        total: int | None,
        embeddings: Tensor,
        batch_size: int,
        workers: int,
        settings: dict[str, Any],
    ) -> Iterator[Tensor]:
        numbered = enumerate(images)
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(total=total, unit="image", disable=not settings.get("progress"), leave=False)
            )
            run = stack.enter_context(ThreadPoolExecutor(workers)).map if workers else map
            while window := list(itertools.islice(numbered, batch_size)):
                inputs = list(run(lambda one: self.preprocess(one, **settings), window))
                yield self.forward({"images": inputs, "labels": embeddings})["logits"]
                bar.update(len(window))


def _images(inputs: Any) -> tuple[bool, Iterable[Any], int | None]:
    """Whether it is one image, the images, and how many, where that is known."""
    if inputs is None:
        raise ZeroShotError("Zero-shot image classification needs an image, got None.")
    try:
        single, images = rows_of(inputs)
    except BackboneError as error:
        raise ZeroShotError(str(error)) from error
    return single, images, 1 if single else len(inputs) if isinstance(inputs, Sized) else None


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
