"""What the few-shot text benchmark concludes: accuracy over training time, against SetFit, and the figure."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import RESULTS, write_result

from hf_fsl.core.files import atomic_write
from hf_fsl.metrics import paired_difference, seeds_interval

Runs = dict[tuple[int, str], dict[str, Any]]
"""By seed and method."""
SHOTS = 8
SETFIT = {"setfit-20": 20, "setfit-1": 1}
REFERENCE = "setfit-20"


def report(runs: Runs, size: int) -> None:
    """Writes the curve, the bars and the figure from the runs that there are; ``size`` is that of the test split."""
    methods = list(dict.fromkeys(method for _, method in runs))
    curve = {}
    for method in methods:
        rows = [row for (_, name), row in runs.items() if name == method]
        accuracy = seeds_interval([row["accuracy"] for row in rows])
        curve[method] = {
            "seeds": [row["seed"] for row in rows],
            "accuracy": accuracy.value,
            "accuracy_ci95": accuracy.ci95,
            "cpu_seconds": float(np.median([row["cpu_seconds"] for row in rows])),
            "wall_seconds": float(np.median([row["seconds"] for row in rows])),
        }
    compared = {method: _against_reference(runs, method, size) for method in methods if method != REFERENCE}
    values: dict[str, Any] = {
        "data": "supersense",
        "shots": SHOTS,
        "classes": 24,
        "curve": curve,
        "against_setfit_20": compared,
    }
    # SetFit has an interpreter of its own: what it ran on is noted with each of its runs.
    peer = [row["versions"] for (_, method), row in runs.items() if method in SETFIT]
    values["setfit_versions"] = [row for number, row in enumerate(peer) if row not in peer[:number]]
    write_result("few_shot_text", values | {"setfit_points_above_our_curve": _above(curve)})
    _figure(curve)


def _against_reference(runs: Runs, method: str, size: int) -> dict[str, Any]:
    """Points above the reference, paired over the seeds that both have and over examples, and how much faster."""
    seeds = [seed for seed, name in runs if name == method and (seed, REFERENCE) in runs]
    if not seeds:
        return {"seeds": []}
    pairs = [(runs[seed, method], runs[seed, REFERENCE]) for seed in seeds]
    right = [
        np.array([np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8))[:size] for row in rows])
        for rows in zip(*pairs, strict=True)
    ]
    difference = seeds_interval([ours["accuracy"] - theirs["accuracy"] for ours, theirs in pairs])
    examples = paired_difference(right[0].mean(0), right[1].mean(0), 5000)
    return {
        "seeds": seeds,
        "accuracy_difference": difference.value,
        "ci95_over_seeds": difference.ci95,
        "ci95_over_examples": examples.ci95,
        "times_faster_cpu": float(np.median([theirs["cpu_seconds"] / ours["cpu_seconds"] for ours, theirs in pairs])),
        "times_faster_wall": float(np.median([theirs["seconds"] / ours["seconds"] for ours, theirs in pairs])),
    }


def _above(curve: dict[str, dict[str, Any]]) -> list[str]:
    """SetFit's points that no method of ours is both faster and better than."""
    ours = [point for method, point in curve.items() if method not in SETFIT]
    return [
        method
        for method in SETFIT
        if method in curve
        and not any(
            point["cpu_seconds"] <= curve[method]["cpu_seconds"] and point["accuracy"] >= curve[method]["accuracy"]
            for point in ours
        )
    ]


def _figure(curve: dict[str, dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    groups = {
        "frozen": [m for m in curve if m.startswith("frozen")],
        "adapted": [m for m in curve if m.startswith("adapted") and "names" not in m],
        "adapted, with names": [m for m in curve if m.startswith("adapted") and "names" in m],
        "adapted from the gradient": [m for m in curve if m.startswith("from the gradient") and "names" not in m],
        "adapted, upper layers": [m for m in curve if m.startswith("upper")],
        "adapted, float32": [m for m in curve if m.startswith("float32")],
        "SetFit 1.2": [m for m in curve if m in SETFIT],
    }
    plot = Figure(figsize=(7, 4.5), layout="tight")
    axes = plot.subplots()
    for (label, members), marker in zip(groups.items(), "osD*^vX", strict=True):
        points = sorted((curve[m] | {"method": m} for m in members), key=lambda point: point["cpu_seconds"])
        if not points:
            continue
        halves = [p["accuracy_ci95"][1] - p["accuracy"] if p["accuracy_ci95"] else 0.0 for p in points]
        line = "-" if len(points) > 1 and label != "frozen" else ""
        times, accuracies = [p["cpu_seconds"] for p in points], [100 * p["accuracy"] for p in points]
        axes.errorbar(
            times, accuracies, [100 * h for h in halves], marker=marker, linestyle=line, capsize=2, label=label
        )
    axes.set_xscale("log")
    axes.set_xlabel("training, CPU seconds of one thread")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"supersense, {SHOTS} examples of each of 24 classes, MiniLM")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(RESULTS / "few_shot_text.png") as temporary:
        plot.savefig(temporary, dpi=150, format="png")
