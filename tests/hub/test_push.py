"""Pushes through a local Hub: once, again, to branches, cut off, refused."""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard, constants

from hf_fsl.config import HubConfig
from hf_fsl.hub import push as module
from hf_fsl.hub.local import running
from hf_fsl.hub.mirror import lfs_where_xet_is_not
from hf_fsl.hub.push import PublishError, PushResult, publish, push_bundle
from hf_fsl.hub.verify import BundleMismatch

REPO = "me/things"


@pytest.fixture
def endpoint(tmp_path: Path, online: None) -> Iterator[str]:
    with running(tmp_path / "hub", token="secret") as address:
        yield address


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint=endpoint, token="secret")


def push(bundle: Path, endpoint: str, token: str = "secret", **hub: Any) -> PushResult:
    return push_bundle(bundle, HubConfig(**{"hub_model_id": REPO} | hub), token=token, endpoint=endpoint)


def titles(api: HfApi, revision: str | None = None) -> list[str]:
    return [commit.title for commit in api.list_repo_commits(REPO, revision=revision)]


def content(api: HfApi, name: str, cache: Path, repo: str = REPO) -> bytes:
    return Path(api.hf_hub_download(repo, name, cache_dir=cache)).read_bytes()


def test_push_is_one_commit_of_the_whole_bundle(bundle: Path, endpoint: str, api: HfApi, tmp_path: Path) -> None:
    result = push(bundle, endpoint, hub_private_repo=True)
    assert result.changed and result.pull_request is None and result.url == f"{endpoint}/{REPO}"
    assert titles(api) == ["Upload text-classification model made with hf_fsl", "initial commit"]
    info = api.model_info(REPO)
    assert info.sha == result.commit and info.private
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    local = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert set(api.list_repo_files(REPO)) - {".gitattributes"} == local
    for name in local:
        assert content(api, name, tmp_path / "cache") == (bundle / name).read_bytes(), name


def test_second_push_of_the_same_bundle_changes_nothing(bundle: Path, endpoint: str, api: HfApi) -> None:
    first, second = push(bundle, endpoint), push(bundle, endpoint)
    assert not second.changed and second.commit == first.commit and len(titles(api)) == 2


