"""Mean pooling as one more layer of a stock BERT, so that ``pooler_output`` is what sentence-transformers gives.

``VisionTextDualEncoderModel`` reads the text tower's ``pooler_output``: a dense layer and a tanh over the first token,
which no sentence embedding comes from. A layer whose queries and keys are zero attends evenly to every token that is
not padding; with values left as they are its attention output is the mean. It is scaled up until the residual beside
it vanishes in the layer norm, which takes the mean of the features off and divides by their spread; the feed-forward
part is zero, and the pooler multiplies by a number so small that tanh is linear. So the direction of the embedding is
kept but for its component along (1, …, 1), and cosine similarities are those of the mean.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hf_fsl.models.backbones.classification import BackboneError

KINDS = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose encoder layers are BERT's."""
RESIDUAL = 1e-3
"""Weight of the first token's own state beside the mean."""
LINEAR = 1e-3
"""What the pooler multiplies by: tanh(x) = x to 1e-4 for features up to 17 spreads from their mean."""


def with_mean_pooling(model: Any) -> Any:
    """A copy of an encoder, one layer deeper, whose ``pooler_output`` points where the mean over tokens does.

    Args:
        model: a ``BertModel``, ``RobertaModel``, or one of the same layers.

    Raises:
        BackboneError: its layers are not BERT's.
    """
    if model.config.model_type not in KINDS:
        raise BackboneError(
            f"text.pooling: mean is for {', '.join(KINDS)}, not {model.config.model_type}, whose layers are others. "
            "Use pooler, or another text tower."
        )
    settings = copy.deepcopy(model.config)
    settings.num_hidden_layers += 1
    with torch.device("meta"):
        deeper = type(model)(settings)
    deeper = deeper.to_empty(device="cpu").to(model.dtype).train(model.training)
    own = {**model.state_dict(), **{name: b for name, b in model.named_buffers()}}
    for name, tensor in {**dict(deeper.named_parameters()), **dict(deeper.named_buffers())}.items():
        tensor.data.copy_(own[name]) if name in own else tensor.data.zero_()
    layer, size = deeper.encoder.layer[-1], settings.hidden_size
    with torch.no_grad():
        nn.init.eye_(layer.attention.self.value.weight)
        layer.attention.output.dense.weight.copy_(torch.eye(size) / RESIDUAL)
        layer.attention.output.LayerNorm.weight.fill_(1)
        layer.output.LayerNorm.weight.fill_(1)
        deeper.pooler.dense.weight.copy_(torch.eye(size) * LINEAR)
        deeper.pooler.dense.bias.zero_()
    return deeper
