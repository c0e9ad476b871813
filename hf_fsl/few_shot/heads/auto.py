"""``head="auto"``: what a support set itself says about estimator, shrinkage, names and temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_fsl.core.renamed import renamed_arguments
from hf_fsl.few_shot.heads.estimator import HeadChoice, HeadTrial
from hf_fsl.few_shot.heads.estimators import ESTIMATORS, fit_head, held_out_logits
from hf_fsl.few_shot.heads.lda import SHRINKAGES
from hf_fsl.few_shot.heads.named_lda import Frame, NamedHeldOut, fitted, label_directions
from hf_fsl.few_shot.heads.support import HeadError, Support, read_support, require_every_class
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

    Raises:
        HeadError: a support set that cannot be used, an unknown candidate, or candidates other than "named_lda" where
            a class has fewer than two examples.
    """
    names = tuple(candidates) if candidates is not None else ("named_lda",)
    if not names or not set(names) <= ESTIMATORS.keys():
        raise HeadError(f"Candidates are among {', '.join(ESTIMATORS)}; got {', '.join(names) or 'none'}.")
    read = read_support(
        support,
        labels,
        num_classes=num_classes,
        label_embeddings=label_embeddings,
        weights=weights,
        normalize=normalize,
    )
    if support.ndim != 2:
        raise HeadError(f"A head is chosen for one support set (n, D); got {tuple(support.shape)}.")
    if label_embeddings is None:
        require_every_class(read, "auto")
    common = {"num_classes": read.num_classes, "label_embeddings": label_embeddings, "weights": weights}
    if len(support) == 0:
        return _zero_shot(support, labels, normalize, common)
    if int((read.members >= 2).sum()) < 2 and "named_lda" in names:
        return _default(support, labels, read, normalize, common)
    choices = [_named(support, labels, read, normalize)] if "named_lda" in names else []
    choices += [
        _best(name, support, labels, {**common, "base_mean": base_mean}) for name in names if name != "named_lda"
    ]
    best = min(choices, key=lambda choice: min(trial.loss for trial in choice.table if trial.weight > 0))
    table = tuple(trial for choice in choices for trial in choice.table)
    return HeadChoice(
        best.head, best.estimator, best.hyperparameters, best.temperature, best.reason, table, best.held_out_logits
    )


def _zero_shot(support: Tensor, labels: Tensor, normalize: bool, common: dict[str, Any]) -> HeadChoice:
    settings: dict[str, Any] = {"strength": 1.0}
    head = fit_head("anchored", support, labels, **common, **settings, normalize=normalize)
    # Without unit length, products are cosines times the inputs' lengths, for which the label embeddings' stand in.
    length = 1.0 if normalize else float(common["label_embeddings"].norm(dim=-1).mean().clamp(min=1e-12))
    scale = ZERO_SHOT_SCALE / length
    settings["normalize"] = normalize
    return HeadChoice(
        head.scaled(scale),
        "anchored",
        settings,
        1 / scale,
        "There are no examples: the label names are the classifier.",
    )


def _default(support: Tensor, labels: Tensor, read: Support, normalize: bool, common: dict[str, Any]) -> HeadChoice:
    settings = dict(DEFAULTS, shrinkage=((1.0, 1.0),), normalize=normalize)
    reason = "Fewer than two classes have two examples, so nothing can be held out, and there are defaults for "
    if read.label_embeddings is None:
        settings["name_weight"] = 0.0
        reason += "shrinkage and temperature; there are no label names."
    else:
        trust = names_trust(read)
        settings["name_weight"] *= trust
        reason += (
            f"shrinkage, temperature and label names. That these tell the examples apart is likely to {trust:.2f}, so "
            f"that a name weighs as much as {settings['name_weight']:.2g} examples."
        )
    head = fit_head("named_lda", support, labels, **common, **settings)
    logits = head(support).double()
    others = (logits - logits.mean(-1, keepdim=True))[read.one_hot == 0]
    spread = DEFAULT_SPREADS["examples" if read.label_embeddings is None else "names"]
    scale = spread / max(float(others.square().mean().sqrt()), 1e-12)
    return HeadChoice(head.scaled(scale), "named_lda", settings, 1 / scale, reason)


def names_trust(support: Support) -> float:
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


