"""Pushing a verified bundle: one commit, safe to repeat."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

from hf_fsl.config.sections import HubConfig
from hf_fsl.core.errors import UserError
from hf_fsl.core.records import Record, load_record
from hf_fsl.hub.cards import pipeline_tag, render_card
from hf_fsl.hub.mirror import differences, lfs_where_xet_is_not, remote_files
from hf_fsl.hub.ownership import Plan, plan
from hf_fsl.hub.privacy import require_no_local_paths
from hf_fsl.hub.verify import Verification, card_digest, require_verified, verify_bundle
from hf_fsl.hub.worth import doubt, way_out

_TRIES = 4
_LONGEST_PAUSE = 120.0
"""Seconds; a server that asks for more is left alone, and the push ends."""
_BUSY = (429, 502, 503, 504)


class PublishError(UserError, RuntimeError):
    """A push that did not happen, or whose confirmation was lost; the bundle is as it was."""


class UselessModel(PublishError):
    """A push of a model that is not known to be better than no model at all."""


class _Overtaken(Exception):
    """Somebody committed between two tries of a push."""


@dataclass(frozen=True)
class PushResult:
    """Where a bundle went. ``changed`` is False where the repository, or an open pull request, already held it all."""

    url: str
    commit: str
    changed: bool
    pull_request: str | None = None
    note: str = ""
    """What became of a card that others had edited."""

    def __str__(self) -> str:
        where = self.pull_request or f"{self.url} ({self.commit[:12]})"
        done = ("Opened" if self.pull_request else "Pushed to") if self.changed else "Nothing new for"
        return f"{done} {where}{f'. {self.note}' if self.note else ''}"


def publish(
    bundle: Path,
    hub: HubConfig,
    inputs: Sequence[Any],
    logits: np.ndarray,
    *,
    registration: str | None = None,
    endpoint: str | None = None,
) -> PushResult | None:
    """Verifies a bundle in a fresh process and, if ``hub.push_to_hub`` says so, pushes it.

    Args:
        bundle: the folder that the run wrote.
        hub: where it goes.
        inputs: texts, pairs of texts, or images.
        logits: ``(N, C)`` for them, see :func:`hf_fsl.hub.verify.verify_bundle`.
        registration: of a model that is no stock class, the module that registers its classes.
        endpoint: of another Hub than ``HF_ENDPOINT``.

    Returns:
        What was pushed, None where nothing was to be.

    Raises:
        BundleMismatch: it does not give the trained model's logits.
        UselessModel, PublishError: see :func:`push_bundle`.
    """
    verify_bundle(bundle, inputs, logits, registration)
    return push_bundle(bundle, hub, endpoint=endpoint) if hub.push_to_hub else None


def push_bundle(bundle: Path, hub: HubConfig, *, token: str | None = None, endpoint: str | None = None) -> PushResult:
    """Pushes a verified bundle as one commit.

    Files of an earlier push that the bundle no longer has are deleted; what others put into the repository stays, and
    so do their edits of the card.

    Raises:
        BundleMismatch: the bundle was never verified, or changed since.
        UselessModel: by its record, it is not measurably better than no model, and neither ``hub.push_anyway`` nor
            that of its run says that it is pushed all the same.
        LocalPathError: a file of it names a folder of this machine.
        PublishError: the Hub refused, or could not be reached. Nothing half-written is left; repeat the push.
    """
    verification = require_verified(bundle)
    if hub.hub_model_id is None:
        raise PublishError("hub.hub_model_id: where to? Give user/name.")
    record = load_record(bundle / "run_record.json")
    anyway = hub.push_anyway or record.config.get("hub", {}).get("push_anyway", False)
    if not anyway and (why := doubt(record)) is not None:
        command = _command(bundle, replace(hub, push_anyway=True))
        raise UselessModel(
            f"{hub.hub_model_id} was not pushed: {why} {way_out(record)} The bundle is whole in {bundle}. "
            f"hub.push_anyway: true pushes it all the same, as does: {command}"
        )
    card = _card(bundle, record, verification, hub.hub_model_id)
    message = hub.commit_message or f"Upload {pipeline_tag(record)} model made with hf_fsl"
    again = f"The bundle is whole in {bundle}; repeat with: {_command(bundle, hub)}"
    files = _files(bundle) | {"README.md": card}
    return push_files(files, hub, message, again, folder=bundle.parent, token=token, endpoint=endpoint)


def push_folder(folder: Path, hub: HubConfig, *, token: str | None = None) -> PushResult:
    """Pushes a folder that is no bundle of a recipe, as it is. Raises PublishError as :func:`push_bundle` does."""
    return push_files(_files(folder), hub, str(hub.commit_message), "Push again.", token=token)


def push_files(
    files: Mapping[str, str | bytes],
    hub: HubConfig,
    message: str,
    again: str,
    *,
    folder: Path | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> PushResult:
    """Makes a repository hold these files, in one commit, beside what others put there.

    What a busy or failing server, or a lost connection, keeps from being done is tried again. A commit that may have
    been made is not made twice: it builds on the commit that the first try found, or not at all.

    Args:
        files: path in the repository -> a file's path, or its bytes.
        again: how the push is repeated, for the error.
        folder: where they were made, which none of them may name.

    Raises:
        LocalPathError: a file names a folder of this machine.
        PublishError: see :func:`push_bundle`.
    """
    require_no_local_paths(files, folder)
    api = HfApi(endpoint=endpoint, token=token)
    heads: list[str] = []
    attempt = 0
    while True:
        try:
            with lfs_where_xet_is_not(api.endpoint):
                return _push(api, str(hub.hub_model_id), files, message, hub, heads)
        except UserError:
            raise
        except Exception as error:  # answers that no Hub gives end in any of them
            seconds = _pause(error, attempt)
            if seconds is None:
                raise _translated(error, hub, again) from error
            time.sleep(seconds)
            attempt += 1


def _push(
    api: HfApi, repo: str, files: Mapping[str, str | bytes], message: str, hub: HubConfig, heads: list[str]
) -> PushResult:
    """One try of a push. ``heads`` are the commits that this and earlier tries found."""
    url = str(api.create_repo(repo, private=hub.hub_private_repo, exist_ok=True))
    heads.append(head := _head(api, repo, hub.revision))
    remote = remote_files(api, repo, revision=head)
    planned = plan(api, repo, head, list(remote), files)
    operations = differences(remote, planned.files, planned.owned)
    if not operations:
        return PushResult(url, head, changed=head != heads[0])
    opened = _pull_request(api, repo, planned, message) if hub.create_pr else None
    if opened is not None:
        return PushResult(url, opened[1], changed=len(heads) > 1, pull_request=opened[0])
    if head != heads[0]:
        raise _Overtaken
    commit = api.create_commit(
        repo,
        operations,
        commit_message=message,
        revision=hub.revision,
        create_pr=hub.create_pr,
        parent_commit=head,
    )
    return PushResult(url, commit.oid, commit.oid != head, commit.pr_url, planned.note)


def _pull_request(api: HfApi, repo: str, planned: Plan, message: str) -> tuple[str, str] | None:
    """URL and commit of an open pull request of this title that holds these files already, as after a lost answer."""
    try:
        pulls = list(api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open"))
    except HfHubHTTPError:  # discussions are switched off, or this Hub has none
        return None
    title = message.partition("\n")[0]
    for pull in pulls:
        revision = pull.git_reference
        if pull.title != title or not revision:
            continue
        if not differences(remote_files(api, repo, revision=revision), planned.files, planned.owned):
            return pull.url, str(api.repo_info(repo, revision=revision).sha)
    return None


def _head(api: HfApi, repo: str, revision: str | None) -> str:
    """The commit to build on; a branch that is not there starts from main."""
    try:
        info = api.repo_info(repo, revision=revision)
    except RevisionNotFoundError:
        if revision is None:
            raise
        info = _new_branch(api, repo, revision)
    return str(info.sha)


def _new_branch(api: HfApi, repo: str, revision: str) -> Any:
    """What is at a branch that was missing a moment ago."""
    try:
        api.create_branch(repo, branch=revision)
    except HfHubHTTPError as refused:
        if refused.response.status_code != 409:
            raise
        try:
            return api.repo_info(repo, revision=revision)  # somebody made it meanwhile
        except RevisionNotFoundError:  # or it cannot be, as a/b cannot beside a
            raise refused from None
    return api.repo_info(repo, revision=revision)


def _files(folder: Path) -> dict[str, str | bytes]:
    return {path.relative_to(folder).as_posix(): str(path) for path in folder.rglob("*") if path.is_file()}


def _card(bundle: Path, record: Record, verification: Verification, repo: str) -> bytes:
    """The bundle's card: as somebody edited it, else rendered again, so that its snippet names the repository."""
    path = bundle / "README.md"
    if path.is_file() and card_digest(bundle) != verification.card:
        return path.read_bytes()
    return render_card(record, repo_id=repo).encode()


