"""The database that workers share: opened with a clear error, waited for when it goes away in the middle."""

from __future__ import annotations

import functools
import random
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hf_fsl.search.errors import SearchError

Say = Callable[[str], None]

LONGEST_PAUSE = 10.0
"""Seconds between two attempts to reach a storage that does not answer."""
_CREATING = 8
"""Attempts to create the tables, which several workers may do at once."""


class StorageAway(SearchError):
    """A storage that does not answer."""


class PatientStorage(RDBStorage):
    """Optuna's relational storage, except for three things.

    A storage that stops to answer is waited for: every call is repeated until it is back, so that a worker keeps its
    trial. And a trial is taken for dead where its heartbeat has not moved for ``grace_period`` seconds *while this
    process saw the storage answer*: Optuna compares the clock of the database, by which after an outage every trial
    would be dead, and never judges a trial whose worker died before its first heartbeat. And of a worker that
    ``is_dead`` knows to be dead the trial is dead at once.

    Args:
        url: of SQLAlchemy.
        heartbeat: seconds between two heartbeats of a running trial.
        max_retries: times that the trial of a dead worker is run again.
        longest_wait: seconds after which a storage is no longer waited for; None: never.
        say: told when the storage goes and comes.
    """

    def __init__(
        self, url: str, heartbeat: int, max_retries: int, longest_wait: float | None = None, say: Say | None = None
    ) -> None:
        self.longest_wait, self.say = longest_wait, say or _to_stderr
        self.lost: StorageAway | None = None
        """Set once the storage is given up: Optuna's own clean-up then fails too, and hides why."""
        self.is_dead: Callable[[str | None], bool] = lambda worker: False
        """Whether the worker of a running trial, by the name in its :func:`worker_key`, is known to be dead."""
        self._seen: dict[int, tuple[Any, float]] = {}
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("sqlite"):
            options = {"connect_args": {"timeout": 60}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(
                url, options, heartbeat_interval=heartbeat, grace_period=3 * heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=max_retries),
            )  # fmt: skip
        if self.engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(self.engine, "connect", _write_ahead)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        assert self.grace_period is not None
        beats = self._heartbeats(study_id)
        now = time.monotonic()
        self._seen = {
            trial: seen if (seen := self._seen.get(trial)) is not None and seen[0] == beat else (beat, now)
            for trial, beat in beats.items()
        }
        grace = self.grace_period
        return [trial for trial, (_, since) in self._seen.items() if now - since > grace or self._is_orphan(trial)]

    def _is_orphan(self, trial_id: int) -> bool:
        trial = self.get_trial(trial_id)
        return self.is_dead(trial.user_attrs.get(worker_key(trial.number)))

    def _heartbeats(self, study_id: int) -> dict[int, Any]:
        """The last heartbeat of each running trial, None where there was none yet."""
        with self.engine.connect() as connection:
            query = (
                sqlalchemy.select(models.TrialModel.trial_id, models.TrialHeartbeatModel.heartbeat)
                .join(models.TrialHeartbeatModel, isouter=True)
                .where(models.TrialModel.study_id == study_id, models.TrialModel.state == TrialState.RUNNING)
            )
            return {trial: beat for trial, beat in connection.execute(query)}

    def wait(self, error: BaseException, since: float, first: bool, pause: float) -> None:
        """One pause before the next attempt. Raises StorageAway where it has been long enough."""
        away = time.monotonic() - since
        if self.lost is not None:
            raise self.lost
        if self.longest_wait is not None and away > self.longest_wait:
            self.lost = StorageAway(
                f"The study's storage {shown(self.url)} has not answered for {away:.1f} s ({reason(error)}). Start "
                "it and start this worker again: what is finished is in the study."
            )
            raise self.lost from error
        if first:
            self.say(f"The study's storage {shown(self.url)} does not answer ({reason(error)}); waiting for it.")
        time.sleep(pause)

    def returned(self, since: float) -> None:
        """Said when the storage answers again: heartbeats that it could not take are nobody's death."""
        self._seen.clear()
        self.say(f"The study's storage is back after {time.monotonic() - since:.0f} s; going on.")


