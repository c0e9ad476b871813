"""Embeddings kept on disk: a frozen backbone sees each input once."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hf_fsl.core.files import atomic_write, remove

_MANY = 16
"""Files of one way of encoding that are merged into one."""


class EmbeddingCache:
    """Files in a folder, none of which ever changes: what each ``store`` was given, named by its checksum.

    Writers need not know of each other: none replaces what another wrote. A file that does not fit its name is
    damaged, and as good as none; a cache that cannot be written is warned of.

    Args:
        folder: where the files are; created when something is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, identity: dict[str, Any]) -> dict[str, Tensor]:
        """Input key -> embedding ``(D,)`` of all that was encoded in this way, by whomever; damaged files go."""
        embeddings: dict[str, Tensor] = {}
        for part in self._read(_name(identity)).values():
            embeddings |= part
        return embeddings

    def store(self, identity: dict[str, Any], embeddings: dict[str, Tensor]) -> None:
        """Adds to what is kept for this way of encoding."""
        name = _name(identity)
        try:
            self._write(name, embeddings)
            if len(self._files(name)) > _MANY:
                parts = self._read(name)
                whole = self._write(name, {key: row for part in parts.values() for key, row in part.items()})
                for path in parts.keys() - {whole}:
                    remove(path)
        except OSError as error:
            warnings.warn(f"{self.folder}: embeddings cannot be kept there ({error}); they are lost.", stacklevel=2)

    def _files(self, name: str) -> set[Path]:
        return set(self.folder.glob(f"{name}.*.safetensors"))

    def _read(self, name: str) -> dict[Path, dict[str, Tensor]]:
        """What is in each file."""
        parts: dict[Path, dict[str, Tensor]] = {}
        gone: set[Path] = set()
        # What another process has merged meanwhile is in a file that is new.
        while new := self._files(name) - parts.keys() - gone:
            for path in new:
                try:
                    data = path.read_bytes()
                except OSError:
                    gone.add(path)
                    continue
                if path.name == _file_name(name, data):
                    parts[path] = _unpacked(data)
                else:
                    gone.add(path)
                    remove(path)
        return parts

    def _write(self, name: str, embeddings: dict[str, Tensor]) -> Path:
        data = _packed(embeddings)
        path = self.folder / _file_name(name, data)
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        return path


def _name(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _file_name(name: str, data: bytes) -> str:
    return f"{name}.{hashlib.blake2b(data, digest_size=16).hexdigest()}.safetensors"


def _packed(embeddings: dict[str, Tensor]) -> bytes:
    """One tensor for all embeddings of a shape: ten times as fast to read as one for each."""
    kinds: dict[Any, list[str]] = defaultdict(list)
    for key, row in embeddings.items():
        kinds[row.shape, row.dtype].append(key)
    tensors = {str(kind): torch.stack([embeddings[key] for key in keys]) for kind, keys in enumerate(kinds.values())}
    names = bytearray(json.dumps(list(kinds.values())).encode())
    return save(tensors | {"keys": torch.frombuffer(names, dtype=torch.uint8)})


def _unpacked(data: bytes) -> dict[str, Tensor]:
    tensors = load(data)
    kinds = json.loads(tensors["keys"].numpy().tobytes())
    return {
        key: row for kind, keys in enumerate(kinds) for key, row in zip(keys, tensors[str(kind)].unbind(), strict=True)
    }


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
