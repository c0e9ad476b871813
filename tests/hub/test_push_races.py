"""Pushes that others get in the way of: somebody else's commits, deleted repositories, cut connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from starlette.requests import Request
from starlette.responses import Response

from hf_fsl.hub import push as push_module
from hf_fsl.hub.local import server
from hf_fsl.hub.push import PublishError
from tests.helpers.pushing import REPO, TOKEN, push, titles


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
    # Uploads are tried six times, for half a minute in all, and pushes four times; here without the waits.
    monkeypatch.setattr(push_module, "time", SimpleNamespace(sleep=lambda _: None))
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


def test_commit_whose_answer_was_lost_is_found_by_the_next_try(bundle: Path, proxy: Proxy, api: HfApi) -> None:
    proxy.answer_to = b"/commit/"
    result = push(bundle, proxy.endpoint)
    assert proxy.drops == 1 and result.changed and result.commit == api.model_info(REPO).sha
    assert len(titles(api)) == 2 and not push(bundle, proxy.endpoint).changed
    opened = push(bundle, proxy.endpoint, create_pr=True, commit_message="once", hub_model_id="me/pulls")
    assert opened.changed and opened.pull_request and len(list(api.get_repo_discussions("me/pulls"))) == 1


def test_try_after_a_lost_answer_does_not_undo_what_others_did_since(
    bundle: Path, proxy: Proxy, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def others(_: float) -> None:
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo="config.json", repo_id=REPO)

    monkeypatch.setattr(push_module, "time", SimpleNamespace(sleep=others))
    proxy.answer_to = b"/commit/"
    with pytest.raises(PublishError, match="somebody pushed to me/things in between. Nothing was overwritten"):
        push(bundle, proxy.endpoint)
    assert len(titles(api)) == 3


class Faulty:
    """A local Hub that gives other answers to some requests, one after the other, before it answers itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Response] = []
        self.to, self.pauses = "", list[float]()
        original = server._answer

        async def answer(store: Any, token: Any, request: Request) -> Response:
            if self.answers and self.to in request.url.path:
                return self.answers.pop(0)
            return await original(store, token, request)

        monkeypatch.setattr(server, "_answer", answer)
        monkeypatch.setattr(push_module, "time", SimpleNamespace(sleep=self.pauses.append))
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    return Faulty(monkeypatch)


@pytest.mark.parametrize("to", ["/api/repos/create", "/preupload/", "/commit/"])
def test_a_busy_hub_is_asked_again_when_it_says(
    to: str, faulty: Faulty, bundle: Path, endpoint: str, api: HfApi
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    faulty.to = to
    faulty.answers = [
        Response(status_code=429, headers={"Retry-After": "7"}),
        Response(status_code=503, headers={"Retry-After": later}),
        Response("<html>bad gateway</html>", 502),
    ]
    assert push(bundle, endpoint).changed and len(titles(api)) == 2
    if to == "/preupload/":  # which the client itself asks for again
        return
    first, second, third = faulty.pauses
    assert first == 7 and 10 < second <= 20 and third == 4


def test_a_hub_that_stays_busy_or_refuses_ends_the_push(
    faulty: Faulty, bundle: Path, endpoint: str, api: HfApi
) -> None:
    faulty.answers, faulty.to = [Response(status_code=503) for _ in range(9)], "/commit/"
    with pytest.raises(PublishError, match=r"not available at the moment\. The bundle is whole.*repeat with"):
        push(bundle, endpoint)
    assert faulty.pauses == [1, 2, 4]
    faulty.answers = [Response(status_code=429, headers={"Retry-After": "3600"})]
    with pytest.raises(PublishError, match=r"too many requests, and asks to wait for 3600 seconds\."):
        push(bundle, endpoint)
    faulty.answers = [Response(status_code=500)]
    with pytest.raises(PublishError, match="HfHubHTTPError"):
        push(bundle, endpoint)
    assert faulty.pauses == [1, 2, 4] and titles(api) == ["initial commit"]


@pytest.mark.parametrize("to", ["/api/repos/create", "/api/models/me/things", "/tree/", "/preupload/", "/commit/"])
@pytest.mark.parametrize("body", ["<html>Log in to the network</html>", "", "{}", "[]", "null", '"a"', "[" * 20_000])
def test_answers_that_no_hub_gives_end_in_one_error(
    to: str, body: str, faulty: Faulty, bundle: Path, endpoint: str
) -> None:
    if to == "/tree/" and body in ("[]", "{}"):
        pytest.skip("an empty repository, to the client")
    faulty.answers, faulty.to = [Response(body, media_type="application/json")] * 9, to
    with pytest.raises(PublishError, match="(?s)was not .*The bundle is whole.*repeat with"):
        push(bundle, endpoint)
    assert faulty.pauses == []
