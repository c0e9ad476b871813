"""Transductive refinement against the same head without it: 5-way, balanced and unbalanced queries.

    python benchmarks/transductive.py --tower hf-fsl/emoji-image-text [--episodes 1000]

The inductive head is CL2N (less the mean of other examples, unit length, nearest mean), the mean from a split that
episodes are not drawn from. Episodes: supersense's test split by MiniLM; emoji's novel subcategories by an image-text
tower that was trained on others; digits' test split as pixels. Balanced: 15 queries a class. Unbalanced: Dirichlet
shares with α = 2 of 9 queries a class in the mean (3 for emoji, whose smallest class has 20 pictures). Settings are
the functions' defaults, which were settled on the validation splits, emoji's base classes and digits' training split.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import write_result
from few_shot_data import Pool, digits, emoji, supersense

from hf_fsl.few_shot.episodes import EpisodeSampler, Method, evaluate_episodes
from hf_fsl.few_shot.heads import fit_head
from hf_fsl.few_shot.heads.transductive import alpha_tim, bd_cspn, soft_k_means

METHODS = {"soft_k_means": soft_k_means, "bd_cspn": bd_cspn, "alpha_tim": alpha_tim}
INDUCTIVE = "inductive (cl2n)"


def compare(pool: Pool, base_mean: torch.Tensor, shots: int, queries: int, episodes: int, **options: Any) -> Any:
    embeddings, labels = pool

    def fit(support: torch.Tensor, of_support: torch.Tensor, label_embeddings: torch.Tensor | None) -> Any:
        return fit_head("cl2n", support, of_support, base_mean=base_mean)

    drawn = EpisodeSampler(5, shots, queries, episodes=episodes, **options).sample(labels)
    methods = {INDUCTIVE: Method(fit)} | {name: Method(fit, refine) for name, refine in METHODS.items()}
    results = evaluate_episodes(embeddings, drawn, methods, reference=INDUCTIVE)
    return {
        name: {
            "accuracy": vars(result.accuracy),
            "over_inductive": vars(result.difference) if result.difference else None,
            "ece": result.ece,
        }
        for name, result in results.items()
    }


def main(episodes: int, tower: str) -> None:
    texts, pictures, drawings = supersense(), emoji(tower), digits()
    pools = {
        "supersense": (texts["test"], texts["train"][0].mean(0), 9),
        "emoji, novel": (pictures["noto", "novel"], pictures["noto", "base"][0].mean(0), 3),
        "digits, pixels": (drawings["test"], drawings["train"][0].mean(0), 9),
    }
    write_result(
        "transductive",
        {
            "episodes": f"{episodes} of 5-way",
            **{
                name: {
                    f"{shots} shot, {kind}": compare(pool, mean, shots, queries, episodes, **options)
                    for shots in (1, 5)
                    for kind, queries, options in (
                        ("balanced", 15, {}),
                        ("unbalanced", fewer, {"dirichlet": 2.0}),
                    )
                }
                for name, (pool, mean, fewer) in pools.items()
            },
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--tower", required=True, help="folder or Hub id of the emoji tower")
    options = parser.parse_args()
    main(options.episodes, options.tower)
