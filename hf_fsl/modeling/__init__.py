"""What few-shot learning ends as: heads over embeddings, and the models that carry them."""

from hf_fsl.modeling.cache_head import CacheHead
from hf_fsl.modeling.linear_head import FeatureTransform, LinearHead

__all__ = ["CacheHead", "FeatureTransform", "LinearHead"]
