"""From token states to one embedding, as the repository's sentence-transformers modules say or as asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from hf_fsl.backbones.classification import BackboneError

Pooling = Literal["cls", "mean", "pooler", "last"]

_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


@dataclass
class EmbeddingModules:
    """What follows the encoder: pooling, dense layers, normalisation; and the prompts put before texts."""

    pooling: Pooling | None = None
    dense: list[nn.Module] = field(default_factory=list)
    normalize: bool = False
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def pool(hidden: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """Token states ``(B, T, D)`` -> ``(B, D)``.

    Args:
        mask: ``(B, T)``, 1 where there is a token; None where there is no padding. Padding may be on either side.
        pooling: ``cls`` takes the first token, ``last`` the last one, ``mean`` the mean of all.
    """
    if mask is None:
        return {"cls": hidden[:, 0], "last": hidden[:, -1], "mean": hidden.mean(1)}[pooling]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    index = (mask.long() if pooling == "cls" else positions * mask.long()).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


def read_modules(source: str, revision: str | None) -> EmbeddingModules | None:
    """The sentence-transformers modules of a repository or folder; None where it has none.

    Raises:
        BackboneError: a module that is not supported here.
    """
    listing = _read_json(source, "modules.json", revision)
    if listing is None:
        return None
    found = EmbeddingModules()
    for module in listing:
        kind, folder = module["type"].rpartition(".")[2], module.get("path", "")
        if kind == "Transformer":
            settings = _read_json(source, _join(folder, "sentence_bert_config.json"), revision) or {}
            found.max_length = settings.get("max_seq_length")
        elif kind == "Pooling":
            found.pooling = _pooling(source, _read_json(source, _join(folder, "config.json"), revision) or {})
        elif kind == "Dense":
            found.dense.append(_dense(source, folder, revision))
        elif kind == "Normalize":
            found.normalize = True
        else:
            raise BackboneError(
                f"{source} embeds through the sentence-transformers module {kind!r}, which is not supported here "
                "(Transformer, Pooling, Dense and Normalize are). Choose another backbone, or name a pooling."
            )
    settings = _read_json(source, "config_sentence_transformers.json", revision) or {}
    found.prompts = {name: text for name, text in (settings.get("prompts") or {}).items() if text}
    found.default_prompt = settings.get("default_prompt_name")
    return found


def _pooling(source: str, settings: dict[str, Any]) -> Pooling:
    modes = [mode for key, mode in _MODES.items() if settings.get(key)]
    others = [
        key for key, value in settings.items() if key.startswith("pooling_mode_") and value and key not in _MODES
    ]
    if settings.get("pooling_mode") in _NAMES:
        modes.append(_NAMES[settings["pooling_mode"]])
    if len(modes) != 1 or others:
        raise BackboneError(
            f"{source} pools by {settings}; supported is one of cls, mean and last token. Name a pooling."
        )
    return modes[0]


def _dense(source: str, folder: str, revision: str | None) -> nn.Module:
    settings = _read_json(source, _join(folder, "config.json"), revision) or {}
    weights = cached_file(source, _join(folder, "model.safetensors"), revision=revision)
    layer = nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    layer.load_state_dict({key.removeprefix("linear."): value for key, value in load_file(str(weights)).items()})
    activation = settings.get("activation_function", "torch.nn.modules.linear.Identity").rpartition(".")[2]
    if activation not in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"):
        raise BackboneError(f"{source}: the activation {activation!r} of its dense layer is not supported.")
    return nn.Sequential(layer, getattr(nn, activation)()).eval()


def _read_json(source: str, name: str, revision: str | None) -> Any:
    path = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
