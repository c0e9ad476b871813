"""The Hub's HTTP API, as far as huggingface_hub, transformers and datasets use it, over a Store."""

from __future__ import annotations

import base64
import hmac
import json
import urllib.parse
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from hf_fsl.hub.local import views
from hf_fsl.hub.local.commits import apply_commit
from hf_fsl.hub.local.store import KINDS, HubError, Repo, Store, check_path

LFS_THRESHOLD = 1 << 20
"""Files from this size on, and binary ones, are sent through LFS."""


def create_app(store: Store, token: str | None = None) -> Starlette:
    """The application. With a token, every request must carry it as a bearer token."""

    async def answer(request: Request) -> Response:
        try:
            if token is not None and not _authorised(request, token):
                raise HubError(401, None, "Invalid credentials: this Hub wants its token (HF_TOKEN).")
            # The raw path: a revision may hold an encoded slash, which routing by the decoded path would lose.
            raw = request.scope["raw_path"].decode("latin-1").partition("?")[0]
            parts = [urllib.parse.unquote(part) for part in raw.strip("/").split("/")]
            return await _dispatch(store, request, parts)
        except HubError as error:
            headers = {"X-Error-Message": error.message.encode("ascii", "replace").decode()}
            if error.code is not None:
                headers["X-Error-Code"] = error.code
            return JSONResponse({"error": error.message}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=400)

    methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


def _authorised(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode(), token.encode())


async def _dispatch(store: Store, request: Request, parts: list[str]) -> Response:
    match parts:
        case [""]:
            return HTMLResponse(views.index_page({kind: store.repos(kind) for kind in KINDS}))
        case ["api", "whoami-v2"]:
            role = {"accessToken": {"displayName": "local", "role": "write"}}
            return JSONResponse({"type": "user", "name": "local", "fullname": "local", "orgs": [], "auth": role})
        case ["api", "validate-yaml"]:
            return JSONResponse({"errors": [], "warnings": []})
        case ["api", "repos", "create" | "delete" as action]:
            return await _create_or_delete(store, request, action)
        case ["api", kind] if kind in KINDS:
            return _listing(store, request, kind)
        case ["api", kind, namespace, name, *rest] if kind in KINDS:
            return await _api(request, kind, store.repo(kind, namespace, name), rest)
        case ["lfs", sha256] if request.method == "PUT":
            return await _receive(store, request, sha256)
        case ["lfs", sha256, "verify"]:
            wanted = await request.json()
            blob = store.blob(sha256)
            if not blob.is_file() or blob.stat().st_size != wanted.get("size"):
                raise HubError(422, None, f"{sha256} is not here in the size announced. Upload it again.")
            return JSONResponse({})
        case [kind, *rest] if kind in KINDS:
            return await _web(store, request, kind, rest)
        case _:
            return await _web(store, request, "models", parts)


async def _create_or_delete(store: Store, request: Request, action: str) -> Response:
    body = await request.json()
    kind = f"{body.get('type') or 'model'}s"
    namespace, _, name = str(body["name"]).rpartition("/")
    namespace = body.get("organization") or namespace or "local"
    if kind not in KINDS:
        raise HubError(400, None, f"type: model, dataset or space, got {body.get('type')!r}")
    if action == "delete":
        await run_in_threadpool(store.delete, kind, namespace, name)
        return JSONResponse({})
    url = str(request.base_url) + ("" if kind == "models" else f"{kind}/") + f"{namespace}/{name}"
    private = bool(body.get("private")) or body.get("visibility") == "private"
    try:
        await run_in_threadpool(store.create, kind, namespace, name, private)
    except HubError as error:
        if error.status != 409:
            raise
        return JSONResponse({"error": error.message, "url": url}, 409)
    return JSONResponse({"url": url, "name": f"{namespace}/{name}", "id": f"{namespace}/{name}"})


def _listing(store: Store, request: Request, kind: str) -> Response:
    search, author = request.query_params.get("search", "").lower(), request.query_params.get("author")
    wanted = request.query_params.getlist("filter")
    rows = []
    for repo in store.repos(kind):
        info = views.repo_info(kind, repo, repo.resolve("main"))
        labels = {*info["tags"], info.get("pipeline_tag"), info.get("library_name")}
        if search in repo.id.lower() and author in (None, info["author"]) and labels.issuperset(wanted):
            rows.append(info)
    limit = request.query_params.get("limit")
    return JSONResponse(rows[: int(limit)] if limit else rows)


