"""What adaptation refuses."""

from hf_fsl.core.errors import UserError


class AdaptationError(UserError, ValueError):
    """Examples, an adapter or settings that a backbone cannot be adapted with."""
