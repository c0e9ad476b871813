"""Data sets: loaded from the Hub or from files, mapped to a task, split without overlap."""

from hf_fsl.data.errors import DataError
from hf_fsl.data.loading import Splits, load_split, load_splits
from hf_fsl.data.pairs import Pairs, PairSplit, load_pairs

__all__ = ["DataError", "PairSplit", "Pairs", "Splits", "load_pairs", "load_split", "load_splits"]
