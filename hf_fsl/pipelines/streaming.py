"""What the zero-shot text pipelines share: inputs as the stock pipeline takes them, in windows of bounded size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Pipeline

from hf_fsl.zero_shot.scores import LabelPrior, Question, estimate_prior, question_of, ranked, scores_of
from hf_fsl.zero_shot.templates import ZeroShotError, as_labels, as_templates

_OPTIONS = (
    "candidate_labels", "hypothesis_template", "multi_label", "label_descriptions", "calibrated", "progress",
    "shortlist",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A text with its question."""

    text: str
    question: Question


@dataclass(frozen=True)
class Evidence:
    """Evidence for each label ``(C,)``; ``ties`` decides where it says the same."""

    values: np.ndarray
    ties: np.ndarray | None = None


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
        self.label_priors: dict[Question, LabelPrior] = {}
        """From :meth:`fit_calibration`, by what was asked; they correct the answers to the same question."""
        super().__init__(*args, **kwargs)

    def __call__(  # type: ignore[override]  # the stock zero-shot pipeline has these names
        self, sequences: Any, candidate_labels: Any = None, **options: Any
    ) -> Any:
        """Scores candidate labels.

        Args:
            sequences: a text, a list of texts, a generator, or a data set of texts.
            candidate_labels: a list, a string with commas, or one list for each text.
            hypothesis_template: with one place ``{}`` for the label; several are ensembled (their evidence averaged).
            multi_label: each label on its own, rather than one of them.
            label_descriptions: label -> the words that stand for it in the template.
            calibrated: False leaves the label priors of :meth:`fit_calibration` out.
            progress: shows a progress bar.

        Returns:
            ``{"sequence", "labels", "scores"}``, labels by falling score; a list or an iterator of them.

        Raises:
            ZeroShotError: no labels, the same label twice, a template without a place, an empty text.
        """
        for compatible in ("batch_size", "num_workers"):  # batches are made by tokens
            options.pop(compatible, None)
        settings = self._settings(candidate_labels, options)
        single = isinstance(sequences, str)
        answers = self._answers([sequences] if single else sequences, settings)
        if single:
            return next(answers)
        return answers if isinstance(sequences, (GeneratorType, Dataset, Iterator)) else list(answers)

    def evidence(self, texts: Iterable[str], candidate_labels: Any = None, **options: Any) -> np.ndarray:
        """What a call's scores are made from, before any calibration.

        Args:
            texts, candidate_labels, …: as in a call, with the same labels for all texts.

        Returns:
            ``(N, C)`` in the order of the labels: logits whose softmax says which label it is, or log-odds where each
            is on its own.
        """
        settings = self._settings(candidate_labels, options)
        rows = [evidence.values for _, evidence in self._examined(texts, settings)]
        if not rows:
            raise ZeroShotError("There is no text to look at.")
        return np.stack(rows)

    def fit_calibration(self, texts: Iterable[str], candidate_labels: Any = None, **options: Any) -> LabelPrior:
        """Stores how likely each label is over unlabelled texts; later answers to the same question are corrected.

        Args:
            texts: unlabelled, of the kind that will be classified.
            candidate_labels, hypothesis_template, multi_label, label_descriptions: as in a call.
        """
        settings = self._settings(candidate_labels, options)
        rows, question = [], None
        for asked, evidence in self._examined(texts, settings):
            question = asked.question
            rows.append(evidence.values)
        if question is None:
            raise ZeroShotError("A label prior is the mean over unlabelled texts; got no text.")
        self.label_priors[question] = estimate_prior(question, np.stack(rows))
        return self.label_priors[question]

    def preprocess(self, input_: Any, **settings: Any) -> Any:
        """Texts and their labels -> what is asked."""
        templates = as_templates(settings.get("hypothesis_template", self.default_template))
        multi_label, descriptions = settings.get("multi_label", False), settings.get("label_descriptions")
        window = []
        known: dict[Any, Question] = {}
        for text, labels in input_:
            if not isinstance(text, str) or not text.strip():
                raise ZeroShotError(f"A text must be a string that is not empty, got {text!r}. Remove or fill it.")
            key = labels if isinstance(labels, str) else tuple(labels)
            if key not in known:
                known[key] = question_of(as_labels(labels), templates, descriptions, multi_label)
            window.append(Asked(text, known[key]))
        return window

    def postprocess(self, model_outputs: Any, **settings: Any) -> Any:
        """What was asked and the evidence -> the answer."""
        asked, evidence = model_outputs
        prior = self.label_priors.get(asked.question) if settings.get("calibrated", True) else None
        scores = scores_of(evidence.values, asked.question.multi_label, prior)
        return ranked(asked.text, asked.question.labels, scores, evidence.ties)

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        asked = list(dict.fromkeys(input_tensors))
        evidence = dict(zip(asked, self._evidence(asked, **forward_parameters), strict=True))
        return [evidence[item] for item in input_tensors]

    def _evidence(self, asked: Sequence[Asked], shortlist: int | None = None) -> list[Evidence]:
        raise NotImplementedError

    def _texts_a_window(self, question: Question) -> int:
        raise NotImplementedError

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(kwargs) - set(_OPTIONS))
        if unknown:
            raise TypeError(f"{type(self).__name__}: no option {', '.join(unknown)}; there are {', '.join(_OPTIONS)}.")
        if isinstance(kwargs.get("label_descriptions", {}), Mapping):
            return kwargs, {}, {}
        raise ZeroShotError("label_descriptions: a mapping, label -> words that stand for it.")

    def _settings(self, candidate_labels: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options of a call over those of the pipeline."""
        if candidate_labels is not None:
            options = {**options, "candidate_labels": candidate_labels}
        return {**self._preprocess_params, **self._sanitize_parameters(**options)[0]}

    def _answers(self, sequences: Any, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for examined in self._examined(sequences, settings):
            yield self.postprocess(examined, **settings)

    def _examined(self, sequences: Any, settings: dict[str, Any]) -> Iterator[tuple[Asked, Evidence]]:
        total = len(sequences) if isinstance(sequences, Sized) else None
        with tqdm(total=total, unit="text", disable=not settings.get("progress"), leave=False) as bar:
            for window in self._windows(sequences, settings):
                yield from zip(window, self.forward(window, shortlist=settings.get("shortlist")), strict=True)
                bar.update(len(window))

    def _windows(self, sequences: Iterable[str], settings: dict[str, Any]) -> Iterator[list[Asked]]:
        labels = settings.get("candidate_labels")
        if labels is None:
            raise ZeroShotError("Zero-shot classification needs candidate_labels, got none.")
        if isinstance(sequences, Dataset) and not isinstance(sequences, Iterable):
            sequences = map(sequences.__getitem__, range(len(sequences)))
        if not isinstance(labels, str) and isinstance(labels, Sequence) and all(isinstance(x, str) for x in labels):
            pairs: Iterator[Any] = zip(sequences, itertools.repeat(list(labels)))
        elif isinstance(labels, str):
            pairs = zip(sequences, itertools.repeat(labels))
        else:
            pairs = zip(sequences, labels, strict=True)
        try:
            while first := list(itertools.islice(pairs, 1)):
                start = self.preprocess(first, **settings)
                rest = itertools.islice(pairs, self._texts_a_window(start[0].question) - 1)
                yield start + self.preprocess(rest, **settings)
        except ValueError as error:
            if "zip()" in str(error):
                raise ZeroShotError(f"candidate_labels: one list of labels for each text; {error}.") from None
            raise
