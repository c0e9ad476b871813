"""What a user can mend of few-shot classification."""

from hf_fsl.core.errors import UserError


class FewShotError(UserError, ValueError):
    """Examples, queries or a request that few-shot classification cannot work with."""
