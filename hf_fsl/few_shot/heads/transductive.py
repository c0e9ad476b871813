"""Transductive refinement: heads sharpened with the unlabeled queries that they are to classify, on request only.

All three work on unit-length features in the head's transform, start from the class means of the supports, and return
a ``LinearHead`` in that transform; everything may be batched over leading dimensions ``...`` (episodes). Soft k-means
and BD-CSPN lean towards classes of equal size, and can lose accuracy where the queries are unbalanced; α-TIM was made
for that case. Defaults were settled on the validation splits of supersense and emoji, the base classes of emoji and
the training split of digits (5-way, one shot, balanced and Dirichlet-unbalanced), never on test splits.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from hf_fsl.few_shot.heads.support import HeadError
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import FeatureTransform, LinearHead


def soft_k_means(
    head: LinearHead | CacheHead,
    support: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    scale: float = 10.0,
    steps: int = 3,
) -> LinearHead:
    """Means of the supports and of the queries, each query counted by its class probabilities (Ren et al. 2018,
    arXiv:1803.00676): ``p ∝ exp(−scale ‖z − μ_c‖²)``, ``μ_c = (Σ_support z + Σ_queries p_c z) / (n_c + Σ p_c)``.

    Args:
        head: gives the transform and the number of classes.
        support: ``(..., n, D)``.
        labels: ``(..., n)``.
        queries: ``(..., Q, D)``, unlabeled.
        scale: inverse temperature of the assignment.
        steps: times that assignment and means are computed.

    Returns:
        A head in the same transform, with unit length.

    Raises:
        HeadError: shapes that do not fit, a class without supports, or values that are not finite.
    """
    transform, known, targets, unknown = _read(head, support, labels, queries)
    sums, counts = targets.mT @ known, targets.sum(-2).unsqueeze(-1)
    means = sums / counts
    for _ in range(steps):
        shares = (scale * _closeness(unknown, means)).softmax(-1)
        means = (sums + shares.mT @ unknown) / (counts + shares.sum(-2).unsqueeze(-1))
    return LinearHead(2 * scale * means, -scale * means.square().sum(-1), transform)


def bd_cspn(
    head: LinearHead | CacheHead,
    support: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    sharpness: float = 1.0,
    scale: float = 10.0,
) -> LinearHead:
    """Rectified prototypes (Liu, Song and Qin 2020, arXiv:1911.10713).

    Queries are shifted by the difference of the two sets' means, labelled by the nearest prototype by angle, and join
    the supports of that class in a mean weighted by ``exp(sharpness · cos(z, prototype))``. The logits are ``scale``
    times the products of shifted queries with the unit prototypes, which order the classes as their cosines do.

    Args:
        head: this and the next three as for ``soft_k_means``.
        support: ``(..., n, D)``.
        labels: ``(..., n)``.
        queries: ``(..., Q, D)``.
        sharpness: ε of the paper, which has 10 for features whose cosines are near 1. With embeddings whose cosines
            are small that leaves the supports, whose own is 1, nearly alone.
        scale: of the logits.

    Returns:
        A head in the same transform, with unit length.

    Raises:
        HeadError: shapes that do not fit, a class without supports, or values that are not finite.
    """
    transform, known, targets, unknown = _read(head, support, labels, queries)
    shift = known.mean(-2, keepdim=True) - unknown.mean(-2, keepdim=True)
    moved = unknown + shift
    first = normalize(targets.mT @ known, dim=-1)
    guessed = one_hot((moved @ first.mT).argmax(-1), head.num_classes).to(known.dtype)
    members, belongs = torch.cat([known, moved], -2), torch.cat([targets, guessed], -2)
    weights = belongs * (sharpness * normalize(members, dim=-1) @ first.mT).exp()
    prototypes = normalize(weights.mT @ members, dim=-1)
    return LinearHead(scale * prototypes, scale * (prototypes @ shift.mT).squeeze(-1), transform)


def alpha_tim(
    head: LinearHead | CacheHead,
    support: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    alpha: float = 2.0,
    temperature: float = 8.0,
    steps: int = 50,
    learning_rate: float = 1e-2,
) -> LinearHead:
    """Prototypes trained on the supports and on α-mutual information of the queries (Veilleux et al. 2021,
    arXiv:2106.11984).

    Minimises cross-entropy of the supports less H_α of the queries' mean prediction plus the mean H_α of their
    predictions, by Adam over the prototypes; ``H_α(p) = (1 − Σ p^α) / (α − 1)`` pulls less towards classes of equal
    size the larger α is (α → 1 is TIM, Boudiaf et al. 2020). ``p ∝ exp(−temperature/2 ‖z − w_c‖²)``.

    Args:
        head: this and the next three as for ``soft_k_means``.
        support: ``(..., n, D)``.
        labels: ``(..., n)``.
        queries: ``(..., Q, D)``.
        alpha: above 1.
        temperature: τ of the paper, which has 15, with 1000 steps at 1e-4.
        steps: of Adam.
        learning_rate: of Adam.

    Returns:
        A head in the same transform, with unit length.

    Raises:
        HeadError: as soft_k_means, or α not above 1.
    """
    if not alpha > 1:
        raise HeadError(f"alpha is above 1, not {alpha}.")
    transform, known, targets, unknown = _read(head, support, labels, queries)
    counts = targets.sum(-2).unsqueeze(-1)
    with torch.enable_grad():
        prototypes = ((targets.mT @ known) / counts).detach().requires_grad_()
        optimizer = torch.optim.Adam([prototypes], lr=learning_rate)
        for _ in range(steps):
            loss = alpha_tim_loss(prototypes, known, targets, unknown, alpha, temperature)
            # A sum over episodes: the gradient of each is its own, and Adam treats every number by itself.
            (prototypes.grad,) = torch.autograd.grad(loss.sum(), [prototypes])
            optimizer.step()
    final = prototypes.detach()
    return LinearHead(temperature * final, -temperature / 2 * final.square().sum(-1), transform)


def alpha_tim_loss(
    prototypes: Tensor, known: Tensor, targets: Tensor, unknown: Tensor, alpha: float, temperature: float
) -> Tensor:
    """The loss ``(...)`` of prototypes ``(..., C, D)``, supports and one-hot targets, and queries."""
    of_known = (temperature / 2 * _closeness(known, prototypes)).log_softmax(-1)
    of_unknown = (temperature / 2 * _closeness(unknown, prototypes)).softmax(-1)
    fit = -(targets * of_known).sum(-1).mean(-1)
    spread = (1 - of_unknown.mean(-2).pow(alpha).sum(-1)) / (alpha - 1)
    doubt = ((1 - of_unknown.pow(alpha).sum(-1)) / (alpha - 1)).mean(-1)
    return fit - spread + doubt


def _closeness(features: Tensor, means: Tensor) -> Tensor:
    """``−‖z − μ_c‖²`` less ``−‖z‖²``."""
    return 2 * features @ means.mT - means.square().sum(-1).unsqueeze(-2)


def _read(
    head: LinearHead | CacheHead, support: Tensor, labels: Tensor, queries: Tensor
) -> tuple[FeatureTransform, Tensor, Tensor, Tensor]:
    """The transform with unit length, supports in it, their one-hot labels, and queries in it."""
    if labels.shape != support.shape[:-1] or queries.shape[-1] != support.shape[-1] or queries.shape[-2] == 0:
        raise HeadError(
            "Supports (..., n, D), labels (..., n) and at least one query (..., Q, D) go together; got "
            f"{tuple(support.shape)}, {tuple(labels.shape)} and {tuple(queries.shape)}."
        )
    if not bool(support.isfinite().all() and queries.isfinite().all()):
        raise HeadError("Supports and queries must be finite, got NaN or infinite values; one spoils all the others.")
    transform = replace(head.transform, normalize=True)
    known = transform(support)
    targets = one_hot(labels, head.num_classes).to(known.dtype)
    empty = (targets.sum(-2) == 0).reshape(-1, head.num_classes).any(0).nonzero().flatten().tolist()
    if empty:
        raise HeadError(
            f"Refinement starts from the class means; class {empty[0]} of {head.num_classes} has no support. Give it "
            "one, or use the head as it is."
        )
    return transform, known, targets, transform(queries)
