"""The reference of a verification: float32 on the CPU, whatever precision and batches the training ran in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_fsl.config import AdapterConfig
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.verify import TOLERANCE, BundleMismatch, reference_logits, tolerance, verify_bundle
from hf_fsl.models.adapters import attach_adapter, merge_adapter
from tests.helpers.tiny_models import build_model, write_tokenizer

TEXTS = ["the cat sleeps", "a good film", "the red house and the big tree", "rain", ["the cat", "a bird"]]


def trained(dtype: torch.dtype, tokenizer: Any) -> tuple[Any, np.ndarray]:
    """A model with an adapter that changes its answers, and the logits of one padded batch."""
    model = build_model("bert").to(dtype)
    record = RunRecord.load(Path(__file__).with_name("example_record.json"))
    model.config.id2label = dict(enumerate(record.task["label_names"]))
    adapted = attach_adapter(model, AdapterConfig(r=2), ["classifier"]).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    pairs = [[text] if isinstance(text, str) else text for text in TEXTS]
    rows = [tokenizer(*pair, truncation=True) for pair in pairs]
    batch = tokenizer.pad({name: [row[name] for row in rows] for name in rows[0]}, return_tensors="pt")
    with torch.inference_mode():
        return adapted, adapted(**batch).logits.float().numpy()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        pytest.param(torch.float32, marks=pytest.mark.slow),
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_bundle_of_any_precision_is_verified_to_the_same_tolerance(
    dtype: torch.dtype, make_record: Any, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    model, logits = trained(dtype, tokenizer)
    merged = merge_adapter(model)
    bundle = write_bundle(tmp_path / "bundle", model=merged, processor=tokenizer, record=make_record())
    saved = json.loads((bundle / "config.json").read_text())["dtype"]
    assert saved == str(dtype).removeprefix("torch.")
    reference = reference_logits(merged, tokenizer, TEXTS, logits)
    exact = dtype == torch.float32
    # What this is for: of half precision the logits of the training are no reference.
    assert (np.abs(reference - logits).max() <= TOLERANCE * np.abs(logits).max()) == exact
    result = verify_bundle(bundle, TEXTS, reference)
    assert result.largest_difference <= TOLERANCE * result.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_that_is_not_the_trained_one_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    model, logits = trained(dtype, tokenizer)
    without = model.unload()  # the base model, its adapter and its trained head lost
    with pytest.raises(BundleMismatch, match=r"other logits than it gave in training.*adapter may not merge"):
        reference_logits(without, tokenizer, TEXTS, logits)


@pytest.mark.parametrize("logits", [np.full((5, 3), np.nan), np.zeros((4, 3))], ids=["nan", "a row short"])
def test_logits_that_compare_to_nothing_are_refused(logits: np.ndarray, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(BundleMismatch, match="largest difference (nan|inf)"):
        reference_logits(build_model("bert"), tokenizer, TEXTS, logits.astype(np.float32))


def test_float32_is_exact_on_the_cpu_only() -> None:
    assert tolerance("float32", "cpu") == TOLERANCE < tolerance("float32", "cuda") == tolerance("float16", "cpu")
    assert tolerance("float16", "cuda") < tolerance("bfloat16", "cuda") < 0.2
