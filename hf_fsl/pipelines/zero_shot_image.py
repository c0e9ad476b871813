"""Zero-shot image classification: the stock pipeline's answers, label texts encoded once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Pipeline
from transformers.image_utils import load_image

from hf_fsl.backbones.backbone import IMAGES_PER_BATCH
from hf_fsl.pipelines.questions import each
from hf_fsl.pipelines.streaming import Answers
from hf_fsl.zero_shot.clip import IMAGE_TEMPLATE, ImageTextScorer
from hf_fsl.zero_shot.templates import ZeroShotError, as_labels, as_templates, fill_templates

_OPTIONS = (
    "candidate_labels", "hypothesis_template", "label_descriptions", "timeout", "tokenizer_kwargs", "progress",
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
            image: an image (PIL, path, URL or base64), a list of them, a generator, or a data set of them.
            candidate_labels: a list, or one string with commas.
            hypothesis_template: with one place ``{}`` for the label; several are averaged (their embeddings).
            label_descriptions: label -> the words that stand for it in the template.
            batch_size, num_workers: as for the pipeline.
            timeout: seconds to wait for an image from the web.
            tokenizer_kwargs: passed to the tokenizer.
            progress: shows a progress bar.

        Returns:
            ``[{"score", "label"}, …]`` by falling score; a list of such lists for a list; an iterator of them, which
            reads one batch ahead, for a generator or a data set.

        Raises:
            ZeroShotError: no labels, the same label twice, a template without a place, an image that cannot be read.
        """
        image = options.pop("images", image)
        single, images = _images(image)
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        settings = {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}
        size = _first(batch_size, self._batch_size, IMAGES_PER_BATCH)
        workers = _first(num_workers, self._num_workers, 0)
        if size < 1:
            raise ZeroShotError(f"batch_size: at least 1, got {size}.")
        labels, embeddings = self._ask(settings)
        answers = self._answers(images, labels, embeddings, size, workers, settings)
        if single:
            return next(answers)
        return list(answers) if isinstance(image, (list, tuple)) else Answers(answers, image)

    def evidence(self, images: Any, candidate_labels: Any = None, **options: Any) -> np.ndarray:
        """Logits ``(N, C)`` that a call's scores are made from, in the order of the labels; arguments as in a call."""
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        settings = {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}
        _, images = _images(images)
        labels, embeddings = self._ask(settings)
        size = _first(self._batch_size, IMAGES_PER_BATCH)
        rows = [rows.cpu() for rows in self._logits(images, embeddings, size, _first(self._num_workers, 0), settings)]
        return torch.cat(rows).numpy() if rows else np.empty((0, len(labels)), np.float32)

    def preprocess(self, input_: Any, **settings: Any) -> Any:
        """An image with its number -> what the image tower takes."""
        number, image = input_
        try:
            loaded = load_image(str(image) if isinstance(image, Path) else image, timeout=settings.get("timeout"))
        except Exception as error:  # of whatever kind: among thousands of images it must be said which
            shown = repr(image[:100]) if isinstance(image, str) else type(image).__name__
            way_out = (
                "of a data set's rows give one column: KeyDataset(rows, 'image')"
                if isinstance(image, Mapping)
                else "give a PIL image, a path, a URL or a base64 string"
            )
            raise ZeroShotError(f"Image {number} ({shown}) cannot be read as an image; {way_out}. {error}") from error
        return self.scorer.image_inputs(loaded)

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
        unknown = sorted(set(kwargs) - set(_OPTIONS))
        if unknown:
            raise TypeError(f"{type(self).__name__}: no option {', '.join(unknown)}; there are {', '.join(_OPTIONS)}.")
        return kwargs, {}, {}

    def _ask(self, settings: Mapping[str, Any]) -> tuple[list[str], Tensor]:
        """Candidate labels and their embeddings ``(C, D)`` on the model's device."""
        labels = as_labels(settings.get("candidate_labels", ()))
        templates = as_templates(settings.get("hypothesis_template", IMAGE_TEMPLATE))
        filled = fill_templates(labels, templates, settings.get("label_descriptions"))
        return labels, self.scorer.embeddings_of(filled, settings.get("tokenizer_kwargs")).to(self.model.device)

    def _answers(
        self, images: Any, labels: list[str], embeddings: Tensor, size: int, workers: int, settings: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        for logits in self._logits(images, embeddings, size, workers, settings):
            for row in self.scorer.scores(logits):
                yield self.postprocess((labels, row))

    def _logits(
        self, images: Any, embeddings: Tensor, size: int, workers: int, settings: dict[str, Any]
    ) -> Iterator[Tensor]:
        """Logits ``(B, C)`` of one batch after the other."""
        total = len(images) if isinstance(images, Sized) else None
        numbered = enumerate(each(images))
        with ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(total=total, unit="image", disable=not settings.get("progress"), leave=False)
            )
            run = stack.enter_context(ThreadPoolExecutor(workers)).map if workers else map
            while window := list(itertools.islice(numbered, size)):
                inputs = list(run(lambda one: self.preprocess(one, **settings), window))
                yield self.forward({"images": inputs, "labels": embeddings})["logits"]
                bar.update(len(window))


def _images(given: Any) -> tuple[bool, Any]:
    """Whether it is one image, and the images."""
    if given is None:
        raise ZeroShotError("Zero-shot image classification needs an image, got None.")
    single = not _holds_images(given)
    return single, [given] if single else given


def _holds_images(inputs: Any) -> bool:
    """Whether there are images in it, rather than it being one (or something that is none)."""
    if isinstance(inputs, (str, Mapping)) or hasattr(inputs, "__array__") or hasattr(inputs, "__array_interface__"):
        return False
    return isinstance(inputs, (Iterable, Dataset))


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
