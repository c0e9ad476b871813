"""FewShotClassifier, the front door: a Hub encoder and a few labels."""

from hf_fsl.few_shot.classifier.estimator import FewShotClassifier
from hf_fsl.few_shot.classifier.support import FewShotError

__all__ = ["FewShotClassifier", "FewShotError"]
