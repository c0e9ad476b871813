"""Heads, models made of them, and the process of somebody who loads those."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_fsl.models.export import FeatureTransform, LinearHead

NAMES = ["cat", "dog", "a bird"]


def random_head(dimension, classes=3, **transform):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(classes, dimension, generator=generator)
    bias = torch.randn(classes, generator=generator)
    return LinearHead(weight, bias, FeatureTransform(**transform))


def whitened(embeddings):
    """A head over centred, projected embeddings, so that folding has something to fold."""
    centre = embeddings.mean(0)
    _, scales, directions = torch.linalg.svd(embeddings - centre, full_matrices=False)
    return random_head(6, centre=centre, projection=directions[:6].T / scales[:6] * len(embeddings) ** 0.5)


def centred(logits):
    return logits - logits.mean(1, keepdim=True)


def publish(exported, folder):
    exported.model.save_pretrained(folder)
    exported.processor.save_pretrained(folder)
    return folder


def in_fresh_process(work, jobs, *options):
    """Logits and answers of each folder, from a process without hf_fsl unless ``--registered``."""
    (work / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-I", str(Path(__file__).with_name("fresh.py")), str(work), *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(work / "modules")}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(work / "logits.safetensors"), json.loads((work / "answers.json").read_text())


def job(folder, kind, inputs, work, trust=False):
    if kind == "image":
        names = [str(work / f"{folder.name}-{number}.png") for number in range(len(inputs))]
        for picture, name in zip(inputs, names, strict=True):
            picture.save(name)
        inputs = names
    return {"folder": str(folder), "kind": kind, "inputs": inputs, "trust": trust}
