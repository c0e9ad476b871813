"""Is the supernet's ranking worth anything, and is there anything to rank? A few anchors, trained alone, tell."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hf_fsl.config import to_dict
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.files import write_text
from hf_fsl.search.alone import train_alone
from hf_fsl.search.anchors import Anchors, choose_anchors
from hf_fsl.search.data import SearchData
from hf_fsl.search.errors import SearchError
from hf_fsl.search.ranking import paired_p_value, repeatability, stratified_correlation, stratified_kendall
from hf_fsl.search.sameness import require_same
from hf_fsl.search.space import Architecture
from hf_fsl.search.supernet import TrainedSupernet
from hf_fsl.search.supernet.keeping import add_to, meter_values
from hf_fsl.training.checkpoints import TrainingDiverged

DIVERGED = -math.log(1e-6)
"""Log-loss of each example for an anchor that diverged, as if it gave the right class no chance."""

LEVEL = 0.05
"""Of every test below."""


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
    folder: Path | None = None,
    tell: Callable[[Architecture, int, float], None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Audit:
    """Trains anchors alone over seeds and compares.

    Args:
        model: the classifier that the supernet was built from.
        seeds: of the trainings; two at least.
        folder: for checkpoints and losses: what is finished there is not trained again. None: all is.
        tell: called after each training with the anchor, the seed and the validation loss.
        about: what the search is about: kept with the losses, and compared.

    Raises:
        SearchError: fewer than two seeds, losses of another search in the folder, or see :func:`choose_anchors`.
    """
    if len(seeds) < 2:
        raise SearchError(f"seeds: an audit needs two at least, to tell architectures from noise; got {list(seeds)}.")
    trained.meter.phase = "audit"
    with trained.meter.timed():
        anchors = choose_anchors(trained, strata, per_stratum, seed)
    losses = []
    for architecture in anchors.architectures:
        row = []
        for each in seeds:
            row.append(_anchor_losses(model, data, trained, architecture, config, each, folder, about or {}))
            if tell is not None:
                tell(architecture, each, float(row[-1].mean()))
        losses.append(row)
    assert data.train.labels is not None and data.validation.labels is not None
    return conclude(
        anchors, np.array(losses), constant_losses(data.train.labels.numpy(), data.validation.labels.numpy()), seed
    )


def constant_losses(train_labels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-loss of each example ``(N,)`` of always answering with the classes' shares in training, one example
    added to each."""
    classes = int(max(train_labels.max(), labels.max())) + 1
    counts = np.bincount(train_labels, minlength=classes) + 1.0
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


def _anchor_losses(
    model: nn.Module,
    data: SearchData,
    trained: TrainedSupernet,
    architecture: Architecture,
    config: SupernetConfig,
    seed: int,
    folder: Path | None,
    about: Mapping[str, Any],
) -> np.ndarray:
    """Validation losses of an anchor trained alone, from a file where they are known."""
    place = folder / f"{architecture.key}-{seed}" if folder is not None else None
    identity = {**about, "config": to_dict(config)}
    if place is not None and (notes := place / "losses.json").is_file():
        known = json.loads(notes.read_text(encoding="utf-8"))
        require_same("The audit", place, known.get("identity", {}), identity)
        add_to(trained.meter, known["meter"])
        return np.array(known["losses"])
    meter, losses = trained.meter.empty(), np.full(len(data.validation), DIVERGED)
    with meter.timed(), contextlib.suppress(TrainingDiverged):
        losses = train_alone(
            model, data, trained.space.sites, architecture, config,
            seed=seed, folder=place / "checkpoints" if place is not None else None, meter=meter, about=about,
        ).validation_losses  # fmt: skip
    losses = np.nan_to_num(losses, nan=DIVERGED, posinf=DIVERGED)
    add_to(trained.meter, meter_values(meter))
    if place is not None:
        known = {"identity": identity, "losses": losses.tolist(), "meter": meter_values(meter)}
        write_text(place / "losses.json", json.dumps(known) + "\n")
    return losses
