"""Few-shot classifiers over embeddings: (support embeddings, labels, label embeddings) -> a head."""

from hf_fsl.few_shot.heads.auto import choose_head
from hf_fsl.few_shot.heads.estimator import Estimator, HeadChoice, HeadTrial
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, fit_head, held_out_logits
from hf_fsl.few_shot.heads.incremental import GrowingHead
from hf_fsl.few_shot.heads.support import HeadError

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "GrowingHead",
    "HeadChoice",
    "HeadError",
    "HeadTrial",
    "choose_head",
    "fit_head",
    "held_out_logits",
]
