"""From a backbone and a head to a model that can be published: a stock class where the head folds, else ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

import hf_fsl
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export.ours import build_ours
from hf_fsl.models.export.processors import published_processor
from hf_fsl.models.export.stock import CannotFold, build_stock
from hf_fsl.models.export.towers import ExportError, Tower, linear_dense, tower_of
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead


@dataclass(frozen=True)
class Exported:
    """A model with the label names in its config, and its tokenizer or image processor.

    ``reason``: why it is a stock class or one of ours, as a sentence.
    """

    model: Any
    processor: Any
    stock: bool
    reason: str


def export_model(
    backbone: Backbone,
    head: LinearHead | CacheHead,
    label_names: Sequence[str],
    *,
    stock: bool | None = None,
    modality: Literal["text", "image"] | None = None,
    temperature: float | None = None,
    refusal_threshold: float | None = None,
) -> Exported:
    """Makes the model whose logits are ``head(backbone.encode(inputs))``.

    Args:
        head: without batch dimensions, over the embeddings of ``backbone.encode``.
        label_names: C names, in the order of the head's classes.
        stock: None: a stock class where the head folds exactly, else ours; True: stock or an error; False: ours.
        modality: of the inputs that the head was fitted on; None: images where the backbone takes images.
        temperature, refusal_threshold: noted in the config. The temperature is in the head already.

    Raises:
        ExportError: names that do not fit the head, an encoder that cannot be published, or ``stock=True`` and a
            head that does not fold.
    """
    names = _checked_names(head, label_names)
    tower = tower_of(backbone, modality)
    notes = {"logit_temperature": temperature, "refusal_threshold": refusal_threshold}
    reason = "A class of hf_fsl was asked for."
    if stock is not False:
        try:
            model = _stock_model(backbone, tower, head)
        except CannotFold as why:
            reason = str(why)
            if stock:
                raise ExportError(f"stock=True, and the head does not fold into a stock class: {reason}") from why
        else:
            _describe(model, backbone, tower, names, notes)
            reason = f"The head folds exactly into {type(model).__name__}."
            return Exported(model, published_processor(backbone, tower.modality), True, reason)
    model = build_ours(backbone, tower, head, **_labels(names), **notes)
    return Exported(model, published_processor(backbone, tower.modality), False, reason)


def _stock_model(backbone: Backbone, tower: Tower, head: LinearHead | CacheHead) -> Any:
    if isinstance(head, CacheHead):
        raise CannotFold("A key-value cache is not linear in the embeddings.")
    if tower.normalize or not head.transform.linear:
        whose = "The backbone's embeddings are" if tower.normalize else "The head's features are"
        raise CannotFold(f"{whose} L2-normalised, which no stock class does.")
    dense = linear_dense(tower.dense)
    if dense is None:
        raise CannotFold("The backbone has a dense layer with an activation after its pooling.")
    if tower.pooling == "mean" and tower.modality == "text" and not backbone.modules.include_prompt:
        raise CannotFold("The backbone leaves its prompt out of the mean, which no stock class does.")
    weight, bias = _behind(dense, head.folded())
    return build_stock(tower.model, tower.pooling, weight, bias)


def _behind(dense: list[Any], head: LinearHead) -> tuple[Tensor, Tensor]:
    """The head over what comes before the linear layers: W A, b + W a."""
    weight, bias = head.weight.float().cpu(), head.bias.float().cpu()
    for layer in reversed(dense):
        if layer.bias is not None:
            bias = bias + weight @ layer.bias.detach().float().cpu()
        weight = weight @ layer.weight.detach().float().cpu()
    return weight, bias


def _labels(names: list[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "single_label_classification",
    }


def _describe(model: Any, backbone: Backbone, tower: Tower, names: list[str], notes: dict[str, Any]) -> None:
    """Label names, and what :func:`backbone_of` needs to know of a stock model."""
    for name, value in _labels(names).items():
        setattr(model.config, name, value)
    model.config.hf_fsl = {
        "version": hf_fsl.__version__,
        "backbone": backbone.name,
        "pooling": tower.pooling,
        "dense": len(tower.dense),
        "prompt": backbone.modules.prompt(None) if tower.modality == "text" else "",
        **notes,
    }
    if tower.modality == "text" and model.config.pad_token_id is None:
        model.config.pad_token_id = backbone.tokenizer.pad_token_id


def _checked_names(head: LinearHead | CacheHead, label_names: Sequence[str]) -> list[str]:
    names = [str(name) for name in label_names]
    if isinstance(head, LinearHead) and head.weight.ndim != 2 or isinstance(head, CacheHead) and head.keys.ndim != 2:
        raise ExportError("A head that is published has no batch dimensions; take one episode's head.")
    if len(names) != head.num_classes:
        raise ExportError(f"The head has {head.num_classes} classes, and there are {len(names)} label names.")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ExportError(f"Label names must differ; more than once: {', '.join(twice)}.")
    return names
