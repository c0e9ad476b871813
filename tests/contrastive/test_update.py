"""Cached gradients, over chunks and over processes, against one process with the whole batch in one graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_fsl.config import TrainingConfig
from hf_fsl.contrastive.losses import ContrastiveLoss, true_pairs
from hf_fsl.contrastive.training import BOOKKEEPING, ContrastiveUpdate
from hf_fsl.core.errors import UserError
from tests.helpers import tiny_pairs as tiny

HERE = Path(__file__)

CONFIG = TrainingConfig(max_grad_norm=None, auto_find_batch_size=True)


class Kept:
    """Stands for an optimiser: keeps the gradients it was to use."""

    def __init__(self, model):
        self.model, self.gradients = model, {}

    def step(self):
        self.gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}

    def zero_grad(self, set_to_none=True):
        self.model.zero_grad(set_to_none=set_to_none)


def plain(encoder, loss, batch):
    """The whole batch in one graph, no library code but the loss."""
    out = encoder(**{name: value for name, value in batch.items() if name not in BOOKKEEPING})
    value = loss(out.images, out.texts, out.scale, out.bias, true_pairs(batch["captions"], batch["text"]))
    value.backward()
    return value.detach(), {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}


def stepped(encoder, loss, chunks, accelerator=None):
    kept = Kept(encoder)
    update = ContrastiveUpdate(encoder, kept, loss, accelerator or Accelerator(cpu=True), CONFIG)
    value, _, examples = update(chunks)
    return value, kept.gradients, examples


def assert_equal(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("sizes", [[8], [3, 3, 2], [1] * 8], ids=str)
def test_chunks_give_the_loss_and_gradients_of_the_whole_batch(name, sizes):
    batch, loss = tiny.pairs(8), ContrastiveLoss(name)
    whole = plain(tiny.tiny_dual_encoder(bias=name == "siglip"), loss, batch)
    assert whole[1]["model.logit_scale"].abs() > 0 and len(whole[1]) > 60
    chunked = stepped(tiny.tiny_dual_encoder(bias=name == "siglip"), loss, tiny.cut(batch, sizes))
    assert_equal(whole, chunked)
    assert chunked[2] == 8


def test_dropout_is_the_same_when_a_chunk_is_embedded_again():
    """With the first pass's masks the gradient is that of one graph over the same chunks; else it is not."""
    chunks, loss = tiny.cut(tiny.pairs(6), [2, 2, 2]), ContrastiveLoss("clip")
    encoder = tiny.tiny_dual_encoder(dropout=0.3)
    torch.manual_seed(9)
    outs = [encoder(**{n: v for n, v in chunk.items() if n not in BOOKKEEPING}) for chunk in chunks]
    images, texts = (torch.cat([getattr(out, part) for out in outs]) for part in ("images", "texts"))
    whole = tiny.pairs(6)
    value = loss(images, texts, outs[0].scale, None, true_pairs(whole["captions"], whole["text"]))
    value.backward()
    reference = value.detach(), {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    following = torch.rand(1)
    encoder = tiny.tiny_dual_encoder(dropout=0.3)
    torch.manual_seed(9)
    again = stepped(encoder, loss, chunks)
    assert_equal(reference, again)
    assert torch.equal(torch.rand(1), following)


def test_a_batch_that_does_not_fit_is_cut_and_gives_the_same(monkeypatch):
    batch, loss = tiny.pairs(8), ContrastiveLoss("clip")
    whole = plain(tiny.tiny_dual_encoder(), loss, batch)
    encoder = tiny.tiny_dual_encoder()
    forward = encoder.image_features

    def small_memory(pixels):
        if len(pixels) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(pixels)

    monkeypatch.setattr(encoder, "image_features", small_memory)
    assert_equal(whole, stepped(encoder, loss, [batch]))


def test_temperature_never_goes_below_a_hundredth():
    encoder = tiny.tiny_dual_encoder()
    with torch.no_grad():
        encoder.model.logit_scale.fill_(9.0)
    stepped(encoder, ContrastiveLoss("clip"), [tiny.pairs(4)])
    assert encoder.model.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_a_batch_of_one_pair_is_refused():
    with pytest.raises(UserError, match="at least 2 pairs"):
        stepped(tiny.tiny_dual_encoder(), ContrastiveLoss("clip"), tiny.cut(tiny.pairs(4), [1, 3])[:1])


@pytest.mark.parametrize("name", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_two_processes_give_the_loss_and_gradients_of_one(name, tmp_path):
    """Each process has half of the batch, in two chunks; negatives come from both."""
    from safetensors.torch import load_file

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(HERE), name, str(tmp_path)]  # fmt: skip
    root = HERE.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = plain(tiny.tiny_dual_encoder(bias=name == "siglip"), ContrastiveLoss(name), tiny.pairs(8))
    for process in range(2):
        gradients = load_file(tmp_path / f"{process}.safetensors")
        value = torch.tensor(json.loads((tmp_path / f"{process}.json").read_text()))
        assert_equal(whole, (value, gradients))


def _one_of_two(name: str, folder: Path) -> None:
    from safetensors.torch import save_file

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    encoder = tiny.tiny_dual_encoder(bias=name == "siglip")
    wrapped = accelerator.prepare(encoder)
    kept = Kept(encoder)
    rows = tiny.cut(tiny.pairs(8), [2, 2, 2, 2])[2 * accelerator.process_index :][:2]
    value, _, examples = ContrastiveUpdate(wrapped, kept, ContrastiveLoss(name), accelerator, CONFIG)(rows)
    assert examples == 8
    save_file(kept.gradients, folder / f"{accelerator.process_index}.safetensors")
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(value.item()))
    accelerator.end_training()
    # What torch's reducer holds of the group is freed at the end of the process while the group's threads wait for the
    # interpreter: now and then both would wait for ever.
    os._exit(0)


if __name__ == "__main__":
    _one_of_two(sys.argv[1], Path(sys.argv[2]))
