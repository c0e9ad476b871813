"""Is the supernet's ranking worth anything, and is there anything to rank? A few anchors, trained alone, tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.alone import TrainedAlone, train_alone
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import Architecture, SearchSpace
from hf_fsl.search.statistics import paired_p_value, repeatability, stratified_correlation, stratified_kendall
from hf_fsl.search.supernet import TrainedSupernet

LEVEL = 0.05
"""Of every test below."""
WIDTH = 0.1
"""How far from the size of its stratum an anchor's may be."""


@dataclass(frozen=True)
class Anchors:
    """Architectures of like size in each stratum, and the supernet's validation loss of each."""

    architectures: list[Architecture]
    strata: list[int]
    supernet_losses: list[float]
    parameters: list[int]


@dataclass(frozen=True)
class Audit:
    """What the anchors say. τ are Kendall's over the pairs within a stratum.

    Attributes:
        alone_losses: ``(anchors, seeds, N)`` validation log-losses of the anchors trained alone.
        tau_supernet: the supernet's losses against the anchors' own; ``p_supernet`` is of their correlation.
        tau_parameters: fewer parameters against lower loss.
        tau_repeated: the anchors' losses with one seed on one part of the examples against those with another seed on
            another part: what is left of an order when both are drawn anew; ``p_repeated`` is of an F-test.
        p_learned: of the anchors against always answering with the shares of the classes, chosen on one half of the
            examples and compared on the other.
        between: standard deviation of the anchors' losses within strata;
        within: of one anchor's loss over seeds.
    """

    anchors: Anchors
    alone_losses: np.ndarray
    tau_supernet: float
    p_supernet: float
    tau_parameters: float
    tau_repeated: float
    p_repeated: float
    p_learned: float
    best_loss: float
    constant_loss: float
    between: float
    within: float

    @property
    def learned(self) -> bool:
        """Whether the validation examples show that anything was learned."""
        return self.p_learned < LEVEL

    @property
    def architecture_matters(self) -> bool:
        """Whether architectures of one size differ by more than seeds and examples do."""
        return self.learned and self.p_repeated < LEVEL

    @property
    def supernet_trusted(self) -> bool:
        """Whether the supernet ranks within strata better than chance and than counting parameters."""
        return self.learned and self.p_supernet < LEVEL and self.tau_supernet > self.tau_parameters

    @property
    def verdict(self) -> str:
        """The same in plain words."""
        if not self.learned:
            return (
                "Noise: nothing was learned that the validation examples show. The best of the adapters trained alone "
                f"has a log-loss of {self.best_loss:.3f}, always answering with the shares of the classes "
                f"{self.constant_loss:.3f} (p = {self.p_learned:.2f}); a ranking of architectures is a ranking of "
                "noise here. More labels, or another backbone, come before any search."
            )
        spread = f"{self.between:.3f} between architectures of one size, {self.within:.3f} between seeds of one"
        if self.architecture_matters:
            first = (
                "Architecture matters more than noise on this task: at equal size the differences of the anchors hold "
                f"over seeds and parts of examples (Kendall's τ {self.tau_repeated:.2f}, p = {self.p_repeated:.3f}; "
                f"standard deviation of the log-loss: {spread})."
            )
        else:
            first = (
                "Architecture does not matter more than noise on this task: at equal size the differences of the "
                f"anchors do not hold over seeds and parts of examples (Kendall's τ {self.tau_repeated:.2f}, "
                f"p = {self.p_repeated:.2f}; standard deviation of the log-loss: {spread}). Choose by size."
            )
        against = (
            f"τ {self.tau_supernet:.2f}, p = {self.p_supernet:.3f}; counting parameters {self.tau_parameters:.2f}"
        )
        if self.supernet_trusted:
            return f"{first} The supernet finds the order of the anchors at equal size ({against})."
        return (
            f"{first} The supernet's ranking at equal size is no better than chance or than counting parameters "
            f"({against}): do not choose by it; search by seeded TPE with successive halving instead."
        )


def choose_anchors(
    trained: TrainedSupernet, strata: int = 2, per_stratum: int = 3, seed: int = 0, pool: int = 24
) -> Anchors:
    """Members of like size in each of some sizes, spread over the supernet's ranking there.

    Args:
        strata: sizes, evenly over the logarithm of what the space offers.
        per_stratum: anchors of a size.
        pool: members of a size that the supernet scores for it.

    Raises:
        SearchError: fewer than two anchors a stratum asked for, or a space too small for two of one size.
    """
    if strata < 1 or per_stratum < 2:
        raise SearchError(f"An audit needs a stratum and two anchors in it; got {strata} and {per_stratum}.")
    rng, space = np.random.default_rng(seed), _lora_only(trained.space)
    low, high = _sizes(space)
    chosen: list[tuple[Architecture, int, float]] = []
    for stratum in range(strata):
        target = math.exp(low + (high - low) * (stratum + 1) / (strata + 1))
        members = _of_size(space, target, pool, rng)
        if len(members) < 2:
            continue
        losses = {member: float(trained.evaluator.losses(member).mean()) for member in members}
        ranked = sorted(members, key=lambda member: losses[member])
        places = np.linspace(0, len(ranked) - 1, min(per_stratum, len(ranked))).round().astype(int)
        chosen += [(ranked[place], stratum, losses[ranked[place]]) for place in dict.fromkeys(places.tolist())]
    if not chosen:
        raise SearchError("The space has no two architectures of like size: there is nothing to audit.")
    architectures, groups, scores = (list(column) for column in zip(*chosen, strict=True))
    return Anchors(architectures, groups, scores, [space.parameters(architecture) for architecture in architectures])


