"""Logits of a whole split, in its own order, over any number of processes."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters.gradients import evaluating
from hf_fsl.training.batches import EvaluationBatches


def predict_logits(
    model: nn.Module, split: EncodedSplit, accelerator: Accelerator, batch_size: int = 64, label: str | None = None
) -> np.ndarray:
    """Runs the model over a split, sorted by length.

    Args:
        model: gives ``.logits``; may be prepared by the accelerator or not; its mode is restored.
        label: shows a progress bar of that name.

    Returns:
        Logits ``(N, C)``, float32, row i of example i, the same on every process.
    """
    batches = EvaluationBatches(len(split), batch_size, split.lengths)
    # num_workers stays 0: everything is encoded already.
    loader = accelerator.prepare_data_loader(
        DataLoader(split, batch_sampler=batches, collate_fn=split.collate, generator=torch.Generator())
    )
    logits: list[torch.Tensor] = []
    order: list[torch.Tensor] = []
    hidden = label is None or not accelerator.is_main_process
    bar = tqdm(total=len(split), desc=label, unit="ex", disable=hidden, leave=False)
    with evaluating(model), torch.no_grad(), bar:
        for batch in loader:
            index = batch.pop("index")
            batch.pop("labels", None)
            rows, index = accelerator.gather_for_metrics((model(**batch).logits.float(), index))
            logits.append(rows.cpu())
            order.append(index.cpu())
            bar.update(len(index))
    joined, positions = torch.cat(logits), torch.cat(order)
    result = torch.empty_like(joined)
    result[positions] = joined
    return result.numpy()
