"""Few-shot classifiers over embeddings: (support embeddings, labels, label embeddings) -> a head."""

from hf_fsl.heads.choosing import HeadChoice, Trial, choose_head
from hf_fsl.heads.errors import HeadError
from hf_fsl.heads.estimators import ESTIMATORS, Estimator, fit_head, held_out_logits
from hf_fsl.heads.growing import GrowingHead

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "GrowingHead",
    "HeadChoice",
    "HeadError",
    "Trial",
    "choose_head",
    "fit_head",
    "held_out_logits",
]
