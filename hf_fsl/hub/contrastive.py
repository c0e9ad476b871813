"""The published repository of a dual encoder: written whole, and loaded back by a stranger before it is pushed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from hf_fsl.core.contrastive_record import ContrastiveRecord
from hf_fsl.core.files import write_text
from hf_fsl.hub.bundle import copy_adapter, save_parts, whole_folder
from hf_fsl.hub.contrastive_cards import render_contrastive_card
from hf_fsl.hub.privacy import published
from hf_fsl.hub.verify import TOLERANCE, BundleMismatch, Verification, note_verified, portable_input

_STRANGER = Path(__file__).with_name("contrastive_stranger.py")


@dataclass(frozen=True)
class DualEncoderSample:
    """Inputs and what the trained model made of them.

    Args:
        images: N pictures.
        texts: M texts: ``template`` filled with each of the candidate labels.
        image_embeddings, text_embeddings: ``(N, D)`` and ``(M, D)``, of length 1.
    """

    images: Sequence[Any]
    candidate_labels: Sequence[str]
    template: str
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray

    @property
    def texts(self) -> list[str]:
        return [self.template.format(label) for label in self.candidate_labels]


def write_dual_encoder_bundle(
    folder: Path,
    *,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    record: ContrastiveRecord,
    adapters: Mapping[str, Path] | None = None,
) -> Path:
    """Writes weights, configuration, tokenizer, image processor, card, record and adapters.

    Args:
        model: the stock model, adapters merged.
        adapters: tower -> folder of its saved PEFT adapter, to go into ``adapter/<tower>/``.

    Returns:
        The folder, replaced as a whole.
    """
    record = published(record)
    with whole_folder(folder) as building:
        save_parts(building, model, tokenizer, image_processor)
        for tower, source in (adapters or {}).items():
            copy_adapter(source, building / "adapter" / tower, getattr(record, tower).source)
        record.save(building / "run_record.json")
        write_text(building / "README.md", render_contrastive_card(record))
    return folder


def verify_dual_encoder(bundle: Path, sample: DualEncoderSample) -> Verification:
    """Compares the bundle, loaded by a fresh process without hf_fsl, with the trained model; notes the result.

    Raises:
        BundleMismatch: it does not load, or gives other embeddings or, through ``pipeline()``, other labels.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [portable_input(picture, work, number) for number, picture in enumerate(sample.images)]
        given = {"images": names, "texts": sample.texts, "candidate_labels": list(sample.candidate_labels),
                 "template": sample.template}  # fmt: skip
        (work / "inputs.json").write_text(json.dumps(given, ensure_ascii=False), encoding="utf-8")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # -I: neither the working folder nor PYTHONPATH leads the stranger to hf_fsl.
        command = [sys.executable, "-I", str(_STRANGER), str(bundle.resolve()), str(work)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise BundleMismatch(f"{bundle} does not load in a fresh process:\n{done.stderr[-2000:]}")
        again = load_file(work / "embeddings.safetensors")
        answers = json.loads((work / "answers.json").read_text(encoding="utf-8"))
    if answers["foreign"]:
        raise BundleMismatch(
            f"{bundle} needs {', '.join(answers['foreign'])} to load; it must load with transformers alone."
        )
    largest = 0.0
    for name, mine in (("images", sample.image_embeddings), ("texts", sample.text_embeddings)):
        same_shape = again[name].shape == mine.shape
        difference = float(np.abs(again[name] - mine).max()) if same_shape else float("inf")
        # Not "difference > …": that is false for NaN, and a model that gives NaN would pass.
        if not difference <= TOLERANCE:
            raise BundleMismatch(
                f"{bundle} gives other embeddings of {name} than the trained model: largest difference "
                f"{difference:.2e}, allowed is {TOLERANCE:.0e}. It was not pushed."
            )
        largest = max(largest, difference)
    best = (sample.image_embeddings @ sample.text_embeddings.T).argmax(1)
    expected = [sample.candidate_labels[index] for index in best[: len(answers["labels"])]]
    if answers["labels"] != expected:
        raise BundleMismatch(f"{bundle}: pipeline() answers {answers['labels']}, the trained model {expected}.")
    return note_verified(bundle, largest, 1.0, len(sample.images))
