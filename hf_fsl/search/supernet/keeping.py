"""A trained supernet on disk: its weights, its gradients, and what it cost. What is finished is not done again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_fsl.adapters.gradients import LayerGradient
from hf_fsl.files import replaced, write_text
from hf_fsl.search.meter import Meter
from hf_fsl.search.sameness import require_same
from hf_fsl.training import Progress

_COUNTED = ("forward_flops", "backward_flops", "gradient_steps", "seconds")
WEIGHTS, NOTES = "supernet.safetensors", "supernet.json"


@dataclasses.dataclass(frozen=True)
class Kept:
    """What :func:`keep` wrote."""

    state: dict[str, Tensor]
    gradients: dict[str, LayerGradient]
    progress: Progress
    reordered: bool
    meter: dict[str, Any]


def keep(folder: Path, identity: dict[str, Any], kept: Kept) -> None:
    """Writes a supernet; the notes last, so that a folder with notes is whole."""
    tensors = {f"state/{name}": value.contiguous() for name, value in kept.state.items()}
    for name, gradient in kept.gradients.items():
        tensors[f"values/{name}"], tensors[f"right/{name}"] = gradient.values, gradient.right.contiguous()
    with replaced(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    notes = {
        "identity": identity,
        "progress": dataclasses.asdict(kept.progress),
        "reordered": kept.reordered,
        "meter": kept.meter,
    }
    write_text(folder / NOTES, json.dumps(notes, indent=1) + "\n")


def kept_in(folder: Path, identity: dict[str, Any]) -> Kept | None:
    """The supernet of a folder; None where there is none yet.

    Raises:
        SearchError: it is one of another space, data set or backbone, or was trained in another way.
    """
    if not (folder / NOTES).is_file():
        return None
    notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    require_same("The supernet", folder, notes["identity"], identity)
    tensors = load_file(folder / WEIGHTS)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    rights = part("right/")
    gradients = {name: LayerGradient(values, rights[name]) for name, values in part("values/").items()}
    return Kept(part("state/"), gradients, Progress(**notes["progress"]), notes["reordered"], notes["meter"])


def meter_values(meter: Meter) -> dict[str, Any]:
    """What a meter has counted so far."""
    return {**{name: getattr(meter, name) for name in _COUNTED}, "by_phase": dict(meter.by_phase)}


def add_to(meter: Meter, values: dict[str, Any]) -> None:
    """Adds what was counted earlier."""
    for name in _COUNTED:
        setattr(meter, name, getattr(meter, name) + values[name])
    for phase, cost in values["by_phase"].items():
        meter.by_phase[phase] = meter.by_phase.get(phase, 0.0) + cost
