"""Memory of the zero-shot text pipelines does not grow with the number of texts."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from hf_fsl import ZeroShotEmbeddingPipeline, ZeroShotTextPipeline
from hf_fsl.models.backbones import Backbone

LABELS = ["food", "big red house"]


def nli(folder: Path, monkeypatch):
    monkeypatch.setattr("hf_fsl.zero_shot.pipelines.text.WINDOW_PAIRS", 1024)
    pipe = pipeline("zero-shot-classification", model=str(folder), pipeline_class=ZeroShotTextPipeline, device="cpu")
    monkeypatch.setattr(pipe.scorer, "_forward", lambda _, inputs: torch.zeros(len(inputs["input_ids"]), 3))
    return pipe


def embedding(folder: Path, monkeypatch):
    monkeypatch.setattr("hf_fsl.zero_shot.pipelines.embedding.WINDOW_TEXTS", 512)
    pipe = ZeroShotEmbeddingPipeline(backbone=Backbone.from_pretrained(str(folder), device="cpu"), device="cpu")
    monkeypatch.setattr(pipe.label_encoder.backbone, "encode", lambda texts, **_: torch.ones(len(texts), 32))
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize(("build", "folder"), [(nli, "nli_model"), (embedding, "text_backbone")])
def test_what_is_kept_of_texts_does_not_grow_with_their_number(build, folder, request, monkeypatch):
    """Python's memory; the forward pass, of which every window has its own, is left out for time."""
    pipe = build(request.getfixturevalue(folder), monkeypatch)

    def peak(count: int) -> int:
        tracemalloc.start()
        texts = (f"cat {number}" for number in range(count))
        assert sum(1 for _ in pipe(texts, candidate_labels=LABELS)) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1_000)
    assert peak(100_000) < 1.2 * peak(2_000)


_RESIDENT = """
import sys, torch
from transformers import pipeline
import hf_fsl as pipelines

torch.set_num_threads(1)
task, kind, folder = sys.argv[1:]
pipe = pipeline(task, model=folder, pipeline_class=getattr(pipelines, kind), device="cpu")

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def run(count):
    for row, _ in enumerate(pipe((f"cat {number} dog" for number in range(count)), candidate_labels=["food", "sun"])):
        if row % 2048 == 0:
            yield resident()

list(run(8_000))
before, top = resident(), max(run(100_000))
print(before, top)
assert top < before + (8 << 20), (before, top)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("task", "kind", "folder"),
    [
        ("zero-shot-classification", "ZeroShotTextPipeline", "nli_model"),
        ("feature-extraction", "ZeroShotEmbeddingPipeline", "text_backbone"),
    ],
)
def test_the_process_does_not_grow_with_100_000_texts(task, kind, folder, request):
    """Torch's memory too, with a real model: it grew by less than 1 MB. An embedding of 32 numbers kept for each text
    would be 12 MB.
    """
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT, task, kind, str(request.getfixturevalue(folder))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
