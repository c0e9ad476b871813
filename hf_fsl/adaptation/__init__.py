"""Metric learning: a backbone adapted to labelled examples, few or many."""

from hf_fsl.adaptation.adapt import Adapted, adapt
from hf_fsl.adaptation.errors import AdaptationError

__all__ = ["AdaptationError", "Adapted", "adapt"]
