"""What held-out examples say about a backbone that was adapted to all examples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_fsl import AdaptationConfig, AdapterConfig
from hf_fsl.few_shot.classifier import fitting
from hf_fsl.few_shot.classifier.examples import LabeledExamples, read_examples
from hf_fsl.few_shot.classifier.fitting import ENOUGH, Fitted, HeldOut, cross_fit
from hf_fsl.few_shot.classifier.incremental import state_of
from hf_fsl.few_shot.heads import HeadChoice, fit_head

CLASSES, SHOTS, NEW = 12, 8, 30


@dataclass(frozen=True)
class Stretched:
    """A backbone of known embeddings, ``factor`` times as far apart as they are."""

    known: dict[str, Tensor]
    factor: float

    def encode(self, items: list[str], **_: object) -> Tensor:
        return self.factor * torch.stack([self.known[item] for item in items])


def fit_stretched(support: LabeledExamples, known: dict[str, Tensor]) -> Fitted:
    """As training does it: the more examples, the less apart everything is."""
    backbone = Stretched(known, 3 - len(support.items) / (CLASSES * SHOTS))
    embeddings = backbone.encode(support.items)
    head = fit_head("nearest_mean", embeddings, support.labels, num_classes=support.num_classes)
    return Fitted(backbone, embeddings, None, HeadChoice(head, "nearest_mean", {}, 1.0, ""), adapted=backbone)


def coverage_of_one_draw(seed: int) -> float:
    """The share of new examples of the known classes that the threshold lets through."""
    rng = np.random.default_rng(seed)
    means = 6 * rng.normal(size=(CLASSES, 1, 16))
    points = torch.tensor(means + rng.normal(size=(CLASSES, SHOTS + NEW, 16)))
    names = [[f"{kind}-{number}" for number in range(SHOTS + NEW)] for kind in range(CLASSES)]
    known = {
        name: point
        for row, of_class in zip(names, points, strict=True)
        for name, point in zip(row, of_class, strict=True)
    }
    support = read_examples(
        [name for row in names for name in row[:SHOTS]],
        np.arange(CLASSES).repeat(SHOTS).tolist(),
        use_label_texts=False,
    )
    held_out = cross_fit(support, lambda part: fit_stretched(part, known), folds=2, seed=seed)
    fitted = fit_stretched(support, known)
    state = state_of(replace(fitted, held_out=held_out), support, coverage=0.9, keep_support=False)
    new = fitted.backbone.encode([name for row in names for name in row[SHOTS:]])
    return float((~state.refusal.refuses(new)).double().mean())


def test_a_threshold_from_models_of_half_the_examples_has_the_coverage_on_the_model_of_all():
    assert 0.885 < np.mean([coverage_of_one_draw(seed) for seed in range(60)]) < 0.915


@pytest.mark.parametrize(("adapted_loss", "kept"), [(ENOUGH - 0.01, True), (ENOUGH + 0.01, False)])
def test_an_adapter_is_kept_where_it_takes_a_tenth_off_the_held_out_loss(adapted_loss, kept, monkeypatch):
    support = read_examples([f"{kind}-{number}" for kind in range(2) for number in range(4)], [0] * 4 + [1] * 4)
    known = {item: torch.randn(8) for item in support.items}
    asked = iter([HeldOut(torch.ones(8), 1.0, 1.0), HeldOut(torch.ones(8), 1.0, adapted_loss)])
    monkeypatch.setattr(fitting, "cross_fit", lambda *_: next(asked))
    monkeypatch.setattr(fitting, "_adapted", lambda part, *_: fit_stretched(part, known))
    monkeypatch.setattr(fitting, "fit_frozen", lambda part, *_: replace(fit_stretched(part, known), adapted=None))
    how = fitting.Adapting(AdapterConfig(), AdaptationConfig(), folds=2, seed=0, progress=False)
    fitted = fitting.fit_better(support, Stretched(known, 1.0), fitting.HeadKind("nearest_mean"), how)
    assert (fitted.adapted is not None) is kept
    assert f"held-out loss {adapted_loss:.3f} adapted, 1.000 as it was" in fitted.reason
