"""Every method on the same episodes, on the backbone as it is and meta-trained, the work spread over processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from hf_fsl.config.few_shot import FewShotRecipeConfig
from hf_fsl.core.records import EpisodesRecord, EpisodicRow
from hf_fsl.few_shot.adaptation.adapt import Adapted, adapt
from hf_fsl.few_shot.episodes.evaluation import evaluate_episodes, mean_interval
from hf_fsl.few_shot.episodes.methods import Method
from hf_fsl.few_shot.episodes.sampler import Episodes, EpisodeSampler
from hf_fsl.few_shot.heads import transductive
from hf_fsl.few_shot.heads.estimators import fit_head
from hf_fsl.few_shot.pools import Pools
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.label_texts import complete_label_texts, label_text_embeddings
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead

DIRICHLET = 2.0
"""Concentration of unbalanced queries (Veilleux et al. 2021, arXiv:2106.11984)."""
_CENTRED_ON = 1000
"""Examples of other classes whose mean heads centre by."""


@dataclass(frozen=True)
class Encoded:
    """Embeddings of examples ``(N, D)`` and of the label texts ``(C, D)``; the mean of other classes ``(D,)``."""

    examples: Tensor
    label_embeddings: Tensor | None
    base_mean: Tensor | None


def meta_trained(
    config: FewShotRecipeConfig, pools: Pools, backbone: Backbone, accelerator: Accelerator
) -> Adapted | None:
    """The backbone after metric learning on classes that are in no episode; None where the config asks for none."""
    if not config.meta_training:
        return None
    return adapt(
        backbone, pools.base.inputs, pools.base.labels.tolist(), config.adaptation, adapter=config.adapter,
        seed=config.episodes.seed, progress=accelerator.is_main_process,
        accelerator=accelerator if accelerator.num_processes > 1 else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """The episodes of one k, and those whose classes are unbalanced, where they are asked for."""

    balanced: Episodes
    unbalanced: Episodes | None


def draw_episodes(config: FewShotRecipeConfig, pools: Pools) -> dict[int, Drawn]:
    """The episodes of every k: from labels alone, so that what cannot be had is said before anything is encoded.

    Raises:
        EpisodeError: classes with too few examples for the largest k, by name.
    """
    asked = config.episodes
    examples = pools.support if pools.same else pools.support + pools.query
    first = len(pools.support)
    masks: dict[str, Any] = {}
    if not pools.same:
        rows = np.arange(len(examples))
        masks = {"support_from": rows < first, "query_from": rows >= first}

    def episodes(shots: int, queries: int, dirichlet: float | None = None) -> Episodes:
        ways = asked.n_way or len(pools.names)
        sampler = EpisodeSampler(ways, shots, queries, asked.episodes, asked.seed, dirichlet)
        return sampler.sample(examples.labels, ids=examples.ids, label_names=pools.names, **masks)

    drawn = {}
    for shots in sorted(asked.k_shot, reverse=True):
        uneven = asked.unbalanced
        drawn[shots] = Drawn(
            episodes(shots, asked.n_query), episodes(shots, uneven, DIRICHLET) if uneven is not None else None
        )
    return drawn


def evaluate(
    config: FewShotRecipeConfig,
    pools: Pools,
    drawn: dict[int, Drawn],
    backbones: dict[bool, Backbone],
    accelerator: Accelerator,
) -> EpisodesRecord:
    """Answers the episodes; every process gets the whole result.

    Args:
        drawn: by k, of :func:`draw_episodes`.
        backbones: by whether they were meta-trained; the untrained one is what differences are to.
    """
    asked = config.episodes
    encoded = {trained: _encoded(config, pools, backbone, accelerator) for trained, backbone in backbones.items()}
    results: list[EpisodicRow] = []
    for shots in asked.k_shot:
        balanced, uneven = drawn[shots].balanced, drawn[shots].unbalanced
        reference: np.ndarray | None = None
        for trained, own in encoded.items():
            methods = _methods(config, own.base_mean)
            found = _answers(own, balanced, methods, accelerator)
            beside = _answers(own, uneven, methods, accelerator) if uneven is not None else {}
            if reference is None:
                reference = found[asked.reference].accuracies
            for name, result in found.items():
                itself = name == asked.reference and not trained
                results.append(
                    EpisodicRow(
                        method=name,
                        k_shot=shots,
                        meta_trained=trained,
                        transductive=name in asked.transductive,
                        accuracy=result.accuracy,
                        difference=None if itself else mean_interval(result.accuracies - reference),
                        ece=result.ece,
                        unbalanced=beside[name].accuracy if beside else None,
                    )
                )
    source = config.data.path if config.data.name is None else f"{config.data.path} ({config.data.name})"
    test = pools.splits.record.splits["test"].name
    train = pools.splits.record.splits["train"].name
    return EpisodesRecord(
        n_way=asked.n_way or len(pools.names),
        n_query=asked.n_query,
        episodes=asked.episodes,
        seed=asked.seed,
        classes=list(pools.names),
        support=f"{source}, {test if asked.support == 'test' else train}",
        query=f"{source if asked.query_name is None else f'{config.data.path} ({asked.query_name})'}, {test}",
        reference=asked.reference,
        dirichlet=DIRICHLET if asked.unbalanced else None,
        results=results,
    )


def _answers(own: Encoded, episodes: Episodes, methods: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    options: dict[str, Any] = {"label_embeddings": own.label_embeddings, "base_mean": own.base_mean}
    return evaluate_episodes(own.examples, episodes, methods, **options, accelerator=accelerator)


def _methods(config: FewShotRecipeConfig, base_mean: Tensor | None) -> dict[str, Any]:
    start = _centred_means(base_mean)
    refined = {name: Method(start, getattr(transductive, name)) for name in config.episodes.transductive}
    methods: dict[str, Any] = {name: name for name in config.episodes.methods}
    return methods | refined


def _centred_means(base_mean: Tensor | None) -> Callable[[Tensor, Tensor, Tensor | None], Any]:
    """Where refinement starts: CL2N by the mean of other classes, as ``benchmarks/transductive.py`` measures it.

    Without other classes nearest means: to centre by a few supports themselves would take away what tells them apart.
    """
    name = "nearest_mean" if base_mean is None else "cl2n"

    def fit(support: Tensor, labels: Tensor, label_embeddings: Tensor | None) -> LinearHead | CacheHead:
        return fit_head(name, support, labels, base_mean=base_mean)

    return fit


def _encoded(config: FewShotRecipeConfig, pools: Pools, backbone: Backbone, accelerator: Accelerator) -> Encoded:
    """Encoded by the main process for all: embeddings differ in their last bits with what they are batched with."""
    value: list[Encoded | None] = [None]
    if accelerator.is_main_process:
        asked = config.classifier
        examples = pools.support.inputs if pools.same else [*pools.support.inputs, *pools.query.inputs]
        rows = np.random.default_rng(config.episodes.seed).permutation(len(pools.base))[:_CENTRED_ON]
        base = [pools.base.inputs[row] for row in np.sort(rows)]
        texts = complete_label_texts(pools.names, asked.label_texts)
        value = [
            Encoded(
                backbone.encode(examples, progress=True, open_files=False),
                label_text_embeddings(backbone, pools.names, asked.templates, texts)
                if asked.use_label_texts and backbone.tokenizer is not None
                else None,
                backbone.encode(base, progress=True, open_files=False).mean(0) if base else None,
            )
        ]
    broadcast_object_list(value)
    assert value[0] is not None
    return value[0]
