"""From a published few-shot model back to its encoder, to encode further examples in the same space."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from tokenizers import normalizers
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig

from hf_fsl.core.errors import UserError
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.modules import EmbeddingModules
from hf_fsl.models.backbones.weights import load_whole, loading, require_class_names, require_finite
from hf_fsl.models.export.stock import FAMILIES, ExportError
from hf_fsl.models.published.configuration_few_shot import FewShotConfig
from hf_fsl.models.published.modeling_few_shot import FewShotForImageClassification, FewShotForSequenceClassification

FOLDER = "few_shot"
"""In a published repository, what its classifier remembers; stock pipelines ignore it."""
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", f"{FOLDER}/*"]
"""Of a repository; no code of it is read."""
_PROCESSOR = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model",
    "*processor_config.json",
)  # fmt: skip
_FEW_SHOT_CLASSES = (FewShotForSequenceClassification, FewShotForImageClassification)


@dataclass(frozen=True)
class Published:
    """A published few-shot model, with its tokenizer or image processor."""

    model: Any
    processor: Any


def load_published(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    error: type[UserError] = ExportError,
) -> Published | None:
    """Loads a few-shot model that hf_fsl published, of a stock class or of its own.

    Returns:
        None where the repository holds something else.

    Raises:
        ExportError, or ``error``: the repository says that it is one, and does not load.
    """
    with loading(error, model_name_or_path, revision, "as a few-shot model"):
        kind = published_class(model_name_or_path, revision)
        if kind is None:
            return None
        model = load_published_model(kind, model_name_or_path, revision=revision, dtype=dtype)
        auto = AutoImageProcessor if model.main_input_name == "pixel_values" else AutoTokenizer
        # The config is given, or transformers reads it as one of a model that it does not know, and says so.
        processor = auto.from_pretrained(
            model_name_or_path, config=model.config, revision=revision, trust_remote_code=False
        )
        return Published(model, processor)


def published_class(model_name_or_path: str, revision: str | None = None) -> Any:
    """The class of a few-shot model that hf_fsl published; None where the repository holds something else.

    Raises:
        ValueError: the repository says that it holds one, of a class that is none.
    """
    settings, _ = PreTrainedConfig.get_config_dict(model_name_or_path, revision=revision)
    if settings.get("model_type") == FewShotConfig.model_type:
        known = {kind.__name__: kind for kind in _FEW_SHOT_CLASSES}
    elif not isinstance(settings.get("hf_fsl"), dict):
        return None
    else:
        known = {family.architecture: getattr(transformers, family.architecture) for family in FAMILIES.values()}
    named = settings.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in known:
        raise ValueError(f"its config.json names the classes {named}, and it can be one of {', '.join(known)}.")
    return known[named[0]]


def load_published_model(kind: Any, model_name_or_path: str, **options: Any) -> Any:
    """The model of a published few-shot repository, ``kind`` being what :func:`published_class` says.

    Raises:
        ValueError: weights that are missing, unknown, or not finite; label names that are given twice; or parts that
            are of two fits.
    """
    where = {name: options[name] for name in ("revision", "token", "local_files_only") if name in options}
    require_own_parts(repository_folder(model_name_or_path, **where))
    model = load_whole(kind, model_name_or_path, **options)
    require_finite(dict(model.named_buffers()))
    require_class_names(model.config)
    return model


def repository_folder(name: str, **where: Any) -> Path:
    """All that a few-shot model consists of, in a folder: the one that is named, or one of the Hub's cache.

    Args:
        where: revision, token, local_files_only.
    """
    if Path(name).is_dir():
        return Path(name)
    return Path(snapshot_download(name, allow_patterns=_FILES, **where))


def require_own_parts(folder: Path) -> None:
    """Compares weights and processor with the checksums that are noted in ``few_shot/``, where they are.

    Raises:
        ValueError: they are others.
    """
    path = folder / FOLDER / "state.json"
    noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for what, key, found in (
        ("weights are", "weights", weights_digest),
        ("tokenizer or image processor is", "processor", processor_digest),
    ):
        if noted.get(key) not in (None, found(folder)):  # the first states say nothing of the processor
            raise ValueError(
                f"the model's {what} not what its {FOLDER}/ state was written with: somebody replaced one of the "
                "two. Load an earlier revision, or fit again."
            )


def weights_digest(folder: Path) -> str:
    """Of a repository's weights, as it stands in ``few_shot/state.json``."""
    digest = hashlib.sha256()
    for path in weights_files(folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def weights_files(folder: Path) -> list[Path]:
    """What transformers reads a model from. Raises ValueError where there is nothing."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise ValueError(f"{folder} holds no weights as safetensors.")
    return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def processor_digest(folder: Path) -> str:
    """Of the files that say how a repository's inputs are tokenised or made into pixels."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PROCESSOR for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_published(model: Any) -> bool:
    """Whether a model is one that :func:`backbone_of` takes."""
    return model.config.model_type == "few-shot" or isinstance(getattr(model.config, "hf_fsl", None), dict)


def backbone_of(model: Any, processor: Any) -> Backbone:
    """The backbone of a published few-shot model: its ``encode`` gives the embeddings that the head was fitted on.

    Args:
        model: what :func:`export_model` made, or the same loaded again (as remote code, too).
        processor: its tokenizer or image processor.

    Raises:
        ExportError: a model that was not published by hf_fsl, or whose head took in a layer of its backbone.
    """
    config = model.config
    if config.model_type == "few-shot":
        encoder, dense = model.backbone, list(model.dense)
        modules = EmbeddingModules(config.pooling, dense, config.normalize_embeddings, config.max_tokens)
        modules.include_prompt = not config.skipped_tokens
        modules.leading_tokens = getattr(config, "leading_tokens", 1)
        name, prompt = config.backbone_name, config.prompt
    else:
        if not is_published(model):
            raise ExportError(f"{config._name_or_path or type(model).__name__} was not published by hf_fsl.")
        noted = config.hf_fsl
        if noted["dense"]:
            raise ExportError(
                f"{config._name_or_path or type(model).__name__}: its head took in a dense layer of the backbone, so "
                "that the embeddings it was fitted on are not to be had again. Publish it with stock=False."
            )
        encoder, modules = _body(model), EmbeddingModules(noted["pooling"])
        name, prompt = noted["backbone"], noted["prompt"]
    if model.main_input_name == "pixel_values":
        backbone = Backbone(encoder, None, image_processor=processor, modules=modules, name=name)
    else:
        if prompt:
            modules.prompts, modules.default_prompt = {"default": prompt}, "default"
        backbone = Backbone(encoder, _without_prompt(processor, prompt), modules=modules, name=name)
    backbone.original = False  # it may have been adapted before it was published
    return backbone


def _body(model: Any) -> nn.Module:
    bodies = {family.body for family in FAMILIES.values() if family.architecture == type(model).__name__}
    if not bodies:
        raise ExportError(f"{type(model).__name__} is none of the stock classes that hf_fsl publishes.")
    body: nn.Module = getattr(model, bodies.pop())
    return body


def _without_prompt(tokenizer: Any, prompt: str) -> Any:
    """A copy of a published tokenizer that leaves the prompt to ``encode``."""
    tokenizer = copy.deepcopy(tokenizer)
    if prompt:
        steps = list(tokenizer.backend_tokenizer.normalizer or [])
        if not steps or not isinstance(steps[0], normalizers.Prepend) or steps[0].prepend != prompt:
            raise ExportError(f"The tokenizer does not put the prompt {prompt!r:.60} before texts, as the model says.")
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps[1:])
    return tokenizer
