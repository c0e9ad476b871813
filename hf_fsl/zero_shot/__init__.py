"""Zero-shot classification: labels from their names alone."""

from hf_fsl.models.templates import ZeroShotError, as_labels, as_templates, fill_templates
from hf_fsl.zero_shot.scores import LabelPrior

__all__ = ["LabelPrior", "ZeroShotError", "as_labels", "as_templates", "fill_templates"]
