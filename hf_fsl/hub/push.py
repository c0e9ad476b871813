"""Pushing a verified bundle: one commit, safe to repeat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants
from huggingface_hub.errors import HfHubHTTPError

from hf_fsl.config import HubConfig
from hf_fsl.errors import UserError
from hf_fsl.hub.cards import render_card
from hf_fsl.hub.verify import require_verified, verify_bundle
from hf_fsl.records import RunRecord


class PublishError(UserError, RuntimeError):
    """A push that did not happen; the bundle is as it was."""


@dataclass(frozen=True)
class PushResult:
    """Where a bundle went. ``changed`` is False where the repository already held all of it."""

    url: str
    commit: str
    changed: bool
    pull_request: str | None = None

    def __str__(self) -> str:
        if self.pull_request:
            return f"Opened {self.pull_request}"
        return f"{'Pushed to' if self.changed else 'Nothing new for'} {self.url} ({self.commit[:12]})"


def publish(
    bundle: Path, hub: HubConfig, inputs: Sequence[Any], logits: np.ndarray, endpoint: str | None = None
) -> PushResult | None:
    """Verifies a bundle in a fresh process and, if ``hub.push_to_hub`` says so, pushes it.

    Raises:
        BundleMismatch: it does not give the trained model's logits.
        PublishError: the Hub refused, or could not be reached.
    """
    verify_bundle(bundle, inputs, logits)
    return push_bundle(bundle, hub, endpoint=endpoint) if hub.push_to_hub else None


def push_bundle(bundle: Path, hub: HubConfig, *, token: str | None = None, endpoint: str | None = None) -> PushResult:
    """Pushes a verified bundle as one commit; files that the bundle no longer has are deleted.

    Raises:
        BundleMismatch: the bundle was never verified, or changed since.
        PublishError: the Hub refused, or could not be reached. Nothing half-written is left; repeat the push.
    """
    require_verified(bundle)
    if hub.hub_model_id is None:
        raise PublishError("hub.hub_model_id: where to? Give user/name.")
    api = HfApi(endpoint=endpoint, token=token)
    _prefer_lfs(endpoint or constants.ENDPOINT)
    record = RunRecord.load(bundle / "run_record.json")
    try:
        url = api.create_repo(hub.hub_model_id, private=hub.hub_private_repo, exist_ok=True)
        if hub.revision is not None:
            api.create_branch(hub.hub_model_id, branch=hub.revision, exist_ok=True)
        head = api.repo_info(hub.hub_model_id, revision=hub.revision).sha
        operations = _operations(api, bundle, record, hub)
        if not operations:
            return PushResult(str(url), str(head), changed=False)
        commit = api.create_commit(
            hub.hub_model_id,
            operations,
            commit_message=hub.commit_message or f"{record.recipe}: {record.model.base_model} on {record.data.path}",
            revision=hub.revision,
            create_pr=hub.create_pr,
            parent_commit=head,
        )
        return PushResult(str(url), commit.oid, commit.oid != head, commit.pr_url)
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _translated(error, bundle, hub.hub_model_id) from error


def _operations(api: HfApi, bundle: Path, record: RunRecord, hub: HubConfig) -> list[Any]:
    """What has to change in the repository for it to be the bundle."""
    assert hub.hub_model_id is not None
    remote = {}
    for entry in api.list_repo_tree(hub.hub_model_id, recursive=True, revision=hub.revision):
        if isinstance(entry, RepoFile):
            remote[entry.path] = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    card = render_card(record, repo_id=hub.hub_model_id).encode()
    changed: list[Any] = []
    local = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    for name, path in sorted(local.items()):
        addition = CommitOperationAdd(name, card if name == "README.md" else str(path))
        known = remote.get(name)
        if known is None or known not in (addition.upload_info.sha256.hex(), _git_oid(addition)):
            changed.append(addition)
    gone = sorted(set(remote) - set(local) - {".gitattributes"})
    return changed + [CommitOperationDelete(name) for name in gone]


def _git_oid(addition: CommitOperationAdd) -> str:
    from huggingface_hub.utils.sha import git_hash

    with addition.as_file() as file:
        return git_hash(file.read())


def _prefer_lfs(endpoint: str) -> None:
    """Hubs other than Hugging Face's own rarely speak Xet, and the client has no fallback from it."""
    if "huggingface.co" not in endpoint and "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True


def _translated(error: Exception, bundle: Path, repo: str) -> PublishError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    again = f"The bundle is whole in {bundle}; repeat with: hf-fsl push {bundle} --hub_model_id {repo}"
    reasons = {
        401: "the Hub does not accept your token. Log in with `hf auth login`, or set HF_TOKEN.",
        403: f"your token may not write to {repo}. Use a token with write access, or another hub_model_id.",
        404: f"{repo}, or the revision asked for, is not there, or your token may not see it.",
        409: f"{repo} is in the way of another repository or branch of that name.",
        412: f"somebody pushed to {repo} in between. Nothing was overwritten.",
    }
    reason = reasons.get(status or 0, f"{type(error).__name__}: {error}")
    if status is None:
        reason = f"the connection to the Hub was lost ({type(error).__name__}: {error})."
    return PublishError(f"{repo} was not pushed: {reason} {again}")
