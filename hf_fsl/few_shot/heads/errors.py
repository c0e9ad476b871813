"""What a head refuses."""

from __future__ import annotations

from hf_fsl.core.errors import UserError


class HeadError(UserError, ValueError):
    """Supports, labels, a prior or settings that a head cannot be fitted with."""


class TooFewSupports(HeadError):
    """Supports that are all right, and not enough for what is asked."""
