"""What the Hub says of repositories: JSON as its clients expect it, cards, and plain pages."""

from __future__ import annotations

import math
import re
from html import escape
from typing import Any
from urllib.parse import quote

import yaml

from hf_fsl.hub.local.repo import Commit, Entry, Repo, lfs_pointer
from hf_fsl.hub.local.rules import HubError

_FRONT_MATTER = re.compile(r"\A\s*---[\r\n]+(.*?)[\r\n]+---(?:\r\n|\n|$)", re.DOTALL)
_LONGEST_README = 1 << 20
_MOST_VALUES = 100_000


def readme(repo: Repo, commit: Commit) -> str:
    """The text of README.md, at most a megabyte of it; empty where there is none."""
    entry = commit.files.get("README.md")
    if entry is None:
        return ""
    with repo.storage.blob(entry.sha256).open("rb") as file:
        return file.read(_LONGEST_README).decode(errors="replace")


def front_matter(text: str) -> dict[str, Any]:
    """The metadata of a card, as JSON values. Raises ValueError with what is wrong with it."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}
    try:
        values = yaml.safe_load(found[1])
        if not isinstance(values, (dict, type(None))):
            raise ValueError(f"The metadata is a mapping, not {type(values).__name__}.")
        plain: dict[str, Any] = _plain(values or {}, [_MOST_VALUES])
        return plain
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"The metadata is not YAML that can be read: {error}") from error


def card_data(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The metadata of a commit's card; empty where it has none that can be read."""
    try:
        return front_matter(readme(repo, commit))
    except ValueError:
        return {}


def tags(card: dict[str, Any]) -> list[str]:
    """What a repository can be filtered by: the card's tags, and those the Hub makes of its other fields."""
    found = _strings(card.get("tags")) + _strings(card.get("library_name")) + _strings(card.get("pipeline_tag"))
    found += _strings(card.get("language"))
    for field, prefix in (
        ("license", "license"),
        ("datasets", "dataset"),
        ("base_model", "base_model"),
        ("task_categories", "task_categories"),
        ("size_categories", "size_categories"),
    ):
        found += [f"{prefix}:{value}" for value in _strings(card.get(field))]
    return list(dict.fromkeys(found))


def _strings(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item not in (None, "")]


def _plain(value: Any, left: list[int]) -> Any:
    """JSON values, counted: YAML's aliases let a few lines stand for more than memory holds."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"The metadata has more than {_MOST_VALUES:,} values.")
    if isinstance(value, dict):
        return {str(key): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, left) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float, type(None))):
        return value
    return str(value).encode(errors="replace").decode()  # YAML can hold halves of surrogate pairs, UTF-8 cannot


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


_STYLE = (
    "body{font:16px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "td{padding:.1em 1em .1em 0}td+td{text-align:right}pre{white-space:pre-wrap;border-top:1px solid #ccc}"
)


def index_page(repos: dict[str, list[Repo]]) -> str:
    """All repositories, by kind."""
    parts = ["<h1>Local Hub</h1>"]
    for kind, found in repos.items():
        items = "".join(f'<li><a href="{_address(repo)}">{escape(repo.id)}</a></li>' for repo in found)
        parts.append(f"<h2>{kind.capitalize()}</h2><ul>{items or '<li>none yet</li>'}</ul>")
    return _page("Local Hub", "".join(parts))


def repo_page(repo: Repo, commit: Commit) -> str:
    """A repository at one revision: files to download, and the source of its README."""
    rows = "".join(
        f'<tr><td><a href="{_address(repo)}/resolve/{commit.oid}/{quote(path)}">{escape(path)}</a></td>'
        f"<td>{entry.size:,} bytes</td></tr>"
        for path, entry in commit.files.items()
    )
    head = (
        f'<p><a href="/">Local Hub</a> / {repo.kind}</p><h1>{escape(repo.id)}</h1>'
        f"<p>{commit.oid[:12]}, {commit.date}: {escape(commit.title)}</p>"
    )
    card = escape(readme(repo, commit))
    return _page(repo.id, f"{head}<table>{rows}</table>{f'<pre>{card}</pre>' if card else ''}")


def _address(repo: Repo) -> str:
    return f"/{repo.id}" if repo.kind == "models" else f"/{repo.kind}/{repo.id}"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{body}</body></html>"
    )
