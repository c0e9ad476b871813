"""How much of a study is done, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from hf_fsl.config.search import StudyConfig
from hf_fsl.search.study.trials import is_infeasible

_ALIVE = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED)


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that count: not those of dead workers (they run again) nor what broke a constraint (it took nothing)."""
    return [trial for trial in trials if trial.state in _ALIVE and not is_infeasible(trial)]


@dataclass(frozen=True)
class Budget:
    """The limits of a study; any of them ends it."""

    trials: int | None
    seconds: float | None
    token_flops: float | None

    @classmethod
    def of(cls, config: StudyConfig) -> Budget:
        return cls(config.trials, config.seconds, config.token_flops)

    def share_spent(self, trials: Sequence[FrozenTrial]) -> float:
        """From 0 to 1 and above, by the limit that is nearest; trials that run count as one, and by no cost yet."""
        live = counted(trials)
        shares = [0.0]
        if self.trials is not None:
            shares.append(len(live) / self.trials)
        for name in ("seconds", "token_flops"):
            limit = getattr(self, name)
            if limit is not None:
                shares.append(sum(float(trial.user_attrs.get(name, 0.0)) for trial in live) / limit)
        return max(shares)

    def is_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        return self.share_spent(trials) >= 1


class ProgressBar:
    """Share of the budget that is spent, by all workers together, with the time left."""

    def __init__(self, budget: Budget, shown: bool) -> None:
        self.budget = budget
        limit = budget.trials if budget.seconds is None and budget.token_flops is None else None
        self.unit = limit or 100
        self.bar = tqdm(
            total=self.unit, desc="search", unit="trial" if limit else "%", disable=not shown, dynamic_ncols=True
        )
        self.started = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()

    def update(self, study: optuna.Study, best: str) -> None:
        """Moves the bar to where the study is."""
        done = [t for t in study.get_trials(deepcopy=False) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        position = round(min(1.0, self.budget.share_spent(done)) * self.unit)
        if not self.started:  # what was there before takes no time, and must not count in the time left
            self.bar.initial = self.bar.n = position
            self.started = True
        self.bar.set_postfix_str(best, refresh=False)
        self.bar.update(position - self.bar.n)
        self.bar.refresh()
