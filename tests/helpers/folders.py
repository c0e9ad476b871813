"""Changes of a saved model's folder, as somebody could make them."""

from __future__ import annotations

import json

from safetensors.torch import load_file, save_file


def weights_with(change):
    """Puts ``change`` of the weights, name -> tensor, in their place."""

    def changed(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return changed


def config_with(**values):
    """Gives fields of ``config.json`` other values."""

    def changed(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return changed
