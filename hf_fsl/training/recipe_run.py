"""What the recipes share around their own work: config printed, record saved, bundle published, an end together."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from accelerate import Accelerator

from hf_fsl.config.loading import to_dict
from hf_fsl.core.paths import portable
from hf_fsl.core.records import RunRecord
from hf_fsl.hub.push import PushResult, push_bundle
from hf_fsl.hub.worth import cautions

VERIFIED = 16
"""Inputs on which the bundle, loaded by a fresh process, must give what the model gave."""


@dataclass(frozen=True)
class RecipeRun:
    """One run of a recipe, in one of its processes."""

    config: Any
    accelerator: Accelerator
    started: float
    """By ``time.perf_counter()``."""

    @classmethod
    @contextmanager
    def of(cls, config: Any, accelerator: Accelerator, started: float) -> Iterator[Self]:
        """Prints the config; where the block ends well, all processes wait for each other and end together.

        After an error nobody waits: :func:`hf_fsl.config.command_line.run_recipe` ends the process.

        Args:
            config: the recipe's, resolved.
            accelerator: of the launch.
            started: ``time.perf_counter()`` when the recipe began.
        """
        run = cls(config, accelerator, started)
        run.say(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=120))
        yield run
        accelerator.wait_for_everyone()
        accelerator.end_training()

    @property
    def output(self) -> Path:
        """The folder of all that the run writes."""
        return Path(self.config.output_dir)

    @property
    def command(self) -> str:
        """What was launched, without paths that are private to this machine."""
        return "accelerate launch " + shlex.join(map(portable, sys.argv))

    @property
    def seconds(self) -> float:
        """Since the recipe began."""
        return time.perf_counter() - self.started

    def say(self, line: object) -> None:
        """Prints on the main process."""
        self.accelerator.print(line)

    def save(self, record: Any) -> None:
        """Writes ``run_record.json``."""
        record.save(self.output / "run_record.json")

    def warn(self, record: RunRecord) -> None:
        """Says what of a record a reader should not overlook."""
        for line in cautions(record):
            self.say(f"warning: {line}")

    def push(self, bundle: Path) -> PushResult | None:
        """Pushes a verified bundle where the config says so, see :func:`hf_fsl.hub.push.push_bundle`."""
        return push_bundle(bundle, self.config.hub) if self.config.hub.push_to_hub else None

    def conclude(self, bundle: Path, result: PushResult | None) -> None:
        """Says where the model is."""
        self.say(result or f"Verified, not pushed (hub.push_to_hub is false): {bundle}")
