"""Refusal: the coverage that was asked for against the coverage reached, and AUROC against classes never shown.

    python benchmarks/refusal.py --tower hf-fsl/emoji-image-text [--draws 200]

Each draw takes half of the classes as in scope, k supports of each, a threshold from these alone, and measures on
other examples of the same pool: the share of in-scope queries kept, of as many queries a class, and how well the
score tells them from examples of the other half of the classes. Supersense's test split by MiniLM; emoji (Noto) by an
image-text tower that was trained on other subcategories: its 13 validation and novel ones, 20 pictures a class and
more.
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


def one_draw(pool: Pool, shots: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Support embeddings and labels, in-scope queries, out-of-scope ones."""
    embeddings, labels = pool[0], pool[1].numpy()
    classes = rng.permutation(np.unique(labels))
    inside = classes[: len(classes) // 2]
    rows = [rng.permutation(np.flatnonzero(labels == kind)) for kind in inside]
    queries = min(map(len, rows)) - shots
    support = np.concatenate([of_class[:shots] for of_class in rows])
    asked = np.concatenate([of_class[shots : shots + queries] for of_class in rows])
    of_support = torch.arange(len(inside)).repeat_interleave(shots)
    return embeddings[support], of_support, embeddings[asked], embeddings[~np.isin(labels, inside)]


def measure(pool: Pool, shots: int, coverage: float, draws: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kept, uncorrected, separation = [], [], []
    for _ in range(draws):
        support, labels, inside, outside = one_draw(pool, shots, rng)
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
    pictures = emoji(tower)
    unseen = [pictures["noto", split] for split in ("validation", "novel")]
    pools = {
        "supersense": supersense()["test"],
        "emoji": (torch.cat([one[0] for one in unseen]), torch.cat([one[1] for one in unseen])),
    }
    results: dict[str, Any] = {}
    for name, pool in pools.items():
        for shots in (2, 4, 8):
            for coverage in (0.8, 0.9, 0.95):
                try:
                    measured = measure(pool, shots, coverage, draws)
                except HeadError as error:
                    measured = {"refused": str(error)}
                results.setdefault(name, {})[f"{shots} shots, coverage {coverage}"] = measured
    write_result("refusal", {"draws": draws, **results})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--tower", required=True, help="folder or Hub id of the emoji tower")
    options = parser.parse_args()
    main(options.draws, options.tower)
