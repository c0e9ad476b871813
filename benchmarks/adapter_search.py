"""Adapter search on supersense with eight labels a class (MiniLM): train once and slice many, against the usual ways.

    python benchmarks/adapter_search.py            # most of a day on two cores; start it again to go on where it was
    python benchmarks/adapter_search.py --quick    # within 10 minutes; small in everything, and says so in its result

Every method sees the same labels: what it validates on comes out of the eight. Cost is token-FLOPs (hf_fsl/search/
meter.py) and gradient steps, evaluation on validation and the training of the finalists included; reading test is
free. Quality is the hypervolume of the finalists that were trained again, by test log-loss and log10 of the trainable
parameters. Its reference point is fixed beforehand: the loss of guessing (ln of the classes), and twice the parameters
of the largest adapter in the space.

About 100 configurations are trained with two seeds each into results/adapter_search_runs.jsonl. Random search, TPE,
successive halving and NSGA-II are replayed from it over 20 search seeds (adapter_replay.py); random's whole budget is
the whole table, at whose end they all have seen the same. The gradient's path is run for real over 5 seeds, and held
against the bars: where finalists are trained again against random search whose are, else against random search that
hands out its own trainings, too.

Bars:
  1. Hypervolume of random search with its whole budget (not below it by 2 % of it, the lower end of the interval of
     the difference), with at least 10 times fewer gradient steps and 5 times fewer token-FLOPs (lower ends too).
  2. The front nowhere significantly below uniform LoRA of the same size or larger (test log-loss, both bootstrapped
     over seeds and texts; no correction for the number of sizes, which would make it easier).
  3. On 10 other draws of the labels, accuracy not below that of uniform LoRA r=8 by a point (lower end of Student's
     interval of the paired difference), both with their learning rates tuned, with at most a quarter of its trainable
     parameters, heads included. Ours is what ``strategy: gradient`` hands out: ranks where the gradient asks for them,
     training started from the gradient, too. Uniform LoRA starts at random, as it does elsewhere; how it fares when
     it starts where ours does is beside it, which tells what the placement is worth by itself.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from adapter_bars import Courses, against_random, against_uniform, draw, summary
from adapter_paths import FINAL, by_gradient, dominating, finished, make_space, tuned, uniform
from adapter_replay import Entry, Point, Replay, test_hypervolume
from adapter_runs import Bench, Kind, Row, Runs, Sizes, best_rung
from common import RESULTS, write_result

from hf_fsl.metrics import seeds_interval
from hf_fsl.search.space import Architecture, SearchSpace, trainable_parameters
from hf_fsl.training import make_accelerator

WHOLE: dict[str, tuple[int, str]] = {
    "configurations": (100, "of the table, each trained with two seeds; also random search's budget"),
    "replays": (20, "search seeds of what is replayed"),
    "searches": (5, "search seeds of what is run for real"),
    "supports": (10, "draws of the labels for bar 3"),
    "steps": (30, "optimiser steps of a training"),
    "batch_size": (32, "texts of a step"),
    "test_examples": (1000, "test texts read"),
    "finalists": (5, "members trained again"),
    "sizes": (9, "members of the gradient's family that are trained, of which the finalists are kept"),
}
"""Sizes that the bars ask for, and what they are of."""

QUICK: dict[str, Any] = {
    "configurations": 6, "replays": 20, "searches": 2, "supports": 2, "steps": 8, "batch_size": 8,
    "test_examples": 96, "finalists": 2, "sizes": 3, "rates": [3e-3, 1e-2],
    "ranks": [8],
}  # fmt: skip
OWN = "random, its own trainings"
"""Random search that hands out what it trained itself, instead of training its finalists again."""
COUNTERPARTS = {"gradient only": "random", "gradient": OWN, "gradient, started": OWN}
"""What is run for real -> the random search whose finalists came about in the same way."""
PARTS = ("table", "searches", "points", "supports")


def make_table(bench: Bench, space: SearchSpace, count: int) -> list[Entry]:
    """Configurations of all sizes, no adapter among them, each trained with two seeds."""
    rng, none = np.random.default_rng(0), uniform(bench, 0, space.config.steps[0])
    chosen = dict.fromkeys(none.replace(learning_rate=rate) for rate in space.config.learning_rate)
    while len(chosen) < count:
        chosen[space.sample_stratified(rng)] = None
    table = []
    for number, architecture in enumerate(chosen, start=1):
        print(f"table: configuration {number} of {len(chosen)}", flush=True)
        first, second = (bench.run(architecture, seed) for seed in (0, 1))
        table.append(Entry(architecture, first["parameters"], (first, second)))
    return table


def replays(
    table: list[Entry], space: SearchSpace, options: argparse.Namespace, reference: tuple[float, float]
) -> Courses:
    """Method -> its course at each search seed."""
    courses: Courses = {}
    for seed in range(options.replays):
        for name in ("random", "tpe", "halving", "nsga2"):
            replay = Replay(table, space, seed, options.finalists, reference)
            courses.setdefault(name, []).append(replay.points(getattr(replay, name)(len(table))))
        replay = Replay(table, space, seed, options.finalists, reference, retrained=False)
        courses.setdefault(OWN, []).append(replay.points(replay.random(len(table))))
        replay = Replay(table, space, seed, options.finalists, reference)
        by_size = replay.handed_out(replay.by_size(options.finalists))
        courses.setdefault("parameters only", []).append([by_size])
    return courses


def searches(
    bench: Bench, space: SearchSpace, options: argparse.Namespace, reference: tuple[float, float]
) -> tuple[Courses, dict[str, list[list[Row]]]]:
    """What is run for real: by method, a point and a trained front at each search seed.

    "gradient only" trains as many members of the family as there are finalists, and looks at no validation example;
    "gradient" (``strategy: gradient``) more, and hands out of these those that dominate most on validation. Those of
    "gradient, started" start from the gradient, as ``few_shot.initialization`` has it.
    """
    courses: Courses = {}
    fronts: dict[str, list[list[Row]]] = {}
    gradient = by_gradient(bench, space, options)
    for seed in range(options.searches):
        for method in COUNTERPARTS:
            trained = options.sizes if COUNTERPARTS[method] == OWN else options.finalists
            started_at = max(options.start_rates) if method.endswith("started") else None
            rows, flops, steps = finished(bench, gradient, seed, trained, started_at)
            searched = gradient["token_flops"], gradient["gradient_steps"]
            if trained > options.finalists:
                searched = flops, steps
                losses = [best_rung(row)["validation_loss"] for row in rows]
                kept = dominating(losses, [row["parameters"] for row in rows], options.finalists, reference)
                rows = [rows[place] for place in kept]
            volume = test_hypervolume(rows, reference)
            point = Point(0, flops, steps, *searched, volume)
            courses.setdefault(method, []).append([point])
            fronts.setdefault(method, []).append(rows)
    return courses, fronts


def single_points(
    bench: Bench, options: argparse.Namespace, reference: tuple[float, float]
) -> tuple[dict[str, Any], dict[int, list[Row]]]:
    """What has no search but of the learning rate: results by method, and the uniform LoRAs' runs by rank."""
    top = uniform(bench, 12, options.steps)
    methods: dict[str, tuple[Architecture, list[float], Kind]] = {
        "uniform lora r=8, started": (uniform(bench, 8, options.steps), options.start_rates, "started"),
        "head only, started": (uniform(bench, 0, options.steps), options.start_rates, "started"),
        "head only": (uniform(bench, 0, options.steps), options.rates, "architecture"),
        "adalora": (top, options.rates, "adalora"),
        "full fine-tuning": (uniform(bench, 0, options.steps), [rate / 20 for rate in options.rates], "full"),
    }
    for rank in options.ranks:
        methods[f"uniform lora r={rank}"] = uniform(bench, rank, options.steps), options.rates, "architecture"
    results: dict[str, Any] = {}
    runs: dict[int, list[Row]] = {}
    for name, (architecture, rates, kind) in methods.items():
        best, cost = tuned(bench, architecture, rates, 0, kind)
        chosen = Architecture.from_dict(best["architecture"])
        rows = [bench.run(chosen, FINAL + seed, kind) for seed in range(options.searches)]
        outcomes = [best_rung(row) for row in rows]
        results[name] = {
            "parameters": rows[0]["parameters"],
            "learning_rate": chosen.learning_rate,
            "test_loss": vars(seeds_interval([outcome["test_loss"] for outcome in outcomes])),
            "test_accuracy": vars(seeds_interval([outcome["test_accuracy"] for outcome in outcomes])),
            "hypervolume": float(np.mean([test_hypervolume([row], reference) for row in rows])),
            **{f"tuning_{kind_of_cost}": value for kind_of_cost, value in cost.items()},
        }
        if name.startswith("uniform") and kind == "architecture":
            runs[int(name.rpartition("=")[2])] = rows
    return results, runs


