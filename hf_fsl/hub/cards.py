"""Model cards: rendered from a record alone, through the templates in ``templates/``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateNotFound

from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import LOWER_IS_BETTER, Measurement, maximized
from hf_fsl.core.records import Comparison, ContrastiveRecord, Record, RunRecord
from hf_fsl.core.task import Task
from hf_fsl.core.terminal import UNSAFE, printable

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "mcc": "Matthews correlation",
    "ece": "expected calibration error",
    "loss": "log-loss",
}
CONTRASTIVE_METRICS = {
    "accuracy": "classified into {n} classes by name",
    "balanced_accuracy": "the same, mean of the recalls of {n} classes",
    "retrieval_at_1": "own text first of {n}",
    "retrieval_at_5": "own text among the first 5 of {n}",
}
"""What each metric says, in words."""
DUAL_ENCODER_TAG = "zero-shot-image-classification"
_HUB_METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation"}
"""Our names -> those of the Hub's metrics, where they differ."""
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")
_SPECIAL = re.compile(
    r"[\\`*|~$]|<(?=[A-Za-z/!?])|\](?=[(\[:])|!(?=\[)|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\."
)
_FIRST = re.compile(r"\A(\d{0,9})([#>=]|[-+](?=\s|\Z|-)|[.)](?=\s|\Z))")
_TEMPLATES = Path(__file__).with_name("templates")
_SHORT = 300
"""Characters of an example that is preferred for the card's snippet."""


def render_card(record: Record, *, repo_id: str | None = None) -> str:
    """The card of a run.

    Args:
        record: everything the card says comes out of it; what it does not know is called unknown.
        repo_id: where the model is, for the snippet; None: the ``hub_model_id`` of the record's config.

    Raises:
        UserError: there is no template for the recipe.
    """
    hub = record.config.get("hub", {})
    repo_id = repo_id or hub.get("hub_model_id")
    output = Path(record.config.get("output_dir", "."))
    if isinstance(record, ContrastiveRecord):
        values, metadata = _contrastive_values(record), contrastive_card_data(record, repo_id)
    else:
        values, metadata = _run_values(record), card_data(record, repo_id)
    body = card_template(record.recipe).render(
        record=record,
        title=repo_id.rpartition("/")[2] if repo_id else output.name,
        repo=repo_id or (output / "bundle").as_posix(),
        hub=hub,
        data_on_hub=is_published(record.data.path, record.data.revision),
        config_yaml=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
        **values,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def pipeline_tag(record: Record) -> str:
    """The transformers pipeline that runs the model."""
    if isinstance(record, ContrastiveRecord):
        return DUAL_ENCODER_TAG
    return record.pipeline_tag or Task.from_dict(record.task).pipeline_tag


def _run_values(record: RunRecord) -> dict[str, Any]:
    return {
        "task": Task.from_dict(record.task),
        "metric_names": METRIC_NAMES,
        "recalls": _recalls(record),
        "method": _method(record),
        "examples": _examples(record),
        "lower": [METRIC_NAMES[name] for name in LOWER_IS_BETTER if name in record.metrics],
    }


def _contrastive_values(record: ContrastiveRecord) -> dict[str, Any]:
    splits = record.data.splits
    return {
        "measured": CONTRASTIVE_METRICS,
        "seen": sorted(set(splits["train"].class_counts) & set(splits["test"].class_counts)),
        "template": record.config["data"]["label_templates"][0],
    }


def render_classifier_card(values: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The card of a classifier that was saved by itself, without a recipe that measured it.

    Args:
        values: for the template ``few_shot_classifier.md.jinja``.
        metadata: of the card, beyond what they all have.
    """
    tags = ["hf_fsl", "few-shot"]
    data = ModelCardData(library_name="transformers", tags=tags, **metadata)
    body = card_template("few_shot_classifier").render(**values)
    return f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"


def card_template(recipe: str) -> Template:
    """The template of a recipe's cards. Raises UserError where there is none."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=False,
        # What a template puts in is text that others may have written, until a filter says that it is Markdown.
        finalize=lambda value: value if isinstance(value, Markdown) else _markdown(value),
    )
    environment.filters |= _FILTERS
    try:
        return environment.get_template(f"{recipe}.md.jinja")
    except TemplateNotFound as error:
        known = ", ".join(sorted(path.name for path in _TEMPLATES.glob("[!_]*.md.jinja")))
        raise UserError(f"There is no card template {error.name} for this record; there are {known}.") from None


def card_data(record: RunRecord, repo_id: str | None) -> ModelCardData:
    """The card's metadata, the measurements as ``model-index`` among them."""
    hub, task = record.config.get("hub", {}), Task.from_dict(record.task)
    data, method, tag = record.data, _method(record), record.pipeline_tag or task.pipeline_tag
    split = data.splits["test"].name
    results = [
        EvalResult(
            task_type=tag,
            dataset_type=data.path,
            dataset_name=data.path,
            dataset_config=data.name,
            dataset_split=split,
            dataset_revision=data.revision,
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=METRIC_NAMES.get(name, name),
            metric_value=round(value.value, 6),
            metric_args=_metric_args(name, value),
        )
        for name, value in record.metrics.items()
        if math.isfinite(value.value)
    ]
    on_hub = is_published(record.model.base_model, record.model.base_revision)
    optional: dict[str, Any] = {
        "base_model": record.model.base_model if on_hub else None,
        "base_model_relation": "finetune" if on_hub and (record.runs or record.head) else None,
        "datasets": [data.path] if is_published(data.path, data.revision) else None,
        "license": hub.get("license"),
        "language": hub.get("language"),
    }
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=tag,
        tags=list(dict.fromkeys(["hf_fsl", *_method_tags(record, method), *hub.get("tags", [])])),
        metrics=["f1" if name == "macro_f1" else name for name in record.metrics if name in ("accuracy", "macro_f1")],
        model_name=(repo_id or "model").rpartition("/")[2],
        eval_results=results,
        widget=[{"text": row["input"]} for row in _examples(record)]
        if tag == "text-classification" and task.modality == "text" and record.shown_examples
        else None,
        **{key: value for key, value in optional.items() if value is not None},
    )


