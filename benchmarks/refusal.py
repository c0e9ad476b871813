"""Refusal: the coverage that was asked for against the coverage reached, and AUROC against classes never shown.

    python benchmarks/refusal.py [--draws 100]

Each draw takes half of the classes as in scope, k supports of each, a threshold from these alone, and measures on
other examples: the share of in-scope queries kept, and how well the score tells them from examples of the other half
of the classes. Supersense by MiniLM (supports from its validation split, which has 48 to 50 examples a class,
queries from its test split); emoji (Noto) by an image-text tower that was trained on other subcategories: its 13
validation and novel subcategories, 20 pictures a class and more. ``--tower`` is a folder or Hub id of that tower.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import write_result
from few_shot_data import Pool, emoji, supersense
from sklearn.metrics import roc_auc_score

from hf_fsl.episodic import mean_interval
from hf_fsl.heads import HeadError
from hf_fsl.heads.refusal import fit_refusal
from hf_fsl.modeling import FeatureTransform


def one_draw(supports: Pool, queries: Pool | None, shots: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Support embeddings and labels, in-scope queries, out-of-scope ones; without ``queries`` from what is left."""
    classes = rng.permutation(torch.unique(supports[1]).numpy())
    inside = classes[: len(classes) // 2]
    rows = np.stack([rng.choice(np.flatnonzero(supports[1].numpy() == kind), shots, replace=False) for kind in inside])
    embeddings, labels = queries or supports
    rest = np.ones(len(labels), dtype=bool)
    if queries is None:
        rest[rows.ravel()] = False
    within = np.isin(labels.numpy(), inside)
    chosen = torch.arange(len(inside)).repeat_interleave(shots)
    return supports[0][rows.ravel()], chosen, embeddings[rest & within], embeddings[rest & ~within]


def measure(supports: Pool, queries: Pool | None, shots: int, coverage: float, draws: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kept, uncorrected, separation = [], [], []
    for _ in range(draws):
        support, labels, inside, outside = one_draw(supports, queries, shots, rng)
        refusal = fit_refusal(support, labels, coverage=coverage, transform=FeatureTransform(normalize=True))
        near, far = refusal.score(inside).numpy(), refusal.score(outside).numpy()
        kept.append(float((near <= refusal.threshold).mean()))
        uncorrected.append(float((near <= np.quantile(refusal.score(support).numpy(), coverage)).mean()))
        separation.append(roc_auc_score(np.r_[np.zeros(len(near)), np.ones(len(far))], np.r_[near, far]))
    return {
        "coverage": {**vars(mean_interval(np.array(kept), "draws")), "standard_deviation": float(np.std(kept))},
        "coverage_if_supports_were_in_their_own_means": float(np.mean(uncorrected)),
        "auroc": vars(mean_interval(np.array(separation), "draws")),
    }


def main(draws: int, tower: str) -> None:
    texts, pictures = supersense(), emoji(tower)
    pools = {
        "supersense": (texts["validation"], texts["test"]),
        "emoji": (
            (
                torch.cat([pictures["noto", split][0] for split in ("validation", "novel")]),
                torch.cat([pictures["noto", split][1] for split in ("validation", "novel")]),
            ),
            None,
        ),
    }
    results: dict[str, Any] = {}
    for name, (supports, queries) in pools.items():
        for shots in (2, 4, 8):
            for coverage in (0.8, 0.9, 0.95):
                try:
                    measured = measure(supports, queries, shots, coverage, draws)
                except HeadError as error:
                    measured = {"refused": str(error)}
                results.setdefault(name, {})[f"{shots} shots, coverage {coverage}"] = measured
    write_result("refusal", {"draws": draws, **results})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--tower", default="/tmp/emoji-tower", help="folder or Hub id of the emoji tower")
    options = parser.parse_args()
    main(options.draws, options.tower)
