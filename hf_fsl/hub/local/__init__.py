"""A Hub of one's own on loopback, which the stock clients use with ``HF_ENDPOINT``.

Clients need ``HF_HUB_DISABLE_XET=1``: large files go through LFS here.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_fsl.core.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from hf_fsl.hub.local.store import Store

__all__ = ["create_app", "running", "serve"]


def serve(root: str | Path, host: str = "127.0.0.1", port: int = 8000, token: str | None = None) -> None:
    """Serves the repositories below ``root`` until interrupted.

    Args:
        root: folder of the Hub; made if it is not there. Several servers may share it.
        host: address to listen on; loopback unless there is a token.
        port: 0 takes a free one.
        token: what clients must give as HF_TOKEN.

    Raises:
        UserError: the extra ``local-hub`` is not installed, the port is taken, or the host is open without a token.
    """
    server, sock = _server(root, host, port, token)
    print(f"Serving {Path(root).resolve()} as a Hub. In another terminal:")
    print(f"  export HF_ENDPOINT={_address(host, sock)} HF_HUB_DISABLE_XET=1", flush=True)
    server.run(sockets=[sock])


@contextlib.contextmanager
def running(root: str | Path, port: int = 0, token: str | None = None) -> Iterator[str]:
    """A Hub in a thread of this process, as long as the ``with`` block lasts.

    Args:
        root: folder of the Hub; made if it is not there.
        port: 0 takes a free one.
        token: what clients must give.

    Yields:
        The endpoint, such as ``http://127.0.0.1:41234``.

    Raises:
        UserError: as for ``serve``.
    """
    server, sock = _server(root, "127.0.0.1", port, token)
    address = _address("127.0.0.1", sock)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True, name="local-hub")
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise UserError(f"The local Hub did not start on {address} within 20 seconds.")
        time.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(10)


def create_app(store: Store, token: str | None = None) -> Starlette:
    """The ASGI application, for a server of one's own choice.

    Args:
        store: the repositories, ``hf_fsl.hub.local.store.Store(root)``.
        token: every request must carry it as a bearer token (or as the password of HTTP basic authentication);
            uploads of content go to addresses that were signed for the holder of the token. Without one, only
            requests to localhost are answered.

    Raises:
        UserError: the extra ``local-hub`` is not installed.
    """
    _require_extra()
    from hf_fsl.hub.local import server

    return server.create_app(store, token)


def _server(root: str | Path, host: str, port: int, token: str | None) -> tuple[Any, socket.socket]:
    _require_extra()
    import uvicorn

    from hf_fsl.hub.local.server import is_loopback
    from hf_fsl.hub.local.store import Store

    if not is_loopback(host) and not token:
        raise UserError(
            f"host {host} opens the Hub to other machines, and whoever reaches it could change it. "
            "Set HF_FSL_HUB_TOKEN to a secret that clients must give, or serve on 127.0.0.1."
        )
    # asyncio turns Nagle's algorithm off, which costs 40 ms a request, only where the protocol is named.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(128)  # now, as two sockets that do not listen yet can share a port
    except (OSError, OverflowError) as error:
        sock.close()
        raise UserError(
            f"Port {port} on {host} cannot be had ({error}). Choose another with --port; 0 takes a free one."
        ) from (error)
    app = create_app(Store(root), token)
    # A client that never ends its request must not keep the server from stopping.
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=3)
    return uvicorn.Server(config), sock


def _address(host: str, sock: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"


def _require_extra() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'The local Hub needs starlette and uvicorn: pip install "hf_fsl[local-hub]" ({error}).'
        ) from error
    try:
        import fcntl  # noqa: F401
    except ImportError as error:
        raise UserError("The local Hub needs the file locks of Linux or macOS; on Windows, use WSL.") from error
