"""One optimiser step on a contrastive batch of any size: gradients cached, negatives of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hf_fsl.config.sections import TrainingConfig
from hf_fsl.contrastive.losses import ContrastiveLoss, true_pairs
from hf_fsl.contrastive.towers import LARGEST_SCALE, Embedded
from hf_fsl.core.errors import UserError
from hf_fsl.training.update import Batch, Step, cut

BOOKKEEPING = ("index", "text", "captions")
"""What a batch holds beside the model's inputs."""


class ContrastiveUpdate(Step):
    """The batches of a group, on all processes, are one batch of the loss (gradient caching, Gao et al. 2021).

    Each batch is embedded without a graph; the loss of all embeddings gives the gradient of each; then batch after
    batch is embedded again, with the same dropout, and that gradient sent back through it. Memory is that of one
    batch, the result that of one large batch. A group of one batch is embedded once.
    """

    def __init__(
        self, model: nn.Module, optimizer: Any, loss: ContrastiveLoss, accelerator: Accelerator, config: TrainingConfig
    ) -> None:
        super().__init__(model, optimizer, accelerator, config)
        self.loss = loss
        whole: Any = accelerator.unwrap_model(model)
        self.scale = whole.model.logit_scale

    def __call__(self, group: Sequence[Batch]) -> tuple[Tensor, Tensor | None, int]:
        result = super().__call__(group)
        if self.loss.name == "clip":
            with torch.no_grad():
                self.scale.clamp_(max=LARGEST_SCALE)
        return result

    def backward(self, group: Sequence[Batch]) -> Tensor:
        chunks = [piece for batch in group for piece in cut(batch, self.pieces)]
        inputs = [{name: value for name, value in chunk.items() if name not in BOOKKEEPING} for chunk in chunks]
        states: list[tuple[Tensor, Tensor | None]] = []
        embedded: list[Embedded] = []
        with torch.no_grad() if len(chunks) > 1 else nullcontext():
            for chunk in inputs:
                states.append(self._random_state())
                embedded.append(self.model(**chunk))
        after = self._random_state()
        value, image_gradients, text_gradients, scale_gradient, bias_gradient = self._gradients(embedded, chunks)
        for number, chunk in enumerate(inputs):
            last = number == len(inputs) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                if len(inputs) > 1:
                    self._set_random_state(states[number])
                    out = self.model(**chunk)
                else:
                    out = embedded[0]
                carried = (out.images.float() * image_gradients[number]).sum()
                carried = carried + (out.texts.float() * text_gradients[number]).sum()
                if last:
                    carried = carried + out.scale * scale_gradient
                    if out.bias is not None:
                        carried = carried + out.bias * bias_gradient
                self.accelerator.backward(carried)
        self._set_random_state(after)
        return value

    def _gradients(
        self, embedded: Sequence[Embedded], chunks: Sequence[Batch]
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor, Tensor | float]:
        """The loss over all processes, and its gradient by each chunk's images and texts, by scale and by bias."""
        sizes = [len(chunk["text"]) for chunk in chunks]
        own = sum(sizes)
        gather: Any = self.accelerator.gather
        images = gather(torch.cat([one.images.detach().float() for one in embedded])).requires_grad_()
        texts = gather(torch.cat([one.texts.detach().float() for one in embedded])).requires_grad_()
        if len(images) < 2:
            raise UserError(
                "A contrastive batch needs at least 2 pairs, or a picture has no other caption to be told from; this "
                "one has 1. Choose training.per_device_train_batch_size so that no single example is left over at "
                "the end of an epoch."
            )
        positives = true_pairs(
            gather(torch.cat([chunk["captions"] for chunk in chunks])),
            gather(torch.cat([chunk["text"] for chunk in chunks])),
        )
        scale = embedded[0].scale.detach().float().requires_grad_()
        bias = embedded[0].bias.detach().float().requires_grad_() if embedded[0].bias is not None else None
        with torch.enable_grad():
            value = self.loss(images, texts, scale, bias, positives)
        wanted = [images, texts, scale] + ([bias] if bias is not None and self.loss.name == "siglip" else [])
        gradients = torch.autograd.grad(value, wanted)
        # Of its own embeddings each process knows the whole gradient; what averages over processes would divide it.
        start, processes = own * self.accelerator.process_index, self.accelerator.num_processes
        mine = [(gradient[start : start + own] * processes).split(sizes) for gradient in gradients[:2]]
        return value.detach(), mine[0], mine[1], gradients[2], gradients[3] if len(gradients) > 3 else 0.0

    def _random_state(self) -> tuple[Tensor, Tensor | None]:
        cuda = self.accelerator.device.type == "cuda"
        return torch.get_rng_state(), torch.cuda.get_rng_state(self.accelerator.device) if cuda else None

    def _set_random_state(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.accelerator.device)
