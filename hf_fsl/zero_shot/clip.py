"""Images against label texts by two towers: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023) and their kin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel

from hf_fsl.core.environment import usable_device
from hf_fsl.core.images import as_rgb
from hf_fsl.models.backbones.backbone import IMAGES_PER_BATCH
from hf_fsl.models.backbones.cache import EmbeddingCache, weights_fingerprint
from hf_fsl.models.backbones.inputs import read_inputs, rows_of
from hf_fsl.models.backbones.texts import call_tokenizer, position_limit, token_budget
from hf_fsl.models.backbones.tokenizer import load_tokenizer
from hf_fsl.models.backbones.weights import load_whole, loading
from hf_fsl.models.templates import ZeroShotError, as_labels, as_templates, fill_templates
from hf_fsl.zero_shot.label_cache import RecentTensors, weights_state
from hf_fsl.zero_shot.last_layer import first_token_only

IMAGE_TEMPLATE = "This is a photo of {}."
"""The stock pipeline's."""


class ImageTextScorer:
    """Scores of label texts for images; the label texts go through the text tower once.

    Example::

        scorer = ImageTextScorer.from_pretrained("openai/clip-vit-base-patch32")
        logits = scorer.logits(images, ["a cat", "a dog"])  # (N, 2)

    Args:
        model: with ``get_text_features``, ``get_image_features`` and ``logit_scale``: CLIP, SigLIP, SigLIP 2,
            VisionTextDualEncoder and models made like them.
        tokenizer: of its text tower.
        image_processor: of its image tower.
        label_folder: where label embeddings are kept for other processes; None: in memory only.

    Raises:
        ZeroShotError: the model has not both towers, or tokenizer or image processor is missing.
    """

    def __init__(
        self, model: Any, tokenizer: Any, image_processor: Any, *, label_folder: str | Path | None = None
    ) -> None:
        parts = ("get_text_features", "get_image_features", "logit_scale")
        missing = [name for name in parts if not hasattr(model, name)]
        if missing:
            raise ZeroShotError(
                "Zero-shot image classification needs a model with a text and an image tower and a logit scale, such "
                f"as CLIP or SigLIP; {type(model).__name__} has no {', '.join(missing)}."
            )
        if tokenizer is None or image_processor is None:
            name = "tokenizer" if tokenizer is None else "image_processor"
            raise ZeroShotError(f"An image-text model needs tokenizer and image_processor; {name} is None.")
        self.model, self.tokenizer, self.image_processor = model.eval(), tokenizer, image_processor
        self.labels_in_memory = RecentTensors()
        self.labels_on_disk = EmbeddingCache(label_folder) if label_folder is not None else None
        self.is_siglip = "siglip" in model.config.model_type

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
        label_folder: str | Path | None = None,
        trust_remote_code: bool = False,
    ) -> ImageTextScorer:
        """Loads model, tokenizer and image processor.

        Args:
            model_name_or_path: of a repository or a folder.
            revision: branch, tag or commit; None: the main branch.
            device: None: a GPU where there is one.
            dtype: of the weights; embeddings are float32 in any case.
            label_folder: see :class:`ImageTextScorer`.
            trust_remote_code: runs the code of the repository.

        Raises:
            ZeroShotError: one of them does not load, or the model has not both towers.
        """
        device = usable_device(device)
        source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        with loading(ZeroShotError, model_name_or_path, revision, "as an image-text model"):
            model = load_whole(AutoModel, model_name_or_path, dtype=dtype, **source)
            tokenizer = load_tokenizer(model_name_or_path, **source)
            image_processor = AutoImageProcessor.from_pretrained(model_name_or_path, **source)
        model.to(device)
        return cls(model, tokenizer, image_processor, label_folder=label_folder)

    @property
    def dimension(self) -> int:
        """D, the size of an embedding; SigLIP has no projection."""
        config = self.model.config
        return int(getattr(config, "projection_dim", None) or config.vision_config.hidden_size)

    def label_embeddings(
        self,
        labels: str | Sequence[str],
        templates: str | Sequence[str] = IMAGE_TEMPLATE,
        *,
        label_texts: Mapping[str, str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Embeddings ``(C, D)`` of length 1, float32, on the CPU: mean over the templates of the normalised ones.

        They are computed once as long as labels, templates, tokenizer_kwargs and weights are the same.

        Args:
            labels: a list, or one string with commas.
            templates: each with one place ``{}`` for the label; several are an ensemble (Radford et al. 2021, 3.1.4).
            label_texts: label -> what stands in the templates instead of it.
            tokenizer_kwargs: passed to the tokenizer, over the model family's own.

        Raises:
            ZeroShotError: labels or templates that cannot be used, or a text longer than the model takes.
        """
        filled = fill_templates(as_labels(labels), as_templates(templates), label_texts)
        return self.embeddings_of(filled, tokenizer_kwargs).clone()

    def embeddings_of(self, filled: Sequence[Sequence[str]], tokenizer_kwargs: Mapping[str, Any] | None) -> Tensor:
        """Label embeddings ``(C, D)`` of filled templates, each a row of C texts: what is kept, not to be changed."""
        options = dict(tokenizer_kwargs or {})
        key = (tuple(map(tuple, filled)), repr(sorted(options.items())), weights_state(self.model))
        return self.labels_in_memory.get(key, lambda: self._stored_or_computed(filled, options))

    def image_embeddings(self, images: Any, *, batch_size: int = IMAGES_PER_BATCH) -> Tensor:
        """Embeddings ``(N, D)`` of length 1, float32, on the CPU.

        Args:
            images: one, a list or a column of them, as images (PIL), paths or URLs.
            batch_size: images at once.
        """
        rows = [self.embed_images(batch).cpu() for batch in self._image_batches(images, batch_size)]
        return torch.cat(rows) if rows else torch.empty(0, self.dimension)

    def logits(
        self,
        images: Any,
        labels: str | Sequence[str],
        templates: str | Sequence[str] = IMAGE_TEMPLATE,
        *,
        batch_size: int = IMAGES_PER_BATCH,
        label_texts: Mapping[str, str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The model's ``logits_per_image`` ``(N, C)``, float32, on the CPU; arguments as above."""
        label_embeddings = self.label_embeddings(
            labels, templates, label_texts=label_texts, tokenizer_kwargs=tokenizer_kwargs
        ).to(self.model.device)
        batches = self._image_batches(images, batch_size)
        rows = [self.compare(self.embed_images(batch), label_embeddings).cpu() for batch in batches]
        return torch.cat(rows) if rows else torch.empty(0, len(label_embeddings))

    def scores(self, logits: Tensor) -> Tensor:
        """Logits ``(N, C)`` -> scores: softmax over the labels, or SigLIP's sigmoid of each."""
        return logits.sigmoid() if self.is_siglip else logits.softmax(-1)

    def image_inputs(self, image: Image.Image) -> dict[str, Tensor]:
        """One image -> what the image tower takes, each ``(1, …)``."""
        return dict(self.image_processor(images=[as_rgb(image)], return_tensors="pt"))

    @torch.no_grad()
    def embed_images(self, inputs: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Inputs of B images -> embeddings ``(B, D)`` of length 1, float32, on the model's device."""
        if len({tuple(value.shape for value in one.values()) for one in inputs}) > 1:
            return torch.cat([self.embed_images([one]) for one in inputs])  # a processor that keeps the aspect ratio
        batch = {name: torch.cat([one[name] for one in inputs]).to(self.model.device) for name in inputs[0]}
        batch = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value for name, value in batch.items()
        }
        model = first_token_only(self.model)
        return normalize(model.get_image_features(**batch).pooler_output.float(), dim=-1)

    @torch.no_grad()
    def compare(self, image_embeddings: Tensor, label_embeddings: Tensor) -> Tensor:
        """Embeddings ``(N, D)`` and ``(C, D)`` -> logits ``(N, C)``: scaled cosines, and SigLIP's bias."""
        device = image_embeddings.device
        logits = image_embeddings @ label_embeddings.T * self.model.logit_scale.float().exp().to(device)
        bias = getattr(self.model, "logit_bias", None)
        return logits if bias is None else logits + bias.float().to(device)

    def _image_batches(self, images: Any, size: int) -> Iterator[list[dict[str, Tensor]]]:
        read = (
            read_inputs([image], text=False, open_files=True, first=row)[0]
            for row, image in enumerate(rows_of(images)[1])
        )
        inputs = map(self.image_inputs, read)
        while batch := list(islice(inputs, size)):
            yield batch

    def _stored_or_computed(self, filled: Sequence[Sequence[str]], options: Mapping[str, Any]) -> Tensor:
        texts = list(dict.fromkeys(text for row in filled for text in row))
        place = {text: number for number, text in enumerate(texts)}
        rows = torch.tensor([[place[text] for text in row] for row in filled])
        tokens = self._tokenize(texts, options)
        identity = self._identity(rows, tokens) if self.labels_on_disk else {}
        stored = self.labels_on_disk.load(identity) if self.labels_on_disk else {}
        if "labels" in stored:
            return stored["labels"]
        embeddings = self._mean_over_templates(rows, tokens)
        if self.labels_on_disk:
            self.labels_on_disk.store(identity, {"labels": embeddings})
        return embeddings

    def _tokenize(self, texts: list[str], options: Mapping[str, Any]) -> dict[str, Tensor]:
        # SigLIP was trained on texts padded to 64 tokens, and pools the last of them.
        own = {"padding": "max_length", "max_length": 64, "truncation": True} if self.is_siglip else {"padding": True}
        tokens = dict(call_tokenizer(self.tokenizer, texts, **{**own, **options, "return_tensors": "pt"}))
        limit = position_limit(self.model)
        width = tokens["input_ids"].shape[1]
        if limit is not None and width > limit:
            raise ZeroShotError(
                f"A label text may have {limit} tokens in this model, got {width}: {max(texts, key=len)!r}. Shorten "
                f"it, or cut it with tokenizer_kwargs={{'truncation': True, 'max_length': {limit}}}."
            )
        return tokens

    def _mean_over_templates(self, rows: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """Embeddings ``(C, D)`` of labels whose texts ``(templates, C)`` are rows of the token ids.

        Batch by batch into the sum: at no time is there an embedding for each text of each template.
        """
        labels_of: list[list[int]] = [[] for _ in range(len(tokens["input_ids"]))]
        for row in rows.tolist():
            for label, number in enumerate(row):
                labels_of[number].append(label)
        total = torch.zeros(())
        for numbers, embeddings in self._embed_texts(tokens):
            if total.ndim == 0:
                total = torch.zeros(rows.shape[1], embeddings.shape[1])
            lines = [line for line, number in enumerate(numbers) for _ in labels_of[number]]
            labels = [label for number in numbers for label in labels_of[number]]
            total.index_add_(0, torch.tensor(labels), embeddings[lines])
        return normalize(total, dim=-1)

    @torch.no_grad()
    def _embed_texts(self, tokens: Mapping[str, Tensor]) -> Iterator[tuple[list[int], Tensor]]:
        """Token ids ``(T, L)`` -> rows of them and their embeddings ``(B, D)`` of length 1, in batches that a token
        budget allows.
        """
        lengths = self._lengths(tokens)
        order = lengths.argsort(descending=True, stable=True)
        budget = token_budget(self.model.device)
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = order[start : start + max(1, budget // longest)]
            batch = {name: value[rows, :longest].to(self.model.device) for name, value in tokens.items()}
            yield rows.tolist(), normalize(self.model.get_text_features(**batch).pooler_output.float(), dim=-1).cpu()
            start += len(rows)

    def _lengths(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Columns ``(T,)`` that each text needs: padding is cut where it is masked and follows the text."""
        count, width = tokens["input_ids"].shape
        mask = tokens.get("attention_mask")
        # SigLIP pools the last token, padding or not.
        if mask is None or self.is_siglip or (mask[:, 1:] > mask[:, :-1]).any():
            return torch.full((count,), width)
        return mask.sum(1).clamp(min=1)

    def _identity(self, rows: Tensor, tokens: Mapping[str, Tensor]) -> dict[str, Any]:
        """What label embeddings depend on; the token ids stand for labels, templates, tokenizer and its options."""
        digest = hashlib.sha256(rows.numpy().tobytes())
        for name in sorted(tokens):
            digest.update(repr((name, tuple(tokens[name].shape))).encode() + tokens[name].numpy().tobytes())
        config = json.dumps(self.model.config.to_dict(), sort_keys=True, default=str)
        return {
            "weights": weights_fingerprint(self.model),
            "config": hashlib.sha256(config.encode()).hexdigest(),
            "texts": digest.hexdigest(),
            "shape": list(rows.shape),
            "dtype": str(self.model.dtype),
            "transformers": transformers.__version__,
        }
