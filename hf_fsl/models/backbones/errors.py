"""What a backbone refuses."""

from __future__ import annotations

from hf_fsl.core.errors import UserError


class BackboneError(UserError, ValueError):
    """A backbone that cannot be used for the task."""
