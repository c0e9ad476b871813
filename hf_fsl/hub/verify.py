"""A bundle is loaded back by a fresh process, without hf_fsl, and must give what the trained model gave."""

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
from hf_fsl.hub.load_check import logits_one_by_one

TOLERANCE = 1e-5
"""Largest difference allowed between logits in float32, as a share of their scale."""
_ROUNDINGS = 16
"""A network rounds once a layer or so; this many units of rounding keep a sound one within the tolerance."""
_LOAD_CHECK = Path(__file__).with_name("load_check.py")


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


def reference_logits(
    model: Any, processor: Any, inputs: Sequence[Any], trained: np.ndarray, device: str = "cpu"
) -> np.ndarray:
    """Runs the model as whoever loads its bundle will: float32, on the CPU, one input at a time.

    The trained model's own logits come from padded batches in the precision of the training, so they only show that
    this is the same model: merging or tokenising gone wrong moves them further than rounding does.

    Args:
        model: the model that was published, adapter merged. It is changed in place: to float32, on the CPU.
        processor: its tokenizer or image processor.
        inputs: texts, pairs of texts, or images.
        trained: ``(N, C)``, what the model gave for these inputs at the end of its training.
        device: type of the device that ``trained`` comes from.

    Returns:
        Logits ``(N, C)``.

    Raises:
        BundleMismatch: they are further from ``trained`` than the precision of the model explains.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    pictures = [as_rgb(value) if isinstance(value, Image.Image) else value for value in inputs]
    logits: np.ndarray = logits_one_by_one(model, processor, pictures).numpy()
    scale = max(1.0, float(np.abs(trained).max()))
    allowed = tolerance(dtype, device) * scale
    difference = float(np.abs(logits - trained).max()) if logits.shape == trained.shape else float("inf")
    # Not "difference > …": that is false for NaN, and a model that gives NaN would pass.
    if not difference <= allowed:
        raise BundleMismatch(
            f"The model to be published gives other logits than it gave in training: largest difference "
            f"{difference:.2e} at scale {scale:.1f}, allowed for {dtype} on {device} is {allowed:.2e}. Its adapter "
            "may not merge into its weights, or its processor may treat single inputs and batches differently."
        )
    return logits


def verify_bundle(
    bundle: Path, inputs: Sequence[Any], logits: np.ndarray, registration: str | None = None
) -> Verification:
    """Compares the bundle with the trained model and notes the result beside it (``<bundle>.verified.json``).

    Args:
        inputs: texts, pairs of texts, or images.
        logits: ``(N, C)``, what :func:`reference_logits` gives for these inputs.
        registration: see :func:`verify_model`.

    Raises:
        BundleMismatch, ValueError: see :func:`verify_model`.
    """
    task = Task.from_dict(RunRecord.load(bundle / "run_record.json").task)
    difference, scale = verify_model(bundle, task, inputs, logits, registration)
    return _note_verified(bundle, difference, scale, len(logits))


def verify_model(
    folder: Path, task: Task, inputs: Sequence[Any], logits: np.ndarray, registration: str | None = None
) -> tuple[float, float]:
    """Compares a repository's model, loaded by a fresh process, with logits ``(N, C)``.

    Args:
        registration: of a model that is no stock class, the module that registers its classes. It is then loaded
            twice: by the code in the folder, without hf_fsl, and by those classes without that code.

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
    readers = _readers(folder, registration)
    return max(_compare(folder, task, inputs, logits, scale, options) for options in readers), scale


def _readers(bundle: Path, registration: str | None) -> list[list[str]]:
    """Options of the load check for each way to load a bundle: code of its own is trusted only where we wrote it."""
    config = bundle / "config.json"
    if not (config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "few-shot"):
        return [[]]
    if registration is None:
        raise ValueError("A few-shot model is no stock class: give the module that registers its classes.")
    return [["--trust-remote-code"], ["--import", registration, str(Path(hf_fsl.__file__).parents[1])]]


def _loaded_afresh(
    bundle: Path, work: Path, inputs: dict[str, Any], options: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a fresh process answers to ``inputs``, and what its model gives. Raises BundleMismatch."""
    (work / "inputs.json").write_text(json.dumps(inputs, ensure_ascii=False), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["HF_MODULES_CACHE"] = str(work / "modules")
    # -I: neither the working folder nor PYTHONPATH leads the process to hf_fsl.
    command = [sys.executable, "-I", str(_LOAD_CHECK), str(bundle.resolve()), str(work), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BundleMismatch(f"{bundle} does not load in a fresh process:\n{done.stderr[-2000:]}")
    answers = json.loads((work / "answers.json").read_text(encoding="utf-8"))
    if answers["foreign"] and "--import" not in options:
        raise BundleMismatch(
            f"{bundle} needs {', '.join(answers['foreign'])} to load; it must load with transformers alone."
        )
    return answers, load_file(work / "outputs.safetensors")


def _compare(
    bundle: Path, task: Task, inputs: Sequence[Any], logits: np.ndarray, scale: float, options: list[str]
) -> float:
    """The largest difference between ``logits`` and what a fresh process gets. Raises BundleMismatch."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [_portable_input(value, work, number) for number, value in enumerate(inputs)]
        answer, outputs = _loaded_afresh(bundle, work, {"task": task.pipeline_tag, "inputs": names}, options)
    again = outputs["logits"]
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


def verify_dual_encoder(bundle: Path, sample: DualEncoderSample) -> Verification:
    """Compares the bundle, loaded by a fresh process without hf_fsl, with the trained model; notes the result.

    Raises:
        BundleMismatch: it does not load, or gives other embeddings or, through ``pipeline()``, other labels.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        names = [_portable_input(picture, work, number) for number, picture in enumerate(sample.images)]
        inputs = {"task": "zero-shot-image-classification", "images": names, "texts": sample.texts,
                  "candidate_labels": list(sample.candidate_labels), "template": sample.template}  # fmt: skip
        answers, again = _loaded_afresh(bundle, work, inputs)
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
    return _note_verified(bundle, largest, 1.0, len(sample.images))


def _note_verified(bundle: Path, difference: float, scale: float, examples: int) -> Verification:
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


def _portable_input(value: Any, work: Path, number: int) -> Any:
    """An input as JSON takes it; of a picture the name of a file written into ``work``."""
    if isinstance(value, Image.Image):
        name = f"{number}.png"
        as_rgb(value).save(work / name)
        return name
    return value if isinstance(value, str) else list(value)
