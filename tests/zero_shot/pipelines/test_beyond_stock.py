"""Shortlists by a bi-encoder, calibration, and ONNX Runtime: what the zero-shot pipeline has beyond stock."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.onnx_runtime import OnnxClassifier
from tests.helpers.nli import LABELS, nli_model, pipes, roberta_tokenizer, sentences


@pytest.mark.parametrize("multi_label", [False, True])
def test_calibration_takes_the_label_prior_out(multi_label, tokenizer):
    _, ours = pipes("bert", tokenizer)
    texts = sentences(20)
    before = ours(texts, LABELS, multi_label=multi_label)
    scores = np.array([[row["scores"][row["labels"].index(name)] for name in LABELS] for row in before])
    prior = ours.fit_calibration((text for text in texts), LABELS, multi_label=multi_label)
    mean = scores.mean(0)
    if multi_label:
        odds = scores / (1 - scores) / (mean / (1 - mean))
        expected = odds / (1 + odds)
    else:
        expected = scores / mean / (scores / mean).sum(1, keepdims=True)
    for answer, row in zip(ours(texts, LABELS, multi_label=multi_label), expected, strict=True):
        got = [answer["scores"][answer["labels"].index(name)] for name in LABELS]
        assert got == pytest.approx(row, rel=1e-4)
    assert ours(texts, LABELS, multi_label=multi_label, calibrated=False) == before
    assert prior.texts == 20
    assert ours(texts[0], LABELS[:2]) == ours(texts[0], LABELS[:2], calibrated=False)  # other labels


def test_a_prior_survives_saving(tokenizer, tmp_path):
    from hf_fsl.zero_shot import LabelPrior

    _, ours = pipes("bert", tokenizer)
    prior = ours.fit_calibration(sentences(4), LABELS, label_texts={"sun": "the sun"})
    path = prior.save(tmp_path / "prior.json")
    assert LabelPrior.load(path) == prior
    values = json.loads(path.read_text())
    label_set = values.pop("label_set")
    old = {"question": label_set | {"descriptions": label_set.pop("label_texts")}, **values}  # as 0.1 wrote it
    path.write_text(json.dumps(old))
    assert LabelPrior.load(path) == prior


def test_a_learned_shortlist_names_what_the_cross_encoder_would_choose(tokenizer, text_backbone):
    from hf_fsl.models.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    _, ours = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    labels, texts = ["food", "house", "sun", "cat", "red", "river"], sentences(40)
    whole = ours(texts, labels)

    def found() -> float:
        few = ours(texts, labels, shortlist=1)
        return np.mean([a["labels"][0] == b["labels"][0] for a, b in zip(few, whole, strict=True)])

    untaught = found()
    learned = ours.fit_shortlist(iter(texts), labels)
    assert learned.weights.shape == (backbone.encode(texts[:1]).shape[1], len(labels))
    assert found() > untaught + 0.1
    assert ours.fit_shortlist(texts, labels, shortlist=2).scale == learned.scale  # all labels are scored in any case
    with pytest.raises(ZeroShotError, match="got no text"):
        ours.fit_shortlist([], labels)
    with pytest.raises(ZeroShotError, match="two texts or more, got 1"):
        ours.fit_shortlist(texts[:1], labels)


def text_near(backbone, texts, labels):
    """Cosines (N, C)."""
    filled = [f"This example is {name}." for name in labels]
    return (normalize(backbone.encode(texts), dim=-1) @ normalize(backbone.encode(filled), dim=-1).T).numpy()


def test_the_shortlister_is_a_ridge_regression_of_what_the_cosines_leave():
    from sklearn.linear_model import Ridge

    from hf_fsl.zero_shot.bi_encoder import Shortlister

    generator = torch.Generator().manual_seed(0)
    embeddings, cosines, evidence = (torch.randn(30, size, generator=generator) for size in (5, 4, 4))
    learned = Shortlister.fit(embeddings, cosines, evidence, penalty=0.7)
    centred = evidence - evidence.mean(1, keepdim=True)
    left = centred - learned.scale * cosines
    reference = Ridge(alpha=0.7).fit(embeddings, left).predict(embeddings) + learned.scale * cosines.numpy()
    assert np.allclose(learned(embeddings, cosines), reference, atol=1e-4)
    slope = np.polyfit((cosines - cosines.mean(0)).ravel(), (centred - centred.mean(0)).ravel(), 1)[0]
    assert learned.scale == pytest.approx(slope, rel=1e-4)


def test_the_bi_encoder_has_a_say_among_the_labels_of_a_shortlist(tokenizer, text_backbone):
    from hf_fsl.models.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    labels, texts = ["food", "house", "sun"], sentences(3)
    near = text_near(backbone, texts, labels)
    _, alone = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    _, both = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=2.0)
    difference = both.evidence(texts, labels, shortlist=2) - alone.evidence(texts, labels, shortlist=2)
    kept = np.isfinite(difference)
    assert kept.sum() == 6 and np.allclose(difference[kept], 2 * near[kept], atol=1e-5)
    for options in ({}, {"shortlist": 2, "multi_label": True}):
        ours, other = (pipe.evidence(texts, labels, **options) for pipe in (alone, both))
        assert np.array_equal(ours, other, equal_nan=True)


def test_a_shortlist_scores_only_the_likeliest_labels(tokenizer, text_backbone):
    from hf_fsl.models.backbones import Backbone

    backbone = Backbone.from_pretrained(str(text_backbone))
    _, ours = pipes("bert", tokenizer, shortlist_model=backbone, similarity_weight=0.0)
    labels, texts = ["food", "house", "sun", "cat", "red", "river"], sentences(8)
    whole = ours(texts, labels)
    assert ours(texts, labels, shortlist=6) == whole
    near = backbone.encode(texts) @ torch.nn.functional.normalize(
        backbone.encode([ours.default_template.format(name) for name in labels]), dim=-1
    ).T  # fmt: skip
    seen = []
    logits = ours.scorer.logits
    ours.scorer.logits = lambda *given, **options: seen.append(len(given[2])) or logits(*given, **options)
    for answer, full, row in zip(ours(texts, labels, shortlist=2), whole, near, strict=True):
        kept = {labels[index] for index in row.topk(2).indices}
        assert set(answer["labels"][:2]) == kept
        assert answer["labels"][2:] == [labels[i] for i in row.argsort(descending=True) if labels[i] not in kept]
        assert answer["scores"][2:] == [0.0] * 4
        share = dict(zip(full["labels"], full["scores"], strict=True))
        first, second = answer["labels"][:2]
        assert answer["scores"][0] == pytest.approx(share[first] / (share[first] + share[second]), abs=1e-5)
    assert seen == [16]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(("runtime", "allowed"), [("onnx", 1e-5), ("int8", 0.1)])
def test_onnx_runtime_gives_the_scores(runtime, allowed, kind, tokenizer, tmp_path):
    stock, ours = pipes(kind, tokenizer if kind == "bert" else roberta_tokenizer(tmp_path), runtime=runtime)
    texts = sentences(10)
    got, expected = (
        np.array([[dict(zip(row["labels"], row["scores"], strict=True))[name] for name in LABELS] for row in answers])
        for answers in (ours(texts, LABELS), stock(texts, LABELS))
    )
    assert np.abs(got - expected).max() < allowed
    if runtime == "int8":
        assert np.abs(got - expected).max() > 1e-6


def test_a_model_that_cannot_be_exported_is_refused(tokenizer, monkeypatch):
    with pytest.raises(ZeroShotError, match="takes float32 models on a CPU here; got torch.bfloat16 on cpu"):
        OnnxClassifier(nli_model("bert").bfloat16(), tokenizer, "float32")

    def fails(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("torch.onnx.export", fails)
    with pytest.raises(ZeroShotError, match="cannot be exported.* no such operator.*Use runtime='torch'"):
        pipes("bert", tokenizer, runtime="onnx")
