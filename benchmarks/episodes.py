"""Episodes a second: 5-way 5-shot with 15 queries a class, nearest mean, against loops over episodes.

    python benchmarks/episodes.py [--episodes 10000] [--rounds 5]

The pool is the test split of recipes/data/supersense, embedded by MiniLM (384 numbers), which is not in the time.
Sampling is in everyone's. One thread. Contestants:

- hf_fsl: EpisodeSampler.sample and evaluate_episodes, with intervals and calibration error;
- loop, PyTorch: what few-shot libraries run for each episode (easyfsl 1.5 and its like): random.sample of classes
  and of items of each, items stacked to support and query tensors, a mean of each class, torch.cdist, argmax;
- loop, PyTorch, gathered: the same loop with the stacking replaced by one gather, more than those libraries do;
- loop, scikit-learn: numpy sampling, then NearestCentroid's fit and predict.

The loops run a tenth of the episodes, and are scaled: their time is linear in them. Predictions are compared on the
episodes of ours, where the two nearest means' squared distances differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from common import interleave, ratio, write_result
from sklearn.neighbors import NearestCentroid

from hf_fsl import Backbone
from hf_fsl.few_shot.episodes import Episodes, EpisodeSampler, NearestMean, evaluate_episodes
from hf_fsl.hub.seed import minilm_folder

DATA = "recipes/data/supersense/data/test-00000-of-00001.parquet"
N_WAY, K_SHOT, N_QUERY = 5, 5, 15
SHARE = 10
MARGIN = 1e-5


def torch_loop(pool: torch.Tensor, labels: list[int], episodes: int, gather: bool) -> float:
    """Mean accuracy; one episode at a time."""
    items: dict[int, list[int]] = {}
    for item, label in enumerate(labels):
        items.setdefault(label, []).append(item)
    kinds, rng, right = sorted(items), random.Random(0), 0.0
    support_labels = torch.arange(N_WAY).repeat_interleave(K_SHOT)
    query_labels = torch.arange(N_WAY).repeat_interleave(N_QUERY)
    for _ in range(episodes):
        rows = [rng.sample(items[kind], K_SHOT + N_QUERY) for kind in rng.sample(kinds, N_WAY)]
        if gather:
            images = pool[torch.tensor(rows)]
        else:
            images = torch.stack([pool[row] for of_class in rows for row in of_class]).unflatten(0, (N_WAY, -1))
        support, query = images[:, :K_SHOT].flatten(0, 1), images[:, K_SHOT:].flatten(0, 1)
        prototypes = torch.stack([support[support_labels == way].mean(0) for way in range(N_WAY)])
        scores = -torch.cdist(query, prototypes)
        right += (scores.argmax(1) == query_labels).float().mean().item()
    return right / episodes


def sklearn_loop(pool: np.ndarray, labels: np.ndarray, episodes: int) -> float:
    rng, right = np.random.default_rng(0), 0.0
    items = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
    kinds = np.array(sorted(items))
    support_labels, query_labels = np.arange(N_WAY).repeat(K_SHOT), np.arange(N_WAY).repeat(N_QUERY)
    for _ in range(episodes):
        chosen = rng.choice(kinds, N_WAY, replace=False)
        rows = np.stack([rng.choice(items[kind], K_SHOT + N_QUERY, replace=False) for kind in chosen])
        model = NearestCentroid().fit(pool[rows[:, :K_SHOT].ravel()], support_labels)
        right += float((model.predict(pool[rows[:, K_SHOT:].ravel()]) == query_labels).mean())
    return right / episodes


def agreement(pool: torch.Tensor, episodes: Episodes) -> dict[str, int]:
    """Our predictions and scikit-learn's on the same episodes."""
    ours = NearestMean().scorer(pool, episodes).score(episodes, None)
    best = ours.topk(2, -1).values
    clear = (best[..., 0] - best[..., 1] > MARGIN).numpy()
    theirs = []
    for number in range(len(episodes)):
        model = NearestCentroid().fit(pool[episodes.support[number].flatten()], episodes.support_labels[number])
        theirs.append(model.predict(pool[episodes.query[number]]))
    differ = ours.argmax(-1).numpy() != np.stack(theirs)
    return {
        "queries": differ.size,
        "within_the_margin": int((~clear).sum()),
        "different_outside_the_margin": int((differ & clear).sum()),
    }


def main(episodes: int, rounds: int) -> None:
    torch.set_num_threads(1)
    table = pq.read_table(DATA)
    labels = torch.tensor(table["label"].to_pylist())
    pool = Backbone.from_pretrained(str(minilm_folder())).encode(table["text"].to_pylist())
    listed, few = labels.tolist(), max(1, episodes // SHARE)
    sampler = EpisodeSampler(N_WAY, K_SHOT, N_QUERY, episodes=episodes)
    reached: dict[str, float] = {}

    def ours() -> None:
        result = evaluate_episodes(pool, sampler.sample(labels), ["nearest_mean"])["nearest_mean"]
        reached["hf_fsl"] = result.accuracy.value

    def loop(name: str, function: Any, *arguments: Any) -> Any:
        def run() -> None:
            reached[name] = function(*arguments)

        return run

    contestants = {
        "hf_fsl": ours,
        "loop, PyTorch": loop("loop, PyTorch", torch_loop, pool, listed, few, False),
        "loop, PyTorch, gathered": loop("loop, PyTorch, gathered", torch_loop, pool, listed, few, True),
        "loop, scikit-learn": loop("loop, scikit-learn", sklearn_loop, pool.numpy(), labels.numpy(), few),
    }
    seconds = interleave(contestants, rounds)
    whole = {name: [v * (1 if name == "hf_fsl" else episodes / few) for v in vs] for name, vs in seconds.items()}
    write_result(
        "episodes",
        {
            "episodes": f"{episodes} of {N_WAY}-way {K_SHOT}-shot, {N_QUERY} queries a class",
            "pool": {"examples": len(pool), "dimension": pool.shape[1], "classes": len(set(listed))},
            "loops_measured_on": few,
            "median_seconds": {name: float(np.median(values)) for name, values in whole.items()},
            "faster_than": {name: ratio(whole[name], whole["hf_fsl"]) for name in whole if name != "hf_fsl"},
            "accuracy": reached,
            "same_as_scikit_learn": agreement(pool, sampler.sample(labels)),
        },
        peers=["scikit-learn"],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    main(options.episodes, options.rounds)
