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


def add_commands(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="fine-tune MiniLM on supersenses, publish to a Hub on this machine, load it back",
        description="Starts a local Hub on a free port, seeds it, runs the fine_tune recipe through accelerate "
        "launch, pushes the model, loads it back in a fresh process and predicts. Further --section.field value "
        "arguments override the config.",
    )
    demo.add_argument("--folder", default=".demo", help="where everything goes (default .demo); emptied first")
    demo.set_defaults(run=_demo, takes_overrides=True)


def _demo(options: argparse.Namespace) -> int:
    from hf_fsl.hub.local import running
    from hf_fsl.hub.seed import seed

    started, folder = time.perf_counter(), Path(options.folder).resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "hub").is_dir():
        raise UserError(f"{folder} holds something that is not a demo. Give another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    with running(folder / "hub") as endpoint:
        print(f"1. A Hub on this machine: {endpoint}")
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "cache"),
            "HF_TOKEN": "demo",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        print("2. Put into it:", flush=True)
        seed(endpoint, token="demo", recipes=recipes_folder(), log=lambda line: print(f"   {line}"))
        overrides = ["--hub.push_to_hub", "true", "--hub.hub_model_id", MODEL, "--output_dir", str(folder / "run")]
        command = launch_command("fine_tune", "supersense", "cpu", [*overrides, *options.rest])
        print("3. Fine-tune, evaluate, write the card, push:", flush=True)
        subprocess.run(command, env=environment, check=True)
        print(f'4. Load it back in a fresh process: pipeline("text-classification", model="{MODEL}")', flush=True)
        # -I: isolated, so that hf_fsl could not even be found in the working folder.
        loading = [sys.executable, "-I", "-c", _LOAD, MODEL, *SENTENCES]
        subprocess.run(loading, env=environment, check=True)
    print(f"Done in {time.perf_counter() - started:.0f} s. The card: {folder / 'run' / 'bundle' / 'README.md'}")
    return 0
