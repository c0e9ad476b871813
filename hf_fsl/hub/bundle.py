"""The bundle: a published repository as it will be, in a folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_fsl.core.errors import UserError
from hf_fsl.core.files import put_in_place, temporary_beside, write_text
from hf_fsl.core.records import ContrastiveRecord, RunRecord
from hf_fsl.hub.cards import eval_results, is_hub_id, render_card
from hf_fsl.hub.figures import confused_pairs_figure, confusion_figure, episodes_figure, methods_figure
from hf_fsl.hub.privacy import forget_sources, published

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def write_bundle(
    folder: str | Path,
    *,
    model: Any,
    processor: Any,
    record: RunRecord,
    adapter_dir: Path | None = None,
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Writes weights, configuration, processor, card, record, figures and adapter.

    Everything is built beside the folder and then renamed, so that an earlier bundle is replaced by a whole one. It
    names no path of this machine, and no examples of data that are not public.

    Args:
        model: the stock model, adapter merged, with the label names in its config.
        processor: its tokenizer or image processor, or both.
        record: what the run did; card, figures and ``.eval_results/`` are made from it.
        adapter_dir: a saved PEFT adapter, to go into ``adapter/``.
        more: writes further files into the folder it is given.

    Returns:
        The folder.

    Raises:
        UserError: the model or its processor would save a pickle. An earlier bundle is left as it was.
    """
    folder, record = Path(folder), published(record)
    with whole_folder(folder) as building:
        save_parts(building, model, *(processor if isinstance(processor, Sequence) else [processor]))
        if adapter_dir is not None:
            copy_adapter(adapter_dir, building / "adapter", record.model.base_model)
        if more is not None:
            more(building)
        record.save(building / "run_record.json")
        results = eval_results(record)
        if results is not None:
            write_text(building / ".eval_results" / f"{record.data.path.replace('/', '--')}.yaml", results)
        for name, figure in _figures(record):
            (building / "figures").mkdir(exist_ok=True)
            (building / "figures" / name).write_bytes(figure)
        write_text(building / "README.md", render_card(record))
    return folder


def write_dual_encoder_bundle(
    folder: Path,
    *,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    record: ContrastiveRecord,
    adapters: Mapping[str, Path] | None = None,
) -> Path:
    """Writes weights, configuration, tokenizer, image processor, card, record and adapters.

    Args:
        model: the stock model, adapters merged.
        adapters: tower -> folder of its saved PEFT adapter, to go into ``adapter/<tower>/``.

    Returns:
        The folder, replaced as a whole.
    """
    record = published(record)
    with whole_folder(folder) as building:
        save_parts(building, model, tokenizer, image_processor)
        for tower, source in (adapters or {}).items():
            copy_adapter(source, building / "adapter" / tower, getattr(record, tower).source)
        record.save(building / "run_record.json")
        write_text(building / "README.md", render_card(record))
    return folder


def _figures(record: RunRecord) -> Iterator[tuple[str, bytes]]:
    if record.shows_pairs:
        yield "confused_pairs.png", confused_pairs_figure(record.confused_pairs, record.class_names)
    elif record.confusion_matrix is not None:
        yield "confusion_matrix.png", confusion_figure(record.confusion_matrix, record.class_names)
    if record.methods:
        yield "methods.png", methods_figure(record.methods)
    if record.episodes is not None:
        yield "episodes.png", episodes_figure(record.episodes)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, which takes its place when the block ends well. Raises UserError for pickles."""
    with temporary_beside(folder, folder=True) as building:
        yield building
        forget_sources(building)
        refuse_pickles(building)
        put_in_place(building, folder)


def refuse_pickles(folder: Path) -> None:
    """Raises UserError where a folder that is to be published holds one."""
    pickles = [path.name for path in folder.rglob("*") if path.suffix.lower() in _PICKLES]
    if pickles:
        raise UserError(f"A bundle holds no pickles, but this model saves {', '.join(pickles)}.")


def save_parts(folder: Path, *parts: Any) -> None:
    """Model and processors as they save themselves, without the folders that they were loaded from."""
    for part in parts:
        part.save_pretrained(folder)
    forget_sources(folder)


def copy_adapter(source: Path, target: Path, base_model: str) -> None:
    """A saved PEFT adapter, without the path that its base model was loaded from on this machine."""
    target.mkdir(parents=True)
    shutil.copy(source / "adapter_model.safetensors", target)
    settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    if is_hub_id(base_model):
        settings["base_model_name_or_path"] = base_model
    write_text(target / "adapter_config.json", json.dumps(settings, indent=2, sort_keys=True) + "\n")
