"""An example record, and verified bundles of tiny adapted models."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from PIL import Image

from hf_fsl.config import AdapterConfig
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.local import running
from hf_fsl.hub.verify import Verification, verify_bundle
from hf_fsl.models.adapters import attach_adapter, merge_adapter
from tests.helpers.tiny_models import build_model, write_tokenizer

EXAMPLE = Path(__file__).with_name("example_record.json")
TEXTS = [["the cat", "a big tree"], "the cat sleeps", "a good film", "the red house and the big tree"]


@dataclass(frozen=True)
class Case:
    """A verified bundle, what it was verified on, and what came of it."""

    folder: Path
    inputs: list[Any]
    logits: np.ndarray
    verification: Verification


@pytest.fixture
def make_record() -> Callable[..., RunRecord]:
    """Makes the example record, with the fields given changed; ``hub`` and ``task`` are merged into what is there."""
    return example_record


def example_record(hub: dict[str, Any] | None = None, task: dict[str, Any] | None = None, **fields: Any) -> RunRecord:
    record = RunRecord.load(EXAMPLE)
    record.config["hub"] |= hub or {}
    record.task |= task or {}
    return dataclasses.replace(record, **fields)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def token() -> str | None:
    """What the local Hub asks for; None: nothing."""
    return None


@pytest.fixture
def endpoint(tmp_path: Path, online: None, token: str | None) -> Iterator[str]:
    """Address of an empty local Hub."""
    with running(tmp_path / "hub", token=token) as address:
        yield address


@pytest.fixture
def api(endpoint: str, token: str | None) -> HfApi:
    return HfApi(endpoint=endpoint, token=token or False)


def trained(kind: str) -> Any:
    """A tiny model with a LoRA adapter that changes its answers, and with the example's label names."""
    model = build_model(kind)
    names = example_record().task["label_names"]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    adapted = attach_adapter(model, AdapterConfig(r=2), ["classifier"])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return adapted.eval()


def logits_of(model: Any, encoded: Sequence[Any]) -> np.ndarray:
    with torch.inference_mode():
        return np.stack([model(**inputs).logits[0].numpy() for inputs in encoded])


def verified(work: Path, model: Any, processor: Any, inputs: list[Any], encoded: list[Any], record: RunRecord) -> Case:
    """Writes and verifies a bundle; the logits are those of the model before its adapter is merged."""
    logits = logits_of(model, encoded)
    model.save_pretrained(work / "adapter")
    bundle = write_bundle(
        work / "bundle",
        model=merge_adapter(model),
        processor=processor,
        record=record,
        adapter_dir=work / "adapter",
    )
    return Case(bundle, inputs, logits, verify_bundle(bundle, inputs, logits))


@pytest.fixture(scope="session")
def text_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """BERT; one of the inputs is a pair of texts."""
    work = tmp_path_factory.mktemp("text-case")
    tokenizer = write_tokenizer(work / "tokenizer")
    pairs = [text if isinstance(text, list) else [text] for text in TEXTS]
    encoded = [tokenizer(*pair, return_tensors="pt") for pair in pairs]
    wanted = ("input_ids", "attention_mask", "token_type_ids")
    encoded = [{name: inputs[name] for name in wanted if name in inputs} for inputs in encoded]
    return verified(work, trained("bert"), tokenizer, TEXTS, encoded, example_record())


@pytest.fixture(scope="session")
def image_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """ViT."""
    from transformers import ViTImageProcessor

    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)) for _ in range(3)]
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    encoded = [processor(picture, return_tensors="pt") for picture in pictures]
    record = example_record(task={"modality": "image"})
    work = tmp_path_factory.mktemp("image-case")
    return verified(work, trained("vit"), processor, pictures, encoded, record)


@pytest.fixture
def bundle(text_case: Case, tmp_path: Path) -> Iterator[Path]:
    """A copy of the verified text bundle, to be changed at will."""
    shutil.copytree(text_case.folder, tmp_path / "run" / "bundle")
    shutil.copy(text_case.folder.with_name("bundle.verified.json"), tmp_path / "run")
    yield tmp_path / "run" / "bundle"