def over_supports(options: argparse.Namespace, sizes: Sizes, runs: Runs, accelerator: Accelerator) -> dict[str, Any]:
    """Bar 3: the gradient's adapter of a quarter of the size against uniform LoRA r=8, on other draws of labels."""
    accuracies: dict[str, list[float]] = {"ours": [], "uniform_r8": [], "uniform_r8_started": []}
    shares = []
    for support in range(1, options.supports + 1):
        bench = Bench(sizes, support, runs, accelerator)
        base, _ = tuned(bench, uniform(bench, 8, options.steps), options.rates, 0, "architecture")
        started, _ = tuned(bench, uniform(bench, 8, options.steps), options.start_rates, 0, "started")
        space = make_space(bench, options, base["parameters"] // 4)
        largest = Architecture.from_dict(by_gradient(bench, space, options)["front"][-1])
        member, _ = tuned(bench, largest, options.start_rates, 0, "started")
        for name, row in zip(accuracies, (member, base, started), strict=True):
            accuracies[name].append(best_rung(row)["test_accuracy"])
        shares.append(base["parameters"] / member["parameters"])
    interval, beside = (
        seeds_interval(list(np.subtract(accuracies["ours"], accuracies[name])))
        for name in ("uniform_r8", "uniform_r8_started")
    )
    enough = interval.ci95 is not None and interval.ci95[0] >= -0.01
    return {
        **accuracies,
        "difference": vars(interval),
        "difference_from_started": vars(beside),
        "times_fewer_parameters": {"each": shares, "least": min(shares)},
        "ok": bool(enough and min(shares) >= 4 and options.supports >= 10),
    }


def main(options: argparse.Namespace) -> None:
    name = "adapter_search_quick" if options.quick else "adapter_search"
    # The table of a quick run is of no use to anybody else, so it stays out of the repository.
    folder = Path.home() / ".cache" / "hf_fsl" / "benchmarks" if options.quick else RESULTS
    sizes = Sizes(8, 3, options.steps, options.batch_size, options.test_examples)
    runs = Runs(folder / f"{name}_runs.jsonl")
    accelerator = make_accelerator("auto")
    bench = Bench(sizes, 0, runs, accelerator)
    space = make_space(bench, options)
    largest = trainable_parameters(uniform(bench, max(space.config.ranks), options.steps), bench.sites)
    reference = math.log(bench.classes), math.log10(2 * largest)

    parts: dict[str, Callable[[], Any]] = {
        "table": lambda: make_table(bench, space, options.configurations),
        "searches": lambda: searches(bench, space, options, reference),
        "points": lambda: single_points(bench, options, reference),
        "supports": lambda: over_supports(options, sizes, runs, accelerator),
    }
    if options.only:
        parts[options.only]()
        return
    courses = replays(parts["table"](), space, options, reference)
    real, fronts = parts["searches"]()
    courses |= real
    points, uniform_runs = parts["points"]()
    ends = {method: [course[-1] for course in found] for method, found in courses.items()}
    target = float(np.mean([point.hypervolume for point in ends["random"]]))
    first = {method: against_random(ends[method], ends[random]) for method, random in COUNTERPARTS.items()}
    second = {method: against_uniform(found, uniform_runs) for method, found in fronts.items()}
    third = parts["supports"]()
    short = [option for option, (value, _) in WHOLE.items() if getattr(options, option) < value]
    judged = not options.quick and not set(short) - {"supports"}
    if options.quick:
        note = "Quick: smaller than the bars ask for. It shows that the benchmark runs; no bar is judged by it."
    elif short:
        note = f"Smaller than the bars ask for in {', '.join(short)}."
    else:
        note = "Whole size; see the docstring for the bars."
    write_result(
        name,
        {
            "quick": options.quick,
            "judged": {
                "against_random": judged,
                "against_uniform_of_its_size": judged,
                "quarter_of_uniform_r8": not short,
            },
            "note": note,
            "sizes": {key: value for key, value in vars(options).items() if key not in ("quick", "only")},
            "reference": {"test_loss": reference[0], "log10_parameters": reference[1]},
            "searches": summary(courses, target),
            "single_points": points,
            "bars": {
                "against_random": first,
                "against_uniform_of_its_size": {
                    method: {"sizes": found, "ok": all(row["ok"] for row in found.values())}
                    for method, found in second.items()
                },
                "quarter_of_uniform_r8": third,
            },
        },
        peers=["optuna"],
    )
    draw(courses, target, RESULTS / f"{name}.png")
    if options.quick:
        runs.path.unlink(missing_ok=True)  # the next one measures again


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="run this part and keep its runs, beside a process with another")
    parser.add_argument("--quick", action="store_true", help="a size that ends within 10 minutes")
    for option, (value, text) in WHOLE.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=int, default=value, help=f"{text} ({value})")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-2], help="learning rates")
    parser.add_argument("--start-rates", type=float, nargs="+", default=[3e-3, 5e-3], help="of started trainings")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate of the family, not started")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="of the uniform LoRAs")
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    main(parser.parse_args())
