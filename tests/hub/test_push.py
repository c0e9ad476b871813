"""Pushes through a local Hub: once, again, to branches, cut off, refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard, constants

from hf_fsl.config import HubConfig
from hf_fsl.hub import push as module
from hf_fsl.hub.mirror import lfs_where_xet_is_not
from hf_fsl.hub.push import PublishError, PushResult, publish
from hf_fsl.hub.verify import BundleMismatch, require_verified
from tests.helpers.pushing import REPO, TOKEN, content, push, titles


@pytest.fixture
def token() -> str:
    return TOKEN


def test_push_is_one_commit_of_the_whole_bundle(bundle: Path, endpoint: str, api: HfApi, tmp_path: Path) -> None:
    result = push(bundle, endpoint, hub_private_repo=True)
    assert result.changed and result.pull_request is None and result.url == f"{endpoint}/{REPO}"
    assert titles(api) == ["Upload text-classification model made with hf_fsl", "initial commit"]
    info = api.model_info(REPO)
    assert info.sha == result.commit and info.private
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    local = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    ours = {".hf_fsl/pushed.json", ".hf_fsl/README.md"}
    assert set(api.list_repo_files(REPO)) - {".gitattributes"} == local | ours
    for name in local:
        assert content(api, name, tmp_path / "cache") == (bundle / name).read_bytes(), name


def test_second_push_of_the_same_bundle_changes_nothing(bundle: Path, endpoint: str, api: HfApi) -> None:
    first, second = push(bundle, endpoint), push(bundle, endpoint)
    assert not second.changed and second.commit == first.commit and len(titles(api)) == 2


def test_only_what_differs_is_sent_and_our_stale_files_go(
    bundle: Path, endpoint: str, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, verification = bundle / "figures" / "stale.png", require_verified(bundle)
    figure.write_bytes(b"\0old")
    (bundle / "stale.txt").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(module, "require_verified", lambda _: verification)
        push(bundle, endpoint)
    figure.unlink()
    (bundle / "stale.txt").unlink()
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=REPO)
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
    changed = [f"{adds} .hf_fsl/pushed.json", f"{adds} tokenizer.json"]
    assert sent == [[*changed, f"{deletes} figures/stale.png", f"{deletes} stale.txt"]]
    assert titles(api)[0] == "again" and "theirs.txt" in api.list_repo_files(REPO)
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
        publish(bundle, hub, ["a"], logits, endpoint=endpoint)
    monkeypatch.setattr(module, "verify_bundle", lambda *_: calls.append("verified"))
    assert publish(bundle, HubConfig(hub_model_id=REPO), ["a"], logits, endpoint=endpoint) is None
    assert calls == ["verified"] and list(api.list_models()) == []
    result = publish(bundle, hub, ["a"], logits, endpoint=endpoint)
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
