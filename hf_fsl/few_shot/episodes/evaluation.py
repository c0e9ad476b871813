"""Methods compared on the same episodes: accuracy with its interval, paired differences, calibration error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from scipy import stats
from torch import Tensor

from hf_fsl.core.measurement import Measurement
from hf_fsl.few_shot.episodes.items import EpisodeError
from hf_fsl.few_shot.episodes.methods import Fit, Method, NearestMean, as_method, finite
from hf_fsl.few_shot.episodes.sampler import Episodes
from hf_fsl.metrics.intervals import BINS

_CHUNK_BYTES = 1 << 28
_LARGEST_CHUNK = 2048
_LEAST_CHUNKS = 16
"""However few the episodes, so that there are chunks to divide among processes."""


@dataclass(frozen=True)
class EpisodicResult:
    """What one method reached on the episodes.

    The intervals are over episodes: they say how well the mean over draws *from these examples* is known, not what
    other examples would give.
    """

    accuracies: np.ndarray
    """Accuracy of each episode ``(E,)``."""
    accuracy: Measurement
    ece: float
    """Expected calibration error over all queries of all episodes, in 15 bins."""
    difference: Measurement | None
    """Mean accuracy over that of the reference method on the same episodes; None for the reference itself."""


def evaluate_episodes(
    embeddings: Tensor,
    episodes: Episodes,
    methods: Sequence[str] | Mapping[str, str | Fit | Method | NearestMean],
    *,
    label_embeddings: Tensor | None = None,
    reference: str | None = None,
    base_mean: Tensor | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, EpisodicResult]:
    """Every method on every episode, the same ones.

    Example::

        episodes = EpisodeSampler(5, 1, 15, episodes=1000).sample(labels)
        results = evaluate_episodes(embeddings, episodes, ["nearest_mean", "cl2n"], reference="nearest_mean")
        results["cl2n"].difference  # with its 95 % interval

    Args:
        embeddings: ``(N, D)`` of the examples that the episodes were drawn from.
        episodes: see ``EpisodeSampler``; also with unbalanced queries.
        methods: names of heads, or ``auto``; or names of your choice for these, for callables ``(support (E, n, D),
            labels (E, n), label embeddings (E, C, D) or None) -> head`` that take many episodes at once, or for a
            ``Method``, which also refines its heads with the queries.
        label_embeddings: ``(classes, D)``, a row a label of the data set; an episode gets the rows of its classes.
        reference: the method that the others are compared with; None: the first.
        base_mean: ``(D,)`` mean of embeddings of other classes, for heads that centre.
        accelerator: several processes divide the episodes; every one of them gets all results, which do not depend
            on their number (threads of a process aside, on which a matrix product's last bit may depend).

    Returns:
        Name of a method -> what it reached.

    Raises:
        EpisodeError: embeddings that are not finite or not those of the episodes, an unknown method or reference.
    """
    named = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    if not named:
        raise EpisodeError("methods names at least one.")
    reference = next(iter(named)) if reference is None else reference
    if reference not in named:
        raise EpisodeError(f"reference is one of the methods ({', '.join(named)}), not {reference!r}.")
    embeddings = _checked(embeddings, episodes, label_embeddings)
    measured = {}
    for name, given in named.items():
        measured[name] = _measure(as_method(given, base_mean), embeddings, episodes, label_embeddings, accelerator)
    theirs = measured[reference][0]
    return {
        name: EpisodicResult(
            right, mean_interval(right), float(np.abs(gaps.sum(0)).sum() / episodes.query.numel()),
            None if name == reference else mean_interval(right - theirs),
        )
        for name, (right, gaps) in measured.items()
    }  # fmt: skip


def mean_interval(values: np.ndarray, over: str = "episodes") -> Measurement:
    """The mean of ``(E,)`` values over episodes, or draws, with Student's t 95 % interval; none for a single one."""
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Measurement(value=mean, n=count, over=over)
    half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)
    return Measurement(value=mean, ci95=(mean - half, mean + half), n=count, over=f"{over} (Student's t)")


@torch.no_grad()
def _measure(
    method: Method | NearestMean,
    embeddings: Tensor,
    episodes: Episodes,
    label_embeddings: Tensor | None,
    accelerator: Accelerator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each episode: its accuracy ``(E,)``, and confidence less accuracy summed in each bin ``(E, BINS)``."""
    scorer = method.scorer(embeddings, episodes)
    outcome = torch.zeros(len(episodes), 1 + BINS, dtype=torch.float64)
    process, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    size = _chunk_size(len(episodes), scorer.episode_bytes)
    for start in range(process * size, len(episodes), processes * size):
        some = episodes[start : start + size]
        of_classes = None if label_embeddings is None else label_embeddings[some.classes]
        # Classes before queries: with so few classes, everything below is several times slower the other way round.
        logits = scorer.score(some, of_classes).mT.contiguous()
        largest, predicted = logits.max(1)
        confidences = (logits - largest.unsqueeze(1)).exp_().sum(1).reciprocal_()
        if confidences.isnan().any():
            raise EpisodeError("A method gave NaN among its logits.")
        right = predicted == some.query_labels.to(logits.device)
        bins = (confidences * BINS).ceil_().long().sub_(1).clamp_(0, BINS - 1)
        gaps = torch.zeros(len(some), BINS, dtype=torch.float64, device=logits.device)
        gaps.scatter_add_(1, bins, confidences.double() - right.double())
        part = torch.cat([right.double().mean(1, keepdim=True), gaps], 1)
        outcome[start : start + size] = part.cpu()
    if accelerator is not None and processes > 1:
        outcome = accelerator.reduce(outcome.to(accelerator.device), reduction="sum").cpu()
    return outcome[:, 0].numpy(), outcome[:, 1:].numpy()


def _chunk_size(count: int, episode_bytes: int) -> int:
    """Episodes that are answered at a time: the same whatever the number of processes, and so are the results."""
    return max(1, min(_LARGEST_CHUNK, -(-count // _LEAST_CHUNKS), _CHUNK_BYTES // episode_bytes))


def _checked(embeddings: Tensor, episodes: Episodes, label_embeddings: Tensor | None) -> Tensor:
    if embeddings.ndim != 2:
        raise EpisodeError(f"embeddings are (N, D), not {tuple(embeddings.shape)}.")
    last = int(max(episodes.support.max(), episodes.query.max()))
    if last >= len(embeddings):
        raise EpisodeError(
            f"The episodes were drawn from other examples: they name example {last}, and there are {len(embeddings)} "
            "embeddings."
        )
    if label_embeddings is not None:
        needed = int(episodes.classes.max())
        if label_embeddings.ndim != 2 or len(label_embeddings) <= needed:
            raise EpisodeError(
                f"label_embeddings have a row for every label of the data set, here {needed} at least; got "
                f"{tuple(label_embeddings.shape)}."
            )
        finite(label_embeddings)
    return finite(embeddings)
