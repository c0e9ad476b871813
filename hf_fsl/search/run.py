"""The parts of a run of ``recipes/search_adapters.py``: the search, and its record for the card."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hf_fsl.config.loading import to_dict
from hf_fsl.config.search import AdapterSearchConfig
from hf_fsl.core.files import write_text
from hf_fsl.core.paths import portable, portable_values
from hf_fsl.core.records import RunRecord
from hf_fsl.data.loading import Splits
from hf_fsl.hub.bundle import copy_adapter
from hf_fsl.metrics.intervals import predicted_labels
from hf_fsl.metrics.measure import compare
from hf_fsl.search.finalists import Member
from hf_fsl.search.gradient import gradient_family
from hf_fsl.search.pareto import spread
from hf_fsl.search.report.build import build_report
from hf_fsl.search.report.figures import figures
from hf_fsl.search.report.record import SearchReport
from hf_fsl.search.space.architecture import Architecture
from hf_fsl.search.space.space import SearchSpace
from hf_fsl.search.study.engine import run_study
from hf_fsl.search.study.identity import identity
from hf_fsl.search.trial import AdapterTrial

Say = Callable[[str], None]


def search(
    config: AdapterSearchConfig, space: SearchSpace, trial: AdapterTrial, splits: Splits, say: Say
) -> SearchReport:
    """Searches as the config says, and reports. Every process of the launch calls it.

    Strategy ``gradient``: the study is of some sizes of one family, which one gradient pass names.

    Raises:
        StudyMismatch, StorageAway, SearchError: see :func:`hf_fsl.search.study.run_study`.
    """
    folder = Path(config.output_dir)
    name, about = config.search.name or folder.name, study_identity(config, space, trial, splits)
    start: list[Architecture] = []
    meter = trial.meter.empty()
    study, sampler = config.search, str(config.search.sampler)
    if config.path == "gradient":
        batch_size = config.few_shot.per_device_train_batch_size
        start = gradient_family(trial.model, space, trial.train, batch_size, meter)
        count = min(study.trials or len(start), len(start))
        study, sampler = dataclasses.replace(study, trials=count, startup=count), "one gradient pass"
    started = _start_cost(trial)
    tried = run_study(
        space,
        trial,
        study,
        name=name,
        folder=folder,
        identity=about,
        accelerator=trial.accelerator,
        first=[start[i] for i in spread([space.parameters(each) for each in start], study.startup)],
        say=say,
        progress=True,
    )
    return build_report(
        tried, space, config.search.objectives, name=name, identity=about, classes=len(splits.task.label_names),
        before=(meter.flops * trial.accelerator.num_processes + started[0], meter.seconds + started[1]),
        strategy=config.path, sampler=sampler,
    )  # fmt: skip


def _start_cost(trial: AdapterTrial) -> tuple[float, float]:
    """Token-FLOPs and seconds of finding the start that the trials share, on all processes."""
    if trial.start is None:
        return 0.0, 0.0
    return trial.start_meter.flops * trial.accelerator.num_processes, trial.start_meter.seconds


def study_identity(
    config: AdapterSearchConfig, space: SearchSpace, trial: AdapterTrial, splits: Splits
) -> dict[str, Any]:
    """What workers must have in common to join a study."""
    return identity(
        **{
            "space": space.to_dict(),
            "space size": space.size(),
            "data set": {
                "path": portable(config.data.path),
                "name": splits.record.name,
                "revision": splits.record.revision,
                **trial.examples,
            },
            "backbone": {
                "path": portable(config.model.model_name_or_path),
                "commit": trial.commit,
                "weights": _weights_fingerprint(trial),
                "head": list(trial.head),
                # Its commit and its weights stand for the revision.
                **{
                    name: value
                    for name, value in to_dict(config.model).items()
                    if name not in ("model_name_or_path", "revision")
                },
            },
            "few_shot": to_dict(config.few_shot),
            "strategy": config.path,
            **{
                name: getattr(config.search, name)
                for name in ("seed", "rungs", "reduction_factor", "startup", "max_latency")
            },
            # A dead worker's checkpoint is for as many processes.
            "num_processes": trial.accelerator.num_processes,
        }
    )


def search_summary(report: SearchReport, members: Sequence[Member]) -> dict[str, Any]:
    """The report as a RunRecord holds it: without the trials off the front, and with the adapters published."""
    values = dataclasses.asdict(report)
    values["trials"] = [row for row in values["trials"] if row["on_front"]]
    return {
        **values,
        "tried": len(report.trials),
        "stopped": sum(row.stopped for row in report.trials),
        "adapters": list(other_adapters(report, members)),
    }


def other_adapters(report: SearchReport, members: Sequence[Member]) -> dict[str, Path]:
    """Name -> adapter folder of the front's members that are not what is published itself."""
    return {
        member.name: member.adapter
        for member in members
        if member.adapter is not None and not member.baseline and member.name != report.chosen
    }


