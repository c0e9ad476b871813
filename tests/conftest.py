"""Tiny random models, built on the spot: no test downloads anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nothing answers there: a test that reaches for the Hub fails
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))  # so that tests find the builders below by name

WORDS = [
    "good", "bad", "film", "food", "rain", "sun", "cat", "dog", "runs", "sleeps", "the", "a", "is", "was", "and",
    "very", "not", "big", "small", "red", "blue", "green", "house", "tree", "river", "bird", "fish", "car", "train",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf_home"))


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


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture
def tiny_inputs() -> Callable[..., dict[str, Any]]:
    return model_inputs


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The words of the tests as a tokenizer."""
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


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


@pytest.fixture(scope="session")
def text_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny BERT encoder (no head) and its tokenizer."""
    folder = tmp_path_factory.mktemp("text-backbone")
    build_model("bert").bert.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def nli_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny BERT classifier whose classes are those of natural language inference."""
    folder = tmp_path_factory.mktemp("nli-model")
    model = build_model("bert")
    model.config.id2label = {0: "entailment", 1: "neutral", 2: "contradiction"}
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def image_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny ViT encoder (no head) and its image processor."""
    from transformers import ViTImageProcessor

    folder = tmp_path_factory.mktemp("image-backbone")
    build_model("vit").vit.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a seeded local Hub, shared by the whole session."""
    from hf_fsl.hub.local import running
    from hf_fsl.hub.seed import seed
    from hf_fsl.resources import recipes_folder

    with running(tmp_path_factory.mktemp("hub")) as endpoint:
        seed(endpoint, token="test", recipes=recipes_folder(), log=lambda line: None)
        yield endpoint


@pytest.fixture(scope="session")
def hub_environment(hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that uses the session's Hub."""
    home = str(tmp_path_factory.getbasetemp() / "hub_home")
    return {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": home, "HF_TOKEN": "test"}
