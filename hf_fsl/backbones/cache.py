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
    """A digest that changes when any parameter does: names, types, shapes and all bytes of the values."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def processor_fingerprint(processor: Any) -> str:
    """A digest that changes when a tokenizer, or an image processor, treats its inputs otherwise."""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is None:
        settings = processor.to_dict() if hasattr(processor, "to_dict") else processor.get_vocab()
        text = json.dumps(settings, sort_keys=True, default=str)
    else:
        # How the last call cut and padded is kept in there; every call says it anew.
        backend.no_truncation()
        backend.no_padding()
        text = f"{processor.pad_token_id}\n{backend.to_str()}"
    return hashlib.sha256(text.encode()).hexdigest()
