"""A frozen backbone with one LoRA at its largest ranks, any slice of which can be switched on."""

from __future__ import annotations

import copy
import math
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_fsl.search.errors import SearchError
from hf_fsl.search.space import Architecture, Site, Sites, check_fit, to_peft


class NestedSite(nn.Module):
    """A frozen layer plus ``scaling · B[:, :r] A[:r]``, with ``rank`` r to be set from outside.

    Args:
        base: the layer.
        rank: the largest one; A is ``(rank, fan_in)``, B ``(fan_out, rank)``.
    """

    def __init__(self, base: nn.Module, site: Site, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()
        self.base, self.scaling, self.rank, self.largest = base, scaling, rank, rank
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        device = next(base.parameters()).device
        self.lora_A = nn.Parameter(torch.empty(rank, site.fan_in, device=device))
        self.lora_B = nn.Parameter(torch.zeros(site.fan_out, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as PEFT does

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.base(inputs)
        if self.rank == 0:
            return output
        down, up = self.lora_A[: self.rank], self.lora_B[:, : self.rank]
        given = self.dropout(inputs).to(down.dtype)
        if isinstance(self.base, nn.Conv2d):
            kernel = down.view(self.rank, self.base.in_channels, *self.base.kernel_size)
            inner = F.conv2d(given, kernel, None, self.base.stride, self.base.padding)
            update = F.conv2d(inner, up[:, :, None, None])
        else:
            update = F.linear(F.linear(given, down), up)
        return (output + update * self.scaling).to(output.dtype)


class Supernet:
    """The super-adapter of a search. Only LoRA is nested.

    Args:
        model: a classifier; it is copied and stays as it is.
        largest: the ranks to train; members are all architectures with no rank above these, and the same scaling.
        dropout: of the update's input, while training.

    Raises:
        SearchError: ``largest`` is not LoRA, or does not fit the model.
    """

    def __init__(self, model: nn.Module, sites: Sites, largest: Architecture) -> None:
        if largest.method not in ("lora", "none"):
            raise SearchError(f"Only lora can be nested, not {largest.method}: slices of it are no adapters.")
        check_fit(largest, sites)
        self.model, self.sites, self.largest = copy.deepcopy(model), sites, largest
        self.model.requires_grad_(False)
        self.nested: dict[str, NestedSite] = {}
        for site in sites.sites:
            rank = largest.rank_of(site)
            if rank:
                base = self.model.get_submodule(site.name)
                self.nested[site.name] = NestedSite(base, site, rank, largest.scaling, largest.dropout)
                self.model.set_submodule(site.name, self.nested[site.name])
        for part in sites.head:
            self.model.get_submodule(part).requires_grad_(True)
        self.active = largest

    def activate(self, architecture: Architecture) -> None:
        """Makes the model that member: every pass after this is its own.

        Raises:
            SearchError: it is no member of this supernet.
        """
        if architecture.method not in ("lora", "none"):
            raise SearchError(f"{architecture.method} is no member of a supernet of lora.")
        check_fit(architecture, self.sites)
        if architecture.method == "lora" and architecture.scaling != self.largest.scaling:
            raise SearchError(
                f"The supernet was trained with scaling {self.largest.scaling}; a member with {architecture.scaling} "
                "would be another adapter."
            )
        above = [s.name for s in self.sites.sites if architecture.rank_of(s) > self.largest.rank_of(s)]
        if above:
            raise SearchError(f"Ranks above those of the supernet at {', '.join(above[:3])}.")
        for site in self.sites.sites:
            if site.name in self.nested:
                self.nested[site.name].rank = architecture.rank_of(site)
        self.active = architecture

    def logits(self, architecture: Architecture, inputs: dict[str, Tensor]) -> Tensor:
        """Logits ``(N, C)`` of a member."""
        self.activate(architecture)
        return self.model(**inputs).logits

    def export(self, architecture: Architecture, model: nn.Module) -> peft.PeftModel:
        """The member as a standard PEFT model, head included, which ``save_pretrained`` and merging know.

        Args:
            model: the classifier that the supernet was built from, or one equal to it; changed in place.

        Raises:
            SearchError: no member, or one without an adapter.
        """
        self.activate(architecture)
        adapted: Any = peft.get_peft_model(model, to_peft(architecture, self.sites))
        body = adapted.base_model.model
        with torch.no_grad():
            for site in self.sites.sites:
                rank = architecture.rank_of(site)
                if rank:
                    layer, nested = body.get_submodule(site.name), self.nested[site.name]
                    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                    down.copy_(nested.lora_A[:rank].view_as(down))
                    up.copy_(nested.lora_B[:, :rank].reshape(up.shape))
            for part in self.sites.head:
                trained = self.model.get_submodule(part).state_dict()
                body.get_submodule(part).modules_to_save["default"].load_state_dict(trained)
        return adapted.eval()

    def state(self) -> dict[str, Tensor]:
        """Copies of all that is trained, by its name in the model."""
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Puts what :meth:`state` gave back."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in state:
                    parameter.copy_(state[name])
