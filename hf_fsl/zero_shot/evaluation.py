"""Templates and calibration compared on a data set: chosen on validation classes, measured once on test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_fsl.config.sections import EvaluationConfig
from hf_fsl.config.zero_shot import ZeroShotConfig
from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import Comparison, MethodRecord
from hf_fsl.core.task import Task
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import bootstrap_interval, paired_difference
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.label_sets import LabelSet
from hf_fsl.zero_shot.scores import estimate_prior, scores_of

EvidenceOf = Callable[[Sequence[Any], Sequence[str], Sequence[str]], np.ndarray]
"""(inputs, labels, templates) -> evidence ``(N, C)``."""
TOGETHER = "all templates together"


@dataclass(frozen=True)
class LabeledInputs:
    """Inputs with their class ``(N,)``, an index into the names."""

    inputs: list[Any]
    labels: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class Compared:
    """The methods with their measurements; log-probabilities ``(N, C)`` on test of the chosen ones."""

    methods: list[MethodRecord]
    comparisons: list[Comparison]
    chosen: dict[str, np.ndarray]


def of_classes(split: datasets.Dataset, task: Task, names: Sequence[str]) -> LabeledInputs:
    """The examples of some classes.

    Raises:
        ZeroShotError: there is none.
    """
    number = {task.label2id[name]: row for row, name in enumerate(names)}
    rows = [row for row, label in enumerate(split["label"]) if label in number]
    if not rows:
        raise ZeroShotError(f"No example of the classes {', '.join(names)}. Name others as validation_labels.")
    kept = split.select(rows)
    labels = np.array([number[label] for label in kept["label"]])
    return LabeledInputs(list(kept[task.input_columns[0]]), labels, list(names))


def tuning_and_test(splits: Splits, config: ZeroShotConfig) -> tuple[LabeledInputs, LabeledInputs]:
    """What methods are chosen on, and what they are tested on.

    The ``validation_labels`` are kept out of the test; without them both have the classes that occur in their split.

    Returns:
        Examples of the validation split, and examples of the test split.

    Raises:
        ZeroShotError: names in the config that are no classes of the data, or no class left for the test.
    """
    task, aside = splits.task, config.validation_labels
    _require_classes("validation_labels", aside, task)
    _require_classes("label_texts", config.label_texts, task)
    test = [name for name in _occurring(splits.test, task) if name not in aside]
    if not test:
        raise ZeroShotError(
            "validation_labels: all classes of the test split are among them; leave some for the test."
        )
    chosen_on = aside or _occurring(splits.validation, task)
    return of_classes(splits.validation, task, chosen_on), of_classes(splits.test, task, test)


def _require_classes(setting: str, names: Iterable[str], task: Task) -> None:
    unknown = sorted(set(names) - set(task.label_names))
    if unknown:
        raise ZeroShotError(
            f"{setting}: the data has no class {', '.join(unknown)}; it has {', '.join(task.label_names)}."
        )


def _occurring(split: datasets.Dataset, task: Task) -> list[str]:
    labels = set(split["label"])
    return [name for row, name in enumerate(task.label_names) if row in labels]


def compare_methods(
    scorers: dict[str, EvidenceOf],
    templates: Sequence[str],
    validation: LabeledInputs,
    test: LabeledInputs,
    unlabeled: Sequence[Any],
    config: EvaluationConfig,
) -> Compared:
    """Every scorer with its best single template and with all of them, plain and calibrated.

    The template, whether all go together, and whether it is calibrated are chosen on validation; all four are then
    measured on test. Paired: the first scorer's chosen one with each other's; of each scorer all templates together
    with the single one, and calibrated with plain, the other setting as chosen.

    Args:
        scorers: name -> what gives the evidence; the first is what the others are compared with.
        templates: each is tried alone, and all together.
        validation, test: the examples, of classes that may differ.
        unlabeled: what the label prior is estimated from; empty: no calibration.
    """
    methods: list[MethodRecord] = []
    logarithms: dict[str, np.ndarray] = {}
    within: list[Comparison] = []

    def compare(ours: np.ndarray, theirs: np.ndarray, name: str, of: str | None = None) -> Comparison:
        right, wrong = (logarithm.argmax(-1) == test.labels for logarithm in (ours, theirs))
        return Comparison(
            name=name,
            metric="accuracy",
            baseline=Measurement(value=float(wrong.mean()), n=len(wrong)),
            difference=paired_difference(right, wrong, config.bootstrap_resamples, seed=0),
            of=of,
        )

    for name, scorer in scorers.items():
        settings = [[template] for template in templates] + ([list(templates)] if len(templates) > 1 else [])
        seen = [_outcomes(scorer, validation, unlabeled, chosen) for chosen in settings]
        single = max(range(len(templates)), key=lambda row: _accuracy(seen[row][False], validation.labels))
        tested: dict[tuple[int, bool], tuple[float, MethodRecord, np.ndarray]] = {}
        for row in dict.fromkeys([single, len(settings) - 1]):
            outcomes = _outcomes(scorer, test, unlabeled, settings[row])
            for calibrated, logarithm in outcomes.items():
                words = {"template": settings[row][0] if len(settings[row]) == 1 else TOGETHER}
                record = MethodRecord(
                    name=name,
                    settings={**words, "calibrated": calibrated},
                    validation=_measured(seen[row][calibrated], validation, config),
                    test=_measured(logarithm, test, config),
                )
                accuracy = _accuracy(seen[row][calibrated], validation.labels)
                tested[row, calibrated] = accuracy, record, logarithm
        best, calibrated = max(tested, key=lambda setting: tested[setting][0])
        _, chosen_record, logarithms[name] = tested[best, calibrated]
        chosen_record.chosen = True
        methods += [record for _, record, _ in tested.values()]
        for more, less in (
            ((len(settings) - 1, calibrated), (single, calibrated)),
            ((best, True), (best, False)),
        ):
            if more != less and more in tested:
                (_, ours, right), (_, theirs, wrong) = tested[more], tested[less]
                within.append(compare(right, wrong, theirs.label, ours.label))
    first, *others = logarithms
    across = [compare(logarithms[first], logarithms[other], other) for other in others]
    return Compared(methods, across + within, logarithms)


def _outcomes(
    scorer: EvidenceOf, examples: LabeledInputs, unlabeled: Sequence[Any], templates: Sequence[str]
) -> dict[bool, np.ndarray]:
    """Calibrated or not -> log-probabilities ``(N, C)``."""
    evidence = scorer(examples.inputs, examples.names, templates)
    plain = {False: np.log(scores_of(evidence, False).clip(1e-12))}
    if not unlabeled:
        return plain
    prior = estimate_prior(LabelSet.of(examples.names, templates), scorer(unlabeled, examples.names, templates))
    return plain | {True: np.log(scores_of(evidence, False, prior).clip(1e-12))}


def _accuracy(logarithm: np.ndarray, labels: np.ndarray) -> float:
    return float((logarithm.argmax(-1) == labels).mean())


def _measured(logarithm: np.ndarray, examples: LabeledInputs, config: EvaluationConfig) -> Measurement:
    return bootstrap_interval("accuracy", logarithm, examples.labels, config.bootstrap_resamples, seed=0)
