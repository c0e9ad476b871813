"""The one error of data that cannot be used."""

from collections.abc import Sequence

from hf_fsl.core.errors import UserError


class DataError(UserError, ValueError):
    """A data set, a column, a label or a split that cannot be used; the message names what was found."""


def listed(values: Sequence[object], most: int = 12) -> str:
    """The first values, and how many there are beyond them."""
    more = f", … ({len(values)} in all)" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more
