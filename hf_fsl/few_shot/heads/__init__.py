"""Few-shot classifiers over embeddings: (support embeddings, labels, label embeddings) -> a head."""

from hf_fsl.few_shot.heads.auto import HeadChoice, Trial, choose_head
from hf_fsl.few_shot.heads.errors import HeadError
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, Estimator, fit_head, held_out_logits
from hf_fsl.few_shot.heads.incremental import GrowingHead

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
