"""Few-shot episodes as index tensors, drawn for all episodes at once."""

from hf_fsl.episodes.episodes import EpisodeError, Episodes
from hf_fsl.episodes.sampler import EpisodeSampler

__all__ = ["EpisodeError", "EpisodeSampler", "Episodes"]
