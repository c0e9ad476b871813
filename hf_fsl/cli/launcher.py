"""``accelerate launch`` as ``hf-fsl`` runs it: ``python -m hf_fsl.cli.launcher``, with the same arguments.

Accelerate's own command dies of a signal and leaves the training running, follows an error of the training with a
traceback of its own, and exits with 1 whatever the training's exit code was.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from hf_fsl.core.errors import UserError
from hf_fsl.core.exits import run_plainly
from hf_fsl.core.processes import as_parent, end_with_parent, exit_code, pass_on, signals_to


def main(arguments: Sequence[str] | None = None) -> int:
    """Launches a script. Returns its exit code; of several processes, that of the first that failed."""
    return run_plainly(lambda: _supervised_launch(arguments), "hf-fsl")


def _supervised_launch(arguments: Sequence[str] | None) -> int:
    import psutil

    end_with_parent()
    os.environ.update(as_parent({}))  # of what is launched
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        children = psutil.Process().children()
        if not children:  # nothing is launched yet
            raise SystemExit(128 + number)
        for child in children:
            pass_on(child.pid, number)

    with signals_to(receive):
        code = _launch(arguments)
    if code < 0 and not received:
        name = signal.Signals(-code).name
        why = " The machine may have run out of memory." if name == "SIGKILL" else ""
        print(f"hf-fsl: a process of the launch was ended by {name}.{why}", file=sys.stderr)
    return exit_code(code)


def _launch(arguments: Sequence[str] | None) -> int:
    """The exit code as ``subprocess`` gives it: below 0 for a signal."""
    import torch.distributed.run  # noqa: F401  # has loggers, quietened below
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # tells what the training itself has told
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        options = launch_command_parser().parse_args(arguments)
        _require_devices(options)
        launch_command(options)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ValueError as error:
        raise UserError(f"accelerate launch: {error}") from error
    return 0


def _require_devices(options: argparse.Namespace) -> None:
    """Without a GPU Accelerate trains on the CPU, and says nothing.

    Raises:
        UserError: the launch or its config names GPUs, and there are none.
    """
    import torch
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(options.config_file) if options.config_file is not None else None
    asked = options.gpu_ids or getattr(settings, "gpu_ids", None)
    cpu = options.cpu or getattr(settings, "use_cpu", False)
    if asked is not None and not cpu and not torch.accelerator.is_available():
        raise UserError(
            f"{options.config_file or '--gpu_ids'} asks for GPUs (gpu_ids: {asked}), and PyTorch finds none on this "
            "machine. On CPUs: --accelerate-config cpu, or cpu_2proc."
        )


if __name__ == "__main__":
    raise SystemExit(main())
