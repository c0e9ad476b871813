"""A Hub model as an encoder: texts or images in, embeddings out, each input seen once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from hf_fsl.backbones.batching import token_batches
from hf_fsl.backbones.cache import EmbeddingCache, weights_fingerprint
from hf_fsl.backbones.classification import BackboneError, loaded_commit
from hf_fsl.backbones.pooling import EmbeddingModules, Pooling, pool, read_modules
from hf_fsl.pictures import as_rgb, content_digest

MAX_TOKENS = {"cpu": 1024}
"""Tokens a batch, padding included, by device: on a CPU larger batches fall out of its caches."""
MAX_TOKENS_ACCELERATOR = 32768
IMAGES_PER_BATCH = 32
_CHUNK = 4096
"""Texts tokenised at a time."""


class Backbone:
    """A frozen encoder of texts, of images, or of both (CLIP, SigLIP, dual encoders).

    Example::

        backbone = Backbone.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        embeddings = backbone.encode(["a cat", "a dog"])  # (2, 384)
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        image_processor: Any = None,
        modules: EmbeddingModules | None = None,
        name: str = "",
    ) -> None:
        self.model, self.tokenizer, self.image_processor = model.eval(), processor, image_processor
        self.modules = modules or EmbeddingModules()
        self.name = name
        self.padding_share = 0.0
        """Share of padding among the tokens of the last ``encode``."""

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        revision: str | None = None,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
    ) -> Backbone:
        """Loads an encoder.

        Args:
            pooling: token states -> embedding; None: as the repository's sentence-transformers modules say, else the
                mean for texts, and the pooler (or the first token) for images.
            normalize: embeddings of length 1; None: as the modules say.
            max_length: tokens a text may have; None: as the modules or the tokenizer say.

        Raises:
            BackboneError: the model cannot be loaded, or embeds through modules that are not supported.
        """
        source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            config = AutoConfig.from_pretrained(model_name_or_path, **source)
            model, info = AutoModel.from_pretrained(
                model_name_or_path, dtype=dtype, output_loading_info=True, **source
            )
            pixels = model.main_input_name == "pixel_values"
            vision, text = pixels or hasattr(config, "vision_config"), not pixels or hasattr(config, "text_config")
            tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, **source) if text else None
            images = AutoImageProcessor.from_pretrained(model_name_or_path, **source) if vision else None
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(f"{model_name_or_path} does not load as an encoder: {error}") from error
        modules = (
            read_modules(model_name_or_path, revision) if text and pooling is None else None
        ) or EmbeddingModules()
        modules.pooling = pooling or modules.pooling
        _drop_random_pooler(model, set(info["missing_keys"]), model_name_or_path)
        modules.normalize = modules.normalize if normalize is None else normalize
        modules.max_length = max_length or modules.max_length
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)
        for layer in modules.dense:
            layer.to(device, model.dtype)
        commit = loaded_commit(model_name_or_path, revision)
        return cls(model, tokenizer, image_processor=images, modules=modules, name=f"{model_name_or_path}@{commit}")

    @classmethod
    def of_model(cls, model: Any, tokenizer: Any) -> Backbone:
        """A loaded text encoder, pooled as the repository it came from says."""
        source, commit = model.config._name_or_path, getattr(model.config, "_commit_hash", None)
        modules = (read_modules(source, commit) if source else None) or EmbeddingModules()
        for layer in modules.dense:
            layer.to(model.device, model.dtype)
        return cls(model, tokenizer, modules=modules, name=f"{source}@{commit}")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        prompt: str | None = None,
        max_tokens: int | None = None,
        progress: bool = False,
        cache: EmbeddingCache | None = None,
    ) -> Tensor:
        """Embeddings ``(N, D)``, float32, on the CPU, in the order of the inputs.

        Inputs that occur twice are encoded once; texts are tokenised once, sorted by length, and batched by tokens.

        Args:
            inputs: texts (str) or images (``PIL.Image``), not mixed; a data set's column is fine.
            prompt: put before each text: a name among the repository's prompts, or the text itself; None: the
                repository's default prompt if it has one.
            max_tokens: tokens a batch, padding included; None: what suits the device.
            progress: shows a progress bar.
            cache: embeddings found there are not computed again; new ones are added.

        Raises:
            BackboneError: an empty text, something that is neither text nor image, or a modality that this model
                does not have.
        """
        items = list(inputs)
        if not items:
            return torch.empty(0, self.dimension)
        text = self._is_text(items)
        keys = [_key(item) for item in items]
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        prompt_text = self._prompt(prompt) if text else ""
        identity: dict[str, Any] = {}
        known: dict[str, Tensor] = {}
        if cache is not None:
            identity = self._identity(prompt_text, text)
            known = cache.load(identity)
        fresh = [key for key in dict.fromkeys(keys) if key not in known]
        values = [items[first[key]] for key in fresh]
        max_tokens = max_tokens or MAX_TOKENS.get(self.device.type, MAX_TOKENS_ACCELERATOR)
        encoded = self._encode_texts(values, prompt_text, max_tokens) if text else self._encode_images(values)
        with torch.inference_mode(), tqdm(total=len(values), unit="ex", disable=not progress, leave=False) as bar:
            computed: dict[str, Tensor] = {}
            for positions, rows in encoded:
                rows = rows.float().cpu()
                computed.update((fresh[position], row) for position, row in zip(positions, rows, strict=True))
                bar.update(len(positions))
        if cache is not None and computed:
            cache.store(identity, {key: row.clone() for key, row in (known | computed).items()})
        known |= computed
        return torch.stack([known[key] for key in keys])

    @property
    def dimension(self) -> int:
        """D, the size of an embedding."""
        for layer in reversed(self.modules.dense):
            return int(next(layer.parameters()).shape[0])
        config: Any = self.model.config
        for name in ("projection_dim", "hidden_size"):
            if isinstance(getattr(config, name, None), int):
                return int(getattr(config, name))
        return int(config.hidden_sizes[-1])

    def _encode_texts(self, texts: list[str], prompt: str, max_tokens: int) -> Iterator[tuple[list[int], Tensor]]:
        ids: list[list[int]] = []
        for start in range(0, len(texts), _CHUNK):
            ids += self.tokenizer(
                [prompt + text for text in texts[start : start + _CHUNK]],
                truncation=True,
                max_length=self.modules.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
        left = self.tokenizer.padding_side == "left"
        always_masked = left or hasattr(self.model, "get_text_features")
        real = padded = 0
        for batch in token_batches(ids, max_tokens, self.tokenizer.pad_token_id or 0, left):
            real, padded = real + batch.tokens, padded + batch.ids.numel()
            inputs = {"input_ids": batch.ids.to(self.device)}
            if batch.mask is not None:
                inputs["attention_mask"] = batch.mask.to(self.device)
            elif always_masked:
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            mask = inputs["attention_mask"] if batch.mask is not None else None
            yield batch.rows, self._finish(self._embed_text(inputs, mask))
        self.padding_share = 1 - real / padded if padded else 0.0

    def _encode_images(self, images: list[Any]) -> Iterator[tuple[list[int], Tensor]]:
        for start in range(0, len(images), IMAGES_PER_BATCH):
            batch = [as_rgb(image) for image in images[start : start + IMAGES_PER_BATCH]]
            pixels = self.image_processor(batch, return_tensors="pt")["pixel_values"].to(self.device, self.model.dtype)
            yield list(range(start, start + len(batch))), self._finish(self._embed_image(pixels))

    def _embed_text(self, inputs: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        pooling = self.modules.pooling
        if pooling is None and hasattr(self.model, "get_text_features"):
            return _pooled(self._tower("text")(**inputs))
        output = self.model(**inputs)
        if pooling == "pooler":
            return _require_pooler(output)
        return pool(output.last_hidden_state, mask, pooling or "mean")

    def _embed_image(self, pixels: Tensor) -> Tensor:
        pooling = self.modules.pooling
        if pooling is None and hasattr(self.model, "get_image_features"):
            return _pooled(self._tower("image")(pixel_values=pixels))
        output = self.model(pixel_values=pixels)
        pooler = getattr(output, "pooler_output", None)
        if pooling == "pooler" or (pooling is None and pooler is not None):
            return _require_pooler(output).flatten(1)
        return pool(output.last_hidden_state, None, pooling or "cls")

    def _tower(self, kind: str) -> Any:
        return getattr(self.model, f"get_{kind}_features")

    def _finish(self, embeddings: Tensor) -> Tensor:
        for layer in self.modules.dense:
            embeddings = layer(embeddings)
        return nn.functional.normalize(embeddings, dim=-1) if self.modules.normalize else embeddings

    def _is_text(self, items: Sequence[Any]) -> bool:
        wrong = [
            row
            for row, item in enumerate(items)
            if not isinstance(item, type(items[0]))
            and not (isinstance(item, Image.Image) and isinstance(items[0], Image.Image))
        ]
        if not isinstance(items[0], (str, Image.Image)) or wrong:
            row = wrong[0] if wrong else 0
            raise BackboneError(
                "encode takes texts (str) or images (PIL.Image), not mixed; "
                f"input {row} is {type(items[row]).__name__}."
            )
        text = isinstance(items[0], str)
        if text:
            empty = [row for row, item in enumerate(items) if not item.strip()]
            if empty:
                raise BackboneError(f"Input {empty[0]} is an empty text ({len(empty)} are). Fill or remove it.")
        if (self.tokenizer if text else self.image_processor) is None:
            raise BackboneError(f"{self.name} encodes {'images, not texts' if text else 'texts, not images'}.")
        return text

    def _prompt(self, prompt: str | None) -> str:
        if prompt is None:
            default = self.modules.default_prompt
            return self.modules.prompts.get(default, "") if default else ""
        return self.modules.prompts.get(prompt, prompt)

    def _identity(self, prompt: str, text: bool) -> dict[str, Any]:
        return {
            "weights": weights_fingerprint(self.model),
            "pooling": self.modules.pooling,
            "dense": [weights_fingerprint(layer) for layer in self.modules.dense],
            "normalize": self.modules.normalize,
            "max_length": self.modules.max_length,
            "prompt": prompt,
            "text": text,
            "dtype": str(next(self.model.parameters()).dtype),
            "transformers": transformers.__version__,
        }


def _key(item: Any) -> str:
    if isinstance(item, str):
        return hashlib.sha256(item.encode()).hexdigest()
    return content_digest(item)


def _pooled(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output


def _drop_random_pooler(model: Any, missing: set[str], name: str) -> None:
    """A pooler the checkpoint has no weights for would give random embeddings: it goes, or the model is refused."""
    pooler = {key for key in missing if key.startswith("pooler.")}
    if missing - pooler:
        raise BackboneError(
            f"{name} has no weights for {', '.join(sorted(missing - pooler)[:3])}; its embeddings would be random. "
            "Choose a checkpoint of the whole encoder."
        )
    if pooler:
        model.pooler = None


def _require_pooler(output: Any) -> Tensor:
    pooler = getattr(output, "pooler_output", None)
    if pooler is None:
        raise BackboneError("pooling: this model has no pooler; use cls, mean or last.")
    return pooler
