"""Who proposes the next architecture: random, TPE or NSGA-II, each restartable and within the constraints at first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from hf_fsl.config.search import Sampler
from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.space.sites import GROUPS
from hf_fsl.search.space.space import SearchSpace


class SpaceSampler(BaseSampler):
    """Draws whole architectures of a space, or lets an Optuna sampler propose once that has seen enough.

    Optuna's samplers draw ranks one by one at first, so that sizes crowd in the middle and constraints are missed;
    here what they leave open is drawn by the space itself. Every trial has a generator of its own, seeded by the
    study's seed and by the trial's ordinal, the first that no other trial has: a study that is stopped and started
    goes on as if it had not been, and no two workers draw the same.

    Args:
        kind: ``random``, ``tpe`` or ``nsga2``.
        startup: trials (of NSGA-II: the population) drawn before the sampler proposes.
        first: architectures to start with.
        max_retries: an ordinal whose trials failed more often than this is left: what it draws kills its workers.
    """

    def __init__(
        self,
        kind: Sampler,
        space: SearchSpace,
        seed: int,
        startup: int,
        first: Sequence[Architecture] = (),
        max_retries: int = 3,
    ) -> None:
        self.kind, self.space, self.seed, self.startup, self.first = kind, space, seed, startup, first
        self.max_retries = max_retries
        self.ordinal = 0
        """Of the trial that is proposed; it is the trial's attribute of this name."""
        self._distributions = distributions(space)
        self._rng = np.random.default_rng(seed)
        self._given: Architecture | None = None
        self._inner: BaseSampler = self._make(seed)

    def reseed_rng(self) -> None:
        """Nothing to do: see :meth:`before_trial`."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        earlier = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number]
        self.ordinal = free_ordinal(earlier, self.max_retries)
        self._given = self.first[self.ordinal] if self.ordinal < len(self.first) else None
        own, inner = np.random.SeedSequence([self.seed, self.ordinal]).spawn(2)
        self._rng = np.random.default_rng(own)
        self._inner = self._make(int(inner.generate_state(1)[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._given is not None:
            return parameters_of(self._given, self.space)
        known = self._inner.infer_relative_search_space(study, trial)
        proposed = self._inner.sample_relative(study, trial, known)
        if proposed:
            return proposed
        return parameters_of(self.space.sample_stratified(self._rng), self.space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def _make(self, seed: int) -> BaseSampler:
        seed %= 2**32
        if self.kind == "tpe":
            return TPESampler(n_startup_trials=self.startup, multivariate=True, seed=seed)
        if self.kind == "nsga2":
            return NSGAIISampler(population_size=max(2, self.startup), seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def free_ordinal(earlier: Sequence[FrozenTrial], max_retries: int) -> int:
    """The first ordinal that no trial has, those of failed trials among them until they failed too often."""
    known = [(trial.state, trial.user_attrs.get("ordinal")) for trial in earlier]
    failed = Counter(ordinal for state, ordinal in known if state == TrialState.FAIL and ordinal is not None)
    taken = {ordinal for ordinal, count in failed.items() if count > max_retries}
    taken |= {ordinal for state, ordinal in known if state != TrialState.FAIL and ordinal is not None}
    free = (ordinal for ordinal in itertools.count() if ordinal not in taken)
    # Trials that another worker has asked for and not begun draw what is free, in their order.
    begun = sum(state != TrialState.FAIL and ordinal is None for state, ordinal in known)
    return next(itertools.islice(free, begun, None))


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The parameters of :meth:`SearchSpace.suggest` and what each may be."""
    recorder = _Recorder()
    space.suggest(recorder)
    return recorder.found


def parameters_of(architecture: Architecture, space: SearchSpace) -> dict[str, Any]:
    """Values of the parameters with which :meth:`SearchSpace.suggest` gives this architecture."""
    config = space.config
    values: dict[str, Any] = {"method": architecture.method}
    if architecture.method not in config.methods:  # nothing adapted is "head", whatever the method was
        values["method"] = config.methods[0]
    for name in ("scaling", "dropout", "learning_rate", "steps", "loss"):
        choices, value = getattr(config, name), getattr(architecture, name)
        values[name] = value if value in choices else choices[0]  # without meaning for this method
    for layer, group in space.slots:
        rank = architecture.ranks[layer][GROUPS.index(group)]
        same = [choice for choice in config.ranks if bool(choice) == bool(rank)] or list(config.ranks)
        values[f"rank.{layer}.{group}"] = min(same, key=lambda choice: abs(choice - rank))
    return values


class _Recorder:
    """A trial that takes the first choice of everything and remembers what was asked."""

    def __init__(self) -> None:
        self.found: dict[str, BaseDistribution] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.found[name] = CategoricalDistribution(choices)
        return choices[0]