def _patient(name: str) -> Any:
    method = getattr(PatientStorage if name == "_heartbeats" else RDBStorage, name)

    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **options: Any) -> Any:
        since, failures = time.monotonic(), 0
        while True:
            try:
                result = method(self, *arguments, **options)
            except UpdateFinishedTrialError:
                # Written by the attempt whose answer was lost.
                if failures and name == "set_trial_state_values" and _has_state(self, *arguments, **options):
                    return True
                raise
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                if not is_away(error):
                    raise
                self.wait(error, since, failures == 0, min(0.25 * 2**failures, LONGEST_PAUSE))
                failures += 1
                continue
            if failures:
                self.returned(since)
            return result

    return call


def _has_state(storage: PatientStorage, trial_id: int, state: TrialState, values: Any = None) -> bool:
    return bool(storage.get_trial(trial_id).state == state)


for _name in (
    "create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs",
    "get_trial_user_attrs", "get_trial_system_attrs", "get_all_studies", "_create_new_trial", "_set_trial_param",
    "get_trial_param", "set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr",
    "set_trial_system_attr", "get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials",
    "_get_best_trial_id", "record_heartbeat", "_heartbeats",
):  # fmt: skip
    setattr(PatientStorage, _name, _patient(_name))


def open_storage(
    url: str, heartbeat: int = 30, max_retries: int = 3, longest_wait: float | None = None, say: Say | None = None
) -> PatientStorage:
    """The storage at a URL, its tables created where they are missing.

    Raises:
        SearchError: the URL is none, its driver is not installed, or its tables are of another Optuna.
        StorageAway: nothing answers there.
    """
    url = _with_driver(url)
    error: BaseException
    for attempt in range(_CREATING):
        try:
            return PatientStorage(url, heartbeat, max_retries, longest_wait, say)
        except (sqlalchemy.exc.ArgumentError, ValueError) as caught:
            raise SearchError(f"search.storage: {url!r} is no URL of a database ({reason(caught)}).") from caught
        except (ImportError, sqlalchemy.exc.NoSuchModuleError) as caught:
            raise SearchError(
                f"search.storage: the driver for {shown(url)} is not installed ({reason(caught)}). For PostgreSQL: "
                "pip install psycopg2-binary; without search.storage the study is an SQLite file."
            ) from caught
        except RuntimeError as caught:
            raise SearchError(f"search.storage: {shown(url)} is of another Optuna: {caught}") from caught
        except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as caught:
            error = caught
            if is_away(caught) and not _in_the_making(caught):
                break
            time.sleep(random.uniform(0.05, 0.1) * 2**attempt)
    raise StorageAway(
        f"search.storage: {shown(url)} does not answer ({reason(error)}). Start the database or correct the URL; "
        "without search.storage the study is an SQLite file in output_dir."
    ) from error


def is_away(error: BaseException) -> bool:
    """Whether an error means that the database cannot be reached or is busy now, rather than that it refuses."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)):
            return True
        if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated:
            return True
        cause = cause.__cause__
    return False


def _in_the_making(error: BaseException) -> bool:
    """Whether another worker was creating the same tables: to SQLite and MySQL that is an error of operation, too."""
    return any(phrase in str(error) for phrase in ("locked", "already exists"))


def reason(error: BaseException) -> str:
    """What the database said, on one line and without SQLAlchemy's additions."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return text.partition(" (Background on this error")[0][:300]


def shown(url: str) -> str:
    """A URL without its password."""
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "of search.storage"


def worker_key(number: int) -> str:
    """The attribute that names the worker of a trial; what runs it again has another number, and its own."""
    return f"worker.{number}"


def fail_stale_trials(study: optuna.Study) -> None:
    """Queues the trials of dead workers to be run again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def _with_driver(url: str) -> str:
    """SQLAlchemy takes ``postgresql://`` for psycopg 3; where only psycopg2 is installed, that is meant."""
    if url.startswith("postgresql://") and find_spec("psycopg") is None and find_spec("psycopg2") is not None:
        return url.replace("postgresql://", "postgresql+psycopg2://", 1)
    return url


def _write_ahead(connection: Any, record: Any) -> None:
    """A commit that need not wait for the disk twice; a killed process loses nothing by it."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
