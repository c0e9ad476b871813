"""A model kept as what it adds to another one, put together when a Hub is seeded."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_fsl.core.errors import UserError

OVERLAY = "overlay.safetensors"
DOWN, UP = ".down", ".up"


@contextlib.contextmanager
def whole_model(folder: Path, base: Path, base_name: str) -> Iterator[Path]:
    """The folder as it is to be pushed: itself, or with ``model.safetensors`` made of overlay and base.

    The overlay's metadata names its ``base`` and the ``prefix`` of the base's weights in the whole. What it holds
    takes a weight's place or comes beside it; ``NAME.down`` ``(r, in)`` and ``NAME.up`` ``(out, r)`` add their product
    to the weight NAME, as an adapter does when it is merged. Half-precision weights become float32; files of the
    tokenizer come from the base.

    Raises:
        UserError: the overlay is for another base.
    """
    if not (folder / OVERLAY).is_file():
        yield folder
        return
    with safe_open(folder / OVERLAY, "numpy") as added:
        about = added.metadata()
        if about.get("base") != base_name:
            raise UserError(f"{folder / OVERLAY} adds to {about.get('base')}, not to {base_name}.")
        with safe_open(base / "model.safetensors", "numpy") as given:
            weights = {f"{about['prefix']}{name}": given.get_tensor(name) for name in _weights(given)}
        new = {name: _float32(added.get_tensor(name)) for name in added.keys()}  # noqa: SIM118
    for name in [name.removesuffix(UP) for name in new if name.endswith(UP)]:
        weights[name] = weights[name] + new.pop(name + UP) @ new.pop(name + DOWN)
    weights |= new
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / folder.name
        shutil.copytree(folder, whole, ignore=shutil.ignore_patterns(OVERLAY))
        shutil.copy(base / "tokenizer.json", whole)
        save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
        yield whole


def _weights(given: safe_open) -> list[str]:
    return [name for name in given.keys() if not name.endswith("position_ids")]  # noqa: SIM118


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float16 else values
