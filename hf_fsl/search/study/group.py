"""The processes of one ``accelerate launch`` work on one trial: the first asks and tells, the others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.study.trials import Infeasible, TrialContext, TrialFunction, TrialStopped


class Group:
    """A launched group; without an accelerator this process alone."""

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator
        self.size = accelerator.num_processes if accelerator is not None else 1
        self.is_main = accelerator is None or accelerator.is_main_process

    def share(self, value: Any = None) -> Any:
        """What the main process gives, on every process. All must call it."""
        if self.size == 1:
            return value
        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def start(self, architecture: Architecture, context: TrialContext) -> None:
        """Has the others run the trial that the main process is about to run."""
        self.share((architecture, str(context.folder), list(context.rungs), context.reported))

    def finish(self) -> None:
        """Lets the others return from :meth:`follow`."""
        self.share(None)

    def follow(self, function: TrialFunction) -> None:
        """What the other processes do: every trial that the main process starts, until it finishes."""
        while (message := self.share()) is not None:
            architecture, folder, rungs, reported = message
            context = TrialContext(
                folder=Path(folder), rungs=rungs, accelerator=self.accelerator, reported=reported, decide=self._told
            )
            try:
                function(architecture, context)
            except (TrialStopped, Infeasible, FloatingPointError):
                continue  # on every process alike

    def _told(self, rung: int, values: dict[str, float]) -> bool:
        return bool(self.share())
