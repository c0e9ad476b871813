"""Ways to a front that the adapter search benchmark runs for real, and the training of what they hand out."""

from __future__ import annotations

import argparse

import numpy as np
from adapter_runs import Bench, Kind, Row, best_rung

from hf_fsl.config.supernet import SupernetConfig
from hf_fsl.search.nas import search_members
from hf_fsl.search.pareto import front, most_hypervolume, spread
from hf_fsl.search.space import Architecture, SearchSpace, SearchSpaceConfig, trainable_parameters, with_even_steps
from hf_fsl.search.supernet import corner, gradient_pass, member_space, nested_seeds, train_supernet

SCALING = 2.0
FINAL = 100
"""Seed of the first training that a search hands out; the others follow."""


def make_space(bench: Bench, options: argparse.Namespace, most: int | None = None) -> SearchSpace:
    """LoRA of any rank at any site, or none; the same for every method."""
    config = SearchSpaceConfig(
        methods=["lora", "none"], scaling=[1.0, SCALING, 4.0], dropout=[0.0], learning_rate=options.rates,
        steps=[options.steps], max_parameters=most,
    )  # fmt: skip
    return SearchSpace(config, bench.sites)


def uniform(bench: Bench, rank: int, steps: int) -> Architecture:
    return Architecture.uniform(rank, len(bench.sites.layers), scaling=SCALING, steps=steps)


def by_supernet(bench: Bench, space: SearchSpace, options: argparse.Namespace, seed: int) -> Row:
    """The front that a supernet's slices make, smallest first, and what it cost; or what is known of it."""
    config = SupernetConfig(
        max_steps=options.steps, learning_rate=options.rate, scaling=SCALING, members=options.members,
        population=options.population, per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=bench.sizes.eval_batch_size, eval_steps=max(1, options.steps // 6),
    )  # fmt: skip
    identity = bench.identity("search", config=vars(config), space=space.to_dict(), seed=seed)
    known = bench.runs.get(identity)
    if known is not None:
        return known
    trained = train_supernet(bench.model, bench.data, space, config, seed=seed, accelerator=bench.accelerator)
    found = search_members(trained, members=config.members, population=config.population, seed=seed)
    values = {
        "front": [score.architecture.to_dict() for score in found.front],
        "validation_losses": [score.loss for score in found.front],
        **trained.meter.to_dict(),
    }
    print(f"supernet, support {bench.support}, seed {seed}: {len(found.front)} members on the front", flush=True)
    return bench.runs.add(identity, values)


def by_gradient(bench: Bench, space: SearchSpace, options: argparse.Namespace) -> Row:
    """The gradient's nested family and the cost of its one pass."""
    config, meter = SupernetConfig(learning_rate=options.rate, max_steps=options.steps), bench.trial.meter.empty()
    held = member_space(space, config, only_lora=True)
    gradients = gradient_pass(
        bench.model, bench.sites, bench.data.train, max(held.config.ranks), options.batch_size, meter
    )
    family = nested_seeds(gradients, held, corner(held, max))
    return {"front": [member.to_dict() for member in family], **meter.to_dict()}


def finished(
    bench: Bench,
    space: SearchSpace,
    search: Row,
    seed: int,
    count: int,
    reference: tuple[float, float],
    started_at: float | None = None,
) -> tuple[list[Row], float, float]:
    """Members that dominate most on validation, trained again; token-FLOPs and gradient steps, the search included.

    Where nothing was validated, their sizes are spread.

    Args:
        started_at: learning rate of trainings that start from the gradient; None: they start at random.
    """
    members = [Architecture.from_dict(values) for values in search["front"]]
    sizes = [trainable_parameters(member, bench.sites) for member in members]
    losses = search.get("validation_losses")
    places = dominating(losses, sizes, count, reference) if losses else spread(sizes, count)
    finalists = [with_even_steps(members[place], bench.sites, space.config.scaling) for place in places]
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
