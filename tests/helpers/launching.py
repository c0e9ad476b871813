"""Recipes through the real launcher, and the command line, in processes of their own; recipes in this process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 900.0
"""Seconds after which a process is taken to hang; it and its children then print where they are."""


def launch(environment, output, config, *overrides, recipe="fine_tune", preset="cpu"):
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", f"recipes/accelerate_configs/{preset}.yaml", "--main_process_port", "0",
        f"recipes/{recipe}.py", "--config", str(config), "--output_dir", str(output), *overrides,
    ]  # fmt: skip
    return run_process(command, environment)


@contextlib.contextmanager
def own_accelerator_state():
    """Accelerate's state, which a process has once, as in a process that has just started; afterwards as it was."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in (PartialState, AcceleratorState, GradientState)]
    for state, _ in kept:
        state.clear()
    try:
        yield
    finally:
        for state, values in kept:
            state.clear()
            state.update(values)


def run_here(recipe, config, output, *overrides):
    """A recipe's main() in this process, for what neither the launcher nor the Hub is needed for.

    Starting a process and importing everything takes ten times as long as a refusal. Nothing is verified or pushed.
    """
    from hf_fsl.config import RECIPES, load_config

    spec = importlib.util.spec_from_file_location(f"recipe_{recipe}", ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.publish = lambda *bundle: None
    with own_accelerator_state():
        module.main(load_config(RECIPES[recipe], config, ["--output_dir", str(output), *overrides]))


def here(data=None, **models):
    """Overrides that take data and models from the checkout instead of the Hub."""
    from hf_fsl.hub.seed import minilm_folder

    folders = {"minilm": minilm_folder, "tiny-convnext": lambda: ROOT / "recipes" / "backbones" / "tiny-convnext"}
    paths = ["--data.path", str(ROOT / "recipes" / "data" / data)] if data is not None else []
    for section, name in models.items():
        paths += [f"--{section.replace('__', '.')}.model_name_or_path", str(folders[name]())]
    return paths


def hf_fsl(environment, *arguments, stdin=None, longest=LONGEST):
    return run_process([sys.executable, "-m", "hf_fsl", *arguments], environment, stdin, longest)


def run_process(command, environment, stdin=None, longest=LONGEST):
    """A finished process with what it printed; AssertionError with the stacks of all its processes where it hangs."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**environment, "PYTHONFAULTHANDLER": "1"}, text=True, start_new_session=True,
        stdin=subprocess.PIPE if stdin is not None else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = process.communicate(stdin, timeout=longest)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        out, errors = process.communicate()
        raise AssertionError(f"{command} hangs after {longest} s:\n{out[-3000:]}\n{errors[-6000:]}") from None
    except BaseException:  # Ctrl-C does not reach another session
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, *said)
