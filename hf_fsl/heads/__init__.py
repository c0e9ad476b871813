"""Few-shot classifiers over embeddings: (support embeddings, labels, label embeddings) -> a head."""

from hf_fsl.heads.errors import HeadError
from hf_fsl.heads.estimators import ESTIMATORS, Estimator, fit_head, held_out_logits

__all__ = ["ESTIMATORS", "Estimator", "HeadError", "fit_head", "held_out_logits"]
