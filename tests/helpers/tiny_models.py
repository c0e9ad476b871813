"""Tiny random models and a tokenizer of a few words, built on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [
    "good", "bad", "film", "food", "rain", "sun", "cat", "dog", "runs", "sleeps", "the", "a", "is", "was", "and",
    "very", "not", "big", "small", "red", "blue", "green", "house", "tree", "river", "bird", "fish", "car", "train",
]  # fmt: skip


def text_sizes() -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS) + 10,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }


def image_sizes() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 16,
        "patch_size": 8,
    }


def build_model(kind: str, num_labels: int = 3) -> Any:
    """A tiny random stock classification model."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    labels = {"num_labels": num_labels}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if kind == "bert":
        return t.BertForSequenceClassification(t.BertConfig(**text_sizes(), **no_dropout, **labels))
    if kind == "roberta":
        return t.RobertaForSequenceClassification(
            t.RobertaConfig(**text_sizes() | {"max_position_embeddings": 80}, **no_dropout, **labels, pad_token_id=0)
        )
    if kind == "distilbert":
        config = t.DistilBertConfig(
            vocab_size=len(WORDS) + 10, dim=32, hidden_dim=64, n_layers=2, n_heads=2, dropout=0.0,
            attention_dropout=0.0, seq_classif_dropout=0.0, **labels,
        )  # fmt: skip
        return t.DistilBertForSequenceClassification(config)
    if kind == "modernbert":
        config = t.ModernBertConfig(**text_sizes(), **labels, pad_token_id=0, global_attn_every_n_layers=1)
        return t.ModernBertForSequenceClassification(config)
    if kind == "vit":
        return t.ViTForImageClassification(t.ViTConfig(**image_sizes(), **labels))
    if kind == "dinov2":
        return t.Dinov2ForImageClassification(t.Dinov2Config(**image_sizes(), mlp_ratio=2, **labels))
    if kind == "clip":
        config = t.CLIPConfig(vision_config=image_sizes() | {"projection_dim": 16}, text_config={}, **labels)
        return t.CLIPForImageClassification(config)
    if kind == "convnext":
        config = t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16, **labels)
        return t.ConvNextForImageClassification(config)
    if kind == "resnet":
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
        return t.ResNetForImageClassification(config)
    raise ValueError(kind)


TEXT_KINDS = ("bert", "roberta", "distilbert", "modernbert")
IMAGE_KINDS = ("vit", "dinov2", "clip", "convnext", "resnet")


def model_inputs(kind: str, count: int = 6) -> dict[str, Any]:
    """A batch for the model of that kind, with padding for text."""
    import torch

    generator = torch.Generator().manual_seed(1)
    if kind in IMAGE_KINDS:
        size = 32 if kind in ("convnext", "resnet") else 16
        return {"pixel_values": torch.randn(count, 3, size, size, generator=generator)}
    ids = torch.randint(5, len(WORDS) + 5, (count, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[: count // 2, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def write_tokenizer(folder: Path) -> Any:
    """A whole-word tokenizer over WORDS with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: index for index, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast
