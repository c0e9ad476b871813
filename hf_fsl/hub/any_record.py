"""The record of whichever recipe a bundle came from, and its card."""

from __future__ import annotations

from pathlib import Path

from hf_fsl.core.contrastive_record import ContrastiveRecord
from hf_fsl.core.records import RunRecord
from hf_fsl.core.serialization import damage_told, json_object
from hf_fsl.core.task import Task
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.contrastive_cards import PIPELINE_TAG, render_contrastive_card

AnyRecord = RunRecord | ContrastiveRecord


def load_record(path: Path) -> AnyRecord:
    """The record in a file, read as its ``recipe`` says. Raises PlainError for a damaged one."""
    with damage_told(path):
        contrastive = json_object(path.read_text(encoding="utf-8")).get("recipe") == "train_contrastive"
    return ContrastiveRecord.load(path) if contrastive else RunRecord.load(path)


def render(record: AnyRecord, *, repo_id: str | None = None) -> str:
    """Its card, see :func:`hf_fsl.hub.cards.render_card`."""
    if isinstance(record, ContrastiveRecord):
        return render_contrastive_card(record, repo_id=repo_id)
    return render_card(record, repo_id=repo_id)


def pipeline_tag(record: AnyRecord) -> str:
    """The transformers pipeline that runs the model."""
    if isinstance(record, ContrastiveRecord):
        return PIPELINE_TAG
    return record.pipeline_tag or Task.from_dict(record.task).pipeline_tag
