"""Zero-shot classification: labels from their names alone."""

from hf_fsl.zero_shot.scores import LabelPrior
from hf_fsl.zero_shot.templates import ZeroShotError, as_labels, as_templates, fill_templates

__all__ = ["LabelPrior", "ZeroShotError", "as_labels", "as_templates", "fill_templates"]
