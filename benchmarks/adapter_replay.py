"""Searches that try one configuration after the other, replayed from a table of finished runs.

Each configuration of the table was trained with two seeds. A replay draws for each which of them the search sees; the
other one is the training of what the search hands out. So a front is chosen on validation with one seed, and counts
by test with another. What a sampler proposes is moved to the nearest configuration not yet tried.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from adapter_runs import RUNGS, Row, best_rung
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from hf_fsl.search.pareto import crowding_distances, front, hypervolume, most_hypervolume, non_dominated_ranks
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.study.objective import goes_on
from hf_fsl.search.study.samplers import distributions, parameters_of

LAST = len(RUNGS) - 1


@dataclass(frozen=True)
class Entry:
    """A configuration of the table with its run of each seed."""

    architecture: Architecture
    parameters: int
    runs: tuple[Row, Row]


@dataclass(frozen=True)
class Visit:
    """A configuration tried, and the rung it got to."""

    entry: int
    rung: int = LAST


@dataclass(frozen=True)
class Point:
    """A search after some trials: what it had cost, finalists' training included or not, and what it had found."""

    trials: int
    token_flops: float
    gradient_steps: float
    search_token_flops: float
    search_gradient_steps: float
    hypervolume: float


class Replay:
    """One search seed over a table.

    Args:
        members: of the front that are trained again.
        reference: of the hypervolume: test log-loss, log10 of the parameters.
        retrained: False: what is handed out is what the search itself trained, at no further cost.
    """

    def __init__(
        self, table: Sequence[Entry], space: SearchSpace, seed: int, members: int, reference: tuple[float, float],
        retrained: bool = True,
    ) -> None:  # fmt: skip
        self.table, self.space, self.members, self.reference = table, space, members, reference
        self.retrained = retrained
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.shown = self.rng.integers(2, size=len(table))
        """Which of its runs the search sees of each configuration."""
        self._places = np.stack([_place(entry.architecture) for entry in table])

    def points(self, visits: Sequence[Visit]) -> list[Point]:
        """The course of a search, after each trial."""
        flops = steps = 0.0
        course = []
        for count, visit in enumerate(visits, start=1):
            cost = self._seen(visit.entry)["rungs"][: visit.rung + 1][-1]
            flops, steps = flops + cost["token_flops"], steps + cost["gradient_steps"]
            finalists = self.finalists([each.entry for each in visits[:count] if each.rung == LAST])
            again = [self._again(entry) if self.retrained else self._seen(entry) for entry in finalists]
            ends = [row["rungs"][-1] for row in again if self.retrained]
            course.append(
                Point(
                    count,
                    flops + sum(end["token_flops"] for end in ends),
                    steps + sum(end["gradient_steps"] for end in ends),
                    flops,
                    steps,
                    test_hypervolume(again, self.reference),
                )
            )
        return course

    def finalists(self, tried: Sequence[int]) -> list[int]:
        """Of what was trained to the end, those of the front on validation that together dominate most there."""
        if not tried:
            return []
        values = self._values(tried)
        order = front(values)
        return [tried[order[i]] for i in most_hypervolume(values[order], self.reference, self.members)]

    def random(self, budget: int) -> list[Visit]:
        """Configurations in random order."""
        return [Visit(int(entry)) for entry in self.rng.permutation(len(self.table))[:budget]]

    def halving(self, budget: int, factor: float = 3.0) -> list[Visit]:
        """Random order, each stopped at a rung where those on better fronts are too many."""
        visits, reached = [], [[] for _ in range(LAST)]  # type: ignore[var-annotated]
        for entry in self.rng.permutation(len(self.table))[:budget].tolist():
            got = LAST
            for rung in range(LAST):
                loss = best_rung(self._seen(entry), rung)["validation_loss"]
                mine = {"loss": loss, "parameters": float(self.table[entry].parameters)}
                stays = goes_on(mine, reached[rung], ["loss", "parameters"], factor)
                reached[rung].append(mine)
                if not stays:
                    got = rung
                    break
            visits.append(Visit(entry, got))
        return visits

    def tpe(self, budget: int, startup: int = 10) -> list[Visit]:
        """Optuna's multi-objective TPE."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = TPESampler(multivariate=True, n_startup_trials=startup, seed=self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # or each of the replays is announced
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        choices, order = distributions(self.space), self.rng.permutation(len(self.table)).tolist()
        visits: list[Visit] = []
        for entry in self._proposals(budget, order, startup, lambda: self.space.suggest(study.ask(choices))):
            architecture = self.table[entry].architecture
            study.add_trial(
                create_trial(
                    params=parameters_of(architecture, self.space), distributions=choices,
                    values=self._values([entry])[0].tolist(),
                )
            )  # fmt: skip
            for asked in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(asked.number, state=TrialState.FAIL)  # the nearest of the table was tried in its place
            visits.append(Visit(entry))
        return visits

    def nsga2(self, budget: int, population: int = 10) -> list[Visit]:
        """NSGA-II with the space's own crossing over and mutation (Deb et al. 2002)."""
        visits: list[Visit] = []
        order = self.rng.permutation(len(self.table)).tolist()

        def child() -> Architecture:
            values = self._values([visit.entry for visit in visits])
            ranks, crowds = non_dominated_ranks(values), np.zeros(len(values))
            for level in np.unique(ranks):
                crowds[ranks == level] = crowding_distances(values[ranks == level])
            kept = np.lexsort((-crowds, ranks))[:population]
            parents = [
                self.table[visits[min(kept[self.rng.integers(len(kept), size=2)],
                                      key=lambda i: (ranks[i], -crowds[i]))].entry].architecture
                for _ in range(2)
            ]  # fmt: skip
            return self.space.mutate(self.space.cross_over(*parents, self.rng), self.rng)

        for entry in self._proposals(budget, order, population, child):
            visits.append(Visit(entry))
        return visits

    def by_size(self, count: int) -> list[int]:
        """Counting parameters as the only guide: sizes evenly over their logarithm, and any configuration there."""
        sizes = np.log([entry.parameters for entry in self.table])
        bounds = np.linspace(sizes.min(), sizes.max(), count + 1)
        cells = np.clip(np.searchsorted(bounds, sizes, side="right") - 1, 0, count - 1)
        return [int(self.rng.choice(np.flatnonzero(cells == cell))) for cell in np.unique(cells)]

    def handed_out(self, entries: Sequence[int]) -> Point:
        """A method that tries nothing: the training of what it hands out is all it costs."""
        again = [self._again(entry) for entry in entries]
        flops = sum(row["rungs"][-1]["token_flops"] for row in again)
        steps = sum(row["rungs"][-1]["gradient_steps"] for row in again)
        return Point(0, flops, steps, 0.0, 0.0, test_hypervolume(again, self.reference))

    def _proposals(
        self, budget: int, order: Sequence[int], startup: int, propose: Callable[[], Architecture]
    ) -> Iterator[int]:
        open_ = np.ones(len(self.table), dtype=bool)
        for count in range(min(budget, len(self.table))):
            if count < startup:
                entry = order[count]
            else:
                distances = np.linalg.norm(self._places - _place(propose()), axis=1)
                entry = int(np.where(open_, distances, np.inf).argmin())
            open_[entry] = False
            yield entry

    def _seen(self, entry: int) -> Row:
        return self.table[entry].runs[int(self.shown[entry])]

    def _again(self, entry: int) -> Row:
        return self.table[entry].runs[1 - int(self.shown[entry])]

    def _values(self, entries: Sequence[int]) -> np.ndarray:
        rows = [(best_rung(self._seen(e))["validation_loss"], math.log10(self.table[e].parameters)) for e in entries]
        return np.array(rows)


