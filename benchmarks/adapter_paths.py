"""Ways to a front that the adapter search benchmark runs for real, and the training of what they hand out."""

from __future__ import annotations

import argparse

import numpy as np
from adapter_runs import Bench, Kind, Row, best_rung

from hf_fsl.search.gradient import gradient_pass, nested_adapters
from hf_fsl.search.pareto import front, most_hypervolume, spread
from hf_fsl.search.space import Architecture, SearchSpace, SearchSpaceConfig, trainable_parameters

SCALING = 2.0
FINAL = 100
"""Seed of the first training that a search hands out; the others follow."""


def make_space(bench: Bench, options: argparse.Namespace, most: int | None = None) -> SearchSpace:
    """LoRA of any rank at any site, or none; the same for every method."""
    config = SearchSpaceConfig(
        methods=["lora", "head"], scaling=[1.0, SCALING, 4.0], dropout=[0.0], learning_rate=options.rates,
        steps=[options.steps], max_parameters=most,
    )  # fmt: skip
    return SearchSpace(config, bench.sites)


def uniform(bench: Bench, rank: int, steps: int) -> Architecture:
    return Architecture.uniform(rank, len(bench.sites.layers), scaling=SCALING, steps=steps)


def by_gradient(bench: Bench, space: SearchSpace, options: argparse.Namespace) -> Row:
    """The gradient's nested family and the cost of its one pass."""
    meter = bench.trial.meter.empty()
    gradients = gradient_pass(
        bench.model, bench.sites, bench.trial.train, max(space.config.ranks), options.batch_size, meter
    )
    training = {"learning_rate": options.rate, "steps": options.steps, "dropout": 0.0}
    family = nested_adapters(gradients, space, training)
    return {"front": [member.to_dict() for member in family], **meter.to_dict()}


def finished(
    bench: Bench, search: Row, seed: int, count: int, started_at: float | None = None
) -> tuple[list[Row], float, float]:
    """Members of spread sizes, trained again; token-FLOPs and gradient steps, the search included.

    Args:
        started_at: learning rate of trainings that start from the gradient; None: they start at random.
    """
    members = [Architecture.from_dict(values) for values in search["front"]]
    sizes = [trainable_parameters(member, bench.sites) for member in members]
    finalists = [members[place] for place in spread(sizes, count)]
    flops, steps = search["token_flops"], search["gradient_steps"]
    if started_at is None:
        rows = [bench.run(finalist, FINAL + seed) for finalist in finalists]
    else:
        rows = [bench.run(each.replace(learning_rate=started_at), FINAL + seed, "started") for each in finalists]
        flops, steps = flops + bench.start_cost.flops, steps + bench.start_cost.gradient_steps
    ends = [row["rungs"][-1] for row in rows]
    flops += sum(end["token_flops"] for end in ends)
    return rows, flops, steps + sum(end["gradient_steps"] for end in ends)


def dominating(losses: list[float], sizes: list[int], count: int, reference: tuple[float, float]) -> list[int]:
    points = np.column_stack([losses, np.log10(sizes)])
    order = front(points)
    return [int(order[place]) for place in most_hypervolume(points[order], reference, count)]


def tuned(bench: Bench, architecture: Architecture, rates: list[float], seed: int, kind: Kind) -> tuple[Row, Row]:
    """The run whose learning rate is best on validation, and the cost of trying all."""
    rows = [bench.run(architecture.replace(learning_rate=rate), seed, kind) for rate in rates]
    ends = [row["rungs"][-1] for row in rows]
    cost = {name: sum(end[name] for end in ends) for name in ("token_flops", "gradient_steps")}
    return min(rows, key=lambda row: best_rung(row)["validation_loss"]), cost
