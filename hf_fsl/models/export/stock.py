"""Which stock classification class a backbone's family has, what feature it classifies, and how a head is put there.

A head folds where the stock class applies a linear map to the very feature the head was fitted on, or where the layers
it has in between can be made to pass that feature through. They can in three ways, none of which costs precision in
bfloat16 beyond the rounding of weights and activations that every model pays there:

* tanh (BERT, RoBERTa): ``tanh(εx)/ε = x (1 − ε²x²/3 + …)`` with ε = 2⁻¹³, a power of two, so that no weight is
  rounded twice; the error is below 2e-6 of x for |x| < 16.
* ReLU and GELU (DistilBERT, EuroBert): ``relu(u) − relu(−u) = u`` and ``gelu(u) − gelu(−u) = u``, exactly, so the
  dense layer computes the logits and their negatives. It needs 2C rows, and has D.
* LayerNorm behind a dense layer (ModernBERT): the model's last norm leaves features ``w ∘ n`` with n of mean zero;
  divided by w and scaled down until the norm's own ε outweighs their variance, they come through times a constant.

float16 has no exponents to spare for the small scales of the first and the last, which are refused in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_fsl.core.errors import UserError
from hf_fsl.models.published.pooling import Pooling

TANH_SCALE = 2.0**-13
NORM_SCALE = 2.0**-20

Write = Callable[[Any, Tensor, Tensor], None]
"""Puts W ``(C, D)`` and b ``(C,)`` (float32) into a stock model whose body is the backbone's."""


class ExportError(UserError, ValueError):
    """A backbone, a head or label names that no published model can be made of."""


class CannotFold(Exception):
    """Why a head does not fold into the stock class, as a sentence."""


@dataclass(frozen=True)
class StockFamily:
    """A family's stock class: ``heads`` says for each pooling how a head over it is written; the first is usual."""

    architecture: str
    body: str
    heads: dict[Pooling, Write]
    settings: dict[Pooling, dict[str, Any]] | None = None
    """Of the config, where the class itself pools in several ways."""
    outer_config: str | None = None
    """Of the class, where its config holds the backbone's as ``vision_config``."""


def family_of(model: Any) -> StockFamily | None:
    """The family of an encoder; None where its stock class is not known here."""
    return FAMILIES.get(model.config.model_type)


def stock_pooling(model: Any) -> Pooling | None:
    """The pooling with which a ``Backbone`` gives the feature that the stock class classifies.

    Args:
        model: an encoder, or an image-text model (then of its image tower).

    Returns:
        None where no stock class is known, so that every head is published in a class of hf_fsl.
    """
    family = family_of(getattr(model, "vision_model", model))
    return next(iter(family.heads)) if family is not None else None


def build_stock(encoder: Any, pooling: Pooling, weight: Tensor, bias: Tensor) -> Any:
    """The stock model of an encoder with the head in it.

    Args:
        encoder: of a known family; it is not changed.
        weight, bias: ``(C, D)`` and ``(C,)`` over what ``pooling`` gives.

    Raises:
        CannotFold: the stock class classifies another feature, or has no room for this head.
    """
    import transformers

    family = family_of(encoder)
    if family is None:
        raise CannotFold(f"No stock class with a linear head is known for the family {encoder.config.model_type!r}.")
    if pooling not in family.heads:
        raise CannotFold(
            f"{family.architecture} classifies by {' or '.join(family.heads)}, and these embeddings are pooled by "
            f"{pooling}."
        )
    config = type(encoder.config).from_dict(encoder.config.to_dict())
    if family.outer_config is not None:
        no_text = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = getattr(transformers, family.outer_config)(vision_config=config.to_dict(), text_config=no_text)
    for name, value in (family.settings or {}).get(pooling, {}).items():
        setattr(config, name, value)
    config.num_labels = len(bias)
    model = getattr(transformers, family.architecture)(config).to(encoder.dtype).eval()
    state = {f"{family.body}.{name}": value.detach().cpu() for name, value in encoder.state_dict().items()}
    written = model.load_state_dict(state, strict=False)
    missing = [name for name in written.missing_keys if name.startswith(f"{family.body}.")]
    if pooling == "cls":
        missing = [name for name in missing if ".pooler." not in name]
    if missing:
        raise CannotFold(f"The encoder has no weights for {', '.join(missing[:3])}, which {family.architecture} uses.")
    with torch.no_grad():
        family.heads[pooling](model, weight.float().cpu(), bias.float().cpu())
    return model


def _into(layer: Callable[[Any], nn.Linear]) -> Write:
    def write(model: Any, weight: Tensor, bias: Tensor) -> None:
        _set(layer(model), weight, bias)

    return write


def _through_tanh(dense: Callable[[Any], nn.Linear], out: Callable[[Any], nn.Linear]) -> Write:
    def write(model: Any, weight: Tensor, bias: Tensor) -> None:
        _refuse_float16(model)
        layer = dense(model)
        _set(layer, TANH_SCALE * torch.eye(layer.in_features), torch.zeros(layer.out_features))
        _set(out(model), weight / TANH_SCALE, bias)

    return write


