"""Pairs of a text and a hypothesis as a tokenizer would give them, each text and each hypothesis tokenised once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_fsl.core.measurement import TruncationRecord
from hf_fsl.models.backbones.texts import call_tokenizer
from hf_fsl.models.templates import ZeroShotError


@dataclass(frozen=True)
class PairLayout:
    """What a tokenizer puts around a pair: ``before`` text ``between`` hypothesis ``after``."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    segments: bool
    """Whether the model is told by ``token_type_ids`` which part a token belongs to: 1 from the hypothesis on."""

    @property
    def special_tokens(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def pair_layout(tokenizer: Any, text: str, hypothesis: str) -> PairLayout | None:
    """The layout of a tokenizer, found from a pair; None where ids joined are not what the tokenizer gives.

    Some tokenizers put tokens at other places, or have segment ids of another kind (XLNet); their pairs are left to
    them.
    """
    if not tokenizer.is_fast or tokenizer.padding_side != "right":
        return None
    pair = call_tokenizer(tokenizer, text, hypothesis, truncation=False, verbose=False)
    parts = pair.sequence_ids()
    first = [place for place, part in enumerate(parts) if part == 0]
    second = [place for place, part in enumerate(parts) if part == 1]
    if not first or not second:
        return None
    ids = pair["input_ids"]
    alone = [
        call_tokenizer(tokenizer, words, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        for words in (text, hypothesis)
    ]
    if ids[first[0] : first[-1] + 1] != alone[0] or ids[second[0] : second[-1] + 1] != alone[1]:
        return None
    segments = "token_type_ids" in tokenizer.model_input_names
    if segments and pair["token_type_ids"] != [int(place >= second[0]) for place in range(len(ids))]:
        return None
    before, between, after = ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]
    return PairLayout(tuple(before), tuple(between), tuple(after), segments)


class PairEncoder:
    """Texts and hypotheses as token ids, joined into batches of pairs.

    Args:
        texts: premises; a pair too long for the model loses the end of its text, as the tokenizer would cut it.
        hypotheses: never cut.
        pad: the model's padding id, which may be another one than the tokenizer's; None: the tokenizer's.
        limit: tokens a pair may have; None: as many as it has.
        end: a token of which all pairs of a batch must have the same number.
        cut: False: a pair that is too long is an error.

    Raises:
        ZeroShotError: a hypothesis leaves no room for any text, or a text must not be cut and is too long.
    """

    def __init__(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        hypotheses: Sequence[str],
        pad: int | None = None,
        limit: int | None = None,
        end: int | None = None,
        cut: bool = True,
    ) -> None:
        self.tokenizer, self.texts, self.hypotheses = tokenizer, texts, hypotheses
        self.limit, self.end = limit, end
        self.layout = pair_layout(tokenizer, texts[0], hypotheses[0])
        self._texts, self._hypotheses = self._ids(texts), self._ids(hypotheses)
        self._special = self.layout.special_tokens if self.layout else tokenizer.num_special_tokens_to_add(pair=True)
        known = [given for given in (pad, tokenizer.pad_token_id, tokenizer.eos_token_id) if given is not None]
        self.pad: int = known[0] if known else 0
        longest = max(map(len, self._hypotheses))
        if self.limit is not None and longest + self._special >= self.limit:
            worst = max(range(len(hypotheses)), key=lambda row: len(self._hypotheses[row]))
            raise ZeroShotError(
                f"A hypothesis must leave room for the text: a pair has {self.limit} tokens, {self._special} of "
                f"them special, and {hypotheses[worst]!r} alone has {longest}. Shorten the label or the template."
            )
        room = None if cut or self.limit is None else self.limit - self._special - longest
        long = [row for row, ids in enumerate(self._texts) if room is not None and len(ids) > room]
        if long:
            raise ZeroShotError(
                f"truncation=False: {len(long)} of {len(texts)} texts have more than the {room} tokens that the "
                f"hypotheses leave of {self.limit}, the first is {texts[long[0]][:80]!r}. Shorten them, or have them "
                "cut: truncation=True."
            )

    def _ids(self, sentences: Sequence[str]) -> list[np.ndarray]:
        encoded = call_tokenizer(self.tokenizer, list(sentences), add_special_tokens=False, truncation=False,
                            verbose=False, return_attention_mask=False, return_token_type_ids=False)  # fmt: skip
        return [np.asarray(ids, np.int64) for ids in encoded["input_ids"]]

    def unused_id(self, vocabulary: int) -> int:
        """A token id that occurs in none of the pairs."""
        used = set(np.unique(np.concatenate([*self._texts, *self._hypotheses])).tolist())
        used |= set(self.tokenizer.all_special_ids)
        if self.layout is not None:
            used |= {*self.layout.before, *self.layout.between, *self.layout.after}
        return next((candidate for candidate in range(vocabulary) if candidate not in used), self.pad)

    def lengths(self, pairs: np.ndarray) -> np.ndarray:
        """Tokens of each pair, special ones included.

        Args:
            pairs: ``(P, 2)``, row of the text and row of the hypothesis.
        """
        total = self._whole_lengths(pairs)
        return np.minimum(total, self.limit) if self.limit is not None else total

    def truncation(self, pairs: np.ndarray) -> TruncationRecord:
        """How much of the texts is cut off, in the pairs that they are part of."""
        whole = self._whole_lengths(pairs)
        lost = whole - self.lengths(pairs)
        return TruncationRecord(
            limit=self.limit,
            texts=len(np.unique(pairs[:, 0])),
            cut_texts=len(np.unique(pairs[lost > 0, 0])),
            tokens=int(whole.sum()),
            cut_tokens=int(lost.sum()),
        )

    def _whole_lengths(self, pairs: np.ndarray) -> np.ndarray:
        sizes = [np.array([len(ids) for ids in sentences]) for sentences in (self._texts, self._hypotheses)]
        return sizes[0][pairs[:, 0]] + sizes[1][pairs[:, 1]] + self._special

    def batches(self, pairs: np.ndarray, max_tokens: int) -> Iterator[tuple[np.ndarray, dict[str, Tensor], int]]:
        """Batches of at most ``max_tokens`` tokens, padding included, the longest pairs first.

        Yields:
            Rows of ``pairs``, model inputs, and the number of tokens without the padding.
        """
        lengths = self.lengths(pairs)
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = order[start : start + max(1, max_tokens // longest)]
            if self.layout is None:
                # Padding on the left moves positions: only pairs of one length go together.
                rows = rows[lengths[rows] == longest]
                inputs = self._by_tokenizer(pairs[rows])
            else:
                inputs = self._joined(self.layout, pairs[rows], lengths[rows])
            for lines in self._alike(inputs["input_ids"]):
                part = inputs if len(lines) == len(rows) else {name: value[lines] for name, value in inputs.items()}
                yield rows[lines], part, int(lengths[rows[lines]].sum())
            start += len(rows)

    def _alike(self, ids: Tensor) -> Iterator[np.ndarray]:
        """Lines of a batch that have the same number of end tokens."""
        counts = np.zeros(len(ids)) if self.end is None else ids.eq(self.end).sum(1).numpy()
        for count in np.unique(counts):
            yield np.flatnonzero(counts == count)

    def _joined(self, layout: PairLayout, pairs: np.ndarray, lengths: np.ndarray) -> dict[str, Tensor]:
        ids = np.full((len(pairs), int(lengths.max())), self.pad)
        segments = np.zeros_like(ids)
        for line, (text, hypothesis) in enumerate(pairs):
            second = self._hypotheses[hypothesis]
            room = int(lengths[line]) - self._special - len(second)
            first = self._texts[text]
            kept = first[len(first) - room :] if self.tokenizer.truncation_side == "left" else first[:room]
            row = np.concatenate((layout.before, kept, layout.between, second, layout.after))
            ids[line, : len(row)] = row
            segments[line, len(row) - len(second) - len(layout.after) : len(row)] = 1
        inputs = {"input_ids": torch.from_numpy(ids)}
        if lengths.min() < lengths.max():
            inputs["attention_mask"] = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
        if layout.segments:
            inputs["token_type_ids"] = torch.from_numpy(segments)
        return inputs

    def _by_tokenizer(self, pairs: np.ndarray) -> dict[str, Tensor]:
        encoded = call_tokenizer(
            self.tokenizer, [self.texts[row] for row in pairs[:, 0]], [self.hypotheses[row] for row in pairs[:, 1]],
            truncation=self.limit is not None and "only_first", padding=True, return_tensors="pt",
            max_length=self.limit,
        )  # fmt: skip
        return {name: encoded[name] for name in self.tokenizer.model_input_names if name in encoded}
