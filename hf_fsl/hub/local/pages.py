"""Two plain pages for a person with a browser: what is here, and one repository's files and card."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from hf_fsl.hub.local.cards import readme
from hf_fsl.hub.local.repo import Commit, Repo

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
