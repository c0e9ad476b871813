"""What a head refuses."""

from __future__ import annotations

from hf_fsl.errors import UserError


class HeadError(UserError, ValueError):
    """Supports, labels, a prior or settings that a head cannot be fitted with."""
