"""Hub models as encoders and as classifiers."""

from hf_fsl.backbones.backbone import Backbone
from hf_fsl.backbones.cache import EmbeddingCache
from hf_fsl.backbones.classification import BackboneError, Classifier, load_classifier

__all__ = ["Backbone", "BackboneError", "Classifier", "EmbeddingCache", "load_classifier"]
