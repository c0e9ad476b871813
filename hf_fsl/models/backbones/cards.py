"""What a model's card says of it."""

from __future__ import annotations

import httpx2
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError


def model_license(model: str) -> str | None:
    """The licence that a model's card names; None where that cannot be known."""
    try:
        return ModelCard.load(model).data.get("license")
    except (OSError, ValueError, HfHubHTTPError, httpx2.HTTPError):
        return None
