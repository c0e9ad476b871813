"""Tiny random models, built on the spot: no test downloads anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tiny_models import build_model, model_inputs, write_tokenizer

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nothing answers there: a test that reaches for the Hub fails
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches."""
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf_home"))


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
    from hf_fsl.core.paths import recipes_folder
    from hf_fsl.hub.local import running
    from hf_fsl.hub.seed import seed

    with running(tmp_path_factory.mktemp("hub")) as endpoint:
        seed(endpoint, token="test", recipes=recipes_folder(), log=lambda line: None)
        yield endpoint


@pytest.fixture(scope="session")
def hub_environment(hub: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that uses the session's Hub."""
    home = str(tmp_path_factory.getbasetemp() / "hub_home")
    return {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": home, "HF_TOKEN": "test"}
