"""The stock classification model of a backbone, as it will be trained and published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel
from transformers.utils.hub import cached_file, extract_commit_hash

from hf_fsl.config.sections import ModelConfig
from hf_fsl.core.task import Task
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.tokenizer import load_tokenizer
from hf_fsl.models.backbones.weights import load_weights, loading


@dataclass(frozen=True)
class Classifier:
    """A stock classification model, its tokenizer or image processor, and which of its modules are the head.

    ``commit`` is that of the repository they come from, None for a folder; ``new_head``: some of the head
    is in no checkpoint, and starts at random.
    """

    model: PreTrainedModel
    processor: Any
    head: tuple[str, ...]
    commit: str | None = None
    new_head: bool = True


def load_classifier(config: ModelConfig, task: Task) -> Classifier:
    """Loads ``AutoModelForSequenceClassification`` or ``AutoModelForImageClassification`` with the task's labels.

    The head is whatever the checkpoint has no weights for, and the classification layers even where it has some.
    Seed torch before the call: the head starts from random weights.

    Args:
        config: which repository, and how it is loaded.
        task: the modality and the label names.

    Raises:
        BackboneError: the repository has no model of the modality, or cannot be found.
    """
    auto = getattr(transformers, task.auto_model)
    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    labels = {
        "num_labels": len(task.label_names),
        "id2label": task.id2label,
        "label2id": task.label2id,
        "problem_type": task.problem_type,
    }
    options: dict[str, Any] = {"dtype": getattr(torch, config.dtype)}
    if config.attn_implementation is not None:
        options["attn_implementation"] = config.attn_implementation
    named = f"as {auto.__name__} for a task of modality {task.modality}"
    with loading(BackboneError, config.model_name_or_path, config.revision, named):
        processor = load_processor(config, task)
        if config.from_config:
            settings = AutoConfig.from_pretrained(config.model_name_or_path, **source, **labels)
            model = auto.from_config(settings, trust_remote_code=config.trust_remote_code, **options)
            fresh: set[str] = set()  # all of it is random, and trained in full
        else:
            model, fresh = load_weights(
                auto, config.model_name_or_path, **source, **labels, **options, ignore_mismatched_sizes=True
            )
            _require_body(model, fresh)
    if task.modality != "image":
        _ensure_padding(model, processor)
    commit = loaded_commit(config.model_name_or_path, config.revision)
    return Classifier(model, processor, head_modules(model, fresh), commit, config.from_config or bool(fresh))


def loaded_commit(model_name_or_path: str, revision: str | None) -> str | None:
    """The commit of a repository that was just loaded; None for a folder that is no snapshot of one.

    transformers 5 no longer notes it in the config. The cache knows: its files lie in a folder named by the commit,
    and without a look at the network it is the one that was loaded, even if somebody has pushed since.
    """
    path = cached_file(
        model_name_or_path,
        "config.json",
        revision=revision,
        local_files_only=True,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return extract_commit_hash(str(Path(path).absolute()), None) if path is not None else None


def load_processor(config: ModelConfig, task: Task) -> Any:
    """The tokenizer or image processor of the backbone."""
    load = AutoImageProcessor.from_pretrained if task.modality == "image" else load_tokenizer
    return load(config.model_name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code)


def head_modules(model: PreTrainedModel, fresh: set[str]) -> tuple[str, ...]:
    """Names of the modules that hold the classification head.

    Args:
        model: a stock classification model.
        fresh: names of the parameters that came out of no checkpoint; the modules that own them count as head.
    """
    body = model.base_model_prefix if hasattr(model, model.base_model_prefix) else ""
    named = {
        name
        for name, child in model.named_children()
        if name in ("classifier", "score", "pre_classifier", "head", "logits_proj", "fc")
        and name != body
        and any(True for _ in child.parameters())
    }
    for key in fresh:
        top, _, _ = key.partition(".")
        named.add(key.rpartition(".")[0] if top == body or not hasattr(model, top) else top)
    outermost = {name for name in named if not any(name.startswith(f"{other}.") for other in named)}
    return tuple(sorted(outermost))


def _require_body(model: PreTrainedModel, fresh: set[str]) -> None:
    """A head may start at random, a pooler too; the rest is what there is to adapt."""
    sizes = {name: sum(one.numel() for one in child.parameters()) for name, child in model.named_children()}
    prefix = model.base_model_prefix
    body = f"{prefix if prefix in sizes else max(sizes, key=sizes.__getitem__)}."
    missing = sorted(key for key in fresh if key.startswith(body) and "pooler" not in key)
    if missing:
        raise ValueError(
            f"{len(missing)} weights of its body are missing or of other shapes than its config.json says, "
            f"{missing[0]} among them. Choose a checkpoint of the whole model, or train one from its config "
            "(model.from_config: true)."
        )


def _ensure_padding(model: PreTrainedModel, tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise BackboneError(f"{type(tokenizer).__name__} has neither a padding nor an end token to pad with.")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
