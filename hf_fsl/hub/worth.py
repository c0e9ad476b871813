"""Whether what was measured says that a model is of any use: asked before it is pushed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hf_fsl.core.measurement import Measurement
from hf_fsl.core.records import ContrastiveRecord, RunRecord
from hf_fsl.core.task import Task

WAY_OUT = (
    "Try more steps (training.num_train_epochs or max_steps), a higher training.learning_rate, "
    "adapter.initialization: gradient, a head alone (the few_shot recipe, FewShotClassifier), another backbone, more "
    "labels, or look for wrong ones."
)

_TRAINS_NOTHING = (
    "Try more examples, label names or templates that say more, another backbone, or look for wrong labels."
)
_MAJORITY = "always the same answer, the most frequent one"


def way_out(record: RunRecord | ContrastiveRecord) -> str:
    """What to try where a model is of no use."""
    return WAY_OUT if isinstance(record, ContrastiveRecord) or record.runs else _TRAINS_NOTHING


def doubt(record: RunRecord | ContrastiveRecord) -> str | None:
    """Why a model is not known to be better than no model; None where it is, or where nothing was measured."""
    if isinstance(record, ContrastiveRecord):
        return _doubt_of_pairs(record)
    multi_label = Task.from_dict(record.task).multi_label
    metric = "macro_f1" if multi_label else "accuracy"
    if metric not in record.metrics:
        beside = next((row for row in record.comparisons if row.name == "majority"), None)
        return not_above(beside.difference, 0.0, f"gain in {beside.metric}", _MAJORITY) if beside is not None else None
    rows = (row.baseline.value for row in record.comparisons if (row.name, row.metric) == ("majority", metric))
    floor = next(rows, None)
    if floor is None:
        floor = 0.0 if multi_label else largest_share(record.data.splits["test"].class_counts, record.class_names)
    return not_above(record.metrics.get(metric), floor, metric, _MAJORITY)


def cautions(record: RunRecord) -> Iterator[str]:
    """What is to be known of a model before it is published, whether or not it is."""
    if (why := doubt(record)) is not None:
        yield f"{why} {way_out(record)}"
    for row in record.comparisons:
        if row.name == "linear_probe" and row.difference.ci95 is not None and row.difference.ci95[0] <= 0:
            yield (
                f"Not measurably better than a linear probe on the frozen backbone ({row.metric} "
                f"{row.baseline.value:.4f}; difference {row.difference.value:+.4f}, 95 % "
                f"{_interval(row.difference)}): that, as the few_shot recipe fits it, takes no training."
            )


def not_above(measured: Measurement | None, floor: float, metric: str, by: str) -> str | None:
    """The sentence where an interval does not lie above a floor; None where it does, or there is no interval."""
    if measured is None or measured.ci95 is None or measured.ci95[0] > floor:
        return None
    return (
        f"{metric} on {measured.n} held-out examples is {measured.value:.4f}, 95 % {_interval(measured)}: not "
        f"measurably above the {floor:.4f} of {by}."
    )


def largest_share(counts: Mapping[str, int], names: list[str]) -> float:
    """Share of the most frequent of some classes."""
    own = [count for name, count in counts.items() if name in names]
    return max(own) / sum(own) if sum(own) else 0.0


def _doubt_of_pairs(record: ContrastiveRecord) -> str | None:
    rows = record.tests.get("test", {})
    for metric in ("accuracy", "retrieval_at_1"):
        if metric in rows:
            return not_above(rows[metric].measurement, rows[metric].chance, metric, "guessing")
    return None


def _interval(measured: Measurement) -> str:
    low, high = measured.ci95 or (float("nan"), float("nan"))
    return f"[{low:.4f}, {high:.4f}]"