def contrastive_card_data(record: ContrastiveRecord, repo_id: str | None) -> ModelCardData:
    """The card's metadata, the measurements as ``model-index`` among them."""
    hub, data = record.config.get("hub", {}), record.data
    results = [
        EvalResult(
            task_type=DUAL_ENCODER_TAG,
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
        pipeline_tag=DUAL_ENCODER_TAG,
        tags=list(dict.fromkeys(tags)),
        model_name=(repo_id or "model").rpartition("/")[2],
        eval_results=results,
        **{key: value for key, value in optional.items() if value is not None},
    )


def eval_results(record: RunRecord) -> str | None:
    """The measurements in the ``.eval_results`` format; None for a data set that is not on a Hub."""
    if not is_published(record.data.path, record.data.revision):
        return None
    split = record.data.splits["test"].name
    entries = [
        EvalResultEntry(
            dataset_id=record.data.path,
            task_id=f"{record.data.name or 'default'}/{split}/{name}",
            value=round(value.value, 6),
            dataset_revision=record.data.revision,
            date=record.created,
            notes=f"95% interval {_interval(value)}, n = {value.n}" if value.ci95 else None,
        )
        for name, value in record.metrics.items()
        if math.isfinite(value.value)
    ]
    text: str = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
    return text


def is_hub_id(name: str) -> bool:
    """Whether a name is a repository's id rather than a local path."""
    looks_like_one = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not name.endswith(_FILES)
    return bool(looks_like_one) and not Path(name).exists()


def is_published(name: str, revision: str | None) -> bool:
    """Whether a model or data set came from the Hub.

    A folder's name may look like an id, and be gone when a card is rendered again; what the Hub gave has a revision.
    """
    return revision is not None and is_hub_id(name)


def _method(record: RunRecord) -> str:
    """How the backbone was adapted; of an adapter taken from a ``peft_config``, the type that is in there."""
    adapter = record.model.adapter
    peft_type = (adapter.get("peft") or {}).get("peft_type")
    if adapter.get("peft_config") and peft_type:
        return str(peft_type).lower()
    return str(adapter.get("method", "none"))


def _method_tags(record: RunRecord, method: str) -> list[str]:
    """PEFT is named where it was used: training the head alone, or everything, needs none."""
    if method in ("none", "full"):  # none: nothing was trained
        return []
    return ["peft", method] if record.model.adapter.get("peft") else [method]


def _examples(record: RunRecord) -> list[dict[str, Any]]:
    """Two examples for the snippet, short ones where there are any."""
    shown = record.shown_examples
    short = [row for row in shown if len(_code(row["input"])) <= _SHORT]
    return (short or shown)[:2]


def _metric_args(name: str, value: Measurement) -> dict[str, Any] | None:
    known: dict[str, Any] = {"average": "macro"} if name == "macro_f1" else {}
    if value.ci95 is not None:
        known |= {"ci95": [round(end, 6) for end in value.ci95]}
    if value.n is not None:
        known |= {"n": value.n}
    return known or None


def _verdict(row: Comparison) -> str:
    """What a paired difference comes to, in words, where it is no win."""
    value = row.difference.value
    low, high = sorted(maximized(row.metric, end) for end in row.difference.ci95 or (value, value))
    if low > 0:
        return ""
    if row.of:
        return Markdown("**Worse.**" if high < 0 else "**No measurable difference.**")
    if high < 0:
        return Markdown("**This model is worse than that baseline.**")
    return Markdown("**This model does not measurably beat that baseline.**")


def _recalls(record: RunRecord) -> list[tuple[str, int, float]]:
    """Class, its test examples, share of them found; in the order of the classes, for up to 30 of them."""
    if record.confusion_matrix is None or len(record.class_names) > 30:
        return []
    rows = zip(record.class_names, record.confusion_matrix, strict=True)
    return [(name, sum(row), row[i] / sum(row) if sum(row) else float("nan")) for i, (name, row) in enumerate(rows)]


class Markdown(str):
    """What goes into a card as it is; everything else is escaped."""


def _number(value: float | None, digits: int = 4) -> str:
    return Markdown("unknown" if value is None or value != value else f"{value:.{digits}f}")


def _signed(value: float) -> str:
    return Markdown(f"{value:+.4f}")


def _interval(value: Measurement | None) -> str:
    if value is None or value.ci95 is None:
        return "unknown"
    return Markdown(f"[{value.ci95[0]:.4f}, {value.ci95[1]:.4f}]")


def _markdown(value: object) -> str:
    """Text on one line that is nothing but text in Markdown: no HTML, link, heading, code or cell of its own."""
    text = str(value)
    leading, trailing = text[:1].isspace(), text[-1:].isspace()  # of the template's own ", "
    line = _FIRST.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", _comment(text)))
    return f"{' ' * leading}{line}{' ' * (trailing and bool(line))}"


def _comment(value: object) -> str:
    """Text on one line of code that is not a literal."""
    return Markdown(printable(" ".join(str(value).split())))


def _span(value: object) -> str:
    """A name as inline code; as text where it cannot be that."""
    text = str(value)
    plain = re.fullmatch(r"[^`|<\\\s](?:[^`|<\\\n]*[^`|<\\\s])?", text) and printable(text) == text
    return Markdown(f"`{text}`" if plain else _markdown(text))


def _fenced(text: str, language: str) -> str:
    """A block of code, its fence longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{printable(text.strip(), lines=True)}\n{fence}")


def _code(value: object) -> str:
    """A text as a Python literal. Not Jinja's ``tojson``: its halves of surrogate pairs are no emoji in Python."""
    text = json.dumps(value, ensure_ascii=False)
    return Markdown(UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _range(counts: dict[str, int]) -> str:
    """From the fewest to the most examples of a class."""
    if not counts:
        return "unknown"
    low, high = min(counts.values()), max(counts.values())
    return str(low) if low == high else f"{low} to {high}"


def _bytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 2**30:.2f} GiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _or_unknown(value: object) -> str:
    return "unknown" if value is None or value == "" else str(value)


_FILTERS = {
    "code": _code,
    "comment": _comment,
    "span": _span,
    "fenced": _fenced,
    "range": _range,
    "verdict": _verdict,
    "number": _number,
    "signed": _signed,
    "interval": _interval,
    "bytes": _bytes,
    "duration": _duration,
    "or_unknown": _or_unknown,
}
