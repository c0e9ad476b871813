"""Hub models as encoders and as classifiers."""

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.cache import EmbeddingCache
from hf_fsl.models.backbones.classification import BackboneError, Classifier, load_classifier

__all__ = ["Backbone", "BackboneError", "Classifier", "EmbeddingCache", "load_classifier"]
