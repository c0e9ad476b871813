"""Methods measured on the same episodes."""

from hf_fsl.episodic.evaluation import EpisodicResult, evaluate_episodes, mean_interval
from hf_fsl.episodic.methods import Method, NearestMean

__all__ = ["EpisodicResult", "Method", "NearestMean", "evaluate_episodes", "mean_interval"]