def _named(support: Tensor, labels: Tensor, read: Support, normalize: bool) -> HeadChoice:
    rows = _held_out_rows(read)
    held_out = NamedHeldOut.of(read, rows=rows)
    own, each = labels[rows], read.weights[rows].double()
    names = NAME_WEIGHTS if read.label_embeddings is not None else (0.0,)
    pseudo_count = DEFAULTS["pseudo_count"]
    factors = [float(held_out.scatter.spectrum.even(shrinkage)) for shrinkage in SHRINKAGES]
    metrics = [held_out.of_metric(((one, factor),)) for one, factor in zip(SHRINKAGES, factors, strict=True)]
    all_names = torch.tensor(names, dtype=torch.float64)[:, None, None]
    grid = [(shrinkage, weight) for shrinkage in SHRINKAGES for weight in names]
    judged: list[tuple[Tensor, Tensor, Tensor]] = []
    for metric in metrics:
        # Float32 halves the time of the grid; the chosen setting's temperature is found in float64.
        logits = held_out.logits(metric, pseudo_count, all_names).float()
        judged.append((*best_scale(logits, own, each, tolerance=1e-3), (logits.argmax(-1) == own).double() @ each))
    scales, losses, accuracies = (torch.cat(parts).double() for parts in zip(*judged, strict=True))
    number = float(each.sum())
    accuracies = accuracies / number
    shrunk = _PSEUDO_EXAMPLES / (_PSEUDO_EXAMPLES + float(read.number) - int((read.counts > 0).sum()))
    trust = names_trust(read) if read.label_embeddings is not None else 0.0
    likely = torch.tensor([_surprise(*one, shrunk, trust) for one in grid], dtype=losses.dtype)
    shares = torch.softmax(-_TRUST * number * losses - likely, 0)
    amounts = (shares * scales).reshape(len(SHRINKAGES), len(names))
    amounts = amounts / amounts.sum()
    parts = amounts.sum(1).tolist()
    pairs = tuple((one, factor * part) for one, factor, part in zip(SHRINKAGES, factors, parts, strict=True))
    name_weight = float(amounts.sum(0) @ torch.tensor(names, dtype=amounts.dtype))
    settings = {"shrinkage": pairs, "pseudo_count": pseudo_count, "name_weight": name_weight}
    products, norms = (
        sum((part * metric[side] for part, metric in zip(parts, metrics, strict=True)), torch.zeros(()))
        for side in (0, 1)
    )
    chosen = held_out.logits((products, norms), pseudo_count, name_weight)
    scale, loss = best_scale(chosen, own, each)
    whole = read.double().shifted(held_out.frame.middle)
    matrix, bias = fitted(
        whole.means(),
        whole.counts,
        label_directions(whole.label_embeddings, held_out.frame),
        held_out.frame,
        held_out.scatter.spectrum,
        **settings,
    )
    head = LinearHead(matrix.to(support.dtype), bias.to(support.dtype), read.transform)
    table = [
        HeadTrial(
            "named_lda",
            {"shrinkage": one, "pseudo_count": pseudo_count, "name_weight": weight},
            float(losses[i]),
            float(accuracies[i]),
            float(shares[i]),
        )
        for i, (one, weight) in enumerate(grid)
    ]
    settings["normalize"] = normalize
    accuracy = float((chosen.argmax(-1) == own).double() @ each) / number
    table.append(HeadTrial("named_lda", settings, float(loss), accuracy, 1.0))
    used = (
        f"a label name weighs as much as {name_weight:.2g} examples"
        if read.label_embeddings is not None
        else "no label names"
    )
    spread = sum(one * part for one, part in zip(SHRINKAGES, parts, strict=True))
    reason = (
        f"LDA averaged over {len(grid)} settings by leave-one-out likelihood: mean shrinkage {spread:.2f}, {used}; "
        f"leave-one-out accuracy {accuracy:.3f} and loss {float(loss):.3f} on {len(own)} examples."
    )
    logits = support.new_full((len(labels), read.num_classes), torch.nan)
    logits[rows] = (float(scale) * chosen).to(support.dtype)
    return HeadChoice(head.scaled(float(scale)), "named_lda", settings, 1 / float(scale), reason, tuple(table), logits)


def _held_out_rows(support: Support) -> Tensor:
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


def _best(name: str, support: Tensor, labels: Tensor, common: dict[str, Any]) -> HeadChoice:
    grid = ESTIMATORS[name].grid
    rows = [held_out_logits(name, support, labels, **common, **settings).double() for settings in grid]
    each = torch.ones(len(labels)) if common["weights"] is None else common["weights"]
    each = each.double().to(labels.device)
    scales, losses = best_scale(torch.stack(rows), labels, each)
    accuracies = [float((one.argmax(-1) == labels).double() @ each / each.sum()) for one in rows]
    best = int(losses.argmin())
    table = tuple(
        HeadTrial(name, settings, float(losses[i]), accuracies[i], float(i == best)) for i, settings in enumerate(grid)
    )
    scale, settings = float(scales[best]), dict(grid[best])
    head = fit_head(name, support, labels, **common, **settings)
    reason = (
        f"{name} with {settings or 'its defaults'} has the best held-out loss among the candidates: "
        f"{float(losses[best]):.3f}, accuracy {accuracies[best]:.3f}, on {len(labels)} examples."
    )
    return HeadChoice(
        head.scaled(scale), name, settings, 1 / scale, reason, table, (scale * rows[best]).to(support.dtype)
    )