async def _api(request: Request, kind: str, repo: Repo, rest: list[str]) -> Response:
    query = request.query_params
    match request.method, rest:
        case "GET", []:
            return JSONResponse(views.repo_info(kind, repo, repo.resolve("main"), "blobs" in query))
        case "GET", ["revision", *revision]:
            return JSONResponse(views.repo_info(kind, repo, repo.resolve("/".join(revision)), "blobs" in query))
        case "GET", ["tree", revision, *folder]:
            recursive = query.get("recursive", "").lower() in ("true", "1")
            path = check_path("/".join(folder)) if folder else ""
            return JSONResponse(views.tree(repo.resolve(revision), path, recursive))
        case "POST", ["paths-info", *revision]:
            return JSONResponse(views.paths_info(repo.resolve("/".join(revision)), await _paths(request)))
        case "GET", ["refs"]:
            return JSONResponse(views.refs(repo))
        case "GET", ["commits", *revision]:
            rows = [views.commit_row(commit) for commit in repo.history(repo.resolve("/".join(revision)).oid)]
            return JSONResponse(rows, headers={"X-Total-Count": str(len(rows))})
        case "POST", ["branch", *name]:
            return await _new_ref(request, repo, "heads/" + "/".join(name), None)
        case "POST", ["tag", *revision]:
            return await _new_ref(request, repo, "", "/".join(revision))
        case "DELETE", ["branch" | "tag" as what, *name]:
            if what == "branch" and name == ["main"]:
                raise HubError(403, None, "The branch main cannot be deleted.")
            repo.delete_ref(("heads/" if what == "branch" else "tags/") + "/".join(name))
            return JSONResponse({})
        case "PUT", ["settings"]:
            body = await request.json()
            private = body.get("private", body.get("visibility") == "private")
            repo.set_meta(repo.meta | {"private": bool(private)})
            return JSONResponse({"private": bool(private)})
        case "POST", ["preupload", *revision]:
            return JSONResponse(_preupload(repo, "/".join(revision), await request.json()))
        case "POST", ["commit", *revision]:
            lines = (await request.body()).decode().splitlines()
            create_pr = query.get("create_pr") in ("1", "true", "True")
            commit, pull = await run_in_threadpool(apply_commit, repo, "/".join(revision), lines, create_pr)
            prefix = str(request.base_url) + ("" if kind == "models" else f"{kind}/") + repo.id
            answer: dict[str, Any] = {
                "commitOid": commit.oid,
                "commitUrl": f"{prefix}/commit/{commit.oid}",
                "success": True,
            }
            if pull is not None:
                answer["pullRequestUrl"] = f"{prefix}/discussions/{pull.removeprefix('pr/')}"
            return JSONResponse(answer)
    raise HubError(404, None, f"This Hub has no {request.method} {'/'.join(rest)}.")


async def _paths(request: Request) -> list[str]:
    if request.headers.get("content-type", "").startswith("application/json"):
        paths = (await request.json()).get("paths", [])
        return [paths] if isinstance(paths, str) else list(paths)
    form = urllib.parse.parse_qs((await request.body()).decode())
    return form.get("paths", [])


async def _new_ref(request: Request, repo: Repo, ref: str, revision: str | None) -> Response:
    body = await request.json() if await request.body() else {}
    if revision is not None:
        ref = f"tags/{body['tag']}"
    name = ref.partition("/")[2]
    check_path(name)
    target = repo.resolve(revision or body.get("startingPoint") or "main").oid
    with repo.locked():
        if name in repo.refs(ref.partition("/")[0]):
            raise HubError(409, None, f"Reference refs/{ref} already exists.")
        repo.move_ref(ref, target)
    return JSONResponse({})


def _preupload(repo: Repo, revision: str, body: dict[str, Any]) -> dict[str, Any]:
    head = repo.resolve(revision)
    rows = []
    for file in body["files"]:
        path, sample = check_path(file["path"]), base64.b64decode(file.get("sample", ""))
        lfs = file["size"] >= LFS_THRESHOLD or b"\0" in sample
        known = head.files.get(path)
        rows.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False,
                     "oid": known.etag if known is not None else None})  # fmt: skip
    return {"files": rows, "commitOid": head.oid}


async def _receive(store: Store, request: Request, sha256: str) -> Response:
    store.blob(sha256)
    with store.incoming() as upload:
        async for chunk in request.stream():
            if chunk:
                await run_in_threadpool(upload.write, chunk)
        await run_in_threadpool(upload.keep, sha256)
    return Response()


async def _web(store: Store, request: Request, kind: str, parts: list[str]) -> Response:
    match parts:
        case [namespace, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
            store.repo(kind, namespace, name.removesuffix(".git"))
            return JSONResponse(_lfs_batch(store, request, await request.json()))
        case [namespace, name, "resolve" | "raw", revision, *path] if path:
            return _file(store.repo(kind, namespace, name), revision, check_path("/".join(path)))
        case [namespace, name]:
            repo = store.repo(kind, namespace, name)
            return HTMLResponse(views.repo_page(kind, repo, repo.resolve("main")))
    raise HubError(404, None, "There is nothing here.")


def _file(repo: Repo, revision: str, path: str) -> Response:
    commit = repo.resolve(revision)
    headers = {"X-Repo-Commit": commit.oid}
    entry = commit.files.get(path)
    if entry is None:
        headers["X-Error-Code"] = "EntryNotFound"
        return JSONResponse({"error": f"{repo.id} has no {path} at {revision}."}, 404, headers)
    headers |= {"ETag": f'"{entry.etag}"', "Accept-Ranges": "bytes"}
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.etag}"', "X-Linked-Size": str(entry.size)}
    kind = (
        "text/plain; charset=utf-8" if path.endswith((".md", ".json", ".txt", ".yaml")) else "application/octet-stream"
    )
    return FileResponse(repo.store.blob(entry.sha256), headers=headers, media_type=kind)


def _lfs_batch(store: Store, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    base = str(request.base_url)
    sent = request.headers.get("authorization")
    header = {"Authorization": sent} if sent else {}
    objects = []
    for wanted in body.get("objects", []):
        row: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if not store.blob(wanted["oid"]).is_file():
            row["actions"] = {
                "upload": {"href": f"{base}lfs/{wanted['oid']}", "header": header},
                "verify": {"href": f"{base}lfs/{wanted['oid']}/verify", "header": header},
            }
        objects.append(row)
    return {"transfer": "basic", "objects": json.loads(json.dumps(objects))}
