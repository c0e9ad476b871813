"""What a model's repository says of it: its licence, and the commit that was read."""

from __future__ import annotations

from pathlib import Path

import httpx2
from huggingface_hub import ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError


def model_license(model: str) -> str | None:
    """The licence that a model's card names; None where that cannot be known."""
    try:
        return ModelCard.load(model).data.get("license")
    except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError):
        return None


def model_revision(model: str, revision: str | None = None) -> str | None:
    """The commit of the copy in the cache, which loading the model has left there; None for a local folder.

    Configs of transformers 5.24 do not carry it any more.
    """
    if Path(model).exists():
        return None
    found = try_to_load_from_cache(model, "config.json", revision=revision or "main")
    return Path(found).parent.name if isinstance(found, str) else revision
