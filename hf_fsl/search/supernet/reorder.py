"""Each site's update in the order of its singular values: a prefix is the best approximation of its rank."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_fsl.search.supernet.nested import Supernet


def reorder(supernet: Supernet) -> dict[str, Tensor]:
    """Rewrites every site's B·A, unchanged as a product, as (U√Σ)·(√Σ Vᵀ).

    Its slice of rank r is then the nearest matrix of that rank, at a squared distance of Σ_{i>r} σ_i² (Eckart and
    Young 1936). Done after training: the moments of an optimiser would no longer fit.

    Returns:
        Singular values ``(rank,)`` of each site's B·A.
    """
    values = {}
    with torch.no_grad():
        for name, site in supernet.nested.items():
            left, singular, right = low_rank_svd(site.lora_B.double(), site.lora_A.double())
            root = singular.sqrt()
            site.lora_B.copy_(left * root)
            site.lora_A.copy_(root[:, None] * right)
            values[name] = singular
    return values


def low_rank_svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of ``up @ down`` without forming it.

    Args:
        up: ``(m, r)``, down: ``(r, n)``, r at most m and n.

    Returns:
        U ``(m, r)``, Σ ``(r,)`` descending, Vᵀ ``(r, n)``.
    """
    rank = up.shape[1]
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    inner_left, singular, inner_right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    u, s, v = left @ inner_left, singular, inner_right @ right.T
    short = rank - len(s)
    if short:  # a rank above the matrix's own: the rest is zero
        u = torch.cat([u, u.new_zeros(len(u), short)], 1)
        s = torch.cat([s, s.new_zeros(short)])
        v = torch.cat([v, v.new_zeros(short, v.shape[1])])
    return u, s, v
