"""A commit as the Hub's clients send it (NDJSON), applied to a repository."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_fsl.hub.local.store import Commit, Entry, HubError, Repo, check_path, git_oid, lfs_pointer


def apply_commit(repo: Repo, revision: str, lines: Iterable[str], create_pr: bool) -> tuple[Commit, str | None]:
    """Applies the operations of an NDJSON body.

    Args:
        revision: branch or pull request to commit to; with ``create_pr`` the revision a new one starts from.

    Returns:
        The commit, the unchanged head where nothing differs, and the pull request's ref if one was opened.

    Raises:
        HubError: 412 for a stale parent, 404 for a revision that is not there, 400 for what cannot be applied.
    """
    operations = [_parse(line) for line in lines if line.strip()]
    header: dict[str, Any] = next((value for key, value in operations if key == "header"), {})
    blobs = {value["path"]: _receive(repo, value) for key, value in operations if key == "file"}
    with repo.locked():
        head = repo.resolve(revision)
        parent = header.get("parentCommit")
        if parent is not None and not head.oid.startswith(parent):
            raise HubError(412, None, f"{revision} is at {head.oid}, not at {parent}: somebody committed in between.")
        ref = repo.find_ref(revision)
        if ref is None and not create_pr:
            raise HubError(400, None, f"{revision!r} is no branch: commit to a branch or a pull request.")
        files = dict(head.files)
        for key, value in operations:
            _apply(repo, key, value, files, blobs)
        pull_request = None
        if create_pr:
            pull_request = ref = repo.pull_request(head.oid)
        if files == head.files:
            return head, pull_request
        commit = repo.write_commit(head.oid, header.get("summary", ""), header.get("description", ""), files)
        assert ref is not None
        repo.move_ref(ref, commit.oid)
        return commit, pull_request


def _parse(line: str) -> tuple[str, dict[str, Any]]:
    try:
        row = json.loads(line)
        key, value = row["key"], row["value"]
        if key in ("file", "lfsFile", "deletedFile", "deletedFolder"):
            value["path"] = check_path(value["path"].rstrip("/") if key == "deletedFolder" else value["path"])
        return key, value
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(400, None, f"A line of the commit cannot be read: {error}") from error


def _receive(repo: Repo, value: dict[str, Any]) -> Entry:
    content = value.get("content", "")
    data = base64.b64decode(content) if value.get("encoding", "base64") == "base64" else content.encode()
    with repo.store.incoming() as upload:
        upload.write(data)
        return Entry(upload.keep(), len(data), git_oid(data), lfs=False)


def _apply(repo: Repo, key: str, value: dict[str, Any], files: dict[str, Entry], blobs: dict[str, Entry]) -> None:
    path = value.get("path", "")
    if key == "file":
        files[path] = blobs[path]
    elif key == "lfsFile":
        blob: Path = repo.store.blob(value["oid"])
        if not blob.is_file():
            raise HubError(400, None, f"{path}: its content {value['oid']} was never uploaded. Upload it first.")
        size = blob.stat().st_size
        files[path] = Entry(value["oid"], size, git_oid(lfs_pointer(value["oid"], size)), lfs=True)
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "EntryNotFound", f"There is no {path} to delete.")
    elif key == "deletedFolder":
        for name in [name for name in files if name.startswith(f"{path}/")]:
            del files[name]
    elif key == "copyFile":
        source = check_path(value["srcPath"])
        if source not in files:
            raise HubError(404, "EntryNotFound", f"There is no {source} to copy.")
        files[check_path(path)] = files[source]
    elif key != "header":
        raise HubError(400, None, f"A commit has no operation {key!r}.")
