"""Tiny NLI models, their pipelines, and texts for them."""

from __future__ import annotations

import random

import pytest
import torch
import transformers as t
from tokenizers import processors
from transformers import pipeline

from hf_fsl import ZeroShotTextPipeline
from tests.helpers.tiny_models import WORDS, text_sizes, write_tokenizer

LABELS = ["food", "big red house", "sun"]
NLI = {"id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
NLI |= {"label2id": {name: index for index, name in NLI["id2label"].items()}}


def nli_model(kind: str, **names):
    torch.manual_seed(0)
    names = names or NLI
    if kind == "bert":
        return t.BertForSequenceClassification(t.BertConfig(**text_sizes(), **names))
    if kind == "roberta":
        sizes = text_sizes() | {"max_position_embeddings": 80}
        return t.RobertaForSequenceClassification(t.RobertaConfig(**sizes, **names, pad_token_id=0))
    if kind == "deberta-v2":
        return t.DebertaV2ForSequenceClassification(
            t.DebertaV2Config(**text_sizes(), **names, relative_attention=True, pos_att_type=["c2p", "p2c"])
        )
    assert kind == "bart"
    config = t.BartConfig(
        vocab_size=len(WORDS) + 10, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=80, **names,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    return t.BartForSequenceClassification(config)


def sentences(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, longest))) for _ in range(count)]


def pipes(kind, tokenizer, **options):
    model = nli_model(kind).eval()
    with torch.no_grad():  # sharp answers: a wrong one would show
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    given = {"model": model, "tokenizer": tokenizer, "device": "cpu"}
    return (
        pipeline("zero-shot-classification", **given),
        pipeline("zero-shot-classification", pipeline_class=ZeroShotTextPipeline, **given, **options),
    )


def assert_same(ours, stock):
    assert len(ours) == len(stock)
    for own, other in zip(ours, stock, strict=True):
        assert own["sequence"] == other["sequence"]
        assert dict(zip(own["labels"], own["scores"], strict=True)) == pytest.approx(
            dict(zip(other["labels"], other["scores"], strict=True)), abs=1e-5
        )
        assert own["scores"] == pytest.approx(other["scores"], abs=1e-5)


def roberta_tokenizer(folder):
    """<s> text </s></s> hypothesis </s>, no segment ids."""
    tokenizer = write_tokenizer(folder)
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer
