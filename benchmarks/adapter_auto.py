"""``adapter="auto"`` against the backbone left as it is: what does trusting the choice cost, and what does it bring?

    python benchmarks/adapter_auto.py [--tower PATH] [--draws 50] [--shots 1 2 4 8 16] [--only supersense|emoji|report]

Each draw takes five classes, k examples of each, and up to 20 queries of each that are none of them: MiniLM on
supersense (supports from train, queries from test), and the emoji tower that ``train_contrastive`` writes to PATH on
the subcategories that it has not seen (the recipe's image-text model if no PATH is given). Both classifiers see the
same examples and the same words for the classes; ``adapter="auto"`` judges by its folds, never by the queries.
Finished draws are kept in results/adapter_auto_runs.jsonl, so that a stopped benchmark goes on where it was.

Bar (issue 5): at no k is the mean of the paired differences significantly below 0 (95 % interval over the draws).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from common import RESULTS, write_result

from hf_fsl import Backbone, FewShotClassifier
from hf_fsl.hub.seed import minilm_folder
from hf_fsl.metrics import seeds_interval

DATA = Path(__file__).parents[1] / "recipes" / "data"
RUNS = RESULTS / "adapter_auto_runs.jsonl"
WAYS, QUERIES = 5, 20

Examples = dict[str, list[Any]]
"""Class -> its texts or images."""


def by_class(data: Any, inputs: str, label: str) -> Examples:
    names = data.features[label].names
    found: Examples = {}
    for item, number in zip(data[inputs], data[label], strict=True):
        found.setdefault(names[number], []).append(item)
    return found


def supersense() -> tuple[Backbone, Examples, Examples]:
    data = datasets.load_dataset(str(DATA / "supersense"))
    supports, queries = (by_class(data[split], "text", "label") for split in ("train", "test"))
    return Backbone.from_pretrained(str(minilm_folder())), supports, queries


def emoji(tower: str) -> tuple[Backbone, Examples, None]:
    data = datasets.load_dataset(str(DATA / "emoji"), "noto-subcategory", split="novel")
    data = data.filter(lambda kept: kept, input_columns="is_class")
    return Backbone.from_pretrained(tower), by_class(data, "image", "subcategory"), None


def drawn(
    supports: Examples, queries: Examples | None, shots: int, seed: int
) -> tuple[list[tuple[Any, str]], list[tuple[Any, str]]]:
    """Supports and queries of one draw, each with its class."""
    rng = np.random.default_rng([seed, shots])
    classes = rng.choice(sorted(supports), WAYS, replace=False).tolist()
    given, asked = [], []
    for name in classes:
        order = rng.permutation(len(supports[name]))
        given += [(supports[name][row], name) for row in order[:shots]]
        if queries is None:
            asked += [(supports[name][row], name) for row in order[shots : shots + QUERIES]]
        else:
            picked = rng.permutation(len(queries[name]))[:QUERIES]
            asked += [(queries[name][row], name) for row in picked]
    return given, asked


def measure(backbone: Backbone, given: list[tuple[Any, str]], asked: list[tuple[Any, str]]) -> dict[str, Any]:
    inputs, labels = map(list, zip(*given, strict=True))
    questions, answers = map(list, zip(*asked, strict=True))
    row: dict[str, Any] = {}
    for name, adapter in (("frozen", None), ("auto", "auto")):
        classifier = FewShotClassifier(backbone, adapter=adapter)
        started = time.process_time()
        classifier.fit(inputs, labels)
        row[f"{name}_seconds"] = time.process_time() - started
        row[name] = float(classifier.score(questions, answers))
    return row | {"adapted": classifier.adapted_ is not None, "reason": classifier.reason_}


def known() -> dict[tuple[str, int, int], dict[str, Any]]:
    rows = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    return {(row["data"], row["shots"], row["draw"]): row for row in rows}


def run(name: str, load: Callable[[], Any], shots: list[int], draws: int) -> None:
    done = known()
    missing = [(draw, k) for draw in range(draws) for k in shots if (name, k, draw) not in done]
    if not missing:
        return
    backbone, supports, queries = load()
    for draw, k in missing:
        row = measure(backbone, *drawn(supports, queries, k, draw))
        with RUNS.open("a") as file:
            file.write(json.dumps({"data": name, "shots": k, "draw": draw, **row}) + "\n")
        print(f"{name}, {k} shots, draw {draw}: frozen {row['frozen']:.3f}, auto {row['auto']:.3f}", flush=True)


def report(name: str, shots: list[int], draws: int) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = known()
    for k in shots:
        found = [rows[name, k, draw] for draw in range(draws) if (name, k, draw) in rows]
        if len(found) < 2:
            continue
        columns = {column: [row[column] for row in found] for column in ("frozen", "auto", "adapted")}
        difference = seeds_interval([a - b for a, b in zip(columns["auto"], columns["frozen"], strict=True)])
        yield (
            f"{name}, {k} shots",
            {
                "draws": len(found),
                "frozen": vars(seeds_interval(columns["frozen"])),
                "auto": vars(seeds_interval(columns["auto"])),
                "auto_minus_frozen": vars(difference),
                "adapted_share": float(np.mean(columns["adapted"])),
                "median_cpu_seconds": {
                    n: float(np.median([r[f"{n}_seconds"] for r in found])) for n in ("frozen", "auto")
                },
                "ok": bool(difference.ci95 is not None and difference.ci95[1] >= 0),
            },
        )


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    sources: dict[str, Callable[[], Any]] = {"supersense": supersense, "emoji": lambda: emoji(options.tower)}
    for name, load in sources.items():
        if options.only in (None, name):
            run(name, load, options.shots, options.draws)
    if options.only in (None, "report"):
        results = dict(row for name in sources for row in report(name, options.shots, options.draws))
        write_result(
            "adapter_auto",
            {
                "ways": WAYS,
                "queries_a_class": QUERIES,
                "results": results,
                "never_significantly_below_frozen": all(row["ok"] for row in results.values()),
                "whole": len(results) == 2 * len(options.shots)
                and all(row["draws"] >= options.draws for row in results.values()),
            },
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", default="hf-fsl/emoji-image-text")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--only", choices=["supersense", "emoji", "report"])
    main(parser.parse_args())
