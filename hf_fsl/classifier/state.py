"""What a few-shot model remembers beside its weights: the head, refusal, and what lets it grow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import hf_fsl
from hf_fsl.classifier.support import FewShotError
from hf_fsl.files import write_text
from hf_fsl.heads.growing import GrowingHead
from hf_fsl.heads.refusal import Refusal
from hf_fsl.modeling import CacheHead, FeatureTransform, LinearHead

FOLDER = "few_shot"
"""In a published repository; stock pipelines ignore it."""
FORMAT = 1


@dataclass(frozen=True)
class FewShotState:
    """Everything of a fitted classifier but its backbone."""

    classes: np.ndarray
    """``(C,)``: texts or integers; sorted, those that were added at the end."""
    counts: tuple[int, ...]
    """Support examples of each."""
    modality: Literal["text", "image"]
    head: LinearHead | CacheHead
    growing: GrowingHead | None
    """What further examples need; None where the head needs the support embeddings, and they were not kept."""
    estimator: str
    hyperparameters: dict[str, Any]
    reason: str
    words: tuple[str, ...] | None
    """One text a class, where they are used."""
    templates: tuple[str, ...]
    coverage: float
    refusal: Refusal | None
    no_refusal: str = ""
    """Why there is no refusal."""

    def save(self, folder: Path, weights: str) -> None:
        """Writes ``few_shot/`` into a repository whose weights have the digest ``weights``."""
        place = folder / FOLDER
        place.mkdir(parents=True)
        tensors, notes = self.growing.state() if self.growing is not None else _head_state(self.head)
        tensors = {f"head.{name}": value for name, value in tensors.items()}
        if self.refusal is not None:
            tensors |= {f"refusal.{name}": value for name, value in self.refusal.to_tensors().items()}
        # Cloned: the two share the transform, and safetensors refuses shared memory.
        save_file({name: value.clone() for name, value in tensors.items()}, place / "state.safetensors", notes)
        settings = {
            "format": FORMAT,
            "hf_fsl": hf_fsl.__version__,
            "weights": weights,
            "classes": self.classes.tolist(),
            "counts": self.counts,
            "modality": self.modality,
            "grows": self.growing is not None,
            "estimator": self.estimator,
            "hyperparameters": self.hyperparameters,
            "reason": self.reason,
            "words": self.words,
            "templates": self.templates,
            "coverage": self.coverage,
            "no_refusal": self.no_refusal,
        }
        write_text(place / "state.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path, weights: str) -> FewShotState:
        """Reads what :meth:`save` wrote.

        Raises:
            FewShotError: another format, a damaged file, or a state that belongs to other weights.
        """
        place = folder / FOLDER
        settings = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise FewShotError(
                f"This hf_fsl reads few-shot states of format {FORMAT}, the model has {settings['format']}, written "
                f"by hf_fsl {settings['hf_fsl']}. Install that version."
            )
        if settings["weights"] != weights:
            raise FewShotError(
                "The model's weights are not those its few_shot/ state was written with: somebody replaced one of the "
                "two. Load an earlier revision, or fit again."
            )
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "refusal": {}}
        try:
            with safe_open(place / "state.safetensors", "pt") as file:
                notes = file.metadata()
                for name in file.keys():  # noqa: SIM118  # no mapping
                    part, _, own = name.partition(".")
                    parts[part][own] = file.get_tensor(name)
        except (SafetensorError, FileNotFoundError) as error:
            raise FewShotError(f"few_shot/state.safetensors cannot be read: {error}. Load the model again.") from error
        growing = GrowingHead.from_state(parts["head"], notes) if settings["grows"] else None
        return cls(
            classes=np.asarray(settings["classes"]),
            counts=tuple(settings["counts"]),
            modality=settings["modality"],
            head=growing.head() if growing is not None else _head_of_state(parts["head"]),
            growing=growing,
            estimator=settings["estimator"],
            hyperparameters=settings["hyperparameters"],
            reason=settings["reason"],
            words=None if settings["words"] is None else tuple(settings["words"]),
            templates=tuple(settings["templates"]),
            coverage=settings["coverage"],
            refusal=Refusal.from_tensors(parts["refusal"]) if parts["refusal"] else None,
            no_refusal=settings["no_refusal"],
        )


def _head_state(head: LinearHead | CacheHead) -> tuple[dict[str, Tensor], dict[str, str]]:
    transform = head.transform
    tensors = {"centre": transform.centre, "projection": transform.projection}
    tensors["normalize"] = torch.tensor(transform.normalize)
    names = (
        ("weight", "bias") if isinstance(head, LinearHead) else ("keys", "values", "prior", "alpha", "beta", "scale")
    )
    tensors |= {name: torch.as_tensor(getattr(head, name)) for name in names}
    return {name: value for name, value in tensors.items() if value is not None}, {}


def _head_of_state(tensors: dict[str, Tensor]) -> LinearHead | CacheHead:
    transform = FeatureTransform(tensors.get("centre"), tensors.get("projection"), bool(tensors["normalize"]))
    if "weight" in tensors:
        return LinearHead(tensors["weight"], tensors["bias"], transform)
    keys, values, prior, alpha, beta = (tensors[name] for name in ("keys", "values", "prior", "alpha", "beta"))
    return CacheHead(keys, values, prior, alpha, beta, transform, tensors["scale"])
