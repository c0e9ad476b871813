"""AdapterConfig -> PEFT config -> an adapted model, counted and merged."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peft
from peft.utils import ModulesToSaveWrapper
from torch import nn

from hf_fsl.config.sections import AdapterConfig
from hf_fsl.models.adapters.methods import peft_config, trained_in_full
from hf_fsl.models.adapters.targets import AdapterError


@dataclass(frozen=True)
class ParameterCount:
    """How much of a model is trained."""

    trainable: int
    total: int
    """Of the adapted model, adapter included."""

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({self.share:.2%})"


def attach_adapter(model: nn.Module, adapter: AdapterConfig | peft.PeftConfig, head: Sequence[str] = ()) -> nn.Module:
    """Makes ``model`` trainable in the way ``adapter`` says.

    Example::

        head = head_modules(model, set())
        adapted = attach_adapter(model, AdapterConfig(method="lora", r=8), head)
        print(count_parameters(adapted))

    Args:
        model: a transformers model; changed in place.
        adapter: our config, or a ``peft.PeftConfig``, of which a copy is taken as it is, but for the head: that is
            added to its ``modules_to_save``, since a new head that is not trained and saved is of no use.
        head: names of the modules of the classification head, trained in full with every method.

    Returns:
        ``model`` itself for full fine-tuning and head only, else a ``peft.PeftModel`` around it.

    Raises:
        AdapterError: the adapter matches nothing in this model, or cannot do what is asked of it.
    """
    config: Any
    if not isinstance(adapter, AdapterConfig):
        config = copy.deepcopy(adapter)
    elif adapter.peft_config is not None:
        config = _stored_config(adapter.peft_config)
    elif adapter.method == "full":
        return model
    elif adapter.method == "head":
        return _head_only(model, trained_in_full(model, adapter.modules_to_save, head))
    else:
        config = peft_config(model, adapter, head)
    if head:
        config.modules_to_save = trained_in_full(model, getattr(config, "modules_to_save", None), head)
    try:
        return peft.get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise AdapterError(f"PEFT cannot attach {config.peft_type}: {error}") from error


def count_parameters(model: nn.Module) -> ParameterCount:
    """Trainable parameters and all of them, an adapter's among both."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes))


def merge_adapter(model: nn.Module) -> nn.Module:
    """The plain model with the adapter merged into its weights; a model without an adapter comes back as it is.

    Args:
        model: of :func:`attach_adapter`; its weights are changed in place.

    Raises:
        ValueError: the merged weights would not be finite.
    """
    if not isinstance(model, peft.PeftModel):
        return model
    # PEFT 0.21 unwraps modules_to_save for LoRA, not for LayerNorm tuning, and fails on heads of several layers for
    # IA3 and VeRA: unwrapped beforehand, all methods merge alike.
    base = model.get_base_model()
    for name, module in list(base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            base.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return model.merge_and_unload(safe_merge=True)


def describe_adapter(model: nn.Module) -> dict[str, Any]:
    """The PEFT config of an adapted model as plain values, empty for a model without an adapter."""
    if not isinstance(model, peft.PeftModel):
        return {}
    values = model.active_peft_config.to_dict()
    return {key: _plain(value) for key, value in values.items() if value not in (None, {}, [], False)}


def _stored_config(source: str) -> peft.PeftConfig:
    try:
        return peft.PeftConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"adapter.peft_config: {source!r} is no folder or Hub repository with an adapter_config.json that PEFT "
            f"reads ({error}). Correct it, or describe the adapter by adapter.method."
        ) from error


def _head_only(model: nn.Module, head: Sequence[str]) -> nn.Module:
    trained = [p for name, p in model.named_parameters() if any(f".{h}." in f".{name}" for h in head)]
    if not trained:
        raise AdapterError(f"method: head trains the modules {list(head)}, and the model has no parameters in them.")
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, (set, list, tuple)):
        return sorted(map(_plain, value), key=str) if isinstance(value, set) else [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool)) else str(getattr(value, "value", value))
