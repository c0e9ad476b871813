"""Natural language inference as a zero-shot classifier: does the text entail what the label says? (Yin et al. 2019)"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_fsl.models.backbones.texts import token_budget, token_limit, warn_of_cut
from hf_fsl.models.templates import ZeroShotError
from hf_fsl.zero_shot.last_layer import first_token_only
from hf_fsl.zero_shot.pairs import PairEncoder


def entailment_ids(
    label2id: Mapping[str, int], entailment: int | None = None, contradiction: int | None = None
) -> tuple[int, int | None]:
    """The rows of an NLI model's logits for entailment and contradiction, by the names in its config.

    Args:
        label2id: of the model's config.
        entailment, contradiction: given by the user; None: by name. Models of two classes call the second one
            "not_entailment".

    Returns:
        Both ids; contradiction is None where the model has no such class.

    Raises:
        ZeroShotError: none or several of the names fit.
    """
    count = len(label2id)
    for name, given in (("entailment_id", entailment), ("contradiction_id", contradiction)):
        if given is not None and not 0 <= given < count:
            raise ZeroShotError(f"{name}: from 0 to {count - 1}, for the model has {count} classes; got {given}.")
    # Pairs, not a dict: names that differ by case only are two classes.
    plain = [(name.lower().replace("-", "_").replace(" ", "_"), index) for name, index in label2id.items()]
    if entailment is None:
        entailment = _only("entailment", [i for name, i in plain if name.startswith("entail")], label2id)
    if contradiction is None:
        found = [i for name, i in plain if name.startswith(("contradict", "not_entail", "non_entail"))]
        contradiction = _only("contradiction", found, label2id) if found else None
    if entailment == contradiction:
        raise ZeroShotError(f"Entailment and contradiction are different classes, got {entailment} for both.")
    return entailment, contradiction


def _only(what: str, found: Sequence[int], label2id: Mapping[str, int]) -> int:
    if len(found) == 1:
        return found[0]
    raise ZeroShotError(
        f"The model must have one class for {what}; its config names {', '.join(map(str, label2id))}. Choose an NLI "
        f"model, or say which class it is: {what}_id=…"
    )


def _padded(model: Any, encoder: PairEncoder) -> Any:
    """A model that has a padding token, or a view of one that has none: of the same weights, with one.

    A decoder's classifier reads the last token that is no padding, and without a padding token takes one pair at a
    time. An id that occurs in none of the pairs leaves it the token that it would read then.
    """
    config = model.config.get_text_config()
    if config.pad_token_id is not None:
        return model
    encoder.pad = encoder.unused_id(config.vocab_size)
    view = copy.copy(model)
    view.config = copy.deepcopy(model.config)
    view.config.get_text_config().pad_token_id = encoder.pad
    return view


class EntailmentScorer:
    """An NLI model as a scorer of (text, hypothesis) pairs: each tokenised once, sorted by length, batched by tokens.

    Args:
        model: a sequence classification model; left as it is.
        tokenizer: its tokenizer.
        entailment_id, contradiction_id: see :func:`entailment_ids`.
        max_tokens: tokens a batch, padding included; None: what suits the device.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        entailment_id: int | None = None,
        contradiction_id: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.names = tuple(name for name, _ in sorted(model.config.label2id.items(), key=lambda item: item[1]))
        self.entailment_id, self.contradiction_id = entailment_ids(
            model.config.label2id, entailment_id, contradiction_id
        )
        self._extra = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        self.count_padding()

    def count_padding(self) -> None:
        """Starts :attr:`padding_share` anew."""
        self._real_tokens = self._tokens = 0
        self._said: set[str] = set()

    @property
    def padding_share(self) -> float:
        """Share of padding among the tokens of all calls since :meth:`count_padding`."""
        return 1 - self._real_tokens / self._tokens if self._tokens else 0.0

    def logits(
        self,
        texts: Sequence[str],
        hypotheses: Sequence[str],
        pairs: np.ndarray | None = None,
        *,
        forward: Callable[[dict[str, Tensor]], Tensor] | None = None,
        max_length: int | None = None,
        cut: bool = True,
    ) -> np.ndarray:
        """Logits of pairs, float32.

        Args:
            texts: premises, ``N``.
            hypotheses: ``H``.
            pairs: ``(P, 2)``, row of the text and row of the hypothesis; None: every text with every hypothesis.
            forward: model inputs -> logits, in place of the model's own call.
            max_length: tokens of a pair, where that is fewer than the model takes.
            cut: False: a text that is too long is an error.

        Returns:
            ``(P, K)`` for the K classes of the model, or ``(N, H, K)`` without ``pairs``.

        Raises:
            ZeroShotError: an empty text, or a hypothesis too long for the model.
        """
        empty = [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
        if empty:
            raise ZeroShotError(f"A text must be a string that is not empty, got {texts[empty[0]]!r}. Remove it.")
        grid = pairs is None
        if pairs is None:
            pairs = np.stack(np.meshgrid(range(len(texts)), range(len(hypotheses)), indexing="ij"), -1).reshape(-1, 2)
        config = self.model.config.get_text_config()
        limits = (token_limit(self.model, self.tokenizer), max_length)
        limit = min((one for one in limits if one is not None), default=None)
        # The classifiers of encoder-decoders read the end token, and want as many of them in each row of a batch.
        end = config.eos_token_id if config.is_encoder_decoder else None
        encoder = PairEncoder(self.tokenizer, texts, hypotheses, config.pad_token_id, limit, end, cut)
        warn_of_cut(encoder.truncation(pairs), self._said)
        run = forward or functools.partial(self._forward, _padded(first_token_only(self.model), encoder))
        budget = self.max_tokens or token_budget(self.model.device)
        result: np.ndarray | None = None
        with torch.inference_mode():
            for rows, inputs, tokens in encoder.batches(pairs, budget):
                logits = run(inputs).float().cpu().numpy()
                if result is None:
                    result = np.empty((len(pairs), logits.shape[-1]), np.float32)
                result[rows] = logits
                self._real_tokens += tokens
                self._tokens += inputs["input_ids"].numel()
        assert result is not None
        return result.reshape(len(texts), len(hypotheses), -1) if grid else result

    def _forward(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        logits: Tensor = model(**on_device, **self._extra).logits
        return logits
