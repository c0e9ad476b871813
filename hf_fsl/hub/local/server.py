"""The HTTP side of a local Hub: who may ask, how bodies are received, how errors are told."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hf_fsl.hub.local.api import Call, respond
from hf_fsl.hub.local.rules import HubError, json_object
from hf_fsl.hub.local.storage import Incoming
from hf_fsl.hub.local.store import Store
from hf_fsl.hub.local.uploads import signed_size

_LONGEST_JSON = 16 << 20
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


def create_app(store: Store, token: str | None = None) -> Starlette:
    """The application. See ``hf_fsl.hub.local.create_app``."""

    async def answer(request: Request) -> Response:
        try:
            response = await _answer(store, token or None, request)
        except HubError as error:
            response = _refusal(error)
        except ClientDisconnect:
            response = Response(status_code=400)
        # What people upload must not run as a page of this server.
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        return response

    return Starlette(routes=[Route("/{path:path}", answer, methods=_METHODS)])


async def _answer(store: Store, token: str | None, request: Request) -> Response:
    # The raw path: a revision may hold an encoded slash, which the decoded path has lost.
    raw = request.scope["raw_path"].decode("latin-1")
    parts = [urllib.parse.unquote(part) for part in raw.removeprefix("/").removesuffix("/").split("/")]
    upload = request.method == "PUT" and len(parts) == 2 and parts[0] == "lfs"
    _require_own_origin(request)
    if token is None:
        _require_local(request)
    elif not upload and not _has_token(request, token):  # an upload's address is signed instead
        raise HubError(401, "Invalid credentials in Authorization header")
    call = Call(
        method="GET" if request.method == "HEAD" else request.method,
        parts=parts,
        query=request.query_params,
        base=str(request.base_url),
    )
    if upload:
        return await _receive_blob(store, request, parts[1])
    if parts[:1] == ["api"] and "commit" in parts[4:5]:
        async with _spooled(store, request) as incoming:
            call.body = incoming.path
            return await run_in_threadpool(respond, store, call)
    if call.method != "GET":
        call.body = _parsed(await _read(request), request.headers.get("content-type", ""))
    return await run_in_threadpool(respond, store, call)


async def _receive_blob(store: Store, request: Request, sha256: str) -> Response:
    store.storage.blob(sha256)
    size = signed_size(store.storage, sha256, request.query_params)
    async with _spooled(store, request, size) as incoming:
        await run_in_threadpool(incoming.keep, sha256, size)
    return Response()


@contextlib.asynccontextmanager
async def _spooled(store: Store, request: Request, most: int | None = None) -> AsyncIterator[Incoming]:
    """The request's body on disk; nothing of it is held in memory."""
    with store.storage.incoming() as incoming:
        async for chunk in request.stream():
            if most is not None and incoming.size + len(chunk) > most:
                raise HubError(422, f"More than the {most} bytes that were announced. Nothing was stored.")
            await run_in_threadpool(incoming.write, chunk)
        await run_in_threadpool(incoming.sync)
        yield incoming


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_JSON:
            raise HubError(413, f"A request holds at most {_LONGEST_JSON:,} bytes, other than commits and uploads.")
    return bytes(body)


def _parsed(body: bytes, content_type: str) -> dict[str, Any]:
    if content_type.startswith("application/x-www-form-urlencoded"):
        return dict(urllib.parse.parse_qs(body.decode(errors="replace")))
    return json_object(body or b"{}")


def _has_token(request: Request, token: str) -> bool:
    """As a bearer token, or (browsers ask for it) as the password of HTTP basic authentication."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode(), token.encode())


def _require_local(request: Request) -> None:
    """Without a token, loopback is the only guard."""
    host = request.url.hostname or ""
    if not is_loopback(host):
        raise HubError(403, f"This Hub has no token, so it answers to localhost only, not to {host!r:.100}.")


def _require_own_origin(request: Request) -> None:
    """A browser is behind every guard: on this machine, or with the token that it remembers. Keep websites out."""
    origin = request.headers.get("origin")
    if request.method not in ("GET", "HEAD") and origin not in (None, str(request.base_url).rstrip("/")):
        raise HubError(403, f"A page of {origin!r:.100} asked for a change. This Hub takes none from websites.")


def is_loopback(host: str) -> bool:
    """Whether a host name or address leads to this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _refusal(error: HubError) -> Response:
    # A header holds printable ASCII; the message may quote what was asked for.
    message = "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in error.message)
    headers = {"X-Error-Message": message}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="local Hub: the token is the password"'
    return JSONResponse({"error": message}, error.status, headers)
