"""What a few-shot model remembers beside its weights: the head, refusal, and what lets it grow."""

from __future__ import annotations

import hashlib
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
_PROCESSOR = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model",
    "*processor_config.json",
)  # fmt: skip


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
    temperature: float | None
    """What the head's logits were divided by; None where the model was written before that was noted."""
    coverage: float
    refusal: Refusal | None
    no_refusal: str = ""
    """Why there is no refusal."""

    def save(self, folder: Path) -> None:
        """Writes ``few_shot/`` into a repository whose weights and processor are written already."""
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
            "weights": weights_digest(folder),
            "processor": processor_digest(folder),
            "classes": self.classes.tolist(),
            "counts": self.counts,
            "modality": self.modality,
            "grows": self.growing is not None,
            "estimator": self.estimator,
            "hyperparameters": self.hyperparameters,
            "reason": self.reason,
            "words": self.words,
            "templates": self.templates,
            "temperature": self.temperature,
            "coverage": self.coverage,
            "no_refusal": self.no_refusal,
        }
        write_text(place / "state.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> FewShotState:
        """Reads what :meth:`save` wrote.

        Raises:
            FewShotError: another format, a damaged file, or a state of other weights or another processor.
        """
        try:
            return cls._load(folder)
        except FewShotError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OSError, SafetensorError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise FewShotError(
                f"{FOLDER}/ cannot be read, a file of it is damaged or incomplete: {what}. Load the model again, or "
                "another revision of it."
            ) from error

    @classmethod
    def _load(cls, folder: Path) -> FewShotState:
        place = folder / FOLDER
        settings = json.loads((place / "state.json").read_text(encoding="utf-8"))
        if settings["format"] != FORMAT:
            raise FewShotError(
                f"This hf_fsl reads few-shot states of format {FORMAT}, the model has {settings['format']}, written "
                f"by hf_fsl {settings['hf_fsl']}. Install that version."
            )
        for what, known, found in (
            ("weights are", settings["weights"], weights_digest),
            ("tokenizer or image processor is", settings.get("processor"), processor_digest),
        ):
            # The first states that were published say nothing of the processor.
            if known is not None and known != found(folder):
                raise FewShotError(
                    f"The model's {what} not what its few_shot/ state was written with: somebody replaced one of the "
                    "two. Load an earlier revision, or fit again."
                )
        parts: dict[str, dict[str, Tensor]] = {"head": {}, "refusal": {}}
        with safe_open(place / "state.safetensors", "pt") as file:
            notes = file.metadata()
            for name in file.keys():  # noqa: SIM118  # no mapping
                part, _, own = name.partition(".")
                parts[part][own] = file.get_tensor(name)
        growing = GrowingHead.from_state(parts["head"], notes or {}) if settings["grows"] else None
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
            temperature=settings.get("temperature", None if growing is None else growing.temperature),
            coverage=settings["coverage"],
            refusal=Refusal.from_tensors(parts["refusal"]) if parts["refusal"] else None,
            no_refusal=settings["no_refusal"],
        )


def weights_digest(folder: Path) -> str:
    """Of a repository's weights, as it stands in ``few_shot/state.json``."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FewShotError(f"{folder} holds no weights as safetensors.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def processor_digest(folder: Path) -> str:
    """Of the files that say how a repository's inputs are tokenised or made into pixels."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PROCESSOR for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


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
