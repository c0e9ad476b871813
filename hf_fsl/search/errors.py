"""What a search cannot do, and why."""

from hf_fsl.core.errors import UserError


class SearchError(UserError, ValueError):
    """A search space, an architecture or a task that cannot be searched as asked."""