def test_hypervolume(rows: Sequence[Row], reference: tuple[float, float]) -> float:
    """Of trained members: test log-loss by log10 of the trainable parameters."""
    values = [(best_rung(row)["test_loss"], math.log10(row["parameters"])) for row in rows]
    return hypervolume(np.array(values).reshape(-1, 2), reference)


def bootstrap(
    statistic: Callable[..., float], *samples: Sequence[float] | np.ndarray, resamples: int = 5000
) -> dict[str, Any]:
    """A statistic of independent samples, with its percentile interval over draws of each of them."""
    rng, arrays = np.random.default_rng(0), [np.asarray(sample, dtype=float) for sample in samples]
    drawn = [
        statistic(*(array[rng.integers(len(array), size=len(array))] for array in arrays)) for _ in range(resamples)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(statistic(*arrays)), "ci95": [float(low), float(high)], "n": [len(a) for a in arrays]}


def ratio_of_means(first: np.ndarray, second: np.ndarray) -> float:
    return float(first.mean() / second.mean())


def _place(architecture: Architecture) -> np.ndarray:
    """Where a configuration lies: doublings of rank, of learning rate, of scaling."""
    ranks = np.log2(1.0 + np.array(architecture.ranks)).ravel()
    return np.append(ranks, [2 * math.log2(architecture.learning_rate), math.log2(architecture.scaling)])