def _through_pairs(dense: Callable[[Any], nn.Linear]) -> Write:
    def write(model: Any, weight: Tensor, bias: Tensor) -> None:
        layer, classes = dense(model), len(bias)
        if 2 * classes > layer.out_features:
            raise CannotFold(
                f"{type(model).__name__} has a rectifier before its last layer, which lets {layer.out_features // 2} "
                f"classes through unchanged; this head has {classes}."
            )
        rows, shift = torch.zeros(layer.out_features, layer.in_features), torch.zeros(layer.out_features)
        rows[: 2 * classes], shift[: 2 * classes] = torch.cat([weight, -weight]), torch.cat([bias, -bias])
        _set(layer, rows, shift)
        both = torch.zeros(classes, layer.out_features)
        both[:, : 2 * classes] = torch.cat([torch.eye(classes), -torch.eye(classes)], 1)
        _set(model.classifier, both, torch.zeros(classes))

    return write


def _modernbert(model: Any, weight: Tensor, bias: Tensor) -> None:
    _refuse_float16(model)
    last, head = model.model.final_norm, model.head
    gain = last.weight.float()
    shift = last.bias.float() if last.bias is not None else torch.zeros_like(gain)
    if (gain == 0).any():
        raise CannotFold("ModernBertForSequenceClassification: its last norm has a gain of 0.")
    if head.dense.bias is None and shift.any():
        raise CannotFold("ModernBertForSequenceClassification: its last norm has a bias, its dense layer has none.")
    # What the dense layer will hold: rounded to the model's precision, so that the classifier undoes exactly that.
    scale = (NORM_SCALE / gain).to(last.weight.dtype).float()
    _set(head.dense, torch.diag(scale), -scale * shift)
    # LayerNorm: (x − mean x) / sqrt(var x + ε), the variance of what is so small being nothing beside ε.
    _set(head.norm, torch.ones_like(gain), torch.zeros_like(gain))
    _set(model.classifier, weight / (scale * head.norm.eps**-0.5), bias + weight @ shift)


def _refuse_float16(model: Any) -> None:
    if model.dtype == torch.float16:
        raise CannotFold(
            f"{type(model).__name__} would need values that float16 does not have; load the backbone in float32 or "
            "bfloat16."
        )


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    if layer.bias is not None:
        layer.bias.copy_(bias)


def _classifier(model: Any) -> Any:
    return model.classifier


_PLAIN = _into(_classifier)
_ROBERTA = _through_tanh(lambda model: model.classifier.dense, lambda model: model.classifier.out_proj)
_EUROBERT = _through_pairs(lambda model: model.dense)
_LINEAR_HEAD = {"classifier_activation": "linear"}

FAMILIES: dict[str, StockFamily] = {
    "bert": StockFamily(
        "BertForSequenceClassification",
        "bert",
        {"cls": _through_tanh(lambda model: model.bert.pooler.dense, _classifier), "pooler": _PLAIN},
    ),
    "roberta": StockFamily("RobertaForSequenceClassification", "roberta", {"cls": _ROBERTA}),
    "xlm-roberta": StockFamily("XLMRobertaForSequenceClassification", "roberta", {"cls": _ROBERTA}),
    "camembert": StockFamily("CamembertForSequenceClassification", "roberta", {"cls": _ROBERTA}),
    "distilbert": StockFamily(
        "DistilBertForSequenceClassification",
        "distilbert",
        {"cls": _through_pairs(lambda model: model.pre_classifier)},
    ),
    "eurobert": StockFamily(
        "EuroBertForSequenceClassification",
        "model",
        {"mean": _EUROBERT, "cls": _EUROBERT},
        {"mean": {"classifier_pooling": "mean"}, "cls": {"classifier_pooling": "bos"}},
    ),
    "modernbert": StockFamily(
        "ModernBertForSequenceClassification",
        "model",
        {"mean": _modernbert, "cls": _modernbert},
        {
            "mean": {"classifier_pooling": "mean", **_LINEAR_HEAD},
            "cls": {"classifier_pooling": "cls", **_LINEAR_HEAD},
        },
    ),
    "vit": StockFamily("ViTForImageClassification", "vit", {"cls": _PLAIN}),
    "dinov2": StockFamily("Dinov2ForImageClassification", "dinov2", {"cls_patch_mean": _PLAIN}),
    "dinov2_with_registers": StockFamily(
        "Dinov2WithRegistersForImageClassification", "dinov2_with_registers", {"cls_patch_mean": _PLAIN}
    ),
    "clip_vision_model": StockFamily(
        "CLIPForImageClassification", "vision_model", {"patch_mean": _PLAIN}, outer_config="CLIPConfig"
    ),
    "siglip_vision_model": StockFamily(
        "SiglipForImageClassification", "vision_model", {"mean": _PLAIN}, outer_config="SiglipConfig"
    ),
    "convnext": StockFamily("ConvNextForImageClassification", "convnext", {"pooler": _PLAIN}),
    "resnet": StockFamily("ResNetForImageClassification", "resnet", {"pooler": _into(lambda m: m.classifier[1])}),
    "beit": StockFamily("BeitForImageClassification", "beit", {"pooler": _PLAIN}),
}
