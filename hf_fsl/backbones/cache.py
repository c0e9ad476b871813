"""Embeddings kept on disk: a frozen backbone sees each input once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_fsl.files import replaced


class EmbeddingCache:
    """One safetensors file for each way of encoding, in a folder.

    Args:
        folder: where the files are; created when something is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, identity: dict[str, Any]) -> dict[str, Tensor]:
        """Input key -> embedding ``(D,)`` of everything encoded in this way; a damaged file counts as empty."""
        try:
            return load_file(self._path(identity))
        except (FileNotFoundError, SafetensorError):
            return {}

    def store(self, identity: dict[str, Any], embeddings: dict[str, Tensor]) -> None:
        """Replaces what is kept for this way of encoding."""
        with replaced(self._path(identity)) as temporary:
            save_file(embeddings, temporary, metadata={"identity": json.dumps(identity)})

    def _path(self, identity: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A digest that changes when any parameter does: names, shapes, and sums of the values."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        total = value.double().sum().item() if value.is_floating_point() else int(value.sum())
        first = value.flatten()[:4].tolist()
        digest.update(repr((name, tuple(value.shape), total, first)).encode())
    return digest.hexdigest()
