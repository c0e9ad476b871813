"""The parameters of a FewShotClassifier, checked where scikit-learn checks them: in ``fit``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from typing import Any, get_args

import peft

from hf_fsl.config import AdaptationConfig, AdapterConfig
from hf_fsl.few_shot.classifier.backbones import STOCK
from hf_fsl.few_shot.classifier.support import FewShotError
from hf_fsl.few_shot.heads import ESTIMATORS
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.published.pooling import Pooling

OF_MEANS = ("nearest_mean", "cosine", "cl2n", "lda", "named_lda")
"""Heads that compare class means: how many examples a class has says nothing of how likely it is."""
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "head": ("auto", *ESTIMATORS),
    "keep_adapter": ("always", "better"),
    "prior": ("auto", None),
    "pooling": (None, STOCK, *get_args(Pooling)),
}


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises FewShotError, which names all that is wrong with what ``get_params`` gave."""
    wrong = list(_problems(parameters))
    if wrong:
        raise FewShotError("FewShotClassifier: " + "; ".join(wrong) + ".")


def _problems(given: Mapping[str, Any]) -> Iterator[str]:
    for name, choices in _CHOICES.items():
        if not any(given[name] is choice or given[name] == choice for choice in choices):
            yield f"{name} is one of {', '.join(map(repr, choices))}, not {given[name]!r}"
    if not isinstance(given["backbone"], (str, Backbone)):
        yield f"backbone is a name, a folder or a loaded Backbone, not {type(given['backbone']).__name__}"
    for name in ("prompt", "prompt_name"):
        if given[name] is not None and isinstance(given["backbone"], Backbone):
            yield f"{name} is of a backbone given by name; load this one by Backbone.from_pretrained(…, {name}=…)"
    adapter = given["adapter"]
    if adapter is not None and adapter != "auto" and not isinstance(adapter, (AdapterConfig, peft.PeftConfig)):
        yield f"adapter is None, 'auto', an AdapterConfig or a peft.PeftConfig, not {adapter!r}"
    if given["adaptation"] is not None and not isinstance(given["adaptation"], AdaptationConfig):
        yield f"adaptation is None or an AdaptationConfig, not {type(given['adaptation']).__name__}"
    folds = given["folds"]
    if not _is_number(folds, Integral) or folds < 0 or folds == 1:
        yield f"folds is 0, or 2 and more, not {folds!r}"
    elif folds == 0 and adapter is not None and (adapter == "auto" or given["keep_adapter"] == "better"):
        yield "folds is 2 or more where an adapter is kept only if it is better, which held-out examples say; got 0"
    if not _is_number(given["coverage"], Real) or not 0 < given["coverage"] < 1:
        yield f"coverage is a share above 0 and below 1, not {given['coverage']!r}"
    by_class = given["class_weight"]
    if by_class is not None and by_class != "balanced":
        numbers: list[Any] = list(by_class.values()) if isinstance(by_class, Mapping) else [None]
        if not all(_is_number(one, Real) and 0 < one < math.inf for one in numbers):
            yield f"class_weight is None, 'balanced' or a dict class -> number above 0, not {by_class!r}"
        elif given["head"] in ("auto", *OF_MEANS):
            yield (
                f"class_weight is for heads that are likelier to answer what there is more of; head={given['head']!r} "
                "holds classes for equally likely, as 'balanced' says. Leave it out, or take head='ridge', "
                "'logistic', 'prior' or 'cache'"
            )
    if not _is_number(given["random_state"], Integral) or given["random_state"] < 0:
        yield f"random_state is an integer of 0 or more, not {given['random_state']!r}"


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
