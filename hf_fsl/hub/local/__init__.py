"""A Hub of one's own on loopback, which the stock clients use with ``HF_ENDPOINT``.

Clients need ``HF_HUB_DISABLE_XET=1``: large files go through LFS here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_fsl.errors import UserError


def serve(root: str | Path, host: str = "127.0.0.1", port: int = 8000, token: str | None = None) -> None:
    """Serves the repositories below ``root`` until interrupted.

    Args:
        token: what clients must give as HF_TOKEN; required where the host is not loopback.

    Raises:
        UserError: the extra ``local-hub`` is not installed, the port is taken, or the host is open without a token.
    """
    server, sock = _server(root, host, port, token)
    address = f"http://{host}:{sock.getsockname()[1]}"
    print(f"Serving {Path(root).resolve()} as a Hub. In another terminal:")
    print(f"  export HF_ENDPOINT={address} HF_HUB_DISABLE_XET=1", flush=True)
    server.run(sockets=[sock])


@contextlib.contextmanager
def running(root: str | Path, port: int = 0, token: str | None = None) -> Iterator[str]:
    """A Hub in a thread of this process, as long as the ``with`` block lasts. Yields its endpoint."""
    server, sock = _server(root, "127.0.0.1", port, token)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise UserError("The local Hub did not start.")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def _server(root: str | Path, host: str, port: int, token: str | None) -> tuple[Any, socket.socket]:
    try:
        import uvicorn

        from hf_fsl.hub.local.server import create_app
        from hf_fsl.hub.local.store import Store
    except ImportError as error:
        raise UserError(
            f'The local Hub needs starlette and uvicorn: pip install "hf_fsl[local-hub]" ({error}).'
        ) from error
    loopback = host == "localhost" or _is_loopback(host)
    if not loopback and not token:
        raise UserError(
            f"--host {host} opens the Hub to other machines, and whoever reaches it could change it. "
            "Set HF_FSL_HUB_TOKEN to a secret that clients must give, or serve on 127.0.0.1."
        )
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        raise UserError(
            f"Port {port} on {host} cannot be had ({error.strerror}). Choose another with --port."
        ) from error
    config = uvicorn.Config(create_app(Store(root), token), log_level="warning", lifespan="off")
    return uvicorn.Server(config), sock


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
