"""What a repository says of embeddings: sentence-transformers' modules behind the encoder, and its prompts."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils.hub import cached_file

from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.weights import loading, require_finite
from hf_fsl.models.published.pooling import Pooling

_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_DENSE = ("in_features", "out_features", "bias", "activation_function")
_DENSE_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "use_residual": (False,),
    "module_input_name": ("sentence_embedding",),
    "module_output_name": ("sentence_embedding", None),
}
"""Settings of a dense layer that change nothing at these values, and what is computed at others."""
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass
class EmbeddingModules:
    """What follows the encoder: pooling, dense layers, normalisation; and what comes before it: prompts, lower case.

    ``include_prompt``: whether the tokens of a prompt are pooled too.
    """

    pooling: Pooling | None = None
    dense: list[nn.Module] = field(default_factory=list)
    normalize: bool = False
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    """Of texts that no other is given for: one of the names, or the text itself."""
    include_prompt: bool = True
    lower_case: bool = False
    leading_tokens: int | None = None
    """Before the patches, of an image encoder; None: as many as its output shows."""

    def after_pooling(self, embeddings: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` of what pooling gave."""
        for layer in self.dense:
            embeddings = layer(embeddings)
        return nn.functional.normalize(embeddings, dim=-1) if self.normalize else embeddings

    def prompt(self, name_or_text: str | None) -> str:
        """The text of a prompt: of the default one, of one that has a name, or the given text itself."""
        name_or_text = (self.default_prompt or "") if name_or_text is None else name_or_text
        return self.prompts.get(name_or_text, name_or_text)


def read_modules(source: str, revision: str | None, pooling: Pooling | None = None) -> EmbeddingModules | None:
    """The sentence-transformers modules of a repository or folder; None where it has none.

    Args:
        pooling: used instead of the repository's; everything else stays as the repository says.

    Raises:
        BackboneError: a module that is not supported here, or a file that cannot be read.
    """
    with loading(BackboneError, source, revision, "as an encoder"):
        return _modules(source, revision, pooling)


def _modules(source: str, revision: str | None, pooling: Pooling | None) -> EmbeddingModules | None:
    listing = _read_json(source, "modules.json", revision)
    if listing is None:
        return None
    modules = EmbeddingModules()
    for module in listing:
        kind, folder = module["type"].rpartition(".")[2], module.get("path", "")
        if kind == "Transformer":
            settings = _read_json(source, _join(folder, "sentence_bert_config.json"), revision) or {}
            modules.max_length = settings.get("max_seq_length")
            modules.lower_case = bool(settings.get("do_lower_case"))
        elif kind == "Pooling":
            settings = _read_json(source, _join(folder, "config.json"), revision) or {}
            modules.pooling = pooling or _pooling(source, settings)
            modules.include_prompt = settings.get("include_prompt", True)
        elif kind == "Dense":
            modules.dense.append(_dense(source, folder, revision))
        elif kind == "Normalize":
            modules.normalize = True
        else:
            raise BackboneError(
                f"{source} embeds through the sentence-transformers module {kind!r}, which is not supported here "
                "(Transformer, Pooling, Dense and Normalize are). Choose another backbone."
            )
    settings = _read_json(source, "config_sentence_transformers.json", revision) or {}
    modules.prompts = dict(settings.get("prompts") or {})
    modules.default_prompt = settings.get("default_prompt_name")
    if modules.default_prompt is not None and modules.default_prompt not in modules.prompts:
        raise BackboneError(
            f"{source}: its default prompt {modules.default_prompt!r} is none of its prompts "
            f"({', '.join(modules.prompts) or 'there are none'}). Mend its config_sentence_transformers.json."
        )
    return modules


def _pooling(source: str, settings: dict[str, Any]) -> Pooling:
    named = settings.get("pooling_mode") or []
    named = [named] if isinstance(named, str) else list(named)
    flags = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
    modes = [*(_NAMES.get(name) for name in named), *(_MODES.get(flag) for flag in flags)]
    if len(modes) != 1 or modes[0] is None:
        raise BackboneError(
            f"{source} pools by {', '.join([*named, *flags]) or settings}; supported is one of cls, mean and last "
            "token. Name a pooling."
        )
    return modes[0]


def _dense(source: str, folder: str, revision: str | None) -> nn.Module:
    settings = _read_json(source, _join(folder, "config.json"), revision) or {}
    strange = [
        f"{key}: {value!r}"
        for key, value in settings.items()
        if key not in _DENSE and value not in _DENSE_DEFAULTS.get(key, ())
    ]
    if strange:
        raise BackboneError(
            f"{source}: its dense layer is set to {', '.join(strange)}, which is not supported here and would give "
            "other embeddings. Choose another backbone."
        )
    activation = settings.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise BackboneError(
            f"{source}: the activation {activation!r} of its dense layer is not supported ({', '.join(_ACTIVATIONS)} "
            "are). Choose another backbone."
        )
    try:
        weights = cached_file(source, _join(folder, "model.safetensors"), revision=revision)
    except OSError as error:
        raise BackboneError(
            f"{source}: the weights of its dense layer in {folder} are not there as safetensors, and pickles are not "
            f"read. Convert them, or choose another backbone: {error}"
        ) from error
    layer = nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
    tensors = {key.removeprefix("linear."): value for key, value in load_file(str(weights)).items()}
    require_finite(tensors)
    layer.load_state_dict(tensors)
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


_E5 = re.compile(r"(^|[-_])e5([-_](?!.*instruct)|$)")
"""In a model's name. Its repositories name no prompts, though it was trained with "query: " and "passage: " (Wang et
al. 2022, arXiv:2212.03533); of the two its authors advise the first for classification."""


def settle_prompt(
    modules: EmbeddingModules, source: str, prompt: str | None = None, prompt_name: str | None = None
) -> None:
    """Makes the default prompt what was asked for, else the repository's own, else its prompt for classification.

    What nobody asked for is said, in a warning.

    Args:
        source: the repository or folder.
        prompt: the text, or its name; "" for none.
        prompt_name: of a prompt of the repository.

    Raises:
        BackboneError: both are given, or the repository names no such prompt.
    """
    names = list(modules.prompts)
    if prompt is not None and prompt_name is not None:
        raise BackboneError(f"prompt or prompt_name, not both; got {prompt!r} and {prompt_name!r}.")
    if prompt_name is not None and prompt_name not in names:
        known = f"names {', '.join(map(repr, names))}" if names else "names no prompts"
        raise BackboneError(f"prompt_name={prompt_name!r}: {source} {known}. Choose one, or give its text as prompt.")
    if prompt is not None or prompt_name is not None:
        modules.default_prompt = prompt if prompt is not None else prompt_name
        return
    if modules.default_prompt is None:
        modules.default_prompt = next((name for name in names if name.lower() == "classification"), None)
    if modules.default_prompt is not None:
        if text := modules.prompt(None):
            warnings.warn(
                f"{text!r} is put before every text, the prompt {modules.default_prompt!r} of {source}; prompt='' "
                "leaves it out.",
                stacklevel=3,
            )
    elif any(modules.prompts.values()):
        warnings.warn(
            f"{source} was trained with prompts ({', '.join(map(repr, names))}), none of them the default or for "
            "classification, so that texts are encoded without one. Choose by prompt_name=… or prompt=…; prompt='' "
            "for none.",
            stacklevel=3,
        )
    elif _E5.search(source.rstrip("/").rpartition("/")[2].lower()):
        warnings.warn(
            f"{source}: E5 models were trained with 'query: ' before every text, and this repository does not say so. "
            "Give prompt='query: ', or prompt='' for none.",
            stacklevel=3,
        )
