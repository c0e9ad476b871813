"""Pushes that others get in the way of: somebody else's commits, deleted repositories, cut connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub.pushing import REPO, TOKEN, push, titles
from huggingface_hub import HfApi

from hf_fsl.hub.push import PublishError


@pytest.fixture
def token() -> str:
    return TOKEN


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def before_the_next(monkeypatch: pytest.MonkeyPatch, call: str, happens: Callable[[], Any]) -> None:
    """Lets something happen right before the next call of an HfApi method, which then goes to the Hub as ever."""
    original = getattr(HfApi, call)

    def late(self: HfApi, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(HfApi, call, original)
        happens()
        return original(self, *arguments, **options)

    monkeypatch.setattr(HfApi, call, late)


@pytest.mark.parametrize("call", ["repo_info", "create_commit"])
def test_repository_deleted_while_it_is_pushed_to(
    call: str, bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle.parent)
    before_the_next(monkeypatch, call, lambda: api.delete_repo(REPO))
    with pytest.raises(PublishError, match=rf"{REPO} was not pushed: {REPO}, or the rev.* is not there.*repeat with"):
        push(bundle, endpoint)
    assert list(api.list_models()) == [] and contents(bundle.parent) == before
    assert push(bundle, endpoint).changed and contents(bundle.parent) == before


def test_branch_that_cannot_be_beside_another(bundle: Path, endpoint: str, api: HfApi) -> None:
    push(bundle, endpoint, revision="v2")
    before = contents(bundle.parent)
    with pytest.raises(
        PublishError, match=r"in the way: .*refs/heads/v2 exists\. The bundle is whole.*--revision v2/a"
    ):
        push(bundle, endpoint, revision="v2/a")
    assert {ref.name for ref in api.list_repo_refs(REPO).branches} == {"main", "v2"}
    assert contents(bundle.parent) == before
    assert push(bundle, endpoint, revision="v3").changed


@pytest.mark.parametrize("call", ["create_repo", "create_branch"])
def test_somebody_makes_the_repository_or_the_branch_first(
    call: str, bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes = {
        "create_repo": lambda: api.create_repo(REPO),
        "create_branch": lambda: api.create_branch(REPO, branch="v2"),
    }
    before_the_next(monkeypatch, call, makes[call])
    assert push(bundle, endpoint, revision="v2").changed
    assert len(titles(api, "v2")) == 2


def test_push_in_between_is_not_overwritten(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"path_or_fileobj": b"theirs", "path_in_repo": "theirs.txt", "repo_id": REPO}
    before_the_next(monkeypatch, "create_commit", lambda: api.upload_file(**theirs))
    with pytest.raises(PublishError, match="somebody pushed to me/things in between. Nothing was overwritten"):
        push(bundle, endpoint)
    assert {"theirs.txt"} == set(api.list_repo_files(REPO)) - {".gitattributes"}
    assert push(bundle, endpoint).changed


class Proxy:
    """Passes connections on to a Hub; drops every connection whose request, or its answer, holds a marker."""

    def __init__(self, endpoint: str) -> None:
        self.port = int(endpoint.rpartition(":")[2])
        self.request_marker: bytes | None = None
        self.answer_to: bytes | None = None
        self.drops = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            mute = threading.Event()
            threading.Thread(target=self._requests, args=(client, server, mute), daemon=True).start()
            threading.Thread(target=self._answers, args=(server, client, mute), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, mute: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.request_marker is not None and self.request_marker in data:
                    self.drops += 1
                    break
                if self.answer_to is not None and self.answer_to in data:
                    mute.set()
                server.sendall(data)
        self._close(client, server)

    def _answers(self, server: socket.socket, client: socket.socket, mute: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if mute.is_set():
                    self.drops += 1
                    break
                client.sendall(data)
        self._close(client, server)

    @staticmethod
    def _close(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    # Uploads are tried six times, for half a minute in all; here without the waits.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))
    made = Proxy(endpoint)
    yield made
    made.listener.close()


@pytest.mark.parametrize("marker", [b"POST /api/repos/create", b"PUT /lfs", b"/commit/"])
def test_connection_cut_before_the_commit_then_repeated(marker: bytes, bundle: Path, proxy: Proxy, api: HfApi) -> None:
    proxy.request_marker = marker
    with pytest.raises(PublishError, match=r"(?s)connection to the Hub was lost.*is whole in.*repeat with: hf-fsl"):
        push(bundle, proxy.endpoint)
    assert proxy.drops
    if marker != b"POST /api/repos/create":
        assert titles(api) == ["initial commit"]
    proxy.request_marker = None
    assert push(bundle, proxy.endpoint).changed
    assert len(titles(api)) == 2 and "model.safetensors" in api.list_repo_files(REPO)


def test_commit_whose_answer_was_lost_is_found_by_the_next_push(bundle: Path, proxy: Proxy, api: HfApi) -> None:
    proxy.answer_to = b"/commit/"
    with pytest.raises(PublishError, match="was not confirmed: the connection to the Hub was lost"):
        push(bundle, proxy.endpoint)
    assert proxy.drops
    proxy.answer_to = None
    again = push(bundle, proxy.endpoint)
    assert not again.changed and len(titles(api)) == 2
