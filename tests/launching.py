"""Recipes through the real launcher, and the command line, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(environment, output, config, *overrides, recipe="fine_tune", preset="cpu"):
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", f"recipes/accelerate_configs/{preset}.yaml", "--main_process_port", "0",
        f"recipes/{recipe}.py", "--config", str(config), "--output_dir", str(output), *overrides,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def hf_fsl(environment, *arguments, stdin=None):
    command = [sys.executable, "-m", "hf_fsl.cli.main", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, input=stdin)
