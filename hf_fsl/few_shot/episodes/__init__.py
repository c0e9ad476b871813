"""Few-shot episodes: drawn as index tensors for all at once, and methods measured on the same ones."""

from hf_fsl.few_shot.episodes.evaluation import EpisodicResult, evaluate_episodes, mean_interval
from hf_fsl.few_shot.episodes.items import EpisodeError
from hf_fsl.few_shot.episodes.methods import Method, NearestMean
from hf_fsl.few_shot.episodes.sampler import Episodes, EpisodeSampler

__all__ = [
    "EpisodeError",
    "EpisodeSampler",
    "Episodes",
    "EpisodicResult",
    "Method",
    "NearestMean",
    "evaluate_episodes",
    "mean_interval",
]
