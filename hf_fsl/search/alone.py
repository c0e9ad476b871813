"""One architecture trained alone: what its supernet slice is audited against, and what is handed out in the end."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.adapters import attach_adapter, evaluating
from hf_fsl.config import TrainingConfig
from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.losses import ClassificationLoss
from hf_fsl.search.data import SearchData, Split, make_batch
from hf_fsl.search.errors import SearchError
from hf_fsl.search.meter import Meter
from hf_fsl.search.space import Architecture, Sites, to_adapter_config
from hf_fsl.search.supernet.head import fit_head_alone
from hf_fsl.search.supernet.sandwich import training_config
from hf_fsl.training import Progress, make_accelerator, train
from hf_fsl.training.update import Batch, Update


@dataclass(frozen=True)
class TrainedAlone:
    """A trained architecture.

    Attributes:
        model: the adapted model (a ``peft.PeftModel``, or the classifier itself without an adapter).
        validation_losses: log-loss of each validation example, in the split's order.
    """

    architecture: Architecture
    seed: int
    model: nn.Module
    validation_losses: np.ndarray
    progress: Progress

    @property
    def validation_loss(self) -> float:
        return float(self.validation_losses.mean())


def train_alone(
    model: nn.Module,
    data: SearchData,
    sites: Sites,
    architecture: Architecture,
    config: SupernetConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    accelerator: Accelerator | None = None,
    meter: Meter | None = None,
    about: Mapping[str, Any] | None = None,
) -> TrainedAlone:
    """Trains an architecture of any method from a new head and a new adapter, stopped early on its validation loss.

    Learning rate, steps, scaling and dropout are the architecture's; batch sizes, how often it is validated and with
    what patience, and the steps of the head alone are those of ``config``, as in the supernet.

    Args:
        model: a classifier; it stays as it is.
        seed: of the head, the adapter, dropout and the order of the examples.
        folder: for checkpoints, from which training goes on if it was interrupted; None: it starts anew.
        about: what the search is about: checkpoints of another are refused.

    Raises:
        SearchError: the architecture's loss is another one than cross-entropy.
    """
    if architecture.loss != "cross_entropy":
        raise SearchError(f"train_alone trains with cross_entropy, not {architecture.loss}.")
    accelerator = accelerator or make_accelerator()
    torch.manual_seed(seed)
    adapted = copy.deepcopy(model).to(accelerator.device)
    renew_head(adapted, sites.head, seed)
    if config.head_steps:
        fit_head_alone(adapted, sites, data.train, config, seed, meter)
    adapted = attach_adapter(adapted, to_adapter_config(architecture, sites), sites.head)
    settings = training_config(config, folder is not None, architecture.steps, architecture.learning_rate)
    none = Architecture.uniform(0, len(sites.layers))

    def evaluate(current: nn.Module) -> dict[str, float]:
        return {"loss": float(example_losses(current, data.validation, settings, sites, architecture, meter).mean())}

    with tempfile.TemporaryDirectory() as temporary:
        progress = train(
            adapted,
            data.train,
            settings,
            accelerator,
            lambda wrapped, optimizer: _MeteredUpdate(
                wrapped, optimizer, ClassificationLoss(), accelerator, settings, sites, architecture, meter
            ),
            seed=seed,
            folder=folder or Path(temporary),
            head=sites.head,
            evaluate=evaluate,
            identity={**(about or {}), "architecture": architecture.to_dict()},
            progress_bar=False,
        )
    losses = example_losses(adapted, data.validation, settings, sites, none, None)
    return TrainedAlone(architecture, seed, adapted, losses, progress)


def predict(model: nn.Module, split: Split, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` and labels ``(N,)`` of a split, in its order."""
    return _predict(model, split, batch_size)


def example_losses(
    model: nn.Module,
    split: Split,
    settings: TrainingConfig,
    sites: Sites,
    architecture: Architecture,
    meter: Meter | None,
) -> np.ndarray:
    """Log-loss of each example ``(N,)``, in the split's order."""
    logits, labels = _predict(model, split, settings.per_device_eval_batch_size, sites, architecture, meter)
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy()


def renew_head(model: nn.Module, head: Sequence[str], seed: int) -> None:
    """New random weights in the head, spread as its present ones; biases zero. In place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in head:
            for parameter in model.get_submodule(part).parameters():
                if parameter.ndim > 1:
                    spread = float(parameter.std())
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
                elif not bool((parameter == 1).all()):  # the weight of a norm stays
                    parameter.zero_()


class _MeteredUpdate(Update):
    """A step that counts what it costs."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: ClassificationLoss,
        accelerator: Accelerator,
        config: TrainingConfig,
        sites: Sites,
        architecture: Architecture,
        meter: Meter | None,
    ) -> None:
        super().__init__(model, optimizer, loss, accelerator, config)
        self.sites, self.architecture, self.meter = sites, architecture, meter

    def backward(self, group: Sequence[Batch]) -> Tensor:
        if self.meter is not None:
            for piece in self.cut_up(group):
                inputs = {name: value for name, value in piece.items() if name not in ("labels", "index")}
                self.meter.forward(inputs, self.architecture, self.sites)
                self.meter.backward(inputs, self.architecture, self.sites)
            self.meter.gradient_steps += 1
        return super().backward(group)


def _predict(
    model: nn.Module,
    split: Split,
    batch_size: int,
    sites: Sites | None = None,
    architecture: Architecture | None = None,
    meter: Meter | None = None,
) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    order = np.argsort(-np.asarray(split.lengths), kind="stable") if split.lengths else np.arange(len(split))
    logits, labels = [], []
    with evaluating(model), torch.no_grad():
        for start in range(0, len(split), batch_size):
            inputs, truth = make_batch(split, order[start : start + batch_size].tolist(), device)
            logits.append(model(**inputs).logits.float().cpu())
            labels.append(truth.cpu())
            if meter is not None and sites is not None and architecture is not None:
                meter.forward(inputs, architecture, sites)
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return torch.cat(logits)[back], torch.cat(labels)[back]
