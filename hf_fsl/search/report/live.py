"""A study that is still running, as far as it is."""

from __future__ import annotations

from datetime import UTC, datetime

import optuna

from hf_fsl.search.errors import SearchError
from hf_fsl.search.report.record import SearchReport, trial_rows
from hf_fsl.search.study.identity import about
from hf_fsl.search.study.storage import open_storage, shown
from hf_fsl.search.study.trials import finished_trials


def read_study(url: str, name: str | None = None) -> SearchReport:
    """The report of what is finished of a study.

    Args:
        url: of its storage.
        name: of the study; None: the only one there.

    Raises:
        StorageAway: the storage does not answer.
        SearchError: there is no such study of hf_fsl, or several and no name.
    """
    storage = open_storage(url)
    try:
        names = optuna.get_all_study_names(storage)
        if name is None and len(names) == 1:
            name = names[0]
        if name is None or name not in names:
            there = ", ".join(sorted(names)) or "none"
            raise SearchError(f"{shown(url)} has no study {name or 'to show without --name'}; it has: {there}.")
        study = optuna.load_study(study_name=name, storage=storage)
        identity = about(study)
        if identity is None:
            raise SearchError(f"The study {name!r} was not made by hf_fsl's adapter search.")
        objectives = list(identity.get("objectives", []))
        tried = finished_trials(study, objectives)
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return SearchReport(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        strategy="general",
        sampler=str(identity.get("sampler", "unknown sampler")),
        objectives=objectives,
        identity=identity,
        space=identity.get("space", {}),
        space_size=int(identity.get("space size", 0)),
        trials=trial_rows(tried, objectives)[0],
        token_flops=sum(trial.token_flops for trial in tried),
        seconds=sum(trial.seconds for trial in tried),
    )
