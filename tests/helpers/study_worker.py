"""A worker of a study as a process of its own: python study_worker.py URL FOLDER NAME SECONDS.

Its trials take no training: ten steps of SECONDS each, with a checkpoint and a rung after the fifth. Every step is
noted in FOLDER/steps.jsonl, which the tests read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hf_fsl.config.search import StudyConfig
from hf_fsl.config.search_space import SearchSpaceConfig
from hf_fsl.search.space import SearchSpace, Site, Sites
from hf_fsl.search.space.sites import GROUPS
from hf_fsl.search.study import Evaluation, identity, run_study

STEPS = 10


def tiny_space(layers: int = 2, **choices) -> SearchSpace:
    sites = tuple(
        Site(f"layer.{layer}.{group}", layer, group, 8, 8, False, True) for layer in range(layers) for group in GROUPS
    )
    names = tuple(f"layer.{layer}" for layer in range(layers))
    model = Sites(names, sites, (), ("classifier",), 10, 1000)
    return SearchSpace(SearchSpaceConfig(**{"steps": [100], **choices}), model)


def quality(architecture) -> float:
    """A loss that falls with rank, mostly with that of the last layer's first group."""
    first, last = architecture.ranks[0], architecture.ranks[-1]
    return 2.0 - 0.1 * last[0] ** 0.5 - 0.01 * sum(first) ** 0.5


def work(url: str, folder: Path, name: str, seconds: float, **options) -> list:
    def note(**row):
        with (folder / "steps.jsonl").open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), **row}) + "\n")

    def function(architecture, context):
        context.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = context.folder / "step"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        origin = int(context.folder.name)
        note(origin=origin, event="start", step=step)
        while step < STEPS:
            time.sleep(seconds)
            step += 1
            note(origin=origin, event="step", step=step)
            if step == 5:
                context.token_flops += 5.0
                context.report(0, {"loss": quality(architecture) + 1, "parameters": space.parameters(architecture)})
                checkpoint.write_text(str(step))
        context.token_flops += 5.0
        note(origin=origin, event="end", step=step)
        return Evaluation(values={"loss": quality(architecture), "parameters": space.parameters(architecture)})

    space = tiny_space()
    settings = {"trials": 8, "rungs": [0.5], "reduction_factor": 50.0, "heartbeat": 2, "storage": url, **options}
    about = identity(space=space.to_dict(), data="tiny", backbone="none")
    return run_study(space, function, StudyConfig(**settings), name=name, folder=folder, identity=about)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
