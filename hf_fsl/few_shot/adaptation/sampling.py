"""Class, then example: the batches of a metric loss, without a list of pairs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hf_fsl.core.errors import UserError


class AdaptationError(UserError, ValueError):
    """Examples, an adapter or settings that a backbone cannot be adapted with."""


class ClassBatches:
    """Endless batches of rows: classes are drawn, then examples of each. Memory is O(n).

    Classes, and the examples of a class, are dealt like cards: none comes again before all have come.

    Args:
        labels: ``(n,)``, integers.
        batch_size: rows a batch, at most.
        examples_per_class: of each class drawn. With fewer classes than batch_size / examples_per_class, each class
            gives more; a class that has fewer gives what it has.
        seed: of the order.

    Raises:
        AdaptationError: there is one class only, or no class has two examples.
    """

    def __init__(self, labels: Tensor, batch_size: int, examples_per_class: int, seed: int) -> None:
        _, numbers, counts = labels.unique(return_inverse=True, return_counts=True)
        if len(counts) < 2:
            raise AdaptationError("Adaptation tells classes apart, and all labels are the same. Give two classes.")
        if counts.max() < 2:
            raise AdaptationError(
                f"Adaptation pulls examples of a class together, and each of the {len(counts)} classes has one. Give "
                "label_texts, which count as an example of their class, or more examples, or leave the backbone "
                "frozen."
            )
        self.generator = torch.Generator().manual_seed(seed)
        # A class of one example is in a batch for the others to be told from; one that has a pair must be there.
        self.single = counts < 2
        self.members = list(numbers.argsort(stable=True).split(counts.tolist()))
        self.classes = max(2, min(len(counts), batch_size // examples_per_class))
        self.per_class = max(examples_per_class, batch_size // self.classes)
        self.decks = [members[:0] for members in self.members]
        self.class_deck = torch.empty(0, dtype=torch.long)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.cat([self._examples(number) for number in self._classes()])

    def _classes(self) -> list[int]:
        everything = torch.arange(len(self.members))
        chosen, self.class_deck = self._deal(everything, self.class_deck, self.classes)
        if self.single[chosen].all():
            paired = torch.nonzero(~self.single)[:, 0]
            chosen[-1] = paired[torch.randint(len(paired), (1,), generator=self.generator)]
        return chosen.tolist()

    def _examples(self, number: int) -> Tensor:
        members = self.members[number]
        wanted = min(self.per_class, len(members))
        dealt, self.decks[number] = self._deal(members, self.decks[number], wanted)
        return dealt

    def _deal(self, everything: Tensor, deck: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """``count`` different cards and the deck that is left; a new deck begins with those not just dealt."""
        if len(deck) >= count:
            return deck[:count], deck[count:]
        fresh = everything[torch.randperm(len(everything), generator=self.generator)]
        repeated = torch.isin(fresh, deck)
        fresh = torch.cat([fresh[~repeated], fresh[repeated]])
        missing = count - len(deck)
        return torch.cat([deck, fresh[:missing]]), fresh[missing:]
