"""The training loop, its checkpoints and trackers, and prediction over a split."""

from hf_fsl.training.accelerators import make_accelerator, start_accelerator
from hf_fsl.training.checkpoints import CheckpointError, list_checkpoints, training_identity
from hf_fsl.training.gradient_init import Start, find_start
from hf_fsl.training.loop import Progress, training_loop
from hf_fsl.training.prediction import predict_logits
from hf_fsl.training.signals import TrainingInterrupted
from hf_fsl.training.trackers import JSONLTracker, RunLog, read_log

__all__ = [
    "CheckpointError",
    "JSONLTracker",
    "Progress",
    "RunLog",
    "Start",
    "TrainingInterrupted",
    "find_start",
    "list_checkpoints",
    "predict_logits",
    "read_log",
    "make_accelerator",
    "start_accelerator",
    "training_loop",
    "training_identity",
]