def _translated(error: BaseException, hub: HubConfig, again: str) -> PublishError:
    repo, cause = hub.hub_model_id, _cause(error)
    status = _status(cause)
    lost = cause is not None and status is None and not isinstance(cause, OfflineModeIsEnabled)
    said = str(getattr(cause, "server_message", None) or "").rstrip(".")
    reasons = {
        401: "the Hub does not accept your token. Log in with `hf auth login`, or set HF_TOKEN.",
        403: f"your token may not write to {repo}. Use a token with write access, or another hub_model_id.",
        404: f"{repo}, or the revision asked for, is not there, or your token may not see it.",
        409: f"something of that name is in the way: {said or 'a repository or a branch'}.",
        412: f"somebody pushed to {repo} in between. Nothing was overwritten.",
        429: f"the Hub has had too many requests{_asked_to_wait(cause)}.",
        503: f"the Hub is not available at the moment{_asked_to_wait(cause)}.",
    }
    if isinstance(cause, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set. Unset it."
    elif isinstance(error, _Overtaken):
        reason = reasons[412]
    elif status in reasons:
        reason = reasons[status]
    elif lost:
        # A commit whose answer was lost may be there all the same; the next push finds out.
        reason = f"the connection to the Hub was lost ({type(cause).__name__}: {cause})."
    elif isinstance(error, (json.JSONDecodeError, LookupError, TypeError, AttributeError)):
        reason = (
            f"what answered is no Hub, or a proxy in its place: its answer cannot be read ({type(error).__name__}: "
            f"{error}). Look at HF_ENDPOINT."
        )
    else:
        reason = f"{type(error).__name__}: {error}."
    return PublishError(f"{repo} was not {'confirmed' if lost else 'pushed'}: {reason} {again}")


def _cause(error: BaseException) -> BaseException | None:
    """The answer or the lost connection that an error comes from; an upload's is wrapped in a RuntimeError."""
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "response", None) is None and not _is_connection(cause):
        cause = cause.__cause__
    return cause


