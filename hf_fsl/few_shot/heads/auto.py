"""``head="auto"``: what a support set itself says about estimator, shrinkage, names and temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hf_fsl.core.renamed import renamed_arguments
from hf_fsl.few_shot.heads.estimator import HeadChoice, HeadTrial
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, fit_head, held_out_logits
from hf_fsl.few_shot.heads.lda import SHRINKAGES
from hf_fsl.few_shot.heads.named_lda import Frame, NamedHeldOut, fitted, label_directions
from hf_fsl.few_shot.heads.support import HeadError, SupportSet, read_support_set, require_every_class
from hf_fsl.few_shot.heads.temperature import best_scale
from hf_fsl.models.published.linear_head import LinearHead

NAME_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
DEFAULTS: dict[str, Any] = {"shrinkage": 1.0, "pseudo_count": 4.0, "name_weight": 1.5}
"""Of "named_lda" where nothing can be held out. Settled, like all constants here, on examples that no figure reported
for ``choose_head`` is measured on: the classes of wordnet_nli, the validation subcategories of emoji; for how far
shrinkages reach and scatter also supersense's validation split, the emoji of kinds too small to be classes, the names
of emoji as texts, digits' training split, and Twemoji's pictures of the base and validation subcategories."""
DEFAULT_SPREADS = {"names": 1.05, "examples": 0.85}
"""There the temperature makes this the root mean square of the supports' logits for other classes than their own: with
label names, and without. The fewer dimensions of the embedding matter, the more these logits spread by chance."""

ZERO_SHOT_SCALE = 10.0
"""1 / temperature of cosines with the label embeddings, where there are no examples."""

HELD_OUT_CELLS = 2**19
"""Held-out examples times classes, above which a random part of the examples has to do,"""
HELD_OUT_LEAST = 256
"""but not fewer than so many: with thousands of classes, time and memory of "named_lda" would grow as their square."""

_PSEUDO_EXAMPLES = 24
"""n' in n' / (n' + n − C), the likely shrinkage: as if so many examples had been seen that spread evenly."""
_SHRINKAGE_DOUBLINGS = 2.0
"""Standard deviation of log2 of the shrinkage around that."""
_LIKELY_NAME_WEIGHT = 1.5
_TRUST = 0.25
"""Exponent on the held-out likelihood: leave-one-out terms are not independent."""


@renamed_arguments(prior="label_embeddings")
def choose_head(
    support: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    label_embeddings: Tensor | None = None,
    base_mean: Tensor | None = None,
    weights: Tensor | None = None,
    candidates: Sequence[str] | None = None,
    normalize: bool = True,
) -> HeadChoice:
    """A head from a support set alone: its estimator, hyperparameters, use of the label names, and temperature.

    By default it is "named_lda", averaged over shrinkages and name weights: each counts by its leave-one-out
    likelihood, at its own best temperature, and by how far it is from what is likely before seeing the data, which
    decides when examples are few. Averages of such heads are such a head. The temperature is then chosen on the
    average's leave-one-out logits. Classes with one example are fitted, but not held out; where no class has two, the
    defaults hold, and names count as far as they tell the supports apart. Without supports it is the zero-shot
    classifier.

    Args:
        support: embeddings ``(n, D)``.
        labels: ``(n,)``.
        num_classes: C; None: as many as there are label embeddings, or as the labels name.
        label_embeddings: ``(C, D)``, of the label texts, from the supports' encoder.
        base_mean: ``(D,)``, for the candidates that centre.
        weights: ``(n,)``, above 0: as how many examples each counts, where the head is fitted and where it is judged.
        candidates: estimators to choose among, by held-out likelihood; None: "named_lda".
        normalize: whether embeddings are brought to length 1, for "named_lda"; without it, the head folds.

    Returns:
        The head at its temperature, why it is this one, all that was tried, and logits of supports left out.

    Raises:
        HeadError: a support set that cannot be used, an unknown candidate, or candidates other than "named_lda" where
            a class has fewer than two examples.
    """
    names = tuple(candidates) if candidates is not None else ("named_lda",)
    if not names or not set(names) <= ESTIMATORS.keys():
        raise HeadError(f"Candidates are among {', '.join(ESTIMATORS)}; got {', '.join(names) or 'none'}.")
    options: dict[str, Any] = {"num_classes": num_classes, "label_embeddings": label_embeddings, "weights": weights}
    given = read_support_set(support, labels, **options, normalize=normalize)
    if support.ndim != 2:
        raise HeadError(f"A head is chosen for one support set (n, D); got {tuple(support.shape)}.")
    if label_embeddings is None:
        require_every_class(given, "auto")
    options["num_classes"] = given.num_classes
    if len(support) == 0:
        return _zero_shot(support, labels, normalize, options)
    if int((given.members >= 2).sum()) < 2 and "named_lda" in names:
        return _default(support, labels, given, normalize, options)
    options["base_mean"] = base_mean
    choices = [_average(given, normalize) if name == "named_lda" else _best(name, support, labels, options)
               for name in sorted(names, key="named_lda".__ne__)]  # fmt: skip
    best = min(choices, key=lambda choice: min(trial.loss for trial in choice.table if trial.weight > 0))
    return replace(best, table=tuple(trial for choice in choices for trial in choice.table))


def head_by_name(name: str, support: Tensor, labels: Tensor, *, normalize: bool = True, **options: Any) -> HeadChoice:
    """The head of an estimator that is asked for, its hyperparameters chosen where every class has two examples.

    Args:
        name: among ``ESTIMATORS``, or ``auto``.
        support: embeddings ``(n, D)``.
        labels: ``(n,)``.
        normalize: as for ``choose_head``.
        **options: as for ``choose_head``; ``num_classes`` is among them.

    Returns:
        As ``choose_head``.

    Raises:
        HeadError: an unknown name, or a support set that cannot be used.
    """
    if name in ("auto", "named_lda"):
        return choose_head(support, labels, **options, normalize=normalize)
    if int(labels.bincount(minlength=options["num_classes"]).min()) >= 2:
        return choose_head(support, labels, **options, candidates=[name])
    reason = f"{name} with its defaults: a class with one example leaves nothing to choose them by."
    return HeadChoice(fit_head(name, support, labels, **options), name, {}, 1.0, reason)


def _zero_shot(support: Tensor, labels: Tensor, normalize: bool, options: dict[str, Any]) -> HeadChoice:
    """Without examples."""
    settings: dict[str, Any] = {"strength": 1.0, "normalize": normalize}
    head = fit_head("anchored", support, labels, **options, **settings)
    # Without unit length, products are cosines times the inputs' lengths, for which the label embeddings' stand in.
    length = 1.0 if normalize else float(options["label_embeddings"].norm(dim=-1).mean().clamp(min=1e-12))
    scale = ZERO_SHOT_SCALE / length
    reason = "There are no examples: the label names are the classifier."
    return HeadChoice(head.scaled(scale), "anchored", settings, 1 / scale, reason)


def _default(
    support: Tensor, labels: Tensor, given: SupportSet, normalize: bool, options: dict[str, Any]
) -> HeadChoice:
    """Where nothing can be held out."""
    settings = dict(DEFAULTS, shrinkage=((1.0, 1.0),), normalize=normalize)
    reason = "Fewer than two classes have two examples, so nothing can be held out, and there are defaults for "
    if given.label_embeddings is None:
        settings["name_weight"] = 0.0
        reason += "shrinkage and temperature; there are no label names."
    else:
        trust = names_trust(given)
        settings["name_weight"] *= trust
        reason += (
            f"shrinkage, temperature and label names. That these tell the examples apart is likely to {trust:.2f}, so "
            f"that a name weighs as much as {settings['name_weight']:.2g} examples."
        )
    head = fit_head("named_lda", support, labels, **options, **settings)
    logits = head(support).double()
    others = (logits - logits.mean(-1, keepdim=True))[given.one_hot == 0]
    spread = DEFAULT_SPREADS["examples" if given.label_embeddings is None else "names"]
    scale = spread / max(float(others.square().mean().sqrt()), 1e-12)
    return HeadChoice(head.scaled(scale), "named_lda", settings, 1 / scale, reason)


def names_trust(support: SupportSet) -> float:
    """How likely it is that the label names tell the classes apart, judged by the supports: no head has to be fitted.

    Two to one before they are seen. Then by the likelihood of their labels given the names, with logits of root mean
    square 1, against guessing.
    """
    support = support.double()
    frame = Frame.of(support)
    names = label_directions(support.label_embeddings, frame)
    assert names is not None
    logits = support.shifted(frame.middle).features @ names.mT / frame.unit
    logits = logits - logits.mean(-1, keepdim=True)
    logits = logits / logits.square().mean().sqrt().clamp(min=1e-30)
    likelihoods = logits.log_softmax(-1).gather(-1, support.labels.unsqueeze(-1))
    gain = float(support.weights.double() @ likelihoods[:, 0]) + float(support.number) * math.log(support.num_classes)
    return float(torch.sigmoid(torch.tensor(gain + math.log(2))))


@dataclass(frozen=True)
class _Grid:
    """Every shrinkage with every name weight, each judged on the supports left out of it."""

    name_weights: tuple[float, ...]
    factors: list[float]
    """Of M at each shrinkage,"""
    metrics: list[tuple[Tensor, Tensor]]
    """and under it products and norms of the supports left out, ``(m, C)`` each."""
    scales: Tensor
    """Of each setting ``(S,)``, the shrinkages outside: the best factor on its logits,"""
    losses: Tensor
    """their mean negative log likelihood under it,"""
    accuracies: Tensor
    """and how many of them are right."""

    @classmethod
    def judged(cls, held_out: NamedHeldOut, labels: Tensor, weights: Tensor, name_weights: tuple[float, ...]) -> _Grid:
        factors = [float(held_out.scatter.spectrum.even(shrinkage)) for shrinkage in SHRINKAGES]
        metrics = [held_out.of_metric((pair,)) for pair in zip(SHRINKAGES, factors, strict=True)]
        all_names = torch.tensor(name_weights, dtype=torch.float64)[:, None, None]
        judged: list[tuple[Tensor, Tensor, Tensor]] = []
        for metric in metrics:
            # Float32 halves the time of the grid; the chosen setting's temperature is found in float64.
            logits = held_out.logits(metric, DEFAULTS["pseudo_count"], all_names).float()
            scale, loss = best_scale(logits, labels, weights, tolerance=1e-3)
            judged.append((scale, loss, (logits.argmax(-1) == labels).double() @ weights))
        scales, losses, accuracies = (torch.cat(parts).double() for parts in zip(*judged, strict=True))
        return cls(name_weights, factors, metrics, scales, losses, accuracies / float(weights.sum()))

    @property
    def settings(self) -> list[tuple[float, float]]:
        """Shrinkage and name weight of each."""
        return [(shrinkage, weight) for shrinkage in SHRINKAGES for weight in self.name_weights]

    def shares(self, given: SupportSet, number: float) -> Tensor:
        """What each setting counts ``(S,)``: by its likelihood on ``number`` supports left out, and beforehand."""
        freedom = float(given.number) - int((given.counts > 0).sum())
        shrunk = _PSEUDO_EXAMPLES / (_PSEUDO_EXAMPLES + freedom)
        trust = names_trust(given) if given.label_embeddings is not None else 0.0
        likely = torch.tensor([_surprise(*setting, shrunk, trust) for setting in self.settings], dtype=torch.float64)
        return torch.softmax(-_TRUST * number * self.losses - likely, 0)

    def average(self, shares: Tensor) -> tuple[list[float], float]:
        """What of each shrinkage, and which name weight, the average of the heads has.

        Heads are averaged at their own temperatures, and both enter their logits linearly.
        """
        amounts = (shares * self.scales).reshape(len(SHRINKAGES), len(self.name_weights))
        amounts = amounts / amounts.sum()
        return amounts.sum(1).tolist(), float(amounts.sum(0) @ torch.tensor(self.name_weights, dtype=amounts.dtype))


def _average(given: SupportSet, normalize: bool) -> HeadChoice:
    """ "named_lda" averaged over its settings by what is held out."""
    rows = _held_out_rows(given)
    held_out = NamedHeldOut.of(given, rows=rows)
    labels, weights = given.labels[rows], given.weights[rows].double()
    number = float(weights.sum())
    with_names = given.label_embeddings is not None
    grid = _Grid.judged(held_out, labels, weights, NAME_WEIGHTS if with_names else (0.0,))
    shares = grid.shares(given, number)
    parts, name_weight = grid.average(shares)
    pairs = tuple((one, factor * part) for one, factor, part in zip(SHRINKAGES, grid.factors, parts, strict=True))
    settings = {"shrinkage": pairs, "pseudo_count": DEFAULTS["pseudo_count"], "name_weight": name_weight}
    products, norms = (
        sum((part * metric[side] for part, metric in zip(parts, grid.metrics, strict=True)), torch.zeros(()))
        for side in (0, 1)
    )
    chosen = held_out.logits((products, norms), DEFAULTS["pseudo_count"], name_weight)
    scale, loss = map(float, best_scale(chosen, labels, weights))
    accuracy = float((chosen.argmax(-1) == labels).double() @ weights) / number
    table = [
        HeadTrial("named_lda", {"shrinkage": one, "pseudo_count": DEFAULTS["pseudo_count"], "name_weight": weight},
                  float(grid.losses[row]), float(grid.accuracies[row]), float(shares[row]))
        for row, (one, weight) in enumerate(grid.settings)
    ]  # fmt: skip
    table.append(HeadTrial("named_lda", {**settings, "normalize": normalize}, loss, accuracy, 1.0))
    used = f"a label name weighs as much as {name_weight:.2g} examples" if with_names else "no label names"
    shrinkage = sum(one * part for one, part in zip(SHRINKAGES, parts, strict=True))
    reason = (
        f"LDA averaged over {len(shares)} settings by leave-one-out likelihood: mean shrinkage {shrinkage:.2f}, "
        f"{used}; leave-one-out accuracy {accuracy:.3f} and loss {loss:.3f} on {len(labels)} examples."
    )
    logits = given.features.new_full((len(given.labels), given.num_classes), torch.nan)
    logits[rows] = (scale * chosen).to(logits.dtype)
    head = _head_of(given, held_out, settings).scaled(scale)
    return HeadChoice(head, "named_lda", table[-1].hyperparameters, 1 / scale, reason, tuple(table), logits)


def _head_of(given: SupportSet, held_out: NamedHeldOut, settings: dict[str, Any]) -> LinearHead:
    """The head of all supports, with the middle, unit and spectrum that are known from holding them out."""
    whole, frame = given.double().shifted(held_out.frame.middle), held_out.frame
    names = label_directions(whole.label_embeddings, frame)
    weight, bias = fitted(whole.means(), whole.counts, names, frame, held_out.scatter.spectrum, **settings)
    dtype = given.features.dtype
    return LinearHead(weight.to(dtype), bias.to(dtype), given.transform)


def _held_out_rows(support: SupportSet) -> Tensor:
    """Which supports are held out, one at a time: all that are not alone in their class, or a random part of them."""
    rows = (~support.alone).nonzero().flatten()
    most = max(HELD_OUT_LEAST, HELD_OUT_CELLS // support.num_classes)
    if len(rows) <= most:
        return rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most]
    return rows[drawn.sort().values.to(rows.device)]


def _surprise(shrinkage: float, name_weight: float, likely_shrinkage: float, trust: float) -> float:
    """Minus the log of what is likely before any head: lognormal; of the name weight a doubling is one deviation."""
    far = math.log2(shrinkage / likely_shrinkage) / _SHRINKAGE_DOUBLINGS
    if not name_weight:
        return 0.5 * far**2 - math.log(max(1 - trust, 1e-9))
    return 0.5 * (far**2 + math.log2(name_weight / _LIKELY_NAME_WEIGHT) ** 2) - math.log(max(trust, 1e-9))


def _best(name: str, support: Tensor, labels: Tensor, options: dict[str, Any]) -> HeadChoice:
    """The setting of an estimator's grid with the best held-out loss."""
    grid = ESTIMATORS[name].grid
    logits = [held_out_logits(name, support, labels, **options, **settings).double() for settings in grid]
    weights = torch.ones(len(labels)) if options["weights"] is None else options["weights"]
    weights = weights.double().to(labels.device)
    scales, losses = best_scale(torch.stack(logits), labels, weights)
    accuracies = [float((one.argmax(-1) == labels).double() @ weights / weights.sum()) for one in logits]
    best = int(losses.argmin())
    table = tuple(
        HeadTrial(name, settings, float(losses[row]), accuracies[row], float(row == best))
        for row, settings in enumerate(grid)
    )
    scale, settings = float(scales[best]), dict(grid[best])
    reason = (
        f"{name} with {settings or 'its defaults'} has the best held-out loss among the candidates: "
        f"{float(losses[best]):.3f}, accuracy {accuracies[best]:.3f}, on {len(labels)} examples."
    )
    head = fit_head(name, support, labels, **options, **settings).scaled(scale)
    return HeadChoice(head, name, settings, 1 / scale, reason, table, (scale * logits[best]).to(support.dtype))
