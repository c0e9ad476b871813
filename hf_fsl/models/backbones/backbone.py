"""A Hub model as an encoder: texts or images in, embeddings out, each input seen once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from hf_fsl.core.environment import usable_device
from hf_fsl.core.errors import UserError
from hf_fsl.core.images import as_rgb
from hf_fsl.core.measurement import TruncationRecord
from hf_fsl.models.backbones.cache import EmbeddingCache, processor_fingerprint, weights_fingerprint
from hf_fsl.models.backbones.classification import loaded_commit
from hf_fsl.models.backbones.encoder import load_parts
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.images import image_inputs, image_pooling, poolable, pooler_output, without_masking
from hf_fsl.models.backbones.inputs import input_keys, read_inputs
from hf_fsl.models.backbones.modules import EmbeddingModules, read_modules, settle_prompt
from hf_fsl.models.backbones.texts import (
    CALLING,
    TokenBatch,
    check_max_length,
    lower_cased,
    padded_length,
    prompt_tokens,
    token_batches,
    token_budget,
    token_limit,
    tokenize,
    truncation,
    warn_of_cut,
)
from hf_fsl.models.backbones.tokenizer import NO_VOCABULARY, has_vocabulary
from hf_fsl.models.published.pooling import PATCH_POOLINGS, Pooling, pool

IMAGES_PER_BATCH = 32


class Backbone:
    """A frozen encoder of texts, of images, or of both (CLIP, SigLIP, dual encoders).

    Example::

        backbone = Backbone.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        embeddings = backbone.encode(["a cat", "a dog"])  # (2, 384)

    Args:
        model: an encoder of transformers; it is put into evaluation mode.
        processor: its tokenizer; None of an encoder of images.
        image_processor: its image processor; None of an encoder of texts.
        modules: pooling and what follows it; None: the mean of a text's tokens, an image encoder's own pooler.
        name: id and commit of the repository, as far as known: it is published with models made of the backbone.
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
        without_masking(model)
        if self.modules.lower_case:
            self.tokenizer = lower_cased(processor)
        self.name = name
        self.original = True
        """Whether its weights are those that ``name`` stands for: an adapter trained on others fits nowhere else."""
        self.padding_share = 0.0
        """Share of padding among the tokens of the last ``encode``."""
        self._said: set[str] = set()
        self._sizes: dict[str, int] = {}
        """Modality -> D, of those that were measured."""

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        revision: str | None = None,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
    ) -> Backbone:
        """Loads an encoder.

        Args:
            model_name_or_path: of a repository or a folder: a sentence-transformers model, any text or image encoder,
                or a dual encoder.
            revision: branch, tag or commit; None: the main branch.
            pooling: token states -> embedding; None: as the repository's sentence-transformers modules say, else the
                mean for texts, and the pooler (or the first token) for images. The other modules stay as they are.
                Of CLIP and SigLIP any other than None means the image tower alone.
            normalize: embeddings of length 1; None: as the modules say.
            max_length: tokens a text may have; None: as the modules say, else as many as tokenizer and model allow.
            prompt: put before every text, and part of what is published; "" for none. None, and no ``prompt_name``:
                the repository's default prompt, or the one that it names for classification.
            prompt_name: one of the prompts that the repository names.
            device: None: a GPU where there is one.
            dtype: of the weights; embeddings are float32 in any case.
            trust_remote_code: runs the model code of the repository.

        Raises:
            BackboneError: the model cannot be loaded, has no tokenizer for its texts, embeds through modules that are
                not supported, or has no such prompt.
        """
        device = usable_device(device)
        model, tokenizer, images = load_parts(
            model_name_or_path, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
        )
        if pooling is not None and hasattr(model, "get_text_features"):
            if not hasattr(model, "vision_model"):
                raise BackboneError(f"pooling: {model_name_or_path} embeds by projections of its own.")
            model, tokenizer = model.vision_model, None
        text = tokenizer is not None
        if pooling in PATCH_POOLINGS and text:
            raise BackboneError(f"pooling={pooling!r} is of image encoders; {model_name_or_path} encodes texts.")
        modules = (read_modules(model_name_or_path, revision, pooling) if text else None) or EmbeddingModules()
        modules.pooling = pooling or modules.pooling
        modules.normalize = modules.normalize if normalize is None else normalize
        if text:
            check_max_length(model, max_length)
            modules.max_length = max_length or modules.max_length
            settle_prompt(modules, model_name_or_path, prompt, prompt_name)
        elif prompt or prompt_name is not None:
            raise BackboneError(f"prompt: {model_name_or_path} encodes images. Leave it out.")
        model.to(device)
        for layer in modules.dense:
            layer.to(device, model.dtype)
        commit = loaded_commit(model_name_or_path, revision)
        return cls(model, tokenizer, image_processor=images, modules=modules, name=f"{model_name_or_path}@{commit}")

    @classmethod
    def of_model(cls, model: Any, tokenizer: Any, image_processor: Any = None) -> Backbone:
        """A loaded encoder; texts are pooled as the repository it came from says.

        Args:
            model: of transformers; its config says which repository it came from.
            tokenizer: None of an encoder of images.
            image_processor: None of an encoder of texts.

        Raises:
            BackboneError: the tokenizer knows no word, or the repository's modules are not supported.
        """
        source = model.config._name_or_path
        if tokenizer is not None and not has_vocabulary(tokenizer):
            raise BackboneError(f"{source or 'The model'} does not load as an encoder: {NO_VOCABULARY}")
        modules = (read_modules(source, None) if source and tokenizer is not None else None) or EmbeddingModules()
        if tokenizer is not None:
            settle_prompt(modules, source)
        for layer in modules.dense:
            layer.to(model.device, model.dtype)
        return cls(model, tokenizer, image_processor=image_processor, modules=modules, name=source)

    def __sklearn_clone__(self) -> Backbone:
        """Itself: nothing changes a backbone, and every fit of a cross-validation shares the one that is loaded."""
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def read(self, inputs: Any, *, open_files: bool = True, timeout: float | None = None, first: int = 0) -> list[Any]:
        """What ``encode`` takes -> a list of texts, or of images.

        Args:
            inputs: a text (str) or an image (``PIL.Image``), a list or a column of them, or a frame of one column; not
                mixed. Where the model takes images, the path of one, its http(s) URL or data URI stands for it.
            open_files: False: strings are texts, and nothing is opened. A server leaves it off: it must not open the
                path or the URL that a client sent.
            timeout: seconds to wait for an image from the web.
            first: number of the first input, in what is said of one.

        Raises:
            BackboneError: as of :meth:`encode`.
        """
        takes_text, takes_images = self.tokenizer is not None, self.image_processor is not None
        items = read_inputs(
            inputs, text=takes_text, image=takes_images, open_files=open_files, timeout=timeout, first=first
        )
        if items and not (takes_text if isinstance(items[0], str) else takes_images):
            raise BackboneError(f"{self.name} encodes {'texts, not images' if takes_text else 'images, not texts'}.")
        return items

    def encode(
        self,
        inputs: Any,
        *,
        prompt: str | None = None,
        max_tokens: int | None = None,
        progress: bool = False,
        cache: EmbeddingCache | None = None,
        open_files: bool = True,
    ) -> Tensor:
        """Embeddings ``(N, D)``, float32, on the CPU, in the order of the inputs.

        Inputs that occur twice are encoded once; texts are tokenised once, sorted by length, and batched by tokens.

        Args:
            inputs: a text or an image, or many, see :meth:`read`.
            prompt: put before each text: a name among the repository's prompts, or the text itself; None: the one
                that the backbone was loaded with.
            max_tokens: tokens a batch, padding included; None: what suits the device.
            progress: shows a progress bar.
            cache: embeddings found there are not computed again; new ones are added.
            open_files: see :meth:`read`.

        Raises:
            BackboneError: an empty text, something that is neither text nor image, an image that cannot be decoded,
                a modality that this model does not have, or an embedding that is not finite.
        """
        items = self.read(inputs, open_files=open_files)
        if not items:
            return torch.empty(0, self.dimension)
        text = isinstance(items[0], str)
        keys = input_keys(items)
        first = {key: position for position, key in reversed(list(enumerate(keys)))}
        identity: dict[str, Any] = {}
        known: dict[str, Tensor] = {}
        if cache is not None:
            identity = self._identity(self.modules.prompt(prompt) if text else "", text)
            known = cache.load(identity)
        fresh = [key for key in dict.fromkeys(keys) if key not in known]
        if fresh:
            self._measured("text" if text else "image")
        values = [items[first[key]] for key in fresh]
        with torch.inference_mode(), tqdm(total=len(values), unit="ex", disable=not progress, leave=False) as bar:
            computed: dict[str, Tensor] = {}
            encoded = self._encode_texts(values, prompt, max_tokens) if text else self._encode_images(values)
            for positions, rows in encoded:
                rows = _finite(rows.float().cpu(), [first[fresh[position]] for position in positions])
                computed.update((fresh[position], row) for position, row in zip(positions, rows, strict=True))
                bar.update(len(positions))
        if cache is not None and computed:
            cache.store(identity, computed)
        known |= computed
        return torch.stack([known[key] for key in keys])

    @property
    def dimension(self) -> int:
        """D, the size of an embedding, as the model gives it."""
        return self._measured("image" if self.tokenizer is None else "text")

    @property
    def token_limit(self) -> int | None:
        """Tokens of a text that are read, special ones included; None: all."""
        return token_limit(self.model, self.tokenizer, self.modules.max_length)

    def token_ids(self, texts: Sequence[str], prompt: str | None = None) -> list[list[int]]:
        """Token ids of each text as ``encode`` gives them to the model, cut at the model's limit, with a warning."""
        ids, truncated = self._tokenized(texts, prompt)
        warn_of_cut(truncated, self._said)
        return ids

    def with_limit(
        self, texts: Sequence[str], max_length: int | None, *, cut: bool, error: type[UserError]
    ) -> Backbone:
        """A view of it that reads fewer tokens of each text.

        Args:
            texts: what it is to read.
            max_length: tokens, special ones included; None: as many as the backbone takes.
            cut: whether longer texts lose their end.
            error: what is raised.

        Raises:
            error: a limit that leaves no room for a word, or a text that must not be cut and is too long.
        """
        if self.tokenizer is None or (max_length is None and cut):
            return self
        limit = min((one for one in (self.token_limit, max_length) if one is not None), default=None)
        special = self.tokenizer.num_special_tokens_to_add()
        if limit is not None and limit <= special:
            raise error(
                f"max_length: the tokenizer adds {special} tokens of its own; got {limit}. Allow more than that."
            )
        view = copy.copy(self)
        view.modules = copy.copy(self.modules)
        view.modules.max_length = limit
        long = 0 if cut else view.truncation(texts).cut_texts
        if long:
            raise error(
                f"truncation=False: {long} of {len(texts)} texts have more than {limit} tokens. Shorten them, or have "
                "them cut: truncation=True."
            )
        return view

    def truncation(self, texts: Sequence[str]) -> TruncationRecord:
        """How much of texts lies beyond the tokens that are read of each."""
        return self._tokenized(texts, None)[1]

    def text_batches(self, ids: Sequence[Sequence[int]], max_tokens: int | None = None) -> Iterator[TokenBatch]:
        """The rows of ``ids``, from :meth:`token_ids`, padded and batched, the longest first.

        Args:
            ids: token ids of each text.
            max_tokens: tokens a batch, padding included; None: what suits the device.
        """
        pad, length = self.tokenizer.pad_token_id or 0, padded_length(self.model)
        return token_batches(ids, max_tokens or token_budget(self.device), pad, length)

    def embed_text_batch(self, batch: TokenBatch, prompt: str | None = None) -> Tensor:
        """Embeddings ``(B, D)`` of a batch of :meth:`text_batches`; with gradients unless they are switched off.

        Args:
            batch: of B texts.
            prompt: the one its token ids were made with.
        """
        inputs = {"input_ids": batch.ids.to(self.device)}
        mask = batch.mask.to(self.device) if batch.mask is not None else None
        length = padded_length(self.model)
        if mask is not None and (length is None or "attention_mask" in self.tokenizer.model_input_names):
            inputs["attention_mask"] = mask
        elif length is None and hasattr(self.model, "get_text_features"):
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if not self.modules.include_prompt:
            skipped = prompt_tokens(self.tokenizer, self.modules.prompt(prompt), self.token_limit)
            if skipped:
                mask = mask.clone() if mask is not None else torch.ones_like(inputs["input_ids"])
                mask[:, :skipped] = 0
        return self._embeddings(self._embed_text(inputs, mask), len(batch.rows))

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Images as the model takes them, ``(B, 3, H, W)``, on the CPU."""
        return self.image_processor([as_rgb(image) for image in images], return_tensors="pt")["pixel_values"]

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` of what :meth:`pixels` gives; with gradients, unless the caller switches them off."""
        dtype: Any = self.model.dtype
        return self._embeddings(self._embed_image(pixels.to(self.device, dtype)), len(pixels))

    def _encode_texts(
        self, texts: list[str], prompt: str | None, max_tokens: int | None
    ) -> Iterator[tuple[list[int], Tensor]]:
        real = padded = 0
        for batch in self.text_batches(self.token_ids(texts, prompt), max_tokens):
            real, padded = real + batch.tokens, padded + batch.ids.numel()
            yield batch.rows, self.embed_text_batch(batch, prompt)
        self.padding_share = 1 - real / padded if padded else 0.0

    def _encode_images(self, images: list[Any]) -> Iterator[tuple[list[int], Tensor]]:
        for start in range(0, len(images), IMAGES_PER_BATCH):
            pixels = self.pixels(images[start : start + IMAGES_PER_BATCH])
            yield list(range(start, start + len(pixels))), self.embed_pixels(pixels)

    def _tokenized(self, texts: Sequence[str], prompt: str | None) -> tuple[list[list[int]], TruncationRecord]:
        limit, prompted = self.token_limit, [self.modules.prompt(prompt) + text for text in texts]
        ids = tokenize(self.tokenizer, prompted, limit)
        return ids, truncation(self.tokenizer, [prompted], [len(row) for row in ids], limit)

    def _embed_text(self, inputs: dict[str, Tensor], mask: Tensor | None) -> Tensor:
        pooling = self.modules.pooling
        if pooling is None and hasattr(self.model, "get_text_features"):
            return self._projected("text", **inputs)
        output = self.model(**inputs)
        if pooling == "pooler":
            return pooler_output(output)
        return pool(output.last_hidden_state, mask, pooling or "mean")

    def _embed_image(self, pixels: Tensor) -> Tensor:
        pooling = self.modules.pooling
        if pooling is None and hasattr(self.model, "get_image_features"):
            return self._projected("image", pixel_values=pixels)
        config, output = self.model.config, self.model(**image_inputs(self.model, pixels))
        pooling = pooling or image_pooling(config, output, pixels)
        states, leading = poolable(config, output, pixels, pooling)
        if pooling == "pooler":
            return states.flatten(1)
        if self.modules.leading_tokens is not None:
            leading = self.modules.leading_tokens
        return pool(states, None, pooling, leading)

    def _embeddings(self, pooled: Tensor, count: int) -> Tensor:
        """What pooling gave, through the modules behind it. Raises BackboneError where it is not one row an input."""
        embeddings = self.modules.after_pooling(pooled) if pooled.ndim == 2 else pooled
        if embeddings.ndim != 2 or len(embeddings) != count:
            raise BackboneError(
                f"An embedding is one row an input; {self.name or type(self.model).__name__} gives "
                f"{tuple(embeddings.shape)} for {count}. Name another pooling, or choose another backbone."
            )
        return embeddings

    def _measured(self, modality: str) -> int:
        """The size of embeddings, from two passes over one input, which must agree: what is random is no embedding.

        Raises:
            BackboneError: they differ, or the model wants more than texts or pictures.
        """
        if modality not in self._sizes:
            first, second = self._probed(modality), self._probed(modality)
            if (first - second).norm() > 0.01 * first.norm():
                raise BackboneError(
                    f"{self.name or type(self.model).__name__} embeds one and the same {modality} differently each "
                    "time: something in it is random. Choose another backbone."
                )
            self._sizes[modality] = first.shape[1]
        return self._sizes[modality]

    @torch.inference_mode()
    def _probed(self, modality: str) -> Tensor:
        """The embedding ``(1, D)`` of an input to measure by."""
        try:
            if modality == "text":
                rows = self._encode_texts(["a probe"], None, None)
            else:
                rows = self._encode_images([Image.linear_gradient("L")])
            return next(rows)[1].float()
        except BackboneError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            raise BackboneError(
                f"{self.name or type(self.model).__name__} embeds no {modality}s: {error}. Choose another backbone."
            ) from error

    def _projected(self, kind: str, **inputs: Tensor) -> Tensor:
        features = getattr(self.model, f"get_{kind}_features")(**inputs)
        return features if isinstance(features, Tensor) else features.pooler_output

    def _identity(self, prompt: str, text: bool) -> dict[str, Any]:
        with CALLING:
            processor = processor_fingerprint(self.tokenizer if text else self.image_processor)
        return {
            "weights": weights_fingerprint(self.model),
            "processor": processor,
            "rules": 2,  # of how outputs become embeddings, where neither weights nor settings say it
            "pooling": self.modules.pooling,
            "leading_tokens": self.modules.leading_tokens,
            "dense": [[weights_fingerprint(layer), str(layer)] for layer in self.modules.dense],
            "normalize": self.modules.normalize,
            "max_length": self.modules.max_length,
            "prompt": prompt,
            "include_prompt": self.modules.include_prompt,
            "text": text,
            "dtype": str(next(self.model.parameters()).dtype),
            "transformers": transformers.__version__,
        }


def _finite(rows: Tensor, positions: list[int]) -> Tensor:
    """The embeddings. Raises BackboneError where one is not finite: of NaN, argmax makes an answer like any other."""
    broken = (~rows.isfinite().all(-1)).nonzero().flatten().tolist()
    if broken:
        raise BackboneError(
            f"Input {positions[broken[0]]} has an embedding with NaN or infinite values ({len(broken)} of its batch "
            f"of {len(rows)} have). Load the model in float32 where it is in float16, or look for damaged weights."
        )
    return rows
