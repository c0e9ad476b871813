"""Refusal: the coverage that was asked for against the coverage reached, and AUROC against classes never shown.

    python benchmarks/refusal.py --tower hf-fsl/emoji-image-text [--draws 200] [--adapted-draws 20]

Without --tower only the adapted classifier is measured, and the other results stay as they are.

Each draw takes half of the classes as in scope, k supports of each, a threshold from these alone, and measures on
other examples of the same pool: the share of in-scope queries kept, of as many queries a class, and how well the
score tells them from examples of the other half of the classes. Supersense's test split by MiniLM; emoji (Noto) by an
image-text tower that was trained on other subcategories: its 13 validation and novel ones, 20 pictures a class and
more.

The adapted backbone is MiniLM with LoRA, 8 shots and 90 % asked, as FewShotClassifier fits and judges it: the
threshold comes from further trainings on parts of the supports. Its draws, each three trainings long, are kept in
results/refusal_adapted_runs.jsonl, so that a stopped benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from common import RESULTS, write_result
from few_shot_data import DATA, Pool, emoji, supersense
from sklearn.metrics import roc_auc_score

from hf_fsl import AdapterConfig, Backbone, FewShotClassifier
from hf_fsl.few_shot.episodes import mean_interval
from hf_fsl.few_shot.heads import HeadError
from hf_fsl.few_shot.heads.refusal import fit_refusal
from hf_fsl.hub.seed import minilm_folder
from hf_fsl.models.export import FeatureTransform

ADAPTED_RUNS = RESULTS / "refusal_adapted_runs.jsonl"
ADAPTED_SHOTS, ADAPTED_COVERAGE, ADAPTED_QUERIES = 8, 0.9, 30


def one_draw(labels: np.ndarray, shots: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Rows of the supports, their labels, rows of in-scope queries and of out-of-scope ones."""
    classes = rng.permutation(np.unique(labels))
    inside = classes[: len(classes) // 2]
    rows = [rng.permutation(np.flatnonzero(labels == kind)) for kind in inside]
    queries = min(map(len, rows)) - shots
    support = np.concatenate([of_class[:shots] for of_class in rows])
    asked = np.concatenate([of_class[shots : shots + queries] for of_class in rows])
    return support, np.arange(len(inside)).repeat(shots), asked, np.flatnonzero(~np.isin(labels, inside))


def auroc(near: np.ndarray, far: np.ndarray) -> float:
    """Of scores of in-scope queries and of others."""
    return float(roc_auc_score(np.r_[np.zeros(len(near)), np.ones(len(far))], np.r_[near, far]))


def measure(pool: Pool, shots: int, coverage: float, draws: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kept, uncorrected, separation = [], [], []
    for _ in range(draws):
        rows, labels, asked, others = one_draw(pool[1].numpy(), shots, rng)
        support, inside, outside = pool[0][rows], pool[0][asked], pool[0][others]
        refusal = fit_refusal(
            support, torch.tensor(labels), coverage=coverage, transform=FeatureTransform(normalize=True)
        )
        near, far = refusal.score(inside).numpy(), refusal.score(outside).numpy()
        kept.append(float((near <= refusal.threshold).mean()))
        uncorrected.append(float((near <= np.quantile(refusal.score(support).numpy(), coverage)).mean()))
        separation.append(auroc(near, far))
    return {
        "coverage": {**vars(mean_interval(np.array(kept), "draws")), "standard_deviation": float(np.std(kept))},
        "coverage_if_supports_were_in_their_own_means": float(np.mean(uncorrected)),
        "auroc": vars(mean_interval(np.array(separation), "draws")),
    }


def adapted_draw(backbone: Backbone, texts: np.ndarray, labels: np.ndarray, draw: int) -> dict[str, float]:
    """What a classifier that is adapted to its supports keeps and tells apart, and the frozen one on the same draw."""
    rng = np.random.default_rng([1, draw])
    support, of_support, asked, others = one_draw(labels, ADAPTED_SHOTS, rng)
    per_class = ADAPTED_QUERIES * (of_support[-1] + 1)
    asked, others = (rng.permutation(rows)[:per_class] for rows in (asked, others))
    found: dict[str, float] = {"draw": draw}
    for name, adapter in (("adapted", AdapterConfig()), ("frozen", None)):
        started = time.perf_counter()
        classifier = FewShotClassifier(
            backbone, adapter=adapter, use_label_texts=False, coverage=ADAPTED_COVERAGE, random_state=draw
        ).fit(texts[support].tolist(), of_support.tolist())  # fmt: skip
        seconds = time.perf_counter() - started
        near, far = (classifier.refusal_scores(texts[rows].tolist()) for rows in (asked, others))
        threshold = classifier.state_.refusal.threshold
        found |= {
            f"{name}_seconds": seconds,
            f"{name}_coverage": float((near <= threshold).mean()),
            f"{name}_refused_of_others": float((far > threshold).mean()),
            f"{name}_auroc": auroc(near, far),
        }
    return found


def adapted(draws: int) -> dict[str, Any]:
    known = [json.loads(line) for line in ADAPTED_RUNS.read_text().splitlines()] if ADAPTED_RUNS.exists() else []
    rows = {row["draw"]: row for row in known}
    backbone = Backbone.from_pretrained(str(minilm_folder()))
    table = pq.read_table(DATA / "supersense" / "data" / "test-00000-of-00001.parquet").to_pydict()
    texts, labels = np.array(table["text"], dtype=object), np.array(table["label"])
    for draw in range(draws):
        if draw not in rows:
            rows[draw] = adapted_draw(backbone, texts, labels, draw)
            with ADAPTED_RUNS.open("a") as file:
                file.write(json.dumps(rows[draw]) + "\n")
            print(rows[draw], flush=True)
    columns = {name: np.array([rows[draw][name] for draw in range(draws)]) for name in rows[0] if name != "draw"}
    return {
        "draws": draws,
        "shots": ADAPTED_SHOTS,
        "asked": ADAPTED_COVERAGE,
        **{name: vars(mean_interval(values, "draws")) for name, values in columns.items()},
        "adapted_minus_frozen_auroc": vars(mean_interval(columns["adapted_auroc"] - columns["frozen_auroc"], "draws")),
        "adapted_coverage_standard_deviation": float(np.std(columns["adapted_coverage"])),
    }


def frozen(draws: int, tower: str) -> dict[str, Any]:
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
    return {"draws": draws, **results}


def main(draws: int, tower: str | None, adapted_draws: int) -> None:
    torch.set_num_threads(1)
    if tower is not None:
        results = frozen(draws, tower)
    else:
        kept = json.loads((RESULTS / "refusal.json").read_text())
        results = {name: kept[name] for name in ("draws", "supersense", "emoji")}
    write_result("refusal", {**results, "supersense, adapted": adapted(adapted_draws)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--adapted-draws", type=int, default=20)
    parser.add_argument("--tower", help="folder or Hub id of the emoji tower; left out: only the adapted are measured")
    options = parser.parse_args()
    main(options.draws, options.tower, options.adapted_draws)
