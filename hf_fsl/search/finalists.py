"""The end of a search: members of the front tuned again, trained over seeds by ``fine_tune`` itself, and compared."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
from accelerate import Accelerator

from hf_fsl.config.search import AdapterSearchConfig
from hf_fsl.config.sections import DataConfig, FineTuneConfig, HubConfig
from hf_fsl.core.files import atomic_write, write_text
from hf_fsl.data.loading import Splits
from hf_fsl.metrics.intervals import MetricError
from hf_fsl.search.errors import SearchError
from hf_fsl.search.pareto import hypervolume, most_hypervolume, spread
from hf_fsl.search.report.build import against_chance, compare_members, member_row
from hf_fsl.search.report.record import MemberRow, SearchReport, TrialRow
from hf_fsl.search.report.verdict import judge
from hf_fsl.search.space.architecture import Architecture, trainable_parameters, uniform_ranks
from hf_fsl.search.space.export import to_adapter_config, to_peft
from hf_fsl.search.space.sites import Sites
from hf_fsl.search.study.group import Group
from hf_fsl.search.study.identity import require_same
from hf_fsl.search.study.trials import Infeasible, TrialContext, minimised
from hf_fsl.search.trial import AdapterTrial
from hf_fsl.training.fine_tune import FineTuned, fine_tune_seed
from hf_fsl.training.fine_tune_record import SeedOutcome

Say = Callable[[str], None]


@dataclass(frozen=True)
class Member:
    """An architecture trained over seeds.

    Attributes:
        config: what ``fine_tune`` was told, and what reproduces it.
        adapter: folder of the best seed's PEFT adapter; None for what has none.
    """

    name: str
    architecture: Architecture
    baseline: bool
    config: FineTuneConfig
    outcomes: list[SeedOutcome]
    adapter: Path | None

    def validation(self, objective: str) -> list[float]:
        return [outcome.record.validation[objective] for outcome in self.outcomes]

    def best_seed(self, objective: str) -> int:
        """The seed that is best on validation, and would be published."""
        values = [minimised(objective, value) for value in self.validation(objective)]
        return self.outcomes[int(np.argmin(values))].record.seed


class Finish:
    """Trains what is best of a search again. Every process of the launch goes through it together.

    What is done is kept in ``folder``: a run that was stopped goes on where it was.

    Args:
        splits: the few examples, and the whole test split.
        folder: the run's output.
        about: what the search is about: what ``folder`` keeps of another is refused.

    Raises:
        SearchError: ``folder`` holds what was tuned for another search.
    """

    def __init__(
        self,
        config: AdapterSearchConfig,
        trial: AdapterTrial,
        splits: Splits,
        accelerator: Accelerator,
        folder: Path,
        say: Say,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.trial, self.splits = config, trial, splits
        self.accelerator, self.group, self.folder, self.say = accelerator, Group(accelerator), folder, say
        self.objective = config.search.objectives[0]
        self.about = dict(about or {})
        self.token_flops = 0.0
        self.diverged: dict[str, str] = {}
        """Name of each architecture that could not be trained at any of its learning rates -> the last error."""
        path = folder / "tuning.json"
        kept = self.group.share(json.loads(path.read_text()) if path.is_file() else {})
        if kept:
            require_same("What was tuned", folder, kept.get("identity", {}), self.about)
        self.known: dict[str, Any] = kept.get("rates", {})
        """Architecture's key -> its value, what it cost, and whether a seed diverged later."""
        if self.group.is_main:
            write_examples(splits, folder / "few_shot")
        accelerator.wait_for_everyone()

    def run(self, front: Sequence[TrialRow], reference: Sequence[float]) -> list[Member]:
        """Members of a front, those that dominate most, and the baselines, but for what diverges at every rate.

        Args:
            front: smallest first.
            reference: of the hypervolume: the first objective, minimised, and log10 of the parameters.

        Raises:
            SearchError: all do.
        """
        rows = [front[i] for i in self._finalists(front, reference)]
        members = []
        for number, row in enumerate(rows, start=1):
            architecture = Architecture.from_dict(row.architecture)
            members.append(self._member(f"front-{number}", architecture, self._rates(architecture), False))
        taken = {member.architecture for member in members if member is not None}
        for name, architecture, rates in self._baselines():
            if architecture not in taken:
                members.append(self._member(name, architecture, rates, True))
        found = [member for member in members if member is not None]
        if not found:
            raise SearchError(
                f"All of {', '.join(self.diverged)} cannot be trained at any learning rate tried. Lower "
                "space.learning_rate or finish.learning_rate_factors."
            )
        return found

    def _finalists(self, front: Sequence[TrialRow], reference: Sequence[float]) -> list[int]:
        sizes, members = [row.parameters for row in front], self.config.finish.members
        if self.config.search.objectives[1:] != ["parameters"]:  # a front in other planes than the hypervolume's
            return spread(sizes, members)
        losses = [minimised(self.objective, row.values[self.objective]) for row in front]
        return most_hypervolume(np.column_stack([losses, np.log10(np.maximum(sizes, 1))]), reference, members)

    def published(self, member: Member) -> FineTuned:
        """The model of a member's best seed, out of its checkpoint."""
        return fine_tune_seed(member.config, self.splits, self.accelerator, member.best_seed(self.objective))

    def _baselines(self) -> list[tuple[str, Architecture, list[float]]]:
        space, sites, rank = self.config.space, self.trial.sites, self.config.finish.baseline_rank
        rates = sorted({rate * factor for rate in space.learning_rate for factor in (1 / 3, 1.0, 3.0)})
        common: dict[str, Any] = {"learning_rate": rates[0], "steps": max(space.steps)}
        found = [("head-only", Architecture("head", uniform_ranks(0, sites), **common), rates)]
        if rank:
            rows = uniform_ranks(rank, sites)
            found.insert(0, (f"uniform-r{rank}", Architecture("lora", rows, scaling=2.0, **common), rates))
        return found

    def _rates(self, architecture: Architecture) -> list[float]:
        return [architecture.learning_rate * factor for factor in self.config.finish.learning_rate_factors]

    def _member(self, name: str, architecture: Architecture, rates: Sequence[float], baseline: bool) -> Member | None:
        """Trained over the seeds at the best rate at which none of them diverges; None where there is none."""
        self._tune(architecture, rates)
        why = "when it was tuned it diverged, or was slower than search.max_latency"
        for tuned in self._in_order(architecture, rates):
            notes = self.known[tuned.key]
            if "diverged" not in notes:
                try:
                    return self._over_seeds(name, tuned, baseline)
                except (FloatingPointError, MetricError) as error:
                    if isinstance(error, MetricError) and "are NaN" not in str(error):
                        raise  # not the training's fault
                    notes["diverged"] = str(error)
                    self._keep()
                    self.say(
                        f"{name}: a seed diverged at learning rate {tuned.learning_rate:g}; the next best is taken."
                    )
            why = notes["diverged"]
        self.diverged[name] = why
        self.say(f"{name}: left out, it cannot be trained at any learning rate tried ({why})")
        return None

    def _over_seeds(self, name: str, tuned: Architecture, baseline: bool) -> Member:
        config = fine_tune_config(self.config, tuned, self.trial, self.folder / "members" / tuned.key, self.folder)
        outcomes: list[SeedOutcome] = []
        adapter, best = None, np.inf
        for seed in config.training.seeds:
            trained = fine_tune_seed(config, self.splits, self.accelerator, seed)
            outcomes.append(trained.outcome)
            value = minimised(self.objective, trained.outcome.record.validation[self.objective])
            if value < best and isinstance(trained.model, peft.PeftModel):
                best, adapter = value, Path(config.output_dir) / "adapter"
                if self.group.is_main:
                    trained.model.save_pretrained(str(adapter))
        mean = float(np.mean([outcome.record.validation[self.objective] for outcome in outcomes]))
        size = trainable_parameters(tuned, self.trial.sites)
        self.say(f"{name}: {size:,} parameters, validation {self.objective} {mean:.4f} over {len(outcomes)} seeds")
        return Member(name, tuned, baseline, config, outcomes, adapter)

    def _tune(self, architecture: Architecture, rates: Sequence[float]) -> None:
        """Measures the architecture at each learning rate on validation, with the search's own seed."""
        for rate in rates:
            candidate = architecture.replace(learning_rate=rate)
            if candidate.key not in self.known:
                context = TrialContext(folder=self.folder / "tuning" / candidate.key, rungs=[])
                try:
                    value = self.trial(candidate, context).values[self.objective]
                except (FloatingPointError, Infeasible):  # this rate is too high; or too slow, as a baseline may be
                    value = np.inf if minimised(self.objective, 1.0) > 0 else -np.inf
                self.known[candidate.key] = {"value": value, "token_flops": context.token_flops}
                self._keep()
                if self.group.is_main:
                    shutil.rmtree(context.folder, ignore_errors=True)
            self.token_flops += self.known[candidate.key]["token_flops"]

    def _in_order(self, architecture: Architecture, rates: Sequence[float]) -> list[Architecture]:
        """The architecture at the rates that did not diverge when they were tuned, the best on validation first."""
        candidates = [architecture.replace(learning_rate=rate) for rate in rates]
        values = {each: minimised(self.objective, self.known[each.key]["value"]) for each in candidates}
        return sorted((each for each in candidates if np.isfinite(values[each])), key=values.__getitem__)

    def _keep(self) -> None:
        self.known = self.group.share(self.known)
        if self.group.is_main:
            notes = {"identity": self.about, "rates": self.known}
            write_text(self.folder / "tuning.json", json.dumps(notes, indent=1))


