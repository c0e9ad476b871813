"""What the API says of repositories: JSON as the Hub's clients expect it, and two plain pages for people."""

from __future__ import annotations

import html
from typing import Any

import yaml

from hf_fsl.hub.local.store import Commit, Entry, HubError, Repo, lfs_pointer


def card_data(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The front matter of README.md; empty where there is none, or none that can be read."""
    text = readme(repo, commit)
    if not text.startswith("---"):
        return {}
    try:
        values = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---"))
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def readme(repo: Repo, commit: Commit) -> str:
    entry = commit.files.get("README.md")
    return repo.store.blob(entry.sha256).read_text(errors="replace") if entry is not None else ""


def repo_info(kind: str, repo: Repo, commit: Commit, blobs: bool = False) -> dict[str, Any]:
    """What ``HfApi.repo_info`` reads."""
    card, meta = card_data(repo, commit), repo.meta
    tags = [str(tag) for tag in card.get("tags") or []]
    info = {
        "_id": repo.id,
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
        "cardData": _plain(card),
        "tags": tags,
        "siblings": [_sibling(path, entry, blobs) for path, entry in commit.files.items()],
    }
    if kind == "models":
        info |= {
            "modelId": repo.id,
            "pipeline_tag": card.get("pipeline_tag"),
            "library_name": card.get("library_name"),
        }
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
            rows[name] = {"type": "directory", "oid": commit.oid, "size": 0, "path": name}
        if recursive or len(parts) == 1:
            rows[path] = file_row(path, entry)
    if folder and not rows:
        raise HubError(404, "EntryNotFound", f"There is no folder {folder}.")
    return [rows[name] for name in sorted(rows)]


def paths_info(commit: Commit, paths: list[str]) -> list[dict[str, Any]]:
    """The files and folders among ``paths`` that exist."""
    rows = []
    for path in paths:
        if path in commit.files:
            rows.append(file_row(path, commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            rows.append({"type": "directory", "oid": commit.oid, "size": 0, "path": path})
    return rows


def file_row(path: str, entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.lfs:
        row["lfs"] = _lfs(entry)
    return row


def refs(repo: Repo) -> dict[str, Any]:
    def listed(group: str, full: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{full}/{name}", "targetCommit": oid} for name, oid in repo.refs(group).items()]

    return {
        "branches": listed("heads", "refs/heads"),
        "tags": listed("tags", "refs/tags"),
        "converts": [],
        "pullRequests": listed("pr", "refs/pr"),
    }


def commit_row(commit: Commit) -> dict[str, Any]:
    return {"id": commit.oid, "title": commit.title, "message": commit.body, "date": commit.date, "authors": []}


def index_page(repos: dict[str, list[Repo]]) -> str:
    """All repositories, linked."""
    parts = ["<h1>Local Hub</h1>"]
    for kind, found in repos.items():
        prefix = "" if kind == "models" else f"/{kind}"
        items = "".join(f'<li><a href="{prefix}/{repo.id}">{html.escape(repo.id)}</a></li>' for repo in found)
        parts.append(f"<h2>{kind.capitalize()}</h2><ul>{items or '<li>none</li>'}</ul>")
    return _page("Local Hub", "".join(parts))


def repo_page(kind: str, repo: Repo, commit: Commit) -> str:
    """The files and the README source of a repository."""
    prefix = "" if kind == "models" else f"/{kind}"
    rows = "".join(
        f'<tr><td><a href="{prefix}/{repo.id}/resolve/main/{html.escape(path)}">{html.escape(path)}</a></td>'
        f"<td align=right>{entry.size:,}</td></tr>"
        for path, entry in commit.files.items()
    )
    title = html.escape(repo.id)
    line = f"{commit.oid[:9]}: {html.escape(commit.title)}"
    body = f"<p><a href='/'>Local Hub</a> / {kind}</p><h1>{title}</h1><p>{line}</p>"
    return _page(title, f"{body}<table>{rows}</table><pre>{html.escape(readme(repo, commit))}</pre>")


def _page(title: str, body: str) -> str:
    style = "body{font:16px system-ui;max-width:60em;margin:2em auto;padding:0 1em}pre{white-space:pre-wrap}"
    return f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style>{body}"


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    row = {"rfilename": path, "size": entry.size, "blobId": entry.oid}
    return row | {"lfs": _lfs(entry) | {"sha256": entry.sha256}} if entry.lfs else row


def _lfs(entry: Entry) -> dict[str, Any]:
    return {"oid": entry.sha256, "size": entry.size, "pointerSize": len(lfs_pointer(entry.sha256, entry.size))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
