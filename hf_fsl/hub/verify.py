"""A bundle is loaded back by a fresh process, without hf_fsl, and must give the trained model's logits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

import hf_fsl
from hf_fsl.core.errors import UserError
from hf_fsl.core.files import write_text
from hf_fsl.core.images import as_rgb
from hf_fsl.core.records import RunRecord
from hf_fsl.core.serialization import from_plain, json_object
from hf_fsl.core.task import Task

TOLERANCE = 1e-5
"""Largest difference allowed between logits in float32, as a share of their scale."""
_ROUNDINGS = 16
"""A network rounds once a layer or so; this many units of rounding keep a sound one within the tolerance."""
_STRANGER = Path(__file__).with_name("stranger.py")


class BundleMismatch(UserError, RuntimeError):
    """A bundle that does not give what the trained model gave."""


@dataclass(frozen=True)
class Verification:
    """What the comparison found. ``digest`` is of the bundle's files: a bundle changed since is not verified.

    ``card`` is the digest of the card as it was rendered: one that differs now was edited, and is pushed as it is.
    """

    largest_difference: float
    scale: float
    examples: int
    digest: str
    card: str | None = None


def verify_bundle(bundle: Path, inputs: Sequence[Any], logits: np.ndarray) -> Verification:
    """Compares the bundle with the trained model and notes the result beside it (``<bundle>.verified.json``).

    Args:
        inputs: texts, pairs of texts, or images.
        logits: ``(N, C)``, what :func:`hf_fsl.hub.reference.reference_logits` gives for these inputs.

    Raises:
        BundleMismatch, ValueError: see :func:`verify_model`.
    """
    task = Task.from_dict(RunRecord.load(bundle / "run_record.json").task)
    difference, scale = verify_model(bundle, task, inputs, logits)
    return note_verified(bundle, difference, scale, len(logits))


def verify_model(folder: Path, task: Task, inputs: Sequence[Any], logits: np.ndarray) -> tuple[float, float]:
    """Compares a repository's model, loaded by a fresh process, with logits ``(N, C)``.

    A few-shot model of ours is loaded twice: by the code in the folder, without hf_fsl, and by hf_fsl without it.

    Returns:
        The largest difference, and the scale of the logits.

    Raises:
        BundleMismatch: it does not load, or logits, argmax, label names or problem type differ.
        ValueError: no inputs, or not one row of logits for each.
    """
    if len(inputs) == 0 or len(inputs) != len(logits):
        raise ValueError(
            f"A bundle is verified on at least one input, with a row of logits for each; got {len(inputs)} inputs "
            f"and {len(logits)} rows."
        )
    scale = max(1.0, float(np.abs(logits).max()))
    return max(_compare(folder, task, inputs, logits, scale, options) for options in _readers(folder)), scale


def _readers(bundle: Path) -> list[list[str]]:
    """Options of the stranger for each way to load a bundle.

    A few-shot model of ours has two: by its own code, the only one that is ever trusted here, and by hf_fsl.
    """
    config = bundle / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "few-shot":
        return [["--trust-remote-code"], ["--registered", str(Path(hf_fsl.__file__).parents[1])]]
    return [[]]


def _compare(
    bundle: Path, task: Task, inputs: Sequence[Any], logits: np.ndarray, scale: float, options: list[str]
) -> float:
    """The largest difference between ``logits`` and what a fresh process gets. Raises BundleMismatch."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [portable_input(value, work, number) for number, value in enumerate(inputs)]
        text = json.dumps({"task": task.pipeline_tag, "inputs": names}, ensure_ascii=False)
        (work / "inputs.json").write_text(text, encoding="utf-8")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["HF_MODULES_CACHE"] = str(work / "modules")
        # -I: neither the working folder nor PYTHONPATH leads the stranger to hf_fsl.
        command = [sys.executable, "-I", str(_STRANGER), str(bundle.resolve()), str(work), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise BundleMismatch(f"{bundle} does not load in a fresh process:\n{done.stderr[-2000:]}")
        again = load_file(work / "logits.safetensors")["logits"]
        answer = json.loads((work / "labels.json").read_text(encoding="utf-8"))
    if answer["foreign"] and "--registered" not in options:
        raise BundleMismatch(
            f"{bundle} needs {', '.join(answer['foreign'])} to load; it must load with transformers alone."
        )
    difference = float(np.abs(again - logits).max()) if again.shape == logits.shape else float("inf")
    # Not "difference > …": that is false for NaN, and a model that gives NaN would pass.
    if not difference <= TOLERANCE * scale or (again.argmax(-1) != logits.argmax(-1)).any():
        raise BundleMismatch(
            f"{bundle} gives other logits than the trained model: largest difference {difference:.2e} at scale "
            f"{scale:.1f}, allowed is {TOLERANCE * scale:.2e} with the same argmax. It was not pushed."
        )
    if answer["names"] != list(task.label_names):
        raise BundleMismatch(
            f"{bundle}: config.json names the classes {answer['names']}, the run's task {list(task.label_names)}. "
            "Set id2label of the model's config before it is saved."
        )
    if (answer["problem_type"] == "multi_label_classification") != task.multi_label:
        raise BundleMismatch(
            f"{bundle}: config.json has problem_type {answer['problem_type']!r}, the task is {task.problem_type}; "
            "pipeline() would give other scores. Set problem_type of the model's config before it is saved."
        )
    # The pipeline runs in the precision the bundle is saved in, in which two classes may be tied.
    near = tolerance(answer["dtype"], answer["device"]) * scale
    for label, row in zip(answer["labels"], logits, strict=False):
        expected = [task.label_names[number] for number in np.flatnonzero(row >= row.max() - near)]
        if label not in expected:
            raise BundleMismatch(f"{bundle}: pipeline() answers {label!r}, the trained model {' or '.join(expected)}.")
    return difference


def note_verified(bundle: Path, difference: float, scale: float, examples: int) -> Verification:
    """Writes beside a bundle that it gives what was trained."""
    result = Verification(difference, scale, examples, bundle_digest(bundle), card_digest(bundle))
    write_text(_note(bundle), json.dumps(asdict(result), indent=2) + "\n")
    return result


def require_verified(bundle: Path) -> Verification:
    """The note of a verification that still holds. Raises BundleMismatch where there is none."""
    if not (bundle / "run_record.json").is_file():
        raise BundleMismatch(f"There is no bundle at {bundle}. A run writes bundle/ into its output_dir.")
    try:
        result = from_plain(Verification, json_object(_note(bundle).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        raise BundleMismatch(
            f"{bundle} was never verified, and what is not verified is not pushed. Run its recipe again."
        ) from None
    if result.digest != bundle_digest(bundle):
        raise BundleMismatch(f"{bundle} was changed after it was verified. Run its recipe again.")
    return result


def tolerance(dtype: str, device: str) -> float:
    """How far logits computed in this precision may be from exact ones, as a share of their scale."""
    if dtype == "bfloat16":
        return _ROUNDINGS * 2.0**-7
    # Accelerators compute float32 convolutions in TF32, whose mantissa is as short as that of float16.
    return TOLERANCE if dtype == "float32" and device == "cpu" else _ROUNDINGS * 2.0**-10


def bundle_digest(bundle: Path) -> str:
    """A digest of names and contents of all files, the card aside: its text is free to be edited."""
    digest = hashlib.sha256()
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        name = path.relative_to(bundle).as_posix()
        if name != "README.md":
            with path.open("rb") as file:
                digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def card_digest(bundle: Path) -> str | None:
    """A digest of the card, None where there is none."""
    card = bundle / "README.md"
    return hashlib.sha256(card.read_bytes()).hexdigest() if card.is_file() else None


def _note(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.verified.json")


def portable_input(value: Any, work: Path, number: int) -> Any:
    """An input as JSON takes it; of a picture the name of a file written into ``work``."""
    if isinstance(value, Image.Image):
        name = f"{number}.png"
        as_rgb(value).save(work / name)
        return name
    return value if isinstance(value, str) else list(value)
