"""``hf-fsl demo``: the main job from end to end, with a Hub on this machine in place of the real one."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_fsl.cli.launch import launch_command
from hf_fsl.core.errors import UserError
from hf_fsl.core.paths import recipes_folder
from hf_fsl.core.processes import supervised

MODEL = "demo/supersense-minilm-lora"
SEARCHED = "demo/supersense-searched-adapter"
FEW_SHOT_MODEL = "demo/supersense-8-shot"
NLI = "hf-fsl/minilm-wordnet-nli"
IMAGE_TEXT = "hf-fsl/emoji-image-text"
KINDS = "bird,fruit,heart,vehicle on the ground"
LABELS = "animal,feeling,food,time"
SENTENCES = [
    "a small furry animal that hunts mice at night",
    "the feeling of being pleased with what one has achieved",
    "a sweet pastry filled with fruit and baked in an oven",
    "the hour before the sun goes down",
]
_PICTURES = """
import sys
from datasets import load_dataset
emoji = load_dataset("hf-fsl/emoji", "noto-subcategory", split="novel")
for kind in ("animal-bird", "food-fruit", "heart", "transport-ground"):
    emoji[emoji["subcategory"].index(emoji.features["subcategory"].str2int(kind))]["image"].save(f"{sys.argv[1]}/{kind}.png")
"""
_FEW_SHOT = """
import sys
from datasets import load_dataset
from hf_fsl import FewShotClassifier
data = load_dataset("hf-fsl/supersense").shuffle(seed=0)
names = data["train"].features["label"].names
labels = [names[label] for label in data["train"]["label"]]
rows = [row for name in names for row in [row for row, label in enumerate(labels) if label == name][:8]]
classifier = FewShotClassifier(sys.argv[1])
classifier.fit(data["train"].select(rows)["text"], [labels[row] for row in rows])
print(f"  {classifier.reason_}")
test = data["test"].select(range(600))
print(f"  accuracy on 600 test texts: {classifier.score(test['text'], [names[label] for label in test['label']]):.3f}")
print(f"  {classifier.push_to_hub(sys.argv[2])}")
"""
_LOAD = """
import sys
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1], trust_remote_code=sys.argv[1].endswith("shot"))
assert "hf_fsl" not in sys.modules
for text in sys.argv[2:]:
    best = classify(text)[0]
    print(f"  {text:<60} {best['label']} ({best['score']:.2f})")
"""
_PREDICT = [sys.executable, "-m", "hf_fsl", "predict"]


class StepFailed(UserError):
    """A process of the demo failed, and has said why."""

    def __init__(self, command: Sequence[str], code: int) -> None:
        shown = [word if "\n" not in word else "…" for word in command[1:]]
        super().__init__(f"The demo ends here: {shlex.join(shown)} ended with {code}.")
        self.exit_code = code


def add_commands(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="the ladder from no labels to thousands, published to a Hub on this machine, loaded back",
        description="Starts a local Hub on a free port, seeds it, classifies texts and pictures by names alone, fits "
        "a classifier on eight labels a class, runs the fine_tune recipe through accelerate launch, loads what was "
        "pushed back in fresh processes, predicts, and ends with a small adapter search. "
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
            code = supervised(command, environment)
            if code:
                raise StepFailed(command, code)

        _say(f"1. A Hub on this machine: {endpoint}. Put into it:")
        seed(endpoint, token="demo", recipes=recipes_folder(), log=lambda line: print(f"   {line}"))
        _say(f"2. No labels: the label that a text entails, by {NLI}")
        run(*_PREDICT, NLI, "--labels", LABELS, "--template", "This is about {}.", *SENTENCES)
        _say(f"   The nearest label name by {MINILM}")
        run(*_PREDICT, MINILM, "--labels", LABELS, "--template", "{}", *SENTENCES)
        pictures = folder / "pictures"
        pictures.mkdir()
        run(sys.executable, "-c", _PICTURES, str(pictures))
        _say(f"   The same for pictures, of kinds it has never seen, by {IMAGE_TEXT}")
        run(*_PREDICT, IMAGE_TEXT, "--labels", KINDS, "--template", "{}", *map(str, sorted(pictures.iterdir())))
        _say("3. Eight labels a class: a classifier in seconds, pushed")
        run(sys.executable, "-c", _FEW_SHOT, MINILM, FEW_SHOT_MODEL)
        _say(f"   Load it back in a fresh process without hf_fsl: {FEW_SHOT_MODEL}")
        run(sys.executable, "-I", "-c", _LOAD, FEW_SHOT_MODEL, *SENTENCES)
        _say("4. Two hundred labels a class: fine-tune, evaluate, write the card, push")
        push = ["--hub.push_to_hub", "true", "--hub.hub_model_id", MODEL, "--output_dir", str(folder / "run")]
        push += ["--training.num_train_epochs", "2"]  # of the config's three: a demo is watched
        run(*launch_command("fine_tune", "supersense", "cpu", [*push, *options.rest]))
        _say(f'5. Load it back in a fresh process: pipeline("text-classification", model="{MODEL}")')
        # -I: isolated, so that hf_fsl could not even be found in the working folder.
        run(sys.executable, "-I", "-c", _LOAD, MODEL, *SENTENCES)
        _say("6. Which adapter do eight labels a class need? Four sizes tried, each where a gradient pass says")
        found = ["--output_dir", str(folder / "search"), "--hub.push_to_hub", "true"]
        run(*launch_command("search_adapters", "supersense.demo", "cpu", [*found, "--hub.hub_model_id", SEARCHED]))
    print(f"Done in {time.perf_counter() - started:.0f} s. The card: {folder / 'run' / 'bundle' / 'README.md'}")
    return 0


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)
