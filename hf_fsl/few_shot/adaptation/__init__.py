"""Metric learning: a backbone adapted to labelled examples, few or many."""

from hf_fsl.few_shot.adaptation.adapt import Adapted, adapt
from hf_fsl.few_shot.adaptation.sampling import AdaptationError

__all__ = ["AdaptationError", "Adapted", "adapt"]
