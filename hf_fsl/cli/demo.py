"""``hf-fsl demo``: the main job from end to end, with a Hub on this machine in place of the real one."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hf_fsl.cli.launch import launch_command
from hf_fsl.errors import UserError
from hf_fsl.resources import recipes_folder

MODEL = "demo/supersense-minilm-lora"
LABELS = "animal,feeling,food,time"
SENTENCES = [
    "a small furry animal that hunts mice at night",
    "the feeling of being pleased with what one has achieved",
    "a sweet pastry filled with fruit and baked in an oven",
    "the hour before the sun goes down",
]
_LOAD = """
import sys
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1])
assert "hf_fsl" not in sys.modules
for text in sys.argv[2:]:
    best = classify(text)[0]
    print(f"  {text:<60} {best['label']} ({best['score']:.2f})")
"""
_PREDICT = [sys.executable, "-c", "import sys; from hf_fsl.cli.main import main; sys.exit(main())", "predict"]


def add_commands(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="labels for no examples and for thousands, published to a Hub on this machine, loaded back",
        description="Starts a local Hub on a free port, seeds it, classifies from label names alone, runs the "
        "fine_tune recipe through accelerate launch, pushes the model, loads it back in a fresh process and predicts. "
        "Further --section.field value arguments override the config of the main run.",
    )
    demo.add_argument("--folder", default=".demo", help="where everything goes (default .demo); emptied first")
    demo.set_defaults(run=_demo, takes_overrides=True)


def _demo(options: argparse.Namespace) -> int:
    from hf_fsl.hub.local import running
    from hf_fsl.hub.seed import MINILM, seed

    started, folder = time.perf_counter(), Path(options.folder).resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "hub").is_dir():
        raise UserError(f"{folder} holds something that is not a demo. Give another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    with running(folder / "hub") as endpoint:
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "cache"),
            "HF_TOKEN": "demo",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment.pop("HF_HUB_OFFLINE", None)

        def run(*command: str) -> None:
            subprocess.run(command, env=environment, check=True)

        _say(f"1. A Hub on this machine: {endpoint}. Put into it:")
        seed(endpoint, token="demo", recipes=recipes_folder(), log=lambda line: print(f"   {line}"))
        _say(f"2. No labels: the nearest label name by {MINILM}")
        run(*_PREDICT, MINILM, "--labels", LABELS, "--template", "{}", *SENTENCES)
        _say("3. Two hundred labels a class: fine-tune, evaluate, write the card, push")
        push = ["--hub.push_to_hub", "true", "--hub.hub_model_id", MODEL, "--output_dir", str(folder / "run")]
        run(*launch_command("fine_tune", "supersense", "cpu", [*push, *options.rest]))
        _say(f'4. Load it back in a fresh process: pipeline("text-classification", model="{MODEL}")')
        # -I: isolated, so that hf_fsl could not even be found in the working folder.
        run(sys.executable, "-I", "-c", _LOAD, MODEL, *SENTENCES)
    print(f"Done in {time.perf_counter() - started:.0f} s. The card: {folder / 'run' / 'bundle' / 'README.md'}")
    return 0


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)