def fine_tune_config(
    config: AdapterSearchConfig, architecture: Architecture, trial: AdapterTrial, output: Path, folder: Path
) -> FineTuneConfig:
    """What ``fine_tune`` is told to train an architecture on the few examples, kept in ``folder/few_shot``."""
    finish, data = config.finish, config.data
    training = dataclasses.replace(
        trial.training_config(architecture, None),
        seeds=list(finish.seeds),
        eval_strategy="no" if finish.eval_steps is None else "steps",
        eval_steps=finish.eval_steps,
        early_stopping_patience=finish.early_stopping_patience,
        load_best_model_at_end=finish.eval_steps is not None,
    )
    adapter = dataclasses.replace(
        to_adapter_config(architecture, trial.sites), initialization=config.few_shot.initialization
    )
    if config.few_shot.modules_to_save is not None:
        adapter = dataclasses.replace(adapter, modules_to_save=list(config.few_shot.modules_to_save))
    return FineTuneConfig(
        data=DataConfig(
            path=str(folder / "few_shot"),
            text_column="text" if data.text_column is not None else None,
            text_pair_column="text_pair" if data.text_pair_column is not None else None,
            image_column="image" if data.image_column is not None else None,
            label_names=list(trial.label_names),
            min_examples_per_class=1,
            on_overlap="ignore",
        ),
        model=config.model,
        adapter=adapter,
        training=training,
        evaluation=config.evaluation,
        hub=dataclasses.replace(config.hub, push_to_hub=False, hub_model_id=None) if config.hub else HubConfig(),
        output_dir=str(output),
    )


def write_examples(splits: Splits, folder: Path) -> None:
    """The few examples and the test split as Parquet, for ``fine_tune`` to read again."""
    for name in ("train", "validation", "test"):
        with atomic_write(folder / f"{name}.parquet") as temporary:
            getattr(splits, name).to_parquet(temporary)


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
    if member.architecture.method != "head":
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
