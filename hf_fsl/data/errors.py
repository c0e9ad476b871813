"""The one error of data that cannot be used."""

from hf_fsl.errors import UserError


class DataError(UserError, ValueError):
    """A data set, a column, a label or a split that cannot be used; the message names what was found."""
