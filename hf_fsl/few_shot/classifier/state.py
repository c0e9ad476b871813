"""What a few-shot model remembers beside its weights: the head, refusal, and what lets it grow."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import hf_fsl
from hf_fsl.core.files import atomic_write, write_text
from hf_fsl.core.renamed import RENAMED_ESTIMATORS
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads.incremental import GrowingHead
from hf_fsl.few_shot.heads.refusal import Refusal
from hf_fsl.models.backbones.weights import damaged_files, require_finite
from hf_fsl.models.export.loading import FOLDER, processor_digest, weights_digest
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import FeatureTransform, LinearHead

FORMAT = 1
_RENAMED = {"words": "label_texts"}
"""Old name -> new, in ``state.json``."""


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
    label_texts: tuple[str, ...] | None
    """One a class, where they are used."""
    templates: tuple[str, ...]
    temperature: float | None
    """What the head's logits were divided by; None where the model was written before that was noted."""
    coverage: float
    refusal: Refusal | None
    no_refusal: str = ""
    """Why there is no refusal."""
    class_weights: tuple[float, ...] | None = None
    """What an example of each class counts as, where classes were weighed."""

    def save(self, folder: Path) -> None:
        """Writes ``few_shot/`` into a repository whose weights and processor are written already."""
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        tensors, notes = self.growing.state() if self.growing is not None else _head_state(self.head)
        tensors = {f"head.{name}": value for name, value in tensors.items()}
        if self.refusal is not None:
            tensors |= {f"refusal.{name}": value for name, value in self.refusal.to_tensors().items()}
        # Cloned: the two share the transform, and safetensors refuses shared memory.
        with atomic_write(place / "state.safetensors") as temporary:
            save_file({name: value.clone() for name, value in tensors.items()}, temporary, notes)
        settings = {
            "format": FORMAT,
            "hf_fsl": hf_fsl.__version__,
            "weights": weights_digest(folder),
            "processor": processor_digest(folder),
            "state": _digest(place / "state.safetensors"),
            "classes": self.classes.tolist(),
            "counts": self.counts,
            "modality": self.modality,
            "grows": self.growing is not None,
            "estimator": self.estimator,
            "hyperparameters": self.hyperparameters,
            "reason": self.reason,
            "label_texts": self.label_texts,
            "templates": self.templates,
            "temperature": self.temperature,
            "coverage": self.coverage,
            "no_refusal": self.no_refusal,
            "class_weights": self.class_weights,
        }
        write_text(place / "state.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> FewShotState:
        """Reads what :meth:`save` wrote.

        Raises:
            FewShotError: another format, a damaged file, or parts that do not fit each other.
        """
        try:
            return cls._load(folder)
        except FewShotError:
            raise
        except Exception as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            damaged = ", ".join(map(str, damaged_files(str(folder))))
            raise FewShotError(
                f"{FOLDER}/ cannot be read, a file of it is damaged or incomplete: {what}. "
                + (f"Remove {damaged} and load the model again" if damaged else "Load the model again")
                + ", or another revision of it."
            ) from error

    @classmethod
    def _load(cls, folder: Path) -> FewShotState:
        place = folder / FOLDER
        written = json.loads((place / "state.json").read_text(encoding="utf-8"))
        settings = {_RENAMED.get(name, name): value for name, value in written.items()}
        if settings["format"] != FORMAT:
            raise FewShotError(
                f"This hf_fsl reads few-shot states of format {FORMAT}, the model has {settings['format']}, written "
                f"by hf_fsl {settings['hf_fsl']}. Install that version."
            )
        if not isinstance(settings["weights"], str):
            raise ValueError("it says nothing of the weights it belongs to")
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "refusal": {}}
        path = place / "state.safetensors"
        if settings.get("state") not in (None, _digest(path)):
            raise ValueError("state.safetensors is not what was written")
        with safe_open(path, "pt") as file:
            notes = file.metadata()
            for name in file.keys():  # noqa: SIM118  # no mapping
                part, _, own = name.partition(".")
                parts[part][own] = file.get_tensor(name)
                require_finite({name: parts[part][own]})
        growing = GrowingHead.from_state(parts["head"], notes or {}) if settings["grows"] else None
        state = cls(
            classes=np.asarray(settings["classes"]),
            counts=tuple(settings["counts"]),
            modality=settings["modality"],
            head=growing.head() if growing is not None else _head_of_state(parts["head"]),
            growing=growing,
            estimator=RENAMED_ESTIMATORS.get(settings["estimator"], settings["estimator"]),
            hyperparameters=settings["hyperparameters"],
            reason=settings["reason"],
            label_texts=None if settings["label_texts"] is None else tuple(settings["label_texts"]),
            templates=tuple(settings["templates"]),
            temperature=settings.get("temperature", None if growing is None else growing.temperature),
            coverage=settings["coverage"],
            refusal=Refusal.from_tensors(parts["refusal"]) if parts["refusal"] else None,
            no_refusal=settings["no_refusal"],
            class_weights=None if settings.get("class_weights") is None else tuple(settings["class_weights"]),
        )
        require_sound(state)
        return state


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_sound(state: FewShotState) -> None:
    """Raises ValueError for a state whose parts do not fit each other."""
    classes, head = len(state.classes), state.head
    if len(set(state.classes.tolist())) < classes:
        raise ValueError(f"a class is there twice among {state.classes.tolist()}")
    rows = [head.weight, head.bias] if isinstance(head, LinearHead) else [head.values.mT, head.prior]
    if state.growing is not None and state.growing.moments is not None:
        rows += [state.growing.moments.counts, state.growing.moments.sums]
    counted = [len(state.counts), *map(len, rows), classes if state.label_texts is None else len(state.label_texts)]
    if set(counted) != {classes}:
        raise ValueError(f"it is of {classes} classes, and its parts are of {', '.join(map(str, counted))}")
    if isinstance(head, LinearHead) and len(torch.cat([head.weight, head.bias[:, None]], 1).unique(dim=0)) < classes:
        raise ValueError("two of its classes are the same")


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
