"""One batch on several processes: each embeds its share, all have the whole batch's loss and gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn


def gathered(embed: Callable[[Sequence[int]], Tensor], rows: Sequence[int], accelerator: Accelerator | None) -> Tensor:
    """Embeddings ``(B, D)`` of ``rows``, which are the same on every process; with gradients for the own share."""
    if accelerator is None or accelerator.num_processes == 1:
        return embed(rows)
    processes, index = accelerator.num_processes, accelerator.process_index
    size = -(-len(rows) // processes)
    # A process that has no row of its own still takes part, with one that is not counted.
    own = embed(rows[index::processes] or rows[:1])
    share = own.new_zeros(size, own.shape[1])
    share[: len(own)] = own.detach()
    everyone = accelerator.gather(share).view(processes, size, -1)
    whole = everyone.transpose(0, 1).flatten(0, 1)[: len(rows)]
    positions = torch.arange(index, len(rows), processes, device=whole.device)
    return whole.index_put((positions,), own[: len(positions)])


def summed_gradients(trained: Sequence[nn.Parameter], accelerator: Accelerator | None) -> None:
    """Adds up over the processes what each knows of the gradient."""
    if accelerator is None or accelerator.num_processes == 1:
        return
    for parameter in trained:
        own = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        parameter.grad = accelerator.reduce(own, "sum")