def audit(
    model: nn.Module,
    data: SearchData,
    trained: TrainedSupernet,
    config: SupernetConfig,
    *,
    strata: int = 2,
    per_stratum: int = 3,
    seeds: Sequence[int] = (0, 1),
    seed: int = 0,
    tell: Callable[[TrainedAlone], None] | None = None,
) -> Audit:
    """Trains anchors alone over seeds and compares.

    Args:
        model: the classifier that the supernet was built from.
        seeds: of the trainings; two at least.
        tell: called after each training.

    Raises:
        SearchError: fewer than two seeds, or see :func:`choose_anchors`.
    """
    if len(seeds) < 2:
        raise SearchError(f"seeds: an audit needs two at least, to tell architectures from noise; got {list(seeds)}.")
    trained.meter.phase = "audit"
    anchors = choose_anchors(trained, strata, per_stratum, seed)
    losses = []
    for architecture in anchors.architectures:
        row = []
        for each in seeds:
            alone = train_alone(
                model, data, trained.space.sites, architecture, config, seed=each, meter=trained.meter
            )  # fmt: skip
            row.append(alone.validation_losses)
            if tell is not None:
                tell(alone)
        losses.append(row)
    assert data.train.labels is not None and data.validation.labels is not None
    return conclude(
        anchors, np.array(losses), constant_losses(data.train.labels.numpy(), data.validation.labels.numpy()), seed
    )


def constant_losses(train_labels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-loss of each example ``(N,)`` of always answering with the shares of the classes in training."""
    classes = int(max(train_labels.max(), labels.max())) + 1
    counts = np.bincount(train_labels, minlength=classes) + 1e-9
    shares: np.ndarray = -np.log(counts / counts.sum())
    return shares[labels]


def conclude(anchors: Anchors, losses: np.ndarray, constant: np.ndarray, seed: int = 0) -> Audit:
    """The audit of given losses.

    Args:
        losses: ``(anchors, seeds, N)`` validation log-losses of the anchors trained alone.
        constant: ``(N,)``, see :func:`constant_losses`.
        seed: of how the examples are divided.
    """
    strata, means = anchors.strata, losses.mean((1, 2))
    order = np.random.default_rng([seed, 2]).permutation(losses.shape[2])
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    count = losses.shape[1]
    parts = np.array_split(order, count)
    # Replicate k of design d: seed k on part k + d. No two replicates share a seed or an example.
    replicates = np.stack(
        [
            np.stack([losses[:, k, parts[(k + shift) % count]].mean(-1) for k in range(count)], axis=1)
            for shift in range(count)
        ]
    )
    repeated = [
        stratified_kendall(table[:, i], table[:, j], strata)
        for table in replicates for i in range(count) for j in range(i)
    ]  # fmt: skip
    gains = np.empty(losses.shape[2])
    for chosen_on, compared_on in (halves, halves[::-1]):
        best = int(losses[:, :, chosen_on].mean((1, 2)).argmin())
        gains[compared_on] = losses[best][:, compared_on].mean(0)
    groups = np.asarray(strata)
    spreads = [means[groups == group].var(ddof=1) for group in np.unique(groups) if (groups == group).sum() > 1]
    return Audit(
        anchors=anchors,
        alone_losses=losses,
        tau_supernet=stratified_kendall(anchors.supernet_losses, means, strata),
        p_supernet=stratified_correlation(anchors.supernet_losses, means, strata)[1],
        tau_parameters=stratified_kendall([-size for size in anchors.parameters], means, strata),
        tau_repeated=float(np.mean(repeated)),
        p_repeated=repeatability(replicates, strata),
        p_learned=paired_p_value(gains, constant, "less"),
        best_loss=float(means.min()),
        constant_loss=float(constant.mean()),
        between=float(np.sqrt(np.mean(spreads))),
        within=float(np.sqrt(losses.mean(2).var(axis=1, ddof=1).mean())),
    )


def _lora_only(space: SearchSpace) -> SearchSpace:
    return SearchSpace(dataclasses.replace(space.config, methods=["lora"]), space.sites)


def _sizes(space: SearchSpace) -> tuple[float, float]:
    """Logarithms of the fewest and most parameters an adapter of the space has, head not counted."""
    from hf_fsl.search.space.limits import parameter_range

    low, high = parameter_range(space.config, space.sites, space.slots, "lora")
    most = space.config.max_parameters
    high = min(high, most) if most is not None else high
    head = space.sites.head_parameters
    return math.log(max(1, max(low, space.config.min_parameters or 0) - head)), math.log(max(1, high - head))


def _of_size(space: SearchSpace, target: float, count: int, rng: np.random.Generator) -> list[Architecture]:
    """Different members whose adapter has the target's number of parameters, give or take a tenth."""
    head, members = space.sites.head_parameters, dict[Architecture, None]()
    least, most = head + math.floor(target * (1 - WIDTH)), head + math.ceil(target * (1 + WIDTH))
    within = dataclasses.replace(
        space.config,
        min_parameters=max(least, space.config.min_parameters or 0),
        max_parameters=min(most, space.config.max_parameters or most),
    )
    try:
        narrow = SearchSpace(within, space.sites)
        for _ in range(4 * count):
            members[narrow.sample_stratified(rng)] = None
            if len(members) == count:
                break
    except SearchError:
        pass  # no member of that size: the stratum stays empty
    return list(members)
