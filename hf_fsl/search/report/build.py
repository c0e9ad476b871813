"""From what was tried and what was trained again to a SearchReport."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna

from hf_fsl.core.measurement import Measurement
from hf_fsl.metrics.intervals import correct, example_losses, predicted_labels
from hf_fsl.search.pareto import hypervolume
from hf_fsl.search.report.paired import holm, paired_p_value, paired_test
from hf_fsl.search.report.record import Chance, ComparisonRow, MemberRow, SearchReport, TrialRow, trial_rows
from hf_fsl.search.report.verdict import judge
from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.space.space import SearchSpace, parameter_range
from hf_fsl.search.study.samplers import distributions, parameters_of
from hf_fsl.search.study.trials import Tried, minimised

_FEW = 10
"""Fewer trials than these say nothing of importances."""


def build_report(
    tried: Sequence[Tried],
    space: SearchSpace,
    objectives: Sequence[str],
    *,
    name: str,
    identity: dict[str, Any],
    classes: int,
    strategy: str = "general",
    sampler: str = "tpe",
    before: tuple[float, float] = (0.0, 0.0),
) -> SearchReport:
    """The report of a study, without anything trained again.

    Args:
        tried: finished trials, by number.
        classes: of the task: with log-loss as objective, guessing is the hypervolume's reference.
        before: token-FLOPs and seconds that were spent beside the trials.
    """
    rows, ended = trial_rows(tried, objectives)
    matters, verdict = judge([], [])
    return SearchReport(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        strategy=strategy,
        sampler=sampler,
        objectives=list(objectives),
        identity=identity,
        space=space.to_dict(),
        space_size=space.size(),
        trials=rows,
        token_flops=before[0] + sum(trial.token_flops for trial in tried),
        seconds=before[1] + sum(trial.seconds for trial in tried),
        hypervolume=_hypervolume_curve(rows, space, objectives[0], classes, before[0]),
        importances=importances(ended, space, objectives[0]),
        matters=matters,
        verdict=verdict,
    )


def member_row(
    name: str,
    architecture: Architecture,
    parameters: int,
    seeds: Sequence[int],
    validation: Sequence[float],
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    baseline: bool = False,
) -> MemberRow:
    """A retrained architecture.

    Args:
        validation: of the first objective, one a seed.
        logits: on test ``(S, N, C)``.
        labels: ``(N,)``.
    """
    losses, right = example_values(logits, labels)
    spread = float(np.std(validation, ddof=1)) if len(validation) > 1 else None
    half = None if spread is None else spread / math.sqrt(len(validation))
    mean = float(np.mean(validation))
    return MemberRow(
        name=name,
        architecture=architecture.to_dict(),
        description=str(architecture),
        baseline=baseline,
        parameters=parameters,
        seeds=list(seeds),
        validation=Measurement(
            value=mean, seeds=len(seeds), over="seeds (one standard error)",
            ci95=None if half is None else (mean - half, mean + half),
        ),
        test={"loss": _over_both(losses), "accuracy": _over_both(right)},
    )  # fmt: skip


def example_values(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-loss and correctness ``(S, N)`` of logits ``(S, N, C)``."""
    losses = np.stack([example_losses(each, labels) for each in logits])
    right = np.stack([correct(predicted_labels(each, False), labels) for each in logits])
    return losses, right.astype(float)


def compare_members(logits: dict[str, np.ndarray], labels: np.ndarray, metric: str = "loss") -> list[ComparisonRow]:
    """Every pair of retrained architectures, on the same test examples, corrected for their number."""
    values = {name: example_values(each, labels)[0 if metric == "loss" else 1] for name, each in logits.items()}
    pairs = list(itertools.combinations(values, 2))
    tests = [paired_test(values[first], values[second]) for first, second in pairs]
    adjusted = holm([test.p for test in tests])
    return [
        ComparisonRow(
            first=first, second=second, metric=metric, difference=test.difference, ci95=test.ci95, p=test.p, p_holm=p
        )
        for (first, second), test, p in zip(pairs, tests, adjusted, strict=True)
    ]


def against_chance(
    members: Sequence[MemberRow],
    logits: dict[str, np.ndarray],
    train_labels: np.ndarray,
    labels: np.ndarray,
    objective: str,
) -> Chance:
    """Whether anything was learnt, by the member that is best on validation.

    Args:
        logits: on test ``(S, N, C)`` of each member.
        train_labels: of the few examples; to the count of each class one is added.
        labels: of the test examples ``(N,)``.
    """
    best = min(members, key=lambda row: minimised(objective, row.validation.value))
    losses = example_values(logits[best.name], labels)[0].mean(0)
    counts = np.bincount(train_labels, minlength=logits[best.name].shape[-1]) + 1.0
    constant = -np.log(counts / counts.sum())[labels]
    return Chance(
        loss=float(constant.mean()), best=best.name, best_loss=float(losses.mean()),
        p=paired_p_value(losses, constant, "less"),
    )  # fmt: skip


def importances(tried: Sequence[Tried], space: SearchSpace, objective: str) -> dict[str, float]:
    """How much of the objective's variation each choice explains, most first; shares of one (Watanabe et al. 2023)."""
    known = {trial.architecture: trial.values[objective] for trial in tried}
    varying = {name: found for name, found in distributions(space).items() if not found.single()}
    if len(known) < _FEW or len(set(known.values())) < 2 or not varying:
        return {}
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    for architecture, value in known.items():
        values = parameters_of(architecture, space)
        chosen = {name: values[name] for name in varying}
        study.add_trial(optuna.create_trial(params=chosen, distributions=varying, value=minimised(objective, value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study)
    return {_words(name): float(share) for name, share in found.items()}


def _hypervolume_curve(
    rows: Sequence[TrialRow], space: SearchSpace, objective: str, classes: int, spent: float
) -> dict[str, Any]:
    ranges = [parameter_range(space.config, space.sites, space.slots, method) for method in space.config.methods]
    # Guessing; no calibration is worse than an error of one; and nothing right.
    guess = math.log(classes) if objective == "loss" else max(0.0, minimised(objective, 1.0))
    reference = [guess, math.log10(max(high for _, high in ranges) + 1)]
    points: list[tuple[float, float]] = []
    curve = []
    for row in rows:
        spent += row.token_flops
        if not row.stopped and math.isfinite(row.values.get(objective, math.nan)):
            points.append((minimised(objective, row.values[objective]), math.log10(max(row.parameters, 1))))
            curve.append([spent, hypervolume(np.array(points), reference)])
    return {"reference": reference, "axes": [objective, "log10 parameters"], "curve": curve, "baselines": {}}


def _over_both(values: np.ndarray) -> Measurement:
    """Mean of ``(S, N)`` with an interval over seeds and examples."""
    test = paired_test(values, np.zeros_like(values))
    return Measurement(
        value=test.difference, ci95=test.ci95, n=values.shape[1], seeds=values.shape[0], over="seeds and examples"
    )


def _words(name: str) -> str:
    """``rank.3.attention_qv`` -> rank of attention_qv in layer 3."""
    parts = name.split(".")
    return f"rank of {parts[2]}, layer {parts[1]}" if len(parts) == 3 else name.replace("_", " ")
