"""Data sets: loaded from the Hub or from files, mapped to a task, split without overlap."""

from hf_fsl.data.errors import DataError
from hf_fsl.data.loading import Splits, load_split, load_splits

__all__ = ["DataError", "Splits", "load_split", "load_splits"]