def test_only_what_differs_is_sent_and_stale_files_go(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(bundle, endpoint)
    for name in ("stale.txt", "figures/stale.png", ".gitattributes"):
        api.upload_file(path_or_fileobj=b"\0old", path_in_repo=name, repo_id=REPO)
    same_size = b"x" * len((bundle / "tokenizer.json").read_bytes())
    api.upload_file(path_or_fileobj=same_size, path_in_repo="tokenizer.json", repo_id=REPO)
    sent: list[list[str]] = []
    original = HfApi.create_commit

    def noted(self: HfApi, repo: str, operations: Any, **options: Any) -> Any:
        sent.append([f"{type(row).__name__} {row.path_in_repo}" for row in operations])
        return original(self, repo, operations, **options)

    monkeypatch.setattr(HfApi, "create_commit", noted)
    assert push(bundle, endpoint, commit_message="again").changed
    adds, deletes = "CommitOperationAdd", "CommitOperationDelete"
    assert sent == [[f"{adds} tokenizer.json", f"{deletes} figures/stale.png", f"{deletes} stale.txt"]]
    assert titles(api)[0] == "again" and ".gitattributes" in api.list_repo_files(REPO)
    assert not push(bundle, endpoint).changed


def test_card_names_the_repository_unless_somebody_edited_it(
    bundle: Path, endpoint: str, api: HfApi, tmp_path: Path
) -> None:
    push(bundle, endpoint, hub_model_id="me/elsewhere")
    card = ModelCard(content(api, "README.md", tmp_path / "c", "me/elsewhere").decode())
    assert 'pipeline("text-classification", model="me/elsewhere")' in card.text
    assert card.data.model_name == "elsewhere"
    readme = bundle / "README.md"
    readme.write_text(readme.read_text() + "\nAsk Ada before you use it.\n")
    push(bundle, endpoint, hub_model_id="me/elsewhere")
    assert content(api, "README.md", tmp_path / "c", "me/elsewhere") == readme.read_bytes()


def test_branches_are_made_where_they_are_missing(bundle: Path, endpoint: str, api: HfApi) -> None:
    assert push(bundle, endpoint, revision="experiments/one").changed
    assert titles(api) == ["initial commit"]
    assert len(titles(api, "experiments/one")) == 2
    assert not push(bundle, endpoint, revision="experiments/one").changed
    assert push(bundle, endpoint).changed and len(titles(api)) == 2
    assert not push(bundle, endpoint, revision="v2").changed  # it starts from main, which holds it all
    assert {ref.name for ref in api.list_repo_refs(REPO).branches} == {"main", "experiments/one", "v2"}


def test_pull_request_leaves_the_branch_alone_and_can_be_pushed_to(bundle: Path, endpoint: str, api: HfApi) -> None:
    result = push(bundle, endpoint, create_pr=True)
    assert result.changed and result.pull_request == f"{endpoint}/{REPO}/discussions/1"
    assert titles(api) == ["initial commit"] and len(titles(api, "refs/pr/1")) == 2
    assert str(result) == f"Opened {result.pull_request}"
    assert not push(bundle, endpoint, revision="refs/pr/1").changed


def test_second_push_as_a_pull_request_finds_the_first(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push(bundle, endpoint, create_pr=True)
    second = push(bundle, endpoint, create_pr=True)
    assert second == PushResult(first.url, first.commit, False, first.pull_request)
    assert str(second) == f"Nothing new for {first.pull_request}"
    # Of another title, with other contents, or on a Hub that says nothing of its pull requests, a new one is opened.
    assert push(bundle, endpoint, create_pr=True, commit_message="another").pull_request != first.pull_request
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO, revision="refs/pr/1")
    third = push(bundle, endpoint, create_pr=True)
    assert third.changed and third.pull_request == f"{endpoint}/{REPO}/discussions/3"

    def silent(self: HfApi, repo: str, **_: Any) -> Any:
        return api.get_discussion_details(repo, 99)

    monkeypatch.setattr(HfApi, "get_repo_discussions", silent)
    assert push(bundle, endpoint, create_pr=True).pull_request == f"{endpoint}/{REPO}/discussions/4"


def test_only_verified_bundles_are_pushed(bundle: Path, endpoint: str, api: HfApi) -> None:
    (bundle / "config.json").write_text("{}")
    with pytest.raises(BundleMismatch, match="changed after it was verified"):
        push(bundle, endpoint)
    bundle.with_name("bundle.verified.json").unlink()
    with pytest.raises(BundleMismatch, match="never verified"):
        push(bundle, endpoint)
    assert list(api.list_models()) == []


def test_publish_verifies_before_it_pushes(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    hub, logits = HubConfig(push_to_hub=True, hub_model_id=REPO), np.zeros((1, 3))

    def refuse(*_: Any) -> None:
        raise BundleMismatch("other logits")

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(module, "verify_bundle", refuse)
    with pytest.raises(BundleMismatch):
        publish(bundle, hub, ["a"], logits, endpoint)
    monkeypatch.setattr(module, "verify_bundle", lambda *_: calls.append("verified"))
    assert publish(bundle, HubConfig(hub_model_id=REPO), ["a"], logits, endpoint) is None
    assert calls == ["verified"] and list(api.list_models()) == []
    result = publish(bundle, hub, ["a"], logits, endpoint)
    assert result is not None and result.changed and calls == ["verified"] * 2


def test_wrong_token_is_told_how_to_log_in(bundle: Path, endpoint: str, api: HfApi) -> None:
    with pytest.raises(PublishError, match="does not accept your token.*hf auth login.*HF_TOKEN"):
        push(bundle, endpoint, token="wrong")
    assert list(api.list_models()) == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "may not write to me/things"),
        (500, "HfHubHTTPError.*no, says the Hub"),
    ],
)
def test_refusals_are_explained_and_the_same_push_offered_again(
    status: int, message: str, bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_fsl.hub.local import api as routes
    from hf_fsl.hub.local.rules import HubError

    def refuse(*_: Any) -> None:
        raise HubError(status, "no, says the Hub")

    with monkeypatch.context() as patch:
        patch.setattr(routes, "apply_commit", refuse)
        with pytest.raises(PublishError, match=rf"(?s){REPO} was not pushed: .*{message}") as caught:
            push(bundle, endpoint, revision="v2", create_pr=True, hub_private_repo=True, commit_message="a b")
    command = shlex.split(str(caught.value).partition("repeat with: ")[2])
    assert command == [
        *("hf-fsl", "push", str(bundle), "--hub_model_id", REPO),
        *("--private", "--revision", "v2", "--create-pr", "--message", "a b"),
    ]
    assert titles(api) == ["initial commit"]
    assert push(bundle, endpoint).changed


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


@pytest.mark.parametrize("repo", ["a/b/c", "a b/c", "me/--x"])
def test_ids_that_are_none_are_refused(repo: str, bundle: Path, endpoint: str) -> None:
    with pytest.raises(PublishError, match=re.escape(f"{repo} was not pushed: HFValidationError")):
        push(bundle, endpoint, hub_model_id=repo)


def test_missing_id_and_broken_card_and_offline_are_refused(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PublishError, match="user/name"):
        push(bundle, endpoint, hub_model_id=None)
    (bundle / "README.md").write_text("---\nlicense: [\n---\n# broken\n")
    with pytest.raises(PublishError, match=r"(?s)was not pushed: .*metadata.*repeat with"):
        push(bundle, endpoint)
    assert titles(api) == ["initial commit"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        push(bundle, endpoint)


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


@pytest.mark.parametrize(
    ("endpoint", "variable", "disabled"),
    [
        ("https://huggingface.co", None, False),
        ("https://hub-ci.huggingface.co", None, False),
        ("https://huggingface.company.example", None, True),
        ("http://127.0.0.1:8000", None, True),
        ("http://127.0.0.1:8000", "0", False),
    ],
)
def test_xet_is_off_only_for_hubs_that_may_not_have_it_and_only_meanwhile(
    endpoint: str, variable: str | None, disabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    if variable is not None:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", variable)
    with pytest.raises(KeyError), lfs_where_xet_is_not(endpoint):
        assert constants.HF_HUB_DISABLE_XET is disabled
        raise KeyError
    assert constants.HF_HUB_DISABLE_XET is False
