"""The report with what was trained again: rows, tests, verdict, and which is published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_fsl.config import AdapterSearchConfig
from hf_fsl.data import Splits
from hf_fsl.search.pareto import hypervolume
from hf_fsl.search.report import MemberRow, SearchReport, against_chance, compare_members, judge, member_row
from hf_fsl.search.retraining import Member
from hf_fsl.search.space import Sites, to_peft, trainable_parameters
from hf_fsl.search.study.trials import minimised


def complete(
    report: SearchReport, members: Sequence[Member], splits: Splits, sites: Sites, config: AdapterSearchConfig
) -> Member:
    """Adds to a report what was trained again: rows, tests, verdict, and the choice. Returns what was chosen."""
    labels = np.asarray(splits.test["label"][:])
    train = np.asarray(splits.train["label"][:])
    objective = report.objectives[0]
    logits = {member.name: np.stack([outcome.logits for outcome in member.outcomes]) for member in members}
    report.members = [
        member_row(
            member.name, member.architecture, trainable_parameters(member.architecture, sites),
            [outcome.record.seed for outcome in member.outcomes], member.validation(objective),
            logits[member.name], labels, baseline=member.baseline,
        )
        for member in members
    ]  # fmt: skip
    report.comparisons = compare_members(logits, labels)
    report.chance = against_chance(report.members, logits, train, labels, objective)
    report.matters, report.verdict = judge(report.members, report.comparisons, report.chance)
    chosen, because = choose(report.members, objective, config.finish.choose)
    for row in report.members:
        row.chosen = row.name == chosen
    report.chosen, report.chosen_because = chosen, because
    reference = report.hypervolume.get("reference")
    if reference:
        report.hypervolume["baselines"] = {
            row.name: hypervolume(
                np.array([[minimised(objective, row.validation.value), np.log10(max(row.parameters, 1))]]),
                reference,
            )
            for row in report.members
            if row.baseline
        }
    member = next(member for member in members if member.name == chosen)
    if member.architecture.method != "none":
        values = to_peft(member.architecture, sites).to_dict()
        report.peft_config = json.loads(json.dumps({k: v for k, v in values.items() if v not in (None, {}, [])},
                                                   default=_plain))  # fmt: skip
    return member


def choose(rows: Sequence[MemberRow], objective: str, rule: str) -> tuple[str, str]:
    """The name of what is published, and why. Among the baselines too: a search that does not beat them says so."""
    best = min(rows, key=lambda row: minimised(objective, row.validation.value))
    if rule == "best":
        return best.name, f"Best on validation ({objective} {best.validation.value:.4f})."
    low, high = best.validation.ci95 or (best.validation.value,) * 2
    limit = max(minimised(objective, low), minimised(objective, high))
    within = [row for row in rows if minimised(objective, row.validation.value) <= limit]
    smallest = min(within, key=lambda row: row.parameters)
    if smallest is best:
        return best.name, f"Best on validation ({objective} {best.validation.value:.4f}), and nothing smaller near it."
    return smallest.name, (
        f"The smallest within a standard error over seeds of the best on validation: {objective} "
        f"{smallest.validation.value:.4f} against {best.validation.value:.4f} of {best.name}, with "
        f"{smallest.parameters:,} parameters against {best.parameters:,}."
    )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))
