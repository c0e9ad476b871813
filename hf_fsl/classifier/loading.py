"""A published few-shot model as a classifier again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hf_fsl.classifier.state import FOLDER, FewShotState
from hf_fsl.classifier.support import FewShotError
from hf_fsl.modeling.loading import backbone_of, load_published

if TYPE_CHECKING:
    from hf_fsl.classifier.estimator import FewShotClassifier

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", f"{FOLDER}/*"]
"""Of a repository; no code of it is read."""


def load(
    kind: type[FewShotClassifier],
    model_name_or_path: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | None = None,
    **parameters: Any,
) -> FewShotClassifier:
    """Loads what :meth:`FewShotClassifier.save_pretrained` wrote; it predicts, refuses and grows as it did.

    Args:
        model_name_or_path: a Hub id or a folder.
        parameters: of the classifier, for fitting it anew on the published backbone.

    Raises:
        FewShotError: the repository cannot be had, holds no few-shot model, a damaged one, or weights, processor and
            state that are of two fits.
    """
    folder = _folder(model_name_or_path, revision, token)
    if not (folder / FOLDER / "state.json").is_file():
        raise FewShotError(
            f"{model_name_or_path} has no {FOLDER}/state.json: it holds no few-shot model of hf_fsl. To classify with "
            "its encoder, give its name as backbone and call fit."
        )
    state = FewShotState.load(folder)
    published = load_published(str(folder))
    if published is None:
        raise FewShotError(f"{model_name_or_path}: its config.json is not that of a few-shot model of hf_fsl.")
    if device is not None:
        published.model.to(device)
    backbone = backbone_of(published.model.eval(), published.processor)
    classifier = kind(backbone, coverage=state.coverage, templates=state.templates, device=device, **parameters)
    classifier.adopt(state, backbone)
    return classifier


def _folder(name: str, revision: str | None, token: str | None) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise FewShotError(f"{name} is no folder here and cannot be loaded from the Hub: {error}") from error