def _status(cause: BaseException | None) -> int | None:
    return getattr(getattr(cause, "response", None), "status_code", None)


def _pause(error: BaseException, attempt: int) -> float | None:
    """Seconds until a push is tried again; None where it is not."""
    cause = _cause(error)
    lost = cause is not None and _is_connection(cause) and not isinstance(cause, OfflineModeIsEnabled)
    if attempt + 1 == _TRIES or not (lost or _status(cause) in _BUSY):
        return None
    asked = _retry_after(cause)
    if asked is not None and asked > _LONGEST_PAUSE:
        return None
    return 2.0**attempt if asked is None else asked


def _retry_after(cause: BaseException | None) -> float | None:
    """The seconds that an answer asks to wait, given as such or as a date."""
    said = getattr(getattr(cause, "response", None), "headers", {}).get("retry-after", "")
    if said.isascii() and said.isdecimal():
        return float(said[:9])
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _asked_to_wait(cause: BaseException | None) -> str:
    seconds = _retry_after(cause)
    return "" if seconds is None else f", and asks to wait for {seconds:.0f} seconds"


def _is_connection(error: BaseException) -> bool:
    return isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError))


def _command(bundle: Path, hub: HubConfig) -> str:
    """The command that does the same push: to the same branch, and as a pull request where it was one."""
    words = ["hf-fsl", "push", str(bundle), "--hub_model_id", str(hub.hub_model_id)]
    words += ["--private"] if hub.hub_private_repo else []
    words += ["--revision", hub.revision] if hub.revision is not None else []
    words += ["--create-pr"] if hub.create_pr else []
    words += ["--push-anyway"] if hub.push_anyway else []
    words += ["--message", hub.commit_message] if hub.commit_message is not None else []
    return shlex.join(words)