def search_record(
    record: RunRecord, config: AdapterSearchConfig, report: SearchReport, members: Sequence[Member], labels: np.ndarray
) -> RunRecord:
    """The record of the published member, as ``fine_tune`` makes it, turned into that of the search."""
    objective = report.objectives[0]
    chosen = next(member for member in members if member.name == report.chosen)
    comparisons = list(record.comparisons)
    for member in members:
        if member.baseline and member is not chosen:
            ours, theirs = (_best_predictions(each, objective) for each in (chosen, member))
            comparisons.append(compare(member.name, ours, theirs, labels, config.evaluation))
    return dataclasses.replace(
        record,
        recipe=config.recipe,
        config=to_dict(config) | {"output_dir": portable(config.output_dir)},
        comparisons=comparisons,
        search=search_summary(report, members),
    )


def write_extras(bundle: Path, report: SearchReport, members: Sequence[Member], base_model: str) -> None:
    """What a bundle holds of a search beside its record: the other members' adapters in ``adapter/<name>/``, pictures,
    and the YAML that trains the model again."""
    for name, source in other_adapters(report, members).items():
        copy_adapter(source, bundle / "adapter" / name, base_model)
    (bundle / "figures").mkdir(exist_ok=True)
    for name, picture in figures(report).items():
        (bundle / "figures" / name).write_bytes(picture)
    chosen = next(member for member in members if member.name == report.chosen)
    write_text(bundle / "fine_tune.yaml", fine_tune_yaml(chosen, public=True))


def fine_tune_yaml(member: Member, public: bool = False) -> str:
    """The ``fine_tune`` config of a member, as far as it differs from the defaults.

    Args:
        public: without the paths of this machine.
    """
    config = dataclasses.replace(
        member.config,
        output_dir=f"outputs/{member.name}",
        training=dataclasses.replace(member.config.training, resume_from_checkpoint=None),
    )
    fields = {"recipe": "fine_tune", **_sparse(config)}
    if public:
        fields = portable_values(fields)
    head = f"# {member.name}: {member.architecture}\n#\n#   accelerate launch recipes/fine_tune.py --config FILE\n"
    return head + str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def _sparse(config: Any) -> dict[str, Any]:
    """The fields of a config that are not their defaults, sections likewise."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            if section := _sparse(value):
                found[field.name] = section
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            found[field.name] = value
    return found


def _best_predictions(member: Member, objective: str) -> np.ndarray:
    seed = member.best_seed(objective)
    logits = next(outcome.logits for outcome in member.outcomes if outcome.record.seed == seed)
    return predicted_labels(logits, False)


def _weights_fingerprint(trial: AdapterTrial) -> str:
    """Stands for the backbone's weights, the fresh head left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trial.model.state_dict().items()):
        if not any(name.startswith(f"{part}.") for part in trial.head):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]
