"""A published few-shot model as the state of a classifier and its backbone."""

from __future__ import annotations

from hf_fsl.few_shot.classifier.state import FewShotState
from hf_fsl.few_shot.classifier.support import FewShotError
from hf_fsl.models.backbones import Backbone
from hf_fsl.models.backbones.weights import loading
from hf_fsl.models.export.loading import FOLDER, backbone_of, load_published, repository_folder


def load(
    model_name_or_path: str, *, revision: str | None = None, token: str | None = None, device: str | None = None
) -> tuple[FewShotState, Backbone]:
    """Loads what :func:`hf_fsl.few_shot.classifier.publishing.save` wrote.

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
