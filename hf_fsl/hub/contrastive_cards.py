"""Cards of dual encoders, rendered from a ContrastiveRecord alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from hf_fsl.core.contrastive_record import ContrastiveRecord
from hf_fsl.hub.cards import card_template, is_published

PIPELINE_TAG = "zero-shot-image-classification"
MEASURED = {
    "accuracy": "classified into {n} classes by name",
    "balanced_accuracy": "the same, mean of the recalls of {n} classes",
    "retrieval_at_1": "own text first of {n}",
    "retrieval_at_5": "own text among the first 5 of {n}",
}
"""What each metric says, in words."""


def render_contrastive_card(record: ContrastiveRecord, *, repo_id: str | None = None) -> str:
    """The card of a run; what the record does not know is called unknown.

    Args:
        repo_id: where the model is, for the snippet; None: the ``hub_model_id`` of the record's config.
    """
    hub = record.config.get("hub", {})
    repo_id = repo_id or hub.get("hub_model_id")
    output = Path(record.config.get("output_dir", "."))
    body = card_template(record.recipe).render(
        record=record,
        title=repo_id.rpartition("/")[2] if repo_id else output.name,
        repo=repo_id or (output / "bundle").as_posix(),
        hub=hub,
        data_on_hub=is_published(record.data.path, record.data.revision),
        measured=MEASURED,
        seen=sorted(set(record.data.splits["train"].class_counts) & set(record.data.splits["test"].class_counts)),
        template=record.config["data"]["label_templates"][0],
        config_yaml=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    )
    return f"---\n{contrastive_card_data(record, repo_id).to_yaml()}\n---\n\n{body.strip()}\n"


def contrastive_card_data(record: ContrastiveRecord, repo_id: str | None) -> ModelCardData:
    """The card's metadata, the measurements as ``model-index`` among them."""
    hub, data = record.config.get("hub", {}), record.data
    results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type=data.path,
            dataset_name=data.path,
            dataset_config=data.name,
            dataset_split=data.splits[split].name,
            dataset_revision=data.revision,
            metric_type=name,
            metric_name=f"{name} ({split})",
            metric_value=round(row.measurement.value, 6),
            metric_args={
                "ci95": [round(end, 6) for end in row.measurement.ci95 or ()],
                "n": row.measurement.n,
                "chance": round(row.chance, 6),
                "candidates": row.candidates,
            },
        )
        for split, rows in record.tests.items()
        for name, row in rows.items()
    ]
    bases = list(
        dict.fromkeys(
            tower.source for tower in (record.image, record.text) if is_published(tower.source, tower.revision)
        )
    )
    optional: dict[str, Any] = {
        "base_model": bases or None,
        "base_model_relation": "finetune" if bases else None,
        "datasets": [data.path] if is_published(data.path, data.revision) else None,
        "license": hub.get("license"),
        "language": hub.get("language"),
    }
    adapted = "lora" if "lora" in (record.image.method, record.text.method) else None
    tags = ["hf_fsl", "contrastive", *(["peft", adapted] if adapted else []), *hub.get("tags", [])]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(dict.fromkeys(tags)),
        model_name=(repo_id or "model").rpartition("/")[2],
        eval_results=results,
        **{key: value for key, value in optional.items() if value is not None},
    )
