"""Models as their repositories hold them: whole, finite, from safetensors, by no code that was not asked for."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils.hub import cached_file

from hf_fsl.core.errors import UserError

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_QUIET: dict[str, Any] = {
    "_raise_exceptions_for_gated_repo": False,
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}


@contextlib.contextmanager
def loading(error: type[UserError], name: str, revision: str | None, what: str, where: str = "") -> Iterator[None]:
    """Makes one clear error of whatever goes wrong while a repository is read.

    Other people's files fail in every way: cut, damaged, of the wrong types, nested too deep.

    Args:
        error: what is raised; errors of ours pass as they are.
        what: the repository was to be loaded as, or for, in words.
        where: the repository was named, put before the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as cause:
        reason = str(cause) or type(cause).__name__
        if isinstance(cause, OSError) and cause.errno is None and "safetensors" in reason:
            reason += (
                " Weights are read from safetensors alone, never from pickles (.bin, .pt): load the model once where "
                "you trust it and save_pretrained it again, or choose a revision that has them."
            )
        damaged = damaged_files(name, revision)
        if damaged:
            reason += f" Damaged in the cache, to be removed and fetched again: {', '.join(map(str, damaged))}."
        whole = f"{name} (revision {revision})" if revision else name
        raise error(f"{where}{whole} does not load {what}: {reason}") from cause


def load_weights(auto: Any, name: str, **options: Any) -> tuple[Any, set[str]]:
    """``auto.from_pretrained`` on safetensors.

    Args:
        auto: a model class of transformers, or one that chooses among them.
        options: as there; remote code is not trusted unless they say so.

    Returns:
        The model, and the names of its weights that the repository does not have in their shapes.

    Raises:
        ValueError: weights that are not finite, or that belong to a layer of the model and have no place in it.
    """
    trusts = options.pop("trust_remote_code", None) or False
    _refuse_pickled_adapter(name, options.get("revision"))
    model, info = auto.from_pretrained(
        name, output_loading_info=True, use_safetensors=True, trust_remote_code=trusts, **options
    )
    stray = sorted(key for key in info["unexpected_keys"] if _astray(model, key))
    if stray:
        raise ValueError(
            f"its weights are of another model than its config.json says: {_some(stray)} have no place in it."
        )
    missing = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    # What is missing may be memory as it was found, NaN among it by chance.
    require_finite({key: value for key, value in _tensors(model).items() if key not in missing})
    return model, missing


def load_whole(auto: Any, name: str, **options: Any) -> Any:
    """As :func:`load_weights`, and all of the model's weights must be there.

    Raises:
        ValueError: they are not; what it would answer is random.
    """
    model, missing = load_weights(auto, name, **options)
    if missing:
        raise ValueError(f"it has no weights for {_some(sorted(missing))}: what it answers would be random.")
    return model


def require_class_names(config: Any) -> None:
    """Raises ValueError where not each class of a classification model has a name of its own."""
    names = list(config.id2label.values())
    if len(set(names)) < len(names) or len(names) != config.num_labels:
        raise ValueError(f"its {config.num_labels} classes have the names {names}: each needs one of its own.")


def require_finite(tensors: dict[str, torch.Tensor]) -> None:
    """Raises ValueError where a tensor holds NaN or infinity."""
    broken = [name for name, value in tensors.items() if value.numel() and not _finite(value)]
    if broken:
        raise ValueError(f"{_some(broken)} hold NaN or infinite values.")


def damaged_files(name: str, revision: str | None = None) -> list[Path]:
    """Files of a repository in the Hub's cache whose content is not what their names, which are checksums, say."""
    try:
        config = cached_file(name, "config.json", revision=revision, local_files_only=True, **_QUIET)
    except (OSError, ValueError):  # no name of a repository
        config = None
    if config is None:
        return []
    blobs = {path.resolve() for path in Path(config).parent.rglob("*") if path.is_symlink() and path.is_file()}
    return sorted(blob for blob in blobs if _checksum(blob) != blob.name)


def _checksum(blob: Path) -> str:
    """As Git counts it, or of the content alone, whichever the name is; the name where it is neither."""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return blob.name
    if len(blob.name) == 64:
        with blob.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    data = blob.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _refuse_pickled_adapter(name: str, revision: str | None) -> None:
    """transformers falls back to the pickle of an adapter whatever it is told."""
    if cached_file(name, ADAPTER, revision=revision, **_QUIET) is None:
        return
    if cached_file(name, ADAPTER_WEIGHTS, revision=revision, **_QUIET) is None:
        raise OSError(f"its adapter has no {ADAPTER_WEIGHTS}.")


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, and the buffers that are saved with them."""
    return {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _astray(model: Any, key: str) -> bool:
    """Whether a weight without a place belongs to a layer that the model has, or to one more of its layers.

    Others are of heads that the model does without.
    """
    roots = [model, getattr(model, model.base_model_prefix, model)]
    return any(_belongs(root, key.removeprefix(f"{model.base_model_prefix}.")) for root in roots)


def _belongs(module: nn.Module, key: str) -> bool:
    *path, name = key.split(".")
    for part in path:
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            return isinstance(module, nn.ModuleList | nn.Sequential) and part.isdigit()
        module = child
    # What the layer does without (a mask token that is None), or holds as a constant, as old GPT-2 does.
    spare = name in module._buffers or name == "masked_bias" or (name in vars(module) and vars(module)[name] is None)
    return bool(path) and not spare


def _finite(value: torch.Tensor) -> bool:
    if value.is_meta or not value.is_floating_point() or value.dtype.itemsize == 1:  # of 8 bits, torch compares none
        return True
    low, high = value.detach().aminmax()  # NaN comes through; no copy is made
    return bool(low.isfinite() & high.isfinite())


def _some(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
