"""Which classes of an NLI model mean what, and models whose classifier reads the last token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as t

from hf_fsl.zero_shot import ZeroShotError
from hf_fsl.zero_shot.nli import EntailmentScorer, entailment_ids
from tests.helpers.tiny_models import WORDS, build_model, write_tokenizer


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
    from hf_fsl import ZeroShotTextPipeline

    given = {"model": decoder(), "tokenizer": write_tokenizer(tmp_path), "device": "cpu"}
    given["tokenizer"].model_input_names = ["input_ids", "attention_mask"]
    stock = t.pipeline("zero-shot-classification", **given)
    ours = t.pipeline("zero-shot-classification", pipeline_class=ZeroShotTextPipeline, **given)
    texts, labels = ["the cat sleeps", "good food and a very good film", "rain"], ["food", "big red house", "sun"]
    for own, other in zip(ours(texts, labels), stock(texts, labels), strict=True):
        assert own["labels"] == other["labels"]
        assert own["scores"] == pytest.approx(other["scores"], abs=1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_a_text_with_an_end_token_in_it_is_no_matter_to_an_encoder_decoder(fast, tmp_path):
    """BART's classifier reads the last end token, and wants as many of them in each row of a batch."""
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = t.BartConfig(
        vocab_size=len(WORDS) + 10, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=None, init_std=0.5,
        id2label=names, label2id={name: index for index, name in names.items()},
    )  # fmt: skip
    model, tokenizer = t.BartForSequenceClassification(config).eval(), write_tokenizer(tmp_path)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if not fast:
        tokenizer.padding_side = "left"  # pairs are then left to the tokenizer
    items = ["the cat sleeps", "a [SEP] dog runs", "rain [SEP] and [SEP] sun", "the big film", "the [SEP] sleeps"]
    hypotheses = ["the film is good", "cat [SEP] dog"]
    got = EntailmentScorer(model, tokenizer).logits(items, hypotheses)
    for row, text in enumerate(items):
        for column, hypothesis in enumerate(hypotheses):
            with torch.no_grad():
                alone = model(**tokenizer(text, hypothesis, return_tensors="pt")).logits
            np.testing.assert_allclose(got[row, column], alone[0].numpy(), atol=1e-4)


def test_pairs_are_cut_at_the_positions_of_the_model_where_the_tokenizer_has_no_limit(tmp_path):
    model, tokenizer = build_model("roberta").eval(), write_tokenizer(tmp_path)
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model.config.id2label, model.config.label2id = names, {name: index for index, name in names.items()}
    tokenizer.model_max_length = int(1e30)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    long = " ".join(WORDS * 5)
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the 79 tokens"):
        got = EntailmentScorer(model, tokenizer).logits([long, "rain"], ["the film is good"])
    options = {"truncation": "only_first", "max_length": 79, "return_tensors": "pt"}
    with torch.no_grad():
        alone = model(**tokenizer(long, "the film is good", **options)).logits
    np.testing.assert_allclose(got[0, 0], alone[0].numpy(), atol=1e-5)
