"""A fitted classifier as a repository: written, verified by a fresh process, pushed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

import hf_fsl
from hf_fsl.config.sections import HubConfig, repo_id_problem
from hf_fsl.core.files import remove, temporary_beside, write_text
from hf_fsl.core.paths import portable
from hf_fsl.core.records import RunRecord
from hf_fsl.core.task import Task
from hf_fsl.few_shot.adaptation.adapt import Adapted
from hf_fsl.few_shot.classifier.state import FewShotState, require_sound
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.hub.bundle import refuse_pickles, save_parts, write_bundle
from hf_fsl.hub.cards import is_hub_id, render_classifier_card
from hf_fsl.hub.privacy import forget_sources
from hf_fsl.hub.push import PublishError, PushResult, UselessModel, push_folder
from hf_fsl.hub.verify import reference_logits, verify_model
from hf_fsl.hub.worth import WAY_OUT, not_above
from hf_fsl.metrics.intervals import bootstrap_interval
from hf_fsl.models import registration
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.weights import loading
from hf_fsl.models.export.export import Exported, export_model
from hf_fsl.models.export.loading import FOLDER, backbone_of, load_published, repository_folder

ENOUGH = 30
"""Examples left out, one by one, below which their accuracy says too little to refuse a push by."""

_CARD, _WRITTEN = "README.md", "files.json"
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
"""What transformers would take for weights of this model, too."""


@dataclass(frozen=True)
class PublishableModel:
    """What is published of a fitted classifier."""

    state: FewShotState
    backbone: Backbone
    adapted: Adapted | None = None
    """What made the backbone, where it was adapted."""
    examples: Sequence[Any] = ()
    """A few inputs of its support set."""
    held_out: tuple[Tensor, Tensor] | None = None
    """Logits ``(n, C)`` of support examples, each by a head fitted without it (NaN: none was), and labels ``(n,)``."""

    @property
    def task(self) -> Task:
        """Its modality, and its classes as texts."""
        return Task(modality=self.state.modality, label_names=tuple(str(name) for name in self.state.classes))

    def logits(self, inputs: Sequence[Any]) -> np.ndarray:
        """Logits ``(N, C)``."""
        return self.state.head(self.backbone.encode(list(inputs), open_files=False)).numpy()


def save(model: PublishableModel, folder: Path, *, stock: bool | None = None, repo_id: str | None = None) -> Path:
    """Writes a model as a repository: model, processor, ``few_shot/``, card; the adapter where there is one.

    Args:
        model: what is published, see ``FewShotClassifier.publishable``.
        folder: files there that are not this model's stay; those of an earlier ``save`` that it does not have go. A
            README.md that somebody else wrote, or edited, stays with a warning.
        stock: None: a stock class of transformers where the head folds exactly, else one of hf_fsl, which loads after
            ``import hf_fsl.auto`` or by the code that is saved beside it. True, False: the one, or the other.
        repo_id: for the card's snippet.

    Returns:
        The folder.

    Raises:
        ExportError: ``stock=True``, and the head does not fold.
        FewShotError: ``folder`` is a file.
    """
    return _write(model, folder, export(model, stock), repo_id or portable(folder.as_posix()))


def push(
    model: PublishableModel,
    repo_id: str,
    *,
    stock: bool | None = None,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    push_anyway: bool = False,
    share_examples: bool = False,
) -> PushResult:
    """Saves, verifies in a fresh process, and pushes as one commit.

    Args:
        model: what is published, see ``FewShotClassifier.publishable``.
        repo_id: such as ``me/my-model``.
        stock: as of :func:`save`.
        private: whether a repository that is made is private.
        token: of the Hub; None: the one that is logged in.
        revision: the branch to push to; None: the main one.
        commit_message: None: a plain one.
        create_pr: opens a pull request instead of a commit.
        push_anyway: also a classifier that left-out examples do not show to be of any use.
        share_examples: whether the card shows two of the texts that the classifier was fitted on, for everybody to
            read.

    Returns:
        Where it went, and whether anything changed there.

    Raises:
        UselessModel: on at least ``ENOUGH`` examples, each classified by a head fitted without it, it is not
            measurably better than the most frequent class. With fewer nothing is known, and it is pushed.
        ExportError: see :func:`save`.
        BundleMismatch: what was written does not give the classifier's logits. Nothing is pushed.
        PublishError: ``repo_id`` names no user, the Hub refused, or could not be reached. Nothing half-written is
            left; push again.
    """
    if (problem := repo_id_problem(repo_id)) is not None:
        raise PublishError(f"repo_id: {problem}.")
    hub = HubConfig(
        push_to_hub=True, hub_model_id=repo_id, hub_private_repo=private, revision=revision,
        commit_message=commit_message or "Upload few-shot classifier made with hf_fsl", create_pr=create_pr,
    )  # fmt: skip
    if not push_anyway and (why := doubt_of(model)) is not None:
        raise UselessModel(f"{repo_id} was not pushed: {why} {WAY_OUT} push_anyway=True pushes it all the same.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.rpartition("/")[2]
        exported, inputs = export(model, stock), model.examples or _stand_ins(model)
        _write(model, folder, exported, repo_id, model.examples[:2] if share_examples else [])
        reference = reference_logits(exported.model, exported.processor, inputs, model.logits(inputs))
        verify_model(folder, model.task, inputs, reference, registration.__name__)
        return push_folder(folder, hub, token=token)


def doubt_of(model: PublishableModel) -> str | None:
    """Why a model is not known to be of use, by its held-out examples; None where it is, or has too few of them."""
    if model.held_out is None:
        return None
    logits, classes = (part.numpy() for part in model.held_out)
    left_out = ~np.isnan(logits).any(1)
    if left_out.sum() < ENOUGH:
        return None
    logits, classes = logits[left_out], classes[left_out]
    floor = float(np.bincount(classes).max() / len(classes))
    measured = bootstrap_interval("accuracy", logits, classes)
    return not_above(measured, floor, "accuracy", "always the same answer, the most frequent one")


def _write(model: PublishableModel, folder: Path, exported: Exported, repo: str, examples: Sequence[Any] = ()) -> Path:
    if folder.exists() and not folder.is_dir():
        raise FewShotError(f"{folder} is a file, and a model is saved into a folder. Give the name of one.")
    with temporary_beside(folder, folder=True, inside=True) as building:
        save_parts(building, exported.model, exported.processor)
        _save_adapter(model, building)
        forget_sources(building)
        write_text(building / "README.md", _card(model, exported, repo, examples))
        refuse_pickles(building)
        _merge(building, folder)
    model.state.save(folder)  # last: it belongs to weights and processor as they are there now
    return folder


def _merge(building: Path, folder: Path) -> None:
    """Moves what is new into its place; what an earlier call put there, and no longer belongs, goes."""
    new = {path.relative_to(building).as_posix(): _digest(path) for path in building.rglob("*") if path.is_file()}
    earlier = _written_before(folder)
    card = folder / _CARD
    if card.is_file() and _digest(card) not in (earlier.get(_CARD), new[_CARD]):
        warnings.warn(f"{card} was written, or edited, by others and stays. Delete it to get a new one.", stacklevel=5)
        del new[_CARD]
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(building / name, folder / name)
    stale = {*earlier, *(path.name for path in folder.glob("model*") if _WEIGHTS.fullmatch(path.name))} - new.keys()
    for path in (folder / name for name in stale - {_CARD}):
        remove(path)
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()
    write_text(folder / FOLDER / _WRITTEN, json.dumps(new, indent=2) + "\n")


def _written_before(folder: Path) -> dict[str, str]:
    """The files that an earlier call wrote and their checksums: names that somebody put there are of this folder."""
    path, root = folder / FOLDER / _WRITTEN, folder.resolve()
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return {name: digest for name, digest in listed.items() if root in (folder / name).resolve().parents}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stand_ins(model: PublishableModel) -> list[Any]:
    """Inputs to verify a model by that was loaded, or fitted on names alone: it has no examples at hand."""
    if model.state.modality == "text":
        return list(model.task.label_names)
    return [Image.new("RGB", (64, 64), (32 * step, 255 - 32 * step, 128)) for step in range(8)]


def write_few_shot_bundle(folder: Path, model: PublishableModel, exported: Exported, record: RunRecord) -> Path:
    """The repository of a recipe's run: what :func:`save` writes, with the run's card, record and figures."""
    return write_bundle(
        folder, model=exported.model, processor=exported.processor, record=record,
        more=lambda building: write_state(model, building),
    )  # fmt: skip


def export(model: PublishableModel, stock: bool | None = None) -> Exported:
    """The model that carries encoder and head, see :func:`hf_fsl.models.export.export_model`.

    Args:
        model: what is published.
        stock: as of :func:`save`.

    Returns:
        A model of transformers, its processor, and why it is of this class.

    Raises:
        ExportError: ``stock=True``, and the head does not fold.
        FewShotError: the classifier would not load again.
    """
    state = model.state
    try:
        require_sound(state)
    except ValueError as error:
        raise FewShotError(f"This classifier would not load again: {error}. Fit it on other examples.") from error
    return export_model(
        model.backbone, state.head, model.task.label_names, stock=stock, modality=state.modality,
        temperature=state.temperature,
        refusal_threshold=None if state.refusal is None else float(state.refusal.threshold),
    )  # fmt: skip


def write_state(model: PublishableModel, folder: Path) -> None:
    """``few_shot/``, and ``adapter/`` of an adapted backbone, beside weights and processor, written already."""
    model.state.save(folder)
    _save_adapter(model, folder)


def _save_adapter(model: PublishableModel, folder: Path) -> None:
    """None where it would not make the published encoder of the one that it names: the weights hold all of it."""
    if model.adapted is not None and model.adapted.publishable:
        model.adapted.save_adapter(folder / "adapter")


def _card(model: PublishableModel, exported: Exported, repo: str, examples: Sequence[Any]) -> str:
    state, name = model.state, portable(model.backbone.name.partition("@")[0])
    names = list(model.task.label_names)
    text = state.modality == "text"
    texts = list(examples) if text else []
    values = {
        "title": repo.rpartition("/")[2],
        "repo": repo,
        "base": name or "An encoder",
        "adapted": model.adapted is not None,
        "modality": state.modality,
        "names": names,
        "examples": texts,
        "shots": dict(zip(names, state.counts, strict=True)),
        "published_as": exported.reason,
        "stock": exported.stock,
        "reason": state.reason[:1].upper() + state.reason[1:],
        "version": hf_fsl.__version__,
        "prompt": model.backbone.modules.prompt(None) if text else "",
        "limit": model.backbone.token_limit if text else None,
    }
    metadata: dict[str, Any] = {"pipeline_tag": f"{state.modality}-classification"}
    if texts:
        metadata["widget"] = [{"text": one} for one in texts]
    if is_hub_id(name):
        metadata |= {"base_model": name, "base_model_relation": "finetune"}
    return render_classifier_card(values, metadata)


def load(
    model_name_or_path: str, *, revision: str | None = None, token: str | None = None, device: str | None = None
) -> tuple[FewShotState, Backbone]:
    """Loads what :func:`save` wrote.

    Args:
        model_name_or_path: a Hub id or a folder.
        revision: a branch, tag or commit of the repository.
        token: of the Hub.
        device: where the model runs.

    Returns:
        What was fitted, and the backbone that it was fitted on.

    Raises:
        FewShotError: the repository cannot be had, holds no few-shot model, a damaged one, or weights, processor and
            state that are of two fits.
    """
    with loading(FewShotError, model_name_or_path, revision, "as a few-shot model"):
        folder = repository_folder(model_name_or_path, revision=revision, token=token)
    if not (folder / FOLDER / "state.json").is_file():
        raise FewShotError(
            f"{model_name_or_path} has no {FOLDER}/state.json: it holds no few-shot model of hf_fsl. To classify with "
            "its encoder, give its name as backbone and call fit."
        )
    state = FewShotState.load(folder)
    published = load_published(str(folder), error=FewShotError)
    if published is None:
        raise FewShotError(f"{model_name_or_path}: its config.json is not that of a few-shot model of hf_fsl.")
    if list(published.model.config.id2label.values()) != [str(name) for name in state.classes]:
        raise FewShotError(f"{model_name_or_path}: the classes of its config.json are not those of {FOLDER}/.")
    if device is not None:
        published.model.to(device)
    backbone = backbone_of(published.model.eval(), published.processor)
    return state, backbone
