"""NSGA-II over the members of a trained supernet, raced over paired chunks of the validation examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hf_fsl.search.errors import SearchError
from hf_fsl.search.pareto import crowding_distances, front, non_dominated_ranks
from hf_fsl.search.space import Architecture
from hf_fsl.search.supernet import MemberEvaluator, TrainedSupernet, corner, nested_seeds

Latency = Callable[[Architecture], float]

RACE_Z = 2.0
"""Standard errors by which a member must lose against one that is no larger to leave the race."""
CHOICE_Z = 3.0
"""Standard errors by which a member must beat the gradient's own, no larger ones to be on the front: the best of
hundreds of noisy losses looks better than it is."""


@dataclass(frozen=True)
class MemberScore:
    """A member with what is known of it.

    Attributes:
        losses: validation log-loss of each example it was raced on, in the evaluator's order.
        loss: estimate for all validation examples: of one that left the race early, what it saw, corrected by what the
            largest member lost there and everywhere.
        parameters: trainable, head included.
        latency: seconds, where it is an objective.
        finished: whether it saw all examples.
        token_flops: what scoring it cost; ``seconds`` likewise.
    """

    architecture: Architecture
    losses: np.ndarray
    loss: float
    parameters: int
    latency: float | None
    finished: bool
    token_flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class MemberSearch:
    """All members that were scored, in that order, and the front (see :func:`front_of`)."""

    scores: list[MemberScore]
    front: list[MemberScore]


def objectives(scores: Sequence[MemberScore]) -> np.ndarray:
    """``(n, 2 or 3)``, all to be minimised: loss, log10 of the parameters, latency."""
    rows = []
    for score in scores:
        row = [score.loss, math.log10(max(1, score.parameters))]
        rows.append(row if score.latency is None else [*row, score.latency])
    return np.array(rows)


def search_members(
    trained: TrainedSupernet,
    *,
    members: int = 200,
    population: int = 40,
    seed: int = 0,
    latency: Latency | None = None,
    tell: Callable[[MemberScore], None] | None = None,
) -> MemberSearch:
    """The front of a supernet's members by inherited weights; nothing is trained.

    It starts from the gradient's nested family, uniform ranks, and members drawn evenly over the logarithm of their
    size; then tournaments by rank and crowding, crossing over, mutation (Deb et al. 2002).

    Args:
        members: different ones to score.
        population: parents that are kept.
        latency: a third objective: member -> seconds.
        tell: called with every score, for a progress bar or a record.

    Raises:
        SearchError: too few members or parents.
    """
    if members < 1 or population < 2:
        raise SearchError(f"members: at least 1, population: at least 2; got {members} and {population}.")
    space, rng = trained.space, np.random.default_rng(seed)
    trained.meter.phase = "members"
    race = _Race(trained.evaluator, trained, latency)
    scored: dict[Architecture, MemberScore] = {}

    def score(architecture: Architecture) -> None:
        if architecture not in scored and len(scored) < members:
            scored[architecture] = race.run(architecture, list(scored.values()))
            if tell is not None:
                tell(scored[architecture])

    for architecture in starting_members(trained, population, rng):
        score(architecture)
    stalled = 0
    while len(scored) < members and stalled < 50:
        before = len(scored)
        parents = _survivors(list(scored.values()), population)
        ranks, crowds = _standing(parents)
        for _ in range(population):
            first, second = (_tournament(ranks, crowds, rng) for _ in range(2))
            child = space.cross_over(parents[first].architecture, parents[second].architecture, rng)
            score(space.mutate(child, rng) if child in scored or rng.random() < 0.9 else child)
        stalled = stalled + 1 if len(scored) == before else 0  # a small space is exhausted
    scores = list(scored.values())
    return MemberSearch(scores, front_of(scores, gradient_family(trained, population)))


def front_of(scores: Sequence[MemberScore], family: Sequence[Architecture] = ()) -> list[MemberScore]:
    """The members that finished and are worth training again, smallest first.

    Args:
        family: members that these losses did not choose. They are all there: inherited losses do not say what more
            rank is worth. Others are there where they beat clearly what of the family is no larger. Without a family
            it is the Pareto front.
    """
    finished = sorted((score for score in scores if score.finished), key=lambda score: (score.parameters, score.loss))
    known = set(family)
    trusted = [score for score in finished if score.architecture in known]
    if not trusted:
        points = objectives(finished)
        chosen: dict[bytes, MemberScore] = {}
        for index in front(points):
            chosen.setdefault(points[index].tobytes(), finished[index])  # one of those that nothing tells apart
        return list(chosen.values())
    return [score for score in finished if score.architecture in known or _beats(score, trusted)]


def starting_members(trained: TrainedSupernet, count: int, rng: np.random.Generator) -> list[Architecture]:
    """``count`` members of all sizes: the gradient's family (half of them), the same rank everywhere, no adapter, and
    others drawn evenly over the logarithm of their size."""
    space, largest = trained.space, trained.supernet.largest
    found = gradient_family(trained, count)
    for rank in space.config.ranks:
        found.append(largest.replace(ranks=tuple(tuple(rank if top else 0 for top in row) for row in largest.ranks)))
    found.append(corner(space, min))
    found = [member for member in dict.fromkeys(found) if member in space][:count]
    while len(found) < count:
        found.append(space.sample_stratified(rng))
    return list(dict.fromkeys(found))


def gradient_family(trained: TrainedSupernet, count: int) -> list[Architecture]:
    """``count`` / 2 members of all sizes that the gradient pass alone names, without any validation example."""
    if not trained.gradients:
        return []
    family = nested_seeds(trained.gradients, trained.space, trained.supernet.largest)
    kept = np.linspace(0, len(family) - 1, min(len(family), count // 2))
    return [family[int(place)] for place in kept] if family else []


class _Race:
    """Scores members on one chunk after the other, as long as nothing no larger beats them clearly."""

    def __init__(self, evaluator: MemberEvaluator, trained: TrainedSupernet, latency: Latency | None) -> None:
        self.evaluator, self.space, self.latency, self.meter = evaluator, trained.space, latency, trained.meter
        self.reference = evaluator.losses(trained.supernet.largest)

    def run(self, architecture: Architecture, others: Sequence[MemberScore]) -> MemberScore:
        size = self.space.parameters(architecture)
        seconds = self.latency(architecture) if self.latency is not None else None
        rivals = [other for other in others if other.finished and _no_dearer(other, size, seconds)]
        seen, started, before = np.empty(0), time.perf_counter(), self.meter.flops
        for number in range(len(self.evaluator.chunks)):
            seen = np.concatenate([seen, self.evaluator.losses(architecture, number)])
            last = number == len(self.evaluator.chunks) - 1
            if not last and any(_clearly_worse(seen, rival.losses[: len(seen)]) for rival in rivals):
                break
        count = len(seen)
        loss = float(seen.mean() + self.reference.mean() - self.reference[:count].mean())
        return MemberScore(
            architecture, seen, loss, size, seconds, count == len(self.reference),
            self.meter.flops - before, time.perf_counter() - started,
        )  # fmt: skip


def _clearly_worse(ours: np.ndarray, theirs: np.ndarray, z: float = RACE_Z) -> bool:
    difference = ours - theirs
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return bool(difference.mean() > z * error)


def _survivors(scores: list[MemberScore], count: int) -> list[MemberScore]:
    if len(scores) <= count:
        return scores
    ranks, crowds = _standing(scores)
    order = np.lexsort((-crowds, ranks))
    return [scores[int(index)] for index in order[:count]]


def _standing(scores: Sequence[MemberScore]) -> tuple[np.ndarray, np.ndarray]:
    points = objectives(scores)
    ranks, crowds = non_dominated_ranks(points), np.zeros(len(points))
    for level in np.unique(ranks):
        crowds[ranks == level] = crowding_distances(points[ranks == level])
    return ranks, crowds


def _tournament(ranks: np.ndarray, crowds: np.ndarray, rng: np.random.Generator) -> int:
    a, b = (int(index) for index in rng.integers(len(ranks), size=2))
    return min(a, b, key=lambda index: (ranks[index], -crowds[index]))


def _beats(score: MemberScore, trusted: Sequence[MemberScore]) -> bool:
    rivals = [rival for rival in trusted if _no_dearer(rival, score.parameters, score.latency)]
    best = min(rivals, key=lambda rival: rival.loss, default=None)
    return best is None or _clearly_worse(best.losses, score.losses, CHOICE_Z)


def _no_dearer(score: MemberScore, parameters: int, latency: float | None) -> bool:
    no_slower = latency is None or (score.latency is not None and score.latency <= latency)
    return score.parameters <= parameters and no_slower
