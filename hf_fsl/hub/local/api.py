"""The routes of a local Hub, as far as huggingface_hub, transformers and datasets use them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from hf_fsl.hub.local import views
from hf_fsl.hub.local.commits import apply_commit
from hf_fsl.hub.local.repo import Repo
from hf_fsl.hub.local.rules import KINDS, HubError, check_path, check_ref_name, whole_number
from hf_fsl.hub.local.store import Store
from hf_fsl.hub.local.uploads import lfs_batch, verify
from hf_fsl.hub.local.views import front_matter

LFS_THRESHOLD = 1 << 20
"""Files from this size on, and binary ones, are sent through LFS."""

_TEXT = (".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".py", ".csv", ".html", ".svg")  # shown as source
_IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
_NO_XET = "This Hub stores large files through LFS, not Xet. Set HF_HUB_DISABLE_XET=1 before Python starts."


@dataclass
class Call:
    """A request: decoded parts of its path, query, and body (JSON or form values; for a commit the file it is in)."""

    method: str
    parts: list[str]
    query: QueryParams
    base: str
    body: Any = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")

    def url(self, kind: str, repo_id: str) -> str:
        return f"{self.base}{'' if kind == 'models' else f'{kind}/'}{repo_id}"


def respond(store: Store, call: Call) -> Response:
    """Answers a call. Raises HubError for every answer other than success."""
    match call.method, call.parts:
        case "GET", [""]:
            return HTMLResponse(views.index_page({kind: store.repos(kind) for kind in KINDS}))
        case "GET", ["api", "whoami-v2"]:
            auth = {"type": "access_token", "accessToken": {"displayName": "local", "role": "write"}}
            return JSONResponse({"type": "user", "name": "local", "fullname": "local", "orgs": [], "auth": auth})
        case "POST", ["api", "validate-yaml"]:
            return _validate(call)
        case "POST", ["api", "repos", "create"]:
            return _create(store, call)
        case "DELETE", ["api", "repos", "delete"]:
            store.delete(*_named(call))
            return JSONResponse({})
        case "GET", ["api", kind] if kind in KINDS:
            return _listing(store, call, kind)
        case _, ["api", kind, namespace, name, *rest] if kind in KINDS:
            return _repo_api(call, store.repo(kind, namespace, name), rest)
        case "POST", ["lfs", sha256, "verify"]:
            verify(store.storage, sha256, call.body)
            return JSONResponse({})
        case _, ["api", *_]:
            raise HubError(404, f"This Hub has no {call.method} /{'/'.join(call.parts)}.", "RepoNotFound")
        case _, [kind, *rest] if kind in KINDS:
            return _web(store, call, kind, rest)
        case _, parts:
            return _web(store, call, "models", parts)


def _validate(call: Call) -> Response:
    try:
        front_matter(str(call.body.get("content", "")))
    except ValueError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


def _named(call: Call) -> tuple[str, str, str]:
    kind = f"{call.body.get('type') or 'model'}s"
    if kind not in KINDS:
        raise HubError(400, f"type: model, dataset or space, got {call.body.get('type')!r:.100}.")
    namespace, name = call.body.get("organization"), str(call.body.get("name", ""))
    if not namespace:
        namespace, _, name = name.rpartition("/")
    return kind, str(namespace or "local"), name


def _create(store: Store, call: Call) -> Response:
    kind, namespace, name = _named(call)
    body, repo_id = call.body, f"{namespace}/{name}"
    meta = {"private": _private(body)} | ({"sdk": body["sdk"]} if kind == "spaces" and "sdk" in body else {})
    url = call.url(kind, repo_id)
    try:
        store.create(kind, namespace, name, meta)
    except HubError as error:
        if error.status != 409:
            raise
        return JSONResponse({"error": error.message, "url": url}, 409, {"X-Error-Message": error.message})
    return JSONResponse({"url": url, "name": repo_id, "id": repo_id})


def _private(body: dict[str, Any]) -> bool:
    return body.get("private") is True or body.get("visibility") == "private"


def _listing(store: Store, call: Call, kind: str) -> Response:
    query = call.query
    searched = [text.lower() for text in query.getlist("search")]
    wanted = query.getlist("filter") + query.getlist("pipeline_tag")
    limit = query.get("limit", "")
    rows = []
    for repo in store.repos(kind):
        try:
            info = views.repo_info(repo, repo.resolve("main"))
        except HubError:  # deleted a moment ago
            continue
        named = all(text in repo.id.lower() for text in searched) and query.get("author") in (None, info["author"])
        if named and set(info["tags"]).issuperset(wanted):
            rows.append(info)
    if query.get("sort") in ("lastModified", "createdAt"):
        rows.sort(key=lambda info: str(info[query["sort"]]), reverse=True)
    return JSONResponse(rows[: whole_number(limit, "limit")] if limit else rows)


def _repo_api(call: Call, repo: Repo, rest: list[str]) -> Response:
    match call.method, rest:
        case "GET", []:
            return JSONResponse(views.repo_info(repo, repo.resolve("main"), call.flag("blobs")))
        case "GET", ["revision", *revision]:
            return JSONResponse(views.repo_info(repo, repo.resolve("/".join(revision)), call.flag("blobs")))
        case "GET", ["tree", revision, *folder]:
            path = check_path("/".join(folder)) if folder else ""
            return JSONResponse(views.tree(repo.resolve(revision), path, call.flag("recursive")))
        case "POST", ["paths-info", *revision]:
            paths = call.body.get("paths", [])
            paths = [str(path) for path in (paths if isinstance(paths, list) else [paths])]
            return JSONResponse(views.paths_info(repo.resolve("/".join(revision)), paths))
        case "GET", ["refs"]:
            return JSONResponse(views.refs(repo))
        case "GET", ["commits", *revision]:
            rows = [views.commit_row(commit) for commit in repo.history(repo.resolve("/".join(revision)).oid)]
            return JSONResponse(rows, headers={"X-Total-Count": str(len(rows))})
        case "GET", ["discussions"]:
            return JSONResponse(views.discussions(repo, call.query.get("type", ""), call.query.get("status", "")))
        case "GET", ["auth-check"]:
            return JSONResponse({})
        case "GET", ["xet-read-token" | "xet-write-token", *_]:
            raise HubError(501, _NO_XET)
        case "POST", ["branch", *name]:
            return _new_ref(repo, "heads", "/".join(name), call.body.get("startingPoint") or "main")
        case "POST", ["tag", *revision]:
            return _new_ref(repo, "tags", call.body.get("tag"), "/".join(revision))
        case "DELETE", ["branch", "main"]:
            raise HubError(403, "The branch main cannot be deleted.")
        case "DELETE", ["branch" | "tag" as what, *name]:
            with repo.locked():
                repo.delete_ref(f"{'heads' if what == 'branch' else 'tags'}/{check_ref_name('/'.join(name))}")
            return JSONResponse({})
        case "PUT", ["settings"]:
            with repo.locked():
                meta = repo.require().meta | {"private": _private(call.body)}
                repo.set_meta(meta)
            return JSONResponse({"private": meta["private"]})
        case "POST", ["preupload", *revision]:
            return _preupload(repo, "/".join(revision), call.body.get("files"))
        case "POST", ["commit", *revision]:
            return _commit(call, repo, "/".join(revision))
    raise HubError(404, f"This Hub has no {call.method} {'/'.join(rest)} for {repo.id}.")


def _new_ref(repo: Repo, group: str, name: object, revision: str) -> Response:
    name = check_ref_name(name)
    with repo.locked():
        target = repo.require().resolve(str(revision)).oid
        if name in repo.refs(group):
            raise HubError(409, f"Reference already exists: refs/{group}/{name}")
        # As in git, whose refs are files: there is no a/b beside a.
        clashes = [ref for ref in repo.refs(group) if ref.startswith(f"{name}/") or name.startswith(f"{ref}/")]
        if clashes:
            raise HubError(409, f"Cannot create refs/{group}/{name}: refs/{group}/{clashes[0]} exists")
        repo.move_ref(f"{group}/{name}", target)
    return JSONResponse({})


def _preupload(repo: Repo, revision: str, files: Any) -> Response:
    head = repo.resolve(revision)
    rows = []
    try:
        for file in files:
            path, size = check_path(file["path"]), whole_number(file["size"], "size")
            lfs = size >= LFS_THRESHOLD or b"\0" in base64.b64decode(file.get("sample", ""))
            known = head.files.get(path)
            rows.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if lfs else "regular",
                    "shouldIgnore": False,
                    "oid": known.etag if known is not None else None,
                }
            )
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise HubError(400, "files: a list of {path, size, sample in base64}.") from error
    return JSONResponse({"files": rows, "commitOid": head.oid})


def _commit(call: Call, repo: Repo, revision: str) -> Response:
    assert isinstance(call.body, Path)
    commit, number = apply_commit(repo, revision, call.body, call.flag("create_pr"))
    url = call.url(repo.kind, repo.id)
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
    if number is not None:
        answer["pullRequestUrl"] = f"{url}/discussions/{number}"
    return JSONResponse(answer)


def _web(store: Store, call: Call, kind: str, parts: list[str]) -> Response:
    match call.method, parts:
        case "POST", [namespace, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            store.repo(kind, namespace, name.removesuffix(".git"))
            return JSONResponse(lfs_batch(store.storage, call.base, call.body))
        case "GET", [namespace, name, "resolve" | "raw", revision, *path]:
            return _file(store.repo(kind, namespace, name), revision, check_path("/".join(path)))
        case "GET", [namespace, name, "tree" | "commit", revision]:
            repo = store.repo(kind, namespace, name)
            return HTMLResponse(views.repo_page(repo, repo.resolve(revision)))
        case "GET", [namespace, name, "discussions", number]:
            repo = store.repo(kind, namespace, name)
            return HTMLResponse(views.repo_page(repo, repo.resolve(f"refs/pr/{number}")))
        case "GET", [namespace, name]:
            repo = store.repo(kind, namespace, name)
            return HTMLResponse(views.repo_page(repo, repo.resolve("main")))
    # Such as the ids without a namespace that the first models of the Hub have.
    raise HubError(404, f"There is no repository at /{'/'.join(call.parts)}.", "RepoNotFound")


def _file(repo: Repo, revision: str, path: str) -> Response:
    commit = repo.resolve(revision)
    headers = {"X-Repo-Commit": commit.oid}
    entry = commit.files.get(path)
    if entry is None:
        message = f"{repo.id} has no {path} at {revision}."
        return JSONResponse({"error": message}, 404, headers | {"X-Error-Code": "EntryNotFound"})
    headers |= {"ETag": f'"{entry.etag}"', "Content-Security-Policy": "default-src 'none'; sandbox"}
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}
    suffix = Path(path).suffix.lower()
    media = "text/plain; charset=utf-8" if suffix in _TEXT else _IMAGES.get(suffix, "application/octet-stream")
    return FileResponse(repo.storage.blob(entry.sha256), headers=headers, media_type=media)
