"""Hub models as encoders and as classifiers."""

from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.cache import EmbeddingCache
from hf_fsl.models.backbones.classification import Classifier, load_classifier
from hf_fsl.models.backbones.errors import BackboneError

__all__ = ["Backbone", "BackboneError", "Classifier", "EmbeddingCache", "load_classifier"]
