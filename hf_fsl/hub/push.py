"""Pushing a verified bundle: one commit, safe to repeat."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

from hf_fsl.config import HubConfig
from hf_fsl.errors import UserError
from hf_fsl.hub.any_record import AnyRecord, load_record, pipeline_tag, render
from hf_fsl.hub.mirror import differences, lfs_where_xet_is_not
from hf_fsl.hub.privacy import require_no_local_paths
from hf_fsl.hub.verify import Verification, card_digest, require_verified, verify_bundle
from hf_fsl.hub.worth import WAY_OUT, doubt


class PublishError(UserError, RuntimeError):
    """A push that did not happen, or whose confirmation was lost; the bundle is as it was."""


class UselessModel(PublishError):
    """A push of a model that is not known to be better than no model at all."""


@dataclass(frozen=True)
class PushResult:
    """Where a bundle went. ``changed`` is False where the repository, or an open pull request, already held it all."""

    url: str
    commit: str
    changed: bool
    pull_request: str | None = None

    def __str__(self) -> str:
        if self.pull_request:
            return f"{'Opened' if self.changed else 'Nothing new for'} {self.pull_request}"
        return f"{'Pushed to' if self.changed else 'Nothing new for'} {self.url} ({self.commit[:12]})"


def publish(
    bundle: Path, hub: HubConfig, inputs: Sequence[Any], logits: np.ndarray, endpoint: str | None = None
) -> PushResult | None:
    """Verifies a bundle in a fresh process and, if ``hub.push_to_hub`` says so, pushes it.

    Raises:
        BundleMismatch: it does not give the trained model's logits.
        UselessModel, PublishError: see :func:`push_bundle`.
    """
    verify_bundle(bundle, inputs, logits)
    return push_bundle(bundle, hub, endpoint=endpoint) if hub.push_to_hub else None


def push_bundle(bundle: Path, hub: HubConfig, *, token: str | None = None, endpoint: str | None = None) -> PushResult:
    """Pushes a verified bundle as one commit; files that the bundle no longer has are deleted.

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
            f"{hub.hub_model_id} was not pushed: {why} {WAY_OUT} The bundle is whole in {bundle}. hub.push_anyway: "
            f"true pushes it all the same, as does: {command}"
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
    """Makes a repository hold these files and no others, in one commit.

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
    try:
        with lfs_where_xet_is_not(api.endpoint):
            return _push(api, str(hub.hub_model_id), files, message, hub)
    except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _translated(error, hub, again) from error


def _push(api: HfApi, repo: str, files: Mapping[str, str | bytes], message: str, hub: HubConfig) -> PushResult:
    url = str(api.create_repo(repo, private=hub.hub_private_repo, exist_ok=True))
    head = _head(api, repo, hub.revision)
    operations = differences(api, repo, files, revision=head)
    if not operations:
        return PushResult(url, head, changed=False)
    opened = _pull_request(api, repo, files, message) if hub.create_pr else None
    if opened is not None:
        return PushResult(url, opened[1], changed=False, pull_request=opened[0])
    commit = api.create_commit(
        repo,
        operations,
        commit_message=message,
        revision=hub.revision,
        create_pr=hub.create_pr,
        parent_commit=head,
    )
    return PushResult(url, commit.oid, commit.oid != head, commit.pr_url)


def _pull_request(api: HfApi, repo: str, files: Mapping[str, str | bytes], message: str) -> tuple[str, str] | None:
    """URL and commit of an open pull request of this title that holds these files already, as after a lost answer."""
    try:
        pulls = list(api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open"))
    except HfHubHTTPError:  # discussions are switched off, or this Hub has none
        return None
    title = message.partition("\n")[0]
    for pull in pulls:
        revision = pull.git_reference
        if pull.title == title and revision and not differences(api, repo, files, revision=revision):
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


def _card(bundle: Path, record: AnyRecord, verification: Verification, repo: str) -> bytes:
    """The bundle's card: as somebody edited it, else rendered again, so that its snippet names the repository."""
    path = bundle / "README.md"
    if path.is_file() and card_digest(bundle) != verification.card:
        return path.read_bytes()
    return render(record, repo_id=repo).encode()


def _translated(error: BaseException, hub: HubConfig, again: str) -> PublishError:
    repo = hub.hub_model_id
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "response", None) is None and not _is_connection(cause):
        cause = cause.__cause__  # an upload's failure is wrapped in a RuntimeError
    status = getattr(getattr(cause, "response", None), "status_code", None)
    lost = cause is not None and status is None and not isinstance(cause, OfflineModeIsEnabled)
    said = str(getattr(cause, "server_message", None) or "").rstrip(".")
    reasons = {
        401: "the Hub does not accept your token. Log in with `hf auth login`, or set HF_TOKEN.",
        403: f"your token may not write to {repo}. Use a token with write access, or another hub_model_id.",
        404: f"{repo}, or the revision asked for, is not there, or your token may not see it.",
        409: f"something of that name is in the way: {said or 'a repository or a branch'}.",
        412: f"somebody pushed to {repo} in between. Nothing was overwritten.",
    }
    if isinstance(cause, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set. Unset it."
    elif status in reasons:
        reason = reasons[status]
    elif lost:
        # A commit whose answer was lost may be there all the same; the next push finds out.
        reason = f"the connection to the Hub was lost ({type(cause).__name__}: {cause})."
    else:
        reason = f"{type(error).__name__}: {error}."
    return PublishError(f"{repo} was not {'confirmed' if lost else 'pushed'}: {reason} {again}")


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
