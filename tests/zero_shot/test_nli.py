"""Which classes of an NLI model mean what, and models whose classifier reads the last token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as t
from conftest import WORDS, write_tokenizer

from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.nli import EntailmentScorer, entailment_ids


def ids_of(names: list[str], **given):
    return entailment_ids({name: index for index, name in enumerate(names)}, **given)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["entailment", "neutral", "contradiction"], (0, 2)),
        (["Contradiction", "Entailment", "Neutral"], (1, 0)),
        (["entailment", "not_entailment"], (0, 1)),
        (["ENTAILMENT", "NON-ENTAILMENT"], (0, 1)),
        (["entailment", "other"], (0, None)),
    ],
)
def test_ids_are_found_by_name(names, ids):
    assert ids_of(names) == ids


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["Entailment", "entailment", "contradiction"], "entailment"),
        (["entailment", "entails", "contradiction"], "entailment"),
        (["neutral", "contradiction"], "entailment"),
        (["entailment", "contradiction", "not_entailment"], "contradiction"),
        (["entailment", "not entailment", "NOT_ENTAILMENT"], "contradiction"),
    ],
)
def test_names_that_leave_it_open_are_refused_unless_the_id_is_given(names, what):
    with pytest.raises(ZeroShotError, match=rf"one class for {what}; its config names {names[0]}.*{what}_id="):
        ids_of(names)
    given = ids_of(names, **{what: 0 if what == "entailment" else 1})
    assert given[what == "contradiction"] == (what == "contradiction")


def decoder(**options):
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": len(WORDS) + 10}
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = t.GPT2Config(
        **sizes, id2label=names, label2id={name: index for index, name in names.items()},
        bos_token_id=2, eos_token_id=3, initializer_range=0.5, **options,
    )  # fmt: skip
    return t.GPT2ForSequenceClassification(config).eval()


@pytest.mark.parametrize("pad", [None, 0, 3, 7])
def test_a_decoder_reads_the_last_token_of_each_pair_whatever_its_padding(pad, tmp_path):
    model, tokenizer = decoder(pad_token_id=pad), write_tokenizer(tmp_path)
    texts = ["the cat sleeps", "good food and a very good film", "rain"]
    hypotheses = ["the film is good", "cat", "the river is small and"]
    got = EntailmentScorer(model, tokenizer).logits(texts, hypotheses)
    assert model.config.pad_token_id == pad
    for row, text in enumerate(texts):
        for column, hypothesis in enumerate(hypotheses):
            with torch.no_grad():
                alone = model(**tokenizer(text, hypothesis, return_tensors="pt", return_token_type_ids=False)).logits
            np.testing.assert_allclose(got[row, column], alone[0].numpy(), atol=1e-4)


def test_a_decoder_without_a_padding_token_gives_the_stock_pipelines_answers(tmp_path):
    from hf_fsl.pipelines import ZeroShotTextPipeline

    given = {"model": decoder(), "tokenizer": write_tokenizer(tmp_path), "device": "cpu"}
    given["tokenizer"].model_input_names = ["input_ids", "attention_mask"]
    stock = t.pipeline("zero-shot-classification", **given)
    ours = t.pipeline("zero-shot-classification", pipeline_class=ZeroShotTextPipeline, **given)
    texts, labels = ["the cat sleeps", "good food and a very good film", "rain"], ["food", "big red house", "sun"]
    for own, other in zip(ours(texts, labels), stock(texts, labels), strict=True):
        assert own["labels"] == other["labels"]
        assert own["scores"] == pytest.approx(other["scores"], abs=1e-5)
