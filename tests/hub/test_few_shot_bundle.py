"""A few-shot model of ours as a bundle: it loads by its own code and by hf_fsl, and both must give its logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_fsl.hub.bundle import write_bundle
from hf_fsl.hub.verify import BundleMismatch, reference_logits, require_verified, verify_bundle
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.export import LinearHead, export_model
from tests.helpers.encoders import save_encoder, texts


@pytest.fixture
def case(tmp_path, make_record):
    """A bundle, inputs and logits of a mean-pooled, normalised BERT with a linear head."""
    record = make_record()
    names = record.task["label_names"]
    backbone = Backbone.from_pretrained(str(save_encoder("bert", tmp_path / "encoder")), normalize=True)
    torch.manual_seed(0)
    head = LinearHead(torch.randn(len(names), 32), torch.randn(len(names)))
    exported = export_model(backbone, head, names)
    assert not exported.stock
    items = texts(4)
    bundle = write_bundle(tmp_path / "bundle", model=exported.model, processor=exported.processor, record=record)
    logits = reference_logits(exported.model, exported.processor, items, head(backbone.encode(items)).numpy())
    return bundle, items, logits


def test_it_is_verified_for_both_kinds_of_reader(case):
    bundle, items, logits = case
    verification = verify_bundle(bundle, items, logits, "hf_fsl.models.registration")
    assert require_verified(bundle) == verification and verification.examples == 4
    # Code that is loaded without hf_fsl and gives something else is found, though hf_fsl's own is right.
    code = bundle / "linear_head.py"
    code.write_text(code.read_text().replace("self.bias.unsqueeze(-2)", "2 * self.bias.unsqueeze(-2)"))
    with pytest.raises(BundleMismatch, match="gives other logits"):
        verify_bundle(bundle, items, logits, "hf_fsl.models.registration")
    with pytest.raises(BundleMismatch, match="was changed after it was verified"):
        require_verified(bundle)


def test_a_head_that_changed_is_refused(case):
    bundle, items, logits = case
    weights = load_file(bundle / "model.safetensors")
    weights["head.bias"] += torch.arange(len(weights["head.bias"])) * 10.0
    save_file(weights, bundle / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleMismatch, match="gives other logits"):
        verify_bundle(bundle, items, logits, "hf_fsl.models.registration")
    assert not Path(f"{bundle}.verified.json").exists()
