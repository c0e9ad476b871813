"""The record of whichever recipe a bundle came from, and its card."""

from __future__ import annotations

import json
from pathlib import Path

from hf_fsl.contrastive_record import ContrastiveRecord
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.contrastive_cards import PIPELINE_TAG, render_contrastive_card
from hf_fsl.records import RunRecord
from hf_fsl.tasks import Task

AnyRecord = RunRecord | ContrastiveRecord


def load_record(path: Path) -> AnyRecord:
    """The record in a file, read as its ``recipe`` says."""
    text = path.read_text(encoding="utf-8")
    contrastive = json.loads(text).get("recipe") == "train_contrastive"
    return ContrastiveRecord.from_json(text) if contrastive else RunRecord.from_json(text)


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
