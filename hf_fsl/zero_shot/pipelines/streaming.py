"""What the zero-shot text pipelines share: inputs as the stock pipeline takes them, in windows of bounded size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Pipeline

from hf_fsl.core.images import is_picture_file
from hf_fsl.core.terminal import check_text
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.inputs import rows_of
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.label_sets import LabelSet, LabelSets
from hf_fsl.zero_shot.pipelines.cutting import CUTTING, WHOLE, Cutting, read_cutting
from hf_fsl.zero_shot.scores import LabelPrior, estimate_prior, ranked, scores_of

_OPTIONS = (
    "candidate_labels", "hypothesis_template", "multi_label", "label_texts", "calibrated", "progress",
    "shortlist", *CUTTING,
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A text with the labels that it is classified into."""

    text: str
    label_set: LabelSet


@dataclass(frozen=True)
class Evidence:
    """Evidence for each label ``(C,)``; ``ties`` decides where it says the same."""

    values: np.ndarray
    ties: np.ndarray | None = None


_RENAMED = {"label_descriptions": "label_texts", "prior": "use_label_texts"}
"""Options of zero-shot and few-shot pipelines: old name -> new."""


def require_options(pipeline: Pipeline, options: Iterable[str], known: Sequence[str]) -> None:
    """Raises TypeError for an option that a pipeline does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        renamed = "".join(f"{old} is now called {_RENAMED[old]}; " for old in unknown if old in _RENAMED)
        raise TypeError(
            f"{type(pipeline).__name__}: no option {', '.join(unknown)}; {renamed}there are {', '.join(known)}."
        )


class Answers(Iterator[Any]):
    """Answers as they come; as many as there are inputs, where that is known."""

    def __init__(self, answers: Iterator[Any], inputs: Any) -> None:
        self._answers, self._inputs = answers, inputs

    def __next__(self) -> Any:
        return next(self._answers)

    def __len__(self) -> int:
        return len(self._inputs)


class StreamedZeroShot(Pipeline):
    """A zero-shot text pipeline that works through windows of texts; subclasses give the evidence.

    A list gives a list of answers, a text one answer; a generator or a data set is streamed: what is in memory does
    not grow with it. Same texts within a window are looked at once.
    """

    default_template = "This example is {}."
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.label_priors: dict[LabelSet, LabelPrior] = {}
        """From :meth:`fit_calibration`, by label set; they correct the answers to the same label_set."""
        super().__init__(*args, **kwargs)

    def __call__(  # type: ignore[override]  # the stock zero-shot pipeline has these names
        self, sequences: Any, candidate_labels: Any = None, **options: Any
    ) -> Any:
        """Scores candidate labels.

        Args:
            sequences: a text, a list or column of texts, a generator, or a data set of texts.
            candidate_labels: a list (or array), a string with commas, or one of them for each text.
            hypothesis_template: with one place ``{}`` for the label; several are ensembled (their evidence averaged).
            multi_label: each label on its own, rather than one of them.
            label_texts: label -> the words that stand for it in the template.
            calibrated: False leaves the label priors of :meth:`fit_calibration` out.
            truncation, max_length: a text that is longer than ``max_length`` tokens, or than the model takes, is cut;
                with ``truncation=False`` it is an error.
            padding: has no effect on the answers.
            tokenizer_kwargs: a mapping of these three.
            multi_class: the old name of ``multi_label``.
            progress: shows a progress bar.

        Returns:
            ``{"sequence", "labels", "scores"}``, labels by falling score; a list of them, or an iterator, which has a
            length if the data set has one.

        Raises:
            ZeroShotError: no labels, the same label twice, a text for no candidate label, a template without a
                place, a shortlist of none: at once.
                An empty text, or the path of a picture: when it is its turn.
        """
        for compatible in ("batch_size", "num_workers"):  # batches are made by tokens
            options.pop(compatible, None)
        settings, _, examined = self._examined(sequences, candidate_labels, options)
        answers = (self.postprocess(request_and_evidence, **settings) for request_and_evidence in examined)
        if isinstance(sequences, str):
            return next(answers)
        streamed = isinstance(sequences, (Iterator, Dataset)) or not isinstance(sequences, Sized)
        return Answers(answers, sequences) if streamed else list(answers)

    def evidence(self, texts: Iterable[str], candidate_labels: Any = None, **options: Any) -> np.ndarray:
        """What a call's scores are made from, before any calibration.

        Args:
            texts, candidate_labels, …: as in a call, with the same labels for all texts.

        Returns:
            ``(N, C)`` in the order of the labels: logits whose softmax says which label it is, or log-odds where each
            is on its own.
        """
        return self._evidence_of(texts, candidate_labels, options)[1]

    def fit_calibration(self, texts: Iterable[str], candidate_labels: Any = None, **options: Any) -> LabelPrior:
        """Stores how likely each label is over unlabeled texts; later answers to the same label set are corrected.

        All labels of these texts are scored, whatever the pipeline's shortlist.

        Args:
            texts: unlabeled, of the kind that will be classified.
            candidate_labels, hypothesis_template, multi_label, label_texts: as in a call.

        Raises:
            ZeroShotError: no text, or labels that differ from text to text.
        """
        label_set, evidence = self._evidence_of(texts, candidate_labels, {**options, "shortlist": None})
        self.label_priors[label_set] = estimate_prior(label_set, evidence)
        return self.label_priors[label_set]

    def preprocess(self, input_: Any, **settings: Any) -> Any:
        """A text and its label set -> a request."""
        text, label_set = input_
        if not isinstance(text, str) or not text.strip():
            way_out = (
                "of a data set's rows give one column: KeyDataset(rows, 'text')"
                if isinstance(text, Mapping)
                else "remove or fill it"
            )
            raise ZeroShotError(f"A text must be a string that is not empty, got {text!r}; {way_out}.")
        if is_picture_file(text, look_inside=False):
            raise ZeroShotError(
                f"{text!r} is the path of a picture, and the model takes texts. Give texts, or choose an image-text "
                "model such as CLIP."
            )
        try:
            check_text(text, f"The text {text[:60]!r}", BackboneError)
        except BackboneError as error:
            raise ZeroShotError(str(error)) from error
        self._check(label_set)
        return Request(text, label_set)

    def postprocess(self, model_outputs: Any, **settings: Any) -> Any:
        """A request and its evidence -> the answer."""
        request, evidence = model_outputs
        prior = self.label_priors.get(request.label_set) if settings.get("calibrated", True) else None
        scores = scores_of(evidence.values, request.label_set.multi_label, prior)
        return ranked(request.text, request.label_set.labels, scores, evidence.ties)

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        requests = list(dict.fromkeys(input_tensors))
        evidence = dict(zip(requests, self._evidence(requests, **forward_parameters), strict=True))
        return [evidence[item] for item in input_tensors]

    def _evidence(
        self, requests: Sequence[Request], shortlist: int | None = None, cutting: Cutting = WHOLE
    ) -> list[Evidence]:
        raise NotImplementedError

    def _check(self, label_set: LabelSet) -> None:
        """Raises ZeroShotError for a label set that the model cannot answer."""

    def _weight(self, label_set: LabelSet) -> int:
        """How much of a window a text takes."""
        return 1

    def _window(self) -> int:
        """How much goes into a window."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Called before the first window of a call."""

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if "multi_class" in kwargs:
            old = kwargs.pop("multi_class")
            if kwargs.setdefault("multi_label", old) != old:
                raise ZeroShotError("multi_class is the old name of multi_label, and they differ. Give multi_label.")
            warnings.warn("multi_class is now called multi_label.", FutureWarning, stacklevel=2)
        require_options(self, kwargs, _OPTIONS)
        if not isinstance(kwargs.get("label_texts") or {}, Mapping):
            raise ZeroShotError("label_texts: a mapping, label -> words that stand for it.")
        read_cutting(kwargs, ZeroShotError)
        size = kwargs.get("shortlist")
        if size is not None and (isinstance(size, bool) or not isinstance(size, Integral) or int(size) < 1):
            raise ZeroShotError(f"shortlist: a whole number of labels, 1 or more, or None for all; got {size!r}.")
        return kwargs, {}, {}

    def _examined(
        self, texts: Any, candidate_labels: Any, options: dict[str, Any]
    ) -> tuple[dict[str, Any], LabelSets, Iterator[tuple[Request, Evidence]]]:
        """The options of a call over those of the pipeline, its label sets, and each text with its evidence."""
        if candidate_labels is not None:
            options = {**options, "candidate_labels": candidate_labels}
        settings = {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}
        label_sets = LabelSets(settings, self.default_template)
        if label_sets.shared is not None:
            self._check(label_sets.shared)
        texts = texts_of(texts)
        requests = map(self.preprocess, label_sets.of(texts))
        return settings, label_sets, self._in_windows(requests, texts, settings)

    def _evidence_of(self, texts: Any, candidate_labels: Any, options: dict[str, Any]) -> tuple[LabelSet, np.ndarray]:
        """The label set of all texts, and their evidence ``(N, C)``."""
        _, label_sets, examined = self._examined(texts, candidate_labels, options)
        if label_sets.shared is None:
            raise ZeroShotError("candidate_labels: the same for all texts here; got a list of labels for each.")
        rows = [evidence.values for _, evidence in examined]
        return label_sets.shared, np.stack(rows) if rows else np.empty((0, len(label_sets.shared.labels)))

    def _in_windows(
        self, requests: Iterator[Request], texts: Any, settings: dict[str, Any]
    ) -> Iterator[tuple[Request, Evidence]]:
        self._begin()
        how = {"shortlist": settings.get("shortlist"), "cutting": read_cutting(settings, ZeroShotError)}
        total = len(texts) if isinstance(texts, Sized) else None
        with tqdm(total=total, unit="text", disable=not settings.get("progress"), leave=False) as bar:
            for window in self._windows(requests):
                yield from zip(window, self.forward(window, **how), strict=True)
                bar.update(len(window))

    def _windows(self, requests: Iterator[Request]) -> Iterator[list[Request]]:
        window: list[Request] = []
        size = 0
        for request in requests:
            window.append(request)
            weight = self._weight(request.label_set)
            size += weight
            if size + weight > self._window():  # the next one is likely to be as large: it is not read for this window
                yield window
                window, size = [], 0
        if window:
            yield window


def texts_of(inputs: Any) -> Any:
    """Texts one after the other, with a length where it is known."""
    try:
        _, rows = rows_of(inputs)
    except BackboneError as error:
        raise ZeroShotError(f"A text, a list of texts, a generator or a data set is needed. {error}") from error
    if isinstance(inputs, Dataset):
        return inputs
    return list(rows) if isinstance(inputs, Sized) and not isinstance(rows, Sized) else rows
