"""A published few-shot model as a classifier again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_fsl.few_shot.classifier.state import FewShotState
from hf_fsl.few_shot.classifier.support import FewShotError
from hf_fsl.models.backbones.weights import loading
from hf_fsl.models.export.loading import FOLDER, backbone_of, load_published, repository_folder

if TYPE_CHECKING:
    from hf_fsl.few_shot.classifier.estimator import FewShotClassifier

_HELD = ("backbone", "class_weight", "coverage", "templates")
"""Parameters that the head and the threshold of a published model came of."""


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
        parameters: of the classifier, for fitting it anew on the published backbone; what the published model holds
            (backbone, coverage, templates, class_weight) is not among them.

    Raises:
        FewShotError: a parameter that there is not or that the model holds; the repository cannot be had, holds no
            few-shot model, a damaged one, or weights, processor and state that are of two fits.
    """
    _check_parameters(kind, parameters)
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
    classifier = kind(backbone, coverage=state.coverage, templates=state.templates, device=device, **parameters)
    classifier.adopt(state, backbone)
    return classifier


def _check_parameters(kind: type[FewShotClassifier], given: dict[str, Any]) -> None:
    held = sorted(set(given) & set(_HELD))
    if held:
        raise FewShotError(
            f"{', '.join(held)}: held by a published model, whose head and threshold came of it. Load it without, and "
            f"for another {held[0]} fit anew: classifier.set_params({held[0]}=…).fit(X, y)."
        )
    known = sorted(set(kind().get_params(deep=False)) - set(_HELD))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise FewShotError(
            f"from_pretrained: no option {', '.join(unknown)}; there are revision, token, device, and for fitting "
            f"anew {', '.join(known)}."
        )
