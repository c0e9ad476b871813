"""What the API says of repositories: JSON as the Hub's clients expect it."""

from __future__ import annotations

from typing import Any

from hf_fsl.hub.local.cards import card_data, tags
from hf_fsl.hub.local.commits import lfs_pointer
from hf_fsl.hub.local.repo import Commit, Entry, Repo
from hf_fsl.hub.local.rules import HubError


def repo_info(repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """What ``HfApi.repo_info`` reads; with ``blobs`` also the size and digest of every file."""
    card, meta = card_data(repo, commit), repo.meta
    info = {
        "_id": f"{repo.kind}/{repo.id}",
        "id": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": meta["created"],
        "private": meta["private"],
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "cardData": card,
        "tags": tags(card),
        "siblings": [_sibling(path, entry, blobs) for path, entry in commit.files.items()],
    }
    if repo.kind == "models":
        info |= {
            "modelId": repo.id,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
        }
    elif repo.kind == "spaces":
        info["sdk"] = card.get("sdk") or meta.get("sdk")
    return info


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder. Raises HubError 404 (EntryNotFound) where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    rows: dict[str, dict[str, Any]] = {}
    for path, entry in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = prefix + "/".join(parts[:depth])
            rows[name] = _directory(commit, name)
        if recursive or len(parts) == 1:
            rows[path] = _file(path, entry)
    if folder and not rows:
        raise HubError(404, f"There is no folder {folder}.", "EntryNotFound")
    return [rows[name] for name in sorted(rows)]


def paths_info(commit: Commit, paths: list[str]) -> list[dict[str, Any]]:
    """The files and folders among ``paths`` that exist."""
    rows = []
    for path in (path.removesuffix("/") for path in paths):
        if path in commit.files:
            rows.append(_file(path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            rows.append(_directory(commit, path))
    return rows


def refs(repo: Repo) -> dict[str, Any]:
    """Branches, tags and pull requests."""

    def listed(group: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": f"refs/{group}/{name}", "targetCommit": oid}
            for name, oid in repo.refs(group).items()
        ]

    return {"branches": listed("heads"), "tags": listed("tags"), "converts": [], "pullRequests": listed("pr")}


def discussions(repo: Repo, kind: str, status: str) -> dict[str, Any]:
    """Pull requests, the newest first, all open: this Hub neither merges nor closes them, and has no other talk."""
    main = {commit.oid for commit in repo.history(repo.resolve("main").oid)}
    rows = []
    for number, oid in sorted(repo.refs("pr").items(), key=lambda pull: -int(pull[0])):
        own = [commit for commit in repo.history(oid) if commit.oid not in main]
        opening = own[-1] if own else repo.commit(oid)
        rows.append(
            {
                "num": int(number),
                "title": opening.title,
                "status": "open",
                "isPullRequest": True,
                "createdAt": opening.date,
                "author": {"name": "local"},
                "repo": {"name": repo.id, "type": repo.kind.removesuffix("s")},
            }
        )
    wanted = rows if kind != "discussion" and status != "closed" else []
    return {"discussions": wanted, "count": len(wanted), "start": 0}


def commit_row(commit: Commit) -> dict[str, Any]:
    return {"id": commit.oid, "title": commit.title, "message": commit.body, "date": commit.date, "authors": []}


def _directory(commit: Commit, path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": commit.oid, "size": 0, "path": path}


def _file(path: str, entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    return row | {"lfs": _lfs(entry)} if entry.lfs else row


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    row: dict[str, Any] = {"rfilename": path, "size": entry.size, "blobId": entry.oid}
    return row | {"lfs": _lfs(entry) | {"sha256": entry.sha256}} if entry.lfs else row


def _lfs(entry: Entry) -> dict[str, Any]:
    return {"oid": entry.sha256, "size": entry.size, "pointerSize": len(lfs_pointer(entry.sha256, entry.size))}
