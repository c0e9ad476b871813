"""The stock clients against the local Hub, and what it must never do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import hf_fsl
from hf_fsl.errors import UserError
from hf_fsl.hub.local import running, serve
from hf_fsl.hub.local.cards import front_matter
from hf_fsl.hub.local.rules import HubError, check_path, check_ref_name, check_repo
from hf_fsl.hub.local.store import Store

PACKAGE_ROOT = Path(hf_fsl.__file__).parents[1]
LARGE = bytes(range(256)) * 8000  # 2 MB: goes through LFS
CARD = """---
pipeline_tag: text-classification
library_name: transformers
license: apache-2.0
tags: [hf_fsl]
---
# A <b>card</b>
"""


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with running(tmp_path / "hub") as address:
        yield address


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint=endpoint, token=False)


@contextlib.contextmanager
def server_process(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    code = f"from hf_fsl.hub.local import serve; serve({str(root)!r}, port=0)"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            address = process.stdout.readline().split("HF_ENDPOINT=")[1].split()[0]
            yield process, address
        finally:
            process.kill()


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def fetch(api: HfApi, tmp_path: Path, repo: str, path: str, **options: Any) -> bytes:
    return Path(
        hf_hub_download(repo, path, endpoint=api.endpoint, cache_dir=tmp_path / "cache", token=api.token, **options)
    ).read_bytes()


def test_repositories_are_created_listed_and_deleted(api: HfApi, endpoint: str):
    assert api.create_repo("u/m", private=True) == f"{endpoint}/u/m"
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("u/m")
    assert refused.value.response.status_code == 409
    assert api.create_repo("u/m", exist_ok=True) == f"{endpoint}/u/m"
    api.create_repo("v/data", repo_type="dataset")
    api.create_repo("u/app", repo_type="space", space_sdk="gradio")
    api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id="u/m")

    assert api.model_info("u/m").private is True
    api.update_repo_settings("u/m", private=False)
    assert api.model_info("u/m").private is False
    assert api.space_info("u/app").sdk == "gradio"
    assert api.dataset_info("v/data").author == "v"
    assert [m.id for m in api.list_models(search="M", author="u", filter=["license:apache-2.0"])] == ["u/m"]
    assert not list(api.list_models(author="v")) and not list(api.list_models(filter="other"))
    assert [d.id for d in api.list_datasets(search="dat")] == ["v/data"]
    assert api.repo_exists("u/m") and not api.repo_exists("u/m", repo_type="dataset")
    api.delete_repo("u/m")
    assert not api.repo_exists("u/m")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("u/m")
    api.create_repo("u/m")
    assert api.list_repo_files("u/m") == []


def test_files_round_trip(api: HfApi, tmp_path: Path):
    folder = tmp_path / "folder"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(LARGE)
    (folder / "sub dir" / "ä#?%41.txt").write_text("small")
    (folder / "empty").touch()
    api.create_repo("u/m")
    api.upload_folder(folder_path=folder, repo_id="u/m")
    got = Path(api.snapshot_download("u/m", cache_dir=tmp_path / "cache"))
    assert {p.relative_to(got).as_posix(): p.read_bytes() for p in got.rglob("*") if p.is_file()} == {
        "weights.bin": LARGE,
        "sub dir/ä#?%41.txt": b"small",
        "empty": b"",
    }
    info = api.model_info("u/m", files_metadata=True)
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs and sibling.lfs.sha256) for sibling in info.siblings or []}
    assert sizes["weights.bin"] == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert sizes["empty"] == (0, None)

    tree = {entry.path: type(entry).__name__ for entry in api.list_repo_tree("u/m")}
    assert tree == {"empty": "RepoFile", "sub dir": "RepoFolder", "weights.bin": "RepoFile"}
    assert "sub dir/ä#?%41.txt" in [entry.path for entry in api.list_repo_tree("u/m", recursive=True)]
    assert [entry.path for entry in api.get_paths_info("u/m", ["empty", "no", "sub dir"])] == ["empty", "sub dir"]

    api.delete_file("empty", "u/m")
    api.delete_folder("sub dir", "u/m")
    assert api.list_repo_files("u/m") == ["weights.bin"]
    assert api.file_exists("u/m", "weights.bin") and not api.file_exists("u/m", "empty")
    with pytest.raises(HfHubHTTPError):
        api.delete_file("empty", "u/m")


def test_what_is_missing_has_the_clients_types(api: HfApi, tmp_path: Path):
    with pytest.raises(RepositoryNotFoundError):
        fetch(api, tmp_path, "u/none", "config.json")
    with pytest.raises(RepositoryNotFoundError):
        fetch(api, tmp_path, "bert-base-uncased", "config.json")
    api.create_repo("u/m")
    with pytest.raises(EntryNotFoundError):
        fetch(api, tmp_path, "u/m", "config.json")
    with pytest.raises(RevisionNotFoundError):
        fetch(api, tmp_path, "u/m", "config.json", revision="v9")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("u/m", revision="v9")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("u/m", "nowhere"))


def test_branches_tags_pull_requests_and_history(api: HfApi, tmp_path: Path):
    api.create_repo("u/m")
    first = api.create_commit("u/m", [add("a", b"1")], commit_message="first", commit_description="why")
    api.create_tag("u/m", tag="v1")
    api.create_branch("u/m", branch="feature/x", revision="v1")
    api.create_branch("u/m", branch="feature/x", exist_ok=True)
    for beside in ("feature", "feature/x/y"):  # git's refs are files, which are no folders
        with pytest.raises(HfHubHTTPError, match="feature/x exists"):
            api.create_branch("u/m", branch=beside)
    with pytest.raises(HfHubHTTPError):
        api.create_tag("u/m", tag="v1")
    api.create_commit("u/m", [add("a", b"2")], commit_message="second", revision="feature/x")
    pull = api.create_commit("u/m", [add("a", b"3")], commit_message="third", create_pr=True)
    assert pull.pr_revision == "refs/pr/1" and pull.pr_num == 1
    more = api.create_commit("u/m", [add("b", b"4")], commit_message="fourth", revision="refs/pr/1")

    assert api.model_info("u/m").sha == first.oid
    revisions = ["main", "v1", "feature/x", "refs/pr/1", pull.oid, first.oid[:7]]
    assert [fetch(api, tmp_path, "u/m", "a", revision=revision) for revision in revisions] == [
        b"1", b"1", b"2", b"3", b"3", b"1",
    ]  # fmt: skip
    refs = api.list_repo_refs("u/m", include_pull_requests=True)
    assert {branch.name for branch in refs.branches} == {"main", "feature/x"}
    assert [tag.target_commit for tag in refs.tags] == [first.oid]
    assert [(found.ref, found.target_commit) for found in refs.pull_requests or []] == [("refs/pr/1", more.oid)]
    history = api.list_repo_commits("u/m", revision="refs/pr/1")
    assert [commit.title for commit in history] == ["fourth", "third", "first", "initial commit"]
    assert history[2].message == "why"
    (listed,) = api.get_repo_discussions("u/m", discussion_type="pull_request", discussion_status="open")
    assert (listed.title, listed.git_reference, listed.url) == ("third", "refs/pr/1", pull.pr_url)
    assert list(api.get_repo_discussions("u/m", discussion_status="closed")) == []

    api.delete_tag("u/m", tag="v1")
    api.delete_branch("u/m", branch="feature/x")
    refs = api.list_repo_refs("u/m")
    assert [branch.name for branch in refs.branches] == ["main"] and refs.tags == []
    with pytest.raises(HfHubHTTPError):
        api.delete_branch("u/m", branch="main")


def test_commits_that_do_not_apply(api: HfApi, endpoint: str):
    api.create_repo("u/m")
    first = api.create_commit("u/m", [add("a", b"1")], commit_message="first")
    second = api.create_commit("u/m", [add("a", b"2")], commit_message="second", parent_commit=first.oid)
    with pytest.raises(HfHubHTTPError) as stale:
        api.create_commit("u/m", [add("a", b"3")], commit_message="third", parent_commit=first.oid)
    assert stale.value.response.status_code == 412
    with pytest.raises(HfHubHTTPError, match="a is a file"):
        api.create_commit("u/m", [add("a/b", b"3")], commit_message="folder over a file")
    both = [add("new", b"3"), CommitOperationDelete("missing")]
    with pytest.raises(HfHubHTTPError, match="missing"):
        api.create_commit("u/m", both, commit_message="half of it")
    with pytest.raises(HfHubHTTPError, match="tag or commit id"):
        api.create_commit("u/m", [add("a", b"3")], commit_message="detached", revision=first.oid)
    with pytest.raises(ValueError, match="not YAML"):
        api.create_commit("u/m", [add("README.md", b"---\na: [\n---\n")], commit_message="bad card")
    assert api.model_info("u/m").sha == second.oid

    # Past the client, which would not send them: nothing new, and content that was never uploaded.
    header = {"key": "header", "value": {"summary": "s"}}
    same = {"key": "file", "value": {"path": "a", "content": base64.b64encode(b"2").decode()}}
    absent = {"key": "lfsFile", "value": {"path": "w", "algo": "sha256", "oid": "0" * 64, "size": 1}}
    url = f"{endpoint}/api/models/u/m/commit/main"
    answer = httpx2.post(url, content=f"{json.dumps(header)}\n{json.dumps(same)}\n")
    assert answer.json()["commitOid"] == second.oid
    assert len(api.list_repo_commits("u/m")) == 3
    answer = httpx2.post(f"{url}?create_pr=1", content=f"{json.dumps(header)}\n{json.dumps(same)}\n")
    assert answer.json()["pullRequestUrl"] == f"{endpoint}/u/m/discussions/1"
    assert api.model_info("u/m", revision="refs/pr/1").sha == second.oid
    assert httpx2.post(url, content=f"{json.dumps(header)}\n{json.dumps(absent)}\n").status_code == 400
    assert httpx2.post(url, content=b"not json\n").status_code == 400


def test_large_content_is_verified(api: HfApi, endpoint: str):
    api.create_repo("u/m")
    right = hashlib.sha256(b"right").hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": right, "size": 5}]}
    batch_url = f"{endpoint}/u/m.git/info/lfs/objects/batch"

    def actions() -> Any:
        return httpx2.post(batch_url, json=batch).json()["objects"][0].get("actions")

    href = actions()["upload"]["href"]
    assert httpx2.put(href, content=b"wrong").status_code == 422
    assert httpx2.put(href, content=b"right and more").status_code == 422
    assert httpx2.put(href, content=b"righ").status_code == 422
    assert httpx2.put(href.replace("size=5", "size=6"), content=b"right").status_code == 401
    assert httpx2.put(href.partition("?")[0], content=b"right").status_code == 401
    assert httpx2.post(f"{endpoint}/lfs/{right}/verify", json={"oid": right, "size": 5}).status_code == 422
    assert actions() is not None
    assert httpx2.put(href, content=b"right").status_code == 200
    assert httpx2.post(f"{endpoint}/lfs/{right}/verify", json={"oid": right, "size": 5}).status_code == 200
    assert httpx2.post(f"{endpoint}/lfs/{right}/verify", json={"oid": right, "size": 6}).status_code == 422
    assert actions() is None
    line = {"key": "lfsFile", "value": {"path": "w", "algo": "sha256", "oid": right, "size": 6}}
    wrong_size = httpx2.post(f"{endpoint}/api/models/u/m/commit/main", content=json.dumps(line))
    assert wrong_size.status_code == 400 and "not 6" in wrong_size.json()["error"]


def test_ranges_and_heads(api: HfApi, endpoint: str):
    api.create_repo("u/m")
    api.upload_file(path_or_fileobj=LARGE, path_in_repo="w.bin", repo_id="u/m")
    url = f"{endpoint}/u/m/resolve/main/w.bin"
    head = httpx2.head(url)
    digest = f'"{hashlib.sha256(LARGE).hexdigest()}"'
    assert (head.headers["etag"], head.headers["x-linked-etag"]) == (digest, digest)
    assert head.headers["x-linked-size"] == head.headers["content-length"] == str(len(LARGE))
    assert head.headers["x-repo-commit"] == api.model_info("u/m").sha
    part = httpx2.get(url, headers={"Range": "bytes=1000-1999"})
    assert part.status_code == 206 and part.content == LARGE[1000:2000]
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(LARGE)}"
    assert httpx2.get(url, headers={"Range": "bytes=-10"}).content == LARGE[-10:]
    assert httpx2.get(url, headers={"Range": f"bytes={len(LARGE)}-"}).status_code == 416


def test_every_route_wants_the_token(tmp_path: Path):
    with running(tmp_path / "hub", token="s3cret") as endpoint:
        api = HfApi(endpoint=endpoint, token="s3cret")
        api.create_repo("u/m")
        api.upload_file(path_or_fileobj=LARGE, path_in_repo="w.bin", repo_id="u/m")
        assert fetch(api, tmp_path, "u/m", "w.bin") == LARGE
        assert api.whoami()["name"] == "local"
        routes = {
            "GET": "/ /u/m /api/whoami-v2 /api/models /api/models/u/m /api/models/u/m/tree/main /api/models/u/none "
            "/api/models/u/m/refs /api/models/u/m/commits/main /u/m/resolve/main/w.bin",
            "POST": "/api/repos/create /api/validate-yaml /api/models/u/m/preupload/main /api/models/u/m/commit/main "
            f"/api/models/u/m/paths-info/main /u/m.git/info/lfs/objects/batch /lfs/{'0' * 64}/verify "
            "/api/models/u/m/branch/b /api/models/u/m/tag/main",
            "PUT": f"/lfs/{'0' * 64} /api/models/u/m/settings",
            "DELETE": "/api/repos/delete /api/models/u/m/branch/b",
        }
        client = httpx2.Client(base_url=endpoint)
        basic = base64.b64encode(b"me:s3cret").decode()
        for method, paths in routes.items():
            for path in paths.split():
                for given in ("", "Bearer wrong", "Bearer", "s3cret", "Token s3cret", "Basic czNjcmV0"):
                    answer = client.request(method, path, headers={"Authorization": given})
                    assert answer.status_code == 401, (method, path, given)
        assert client.get("/u/m", headers={"Authorization": f"Basic {basic}"}).status_code == 200
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            HfApi(endpoint=endpoint, token="wrong").model_info("u/m")


def test_an_open_address_wants_a_token_and_a_port_is_not_shared(tmp_path: Path):
    with pytest.raises(UserError, match="HF_FSL_HUB_TOKEN"):
        serve(tmp_path, host="0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="Choose another"):
        serve(tmp_path, port=taken.getsockname()[1])


def test_websites_are_kept_out(api: HfApi, endpoint: str):
    def create(**headers: str) -> int:
        return httpx2.post(f"{endpoint}/api/repos/create", json={"name": "u/m"}, headers=headers).status_code

    assert create(Host="evil.example") == 403
    assert create(Origin="https://evil.example") == 403
    assert not list(api.list_models())
    assert create(Origin=endpoint) == 200


HOSTILE = [
    "../outside.txt", "..%2foutside.txt", "%2e%2e/outside.txt", "%2e%2e%2foutside.txt", "..%5coutside.txt",
    "../../../../../../outside.txt", "%252e%252e%252foutside.txt", "/outside.txt", "%2foutside.txt", "a//b", "a/./b",
    "a%00", "%00", "a%0ab", "..", ".", "",
]  # fmt: skip


def test_no_path_leaves_the_root(api: HfApi, endpoint: str, tmp_path: Path):
    (tmp_path / "outside.txt").write_text("OUTSIDE")
    secret = (tmp_path / "hub" / "secret").read_text()
    api.create_repo("u/m")
    host = endpoint.removeprefix("http://")

    def raw(method: str, path: str, body: str | None = None) -> int:
        connection = http.client.HTTPConnection(host)
        connection.putrequest(method, path, skip_accept_encoding=True)  # sends the path as it is
        connection.putheader("Content-Length", str(len(body or "")))
        connection.endheaders((body or "").encode())
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        assert "OUTSIDE" not in text and secret not in text, path
        return answer.status

    for hostile in HOSTILE:
        prefixes = [
            "/u/m/resolve/main/", "/api/models/u/m/tree/main/", "/u/m/resolve/", "/api/models/u/m/revision/",
            "/api/models/u/m/commits/", "/api/models/u/", "/api/models/", "/u/", "/lfs/", "/datasets/",
        ]  # fmt: skip
        paths = [f"/api/models/{hostile}/m", f"/u/{hostile}/resolve/main/x"]
        paths += [prefix + hostile for prefix in prefixes if hostile]
        for path in paths:
            assert raw("GET", path) in (400, 404), path
        name = json.dumps({"name": hostile, "organization": "u"})
        assert raw("DELETE", f"/api/models/u/m/branch/{hostile}") in (400, 404), hostile
        assert raw("POST", "/api/repos/create", name) == 400, name
        assert raw("POST", "/api/repos/create", json.dumps({"name": "m", "organization": hostile or "."})) == 400
        assert raw("DELETE", "/api/repos/delete", name) in (400, 404)
        assert raw("POST", "/api/models/u/m/tag/main", json.dumps({"tag": hostile})) == 400
        assert raw("POST", f"/api/models/u/m/branch/{hostile}") in (400, 404)
    for bad in ("../x", "/x", "a/../b", "a\\b", "a\0b", "", ".", "a//b", "\ud800"):
        line = json.dumps({"key": "file", "value": {"path": bad, "content": ""}})
        assert raw("POST", "/api/models/u/m/commit/main", line) == 400, bad
        assert raw("POST", "/api/models/u/m/preupload/main", json.dumps({"files": [{"path": bad, "size": 1}]})) == 400
    assert api.list_repo_files("u/m") == []
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "outside.txt"}
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {"blobs", "incoming", "locks", "models", "secret"}


def test_rules_refuse_and_accept():
    for namespace, name in [("..", "m"), ("u", ".."), ("u", "a..b"), ("api", "m"), ("Datasets", "m"), ("u", "m.git")]:
        with pytest.raises(HubError):
            check_repo(namespace, name)
    for name in ("../x", "a/../b", "a/", "/a", "a//b", ".hidden", "refs/pr/1", "a" * 40, "x.lock", "a b", None):
        with pytest.raises(HubError):
            check_ref_name(name)
    check_repo("sentence-transformers", "all-MiniLM-L6-v2")
    assert check_ref_name("feature/v1.0-x") == "feature/v1.0-x"
    assert check_path("a b/ü..x/.gitattributes") == "a b/ü..x/.gitattributes"


def test_pages_show_and_escape(api: HfApi, endpoint: str):
    api.create_repo("u/m")
    operations = [add("README.md", CARD.encode()), add("<i>&.txt", b"x")]
    commit = api.create_commit("u/m", operations, commit_message="<script>")
    index, page = httpx2.get(f"{endpoint}/"), httpx2.get(commit.commit_url)
    assert 'href="/u/m"' in index.text and "text/html" in page.headers["content-type"]
    assert "# A &lt;b&gt;card&lt;/b&gt;" in page.text and "&lt;script&gt;" in page.text
    assert "<script>" not in page.text and "<i>" not in page.text
    assert httpx2.get(endpoint + f"/u/m/resolve/{commit.oid}/%3Ci%3E%26.txt").text == "x"
    info = api.model_info("u/m")
    assert (info.pipeline_tag, info.library_name) == ("text-classification", "transformers")
    assert info.card_data is not None and info.card_data.license == "apache-2.0"
    assert info.tags == ["hf_fsl", "transformers", "text-classification", "license:apache-2.0"]


@pytest.mark.parametrize(
    ("matter", "expected"),
    [
        ("score: .nan\nseen: 2024-05-01\nno: 1", {"score": "nan", "seen": "2024-05-01", "False": 1}),
        ('tags: ["\\ud800"]', {"tags": ["?"]}),
        ("a: &a [*a]", None),
        (
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{','.join([f'*{b}'] * 8)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
            None,
        ),
        ("- a list", None),
        ("a: [", None),
        ("", {}),
    ],
)
def test_metadata_that_json_cannot_hold(api: HfApi, matter: str, expected: dict[str, Any] | None):
    text = f"---\n{matter}\n---\n"
    if expected is None:
        with pytest.raises(ValueError, match="metadata"):
            front_matter(text)
    else:
        assert front_matter(text) == expected
    api.create_repo("u/m")
    line = {"key": "file", "value": {"path": "README.md", "content": text, "encoding": "utf-8"}}
    assert httpx2.post(f"{api.endpoint}/api/models/u/m/commit/main", content=json.dumps(line)).status_code == 200
    assert [model.id for model in api.list_models()] == ["u/m"]  # one bad card must not hide the others


def test_writers_in_two_processes_lose_nothing(tmp_path: Path):
    root = tmp_path / "hub"
    with running(root) as one, server_process(root) as (_, two):
        HfApi(endpoint=one, token=False).create_repo("u/m")

        def write(number: int) -> None:
            api = HfApi(endpoint=(one, two)[number % 2], token=False)
            api.create_commit("u/m", [add(f"{number}.txt", b"%d" % number)], commit_message=str(number))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(32)))
        api = HfApi(endpoint=one, token=False)
        assert sorted(api.list_repo_files("u/m")) == sorted(f"{number}.txt" for number in range(32))
        assert len(api.list_repo_commits("u/m")) == 33


def test_a_kill_in_the_middle_of_an_upload_leaves_the_last_revision(tmp_path: Path):
    root = tmp_path / "hub"
    new = os.urandom(1 << 24)
    with server_process(root) as (process, endpoint):
        api = HfApi(endpoint=endpoint, token=False)
        api.create_repo("u/m")
        good = api.upload_file(path_or_fileobj=LARGE, path_in_repo="w.bin", repo_id="u/m").oid
        wanted = {"oid": hashlib.sha256(new).hexdigest(), "size": len(new)}
        batch = {"operation": "upload", "objects": [wanted]}
        answer = httpx2.post(f"{endpoint}/u/m.git/info/lfs/objects/batch", json=batch).json()
        href = answer["objects"][0]["actions"]["upload"]["href"]
        connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
        connection.putrequest("PUT", href.removeprefix(endpoint))
        connection.putheader("Content-Length", str(len(new)))
        connection.endheaders()
        connection.send(new[: len(new) // 2])
        deadline = time.monotonic() + 20
        while sum(path.stat().st_size for path in (root / "incoming").iterdir()) < len(new) // 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list((root / "incoming").iterdir()), "the kill came too late to be in the middle"
    with server_process(root) as (_, endpoint):
        api = HfApi(endpoint=endpoint, token=False)
        assert api.model_info("u/m").sha == good
        assert fetch(api, tmp_path, "u/m", "w.bin") == LARGE
        api.upload_file(path_or_fileobj=new, path_in_repo="w.bin", repo_id="u/m")
        assert fetch(api, tmp_path, "u/m", "w.bin") == new
        assert [commit.commit_id for commit in api.list_repo_commits("u/m")][1] == good


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads a process's peak memory from /proc")
def test_content_is_streamed_both_ways(tmp_path: Path):
    size = 150 << 20
    (tmp_path / "large.bin").write_bytes(b"")
    os.truncate(tmp_path / "large.bin", size)

    def peak(process: subprocess.Popen[str]) -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) << 10

    with server_process(tmp_path / "hub") as (process, endpoint):
        api = HfApi(endpoint=endpoint, token=False)
        api.create_repo("u/m")
        before = peak(process)
        api.upload_file(path_or_fileobj=tmp_path / "large.bin", path_in_repo="w.bin", repo_id="u/m")
        with httpx2.stream("GET", f"{endpoint}/u/m/resolve/main/w.bin") as answer:
            assert sum(len(chunk) for chunk in answer.iter_bytes()) == size
        assert peak(process) - before < size // 3


def test_a_failure_at_any_rename_leaves_a_whole_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from hf_fsl.hub.local.commits import apply_commit

    store = Store(tmp_path / "hub")
    repo = store.create("models", "u", "m", {"private": False})
    real, left = os.replace, 0
    body = tmp_path / "body"

    def replace(source: Any, target: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    outcomes = []
    for allowed in range(6):
        lines = [{"key": "file", "value": {"path": p, "content": f"{p} {allowed}", "encoding": "utf-8"}} for p in "ab"]
        body.write_text("\n".join(map(json.dumps, lines)))
        before, left = repo.resolve("main").oid, allowed
        with contextlib.suppress(KeyboardInterrupt):
            apply_commit(repo, "main", body, create_pr=False)
        head = Store(tmp_path / "hub").repo("models", "u", "m").resolve("main")
        outcomes.append(head.oid != before)
        for entry in head.files.values():
            assert hashlib.sha256(store.storage.blob(entry.sha256).read_bytes()).hexdigest() == entry.sha256
    assert outcomes == [False] * 4 + [True] * 2  # two contents, the commit, then the ref


def test_left_overs_are_removed_after_a_day(tmp_path: Path):
    storage = Store(tmp_path / "hub").storage
    old, fresh = storage.temporary / "old", storage.temporary / "fresh"
    old.touch()
    fresh.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    Store(tmp_path / "hub")
    assert fresh.exists() and not old.exists()


STOCK = """
import sys
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(folder)
model.push_to_hub("u/m")
AutoTokenizer.from_pretrained(folder).push_to_hub("u/m")
again = AutoModelForSequenceClassification.from_pretrained("u/m")
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
assert AutoModel.from_pretrained("u/m").config.model_type == "bert"
classify = pipeline(model="u/m")
assert classify.task == "text-classification" and classify("good film")[0]["label"] == "LABEL_1", classify("good film")

Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).push_to_hub("u/d", "first")
Dataset.from_dict({"text": ["c"], "label": [2]}).push_to_hub("u/d", "second", split="test")
assert load_dataset("u/d", "second", split="test")[0] == {"text": "c", "label": 2}
assert [row["text"] for row in load_dataset("u/d", "second", split="test", streaming=True)] == ["c"]
assert load_dataset("u/d", "first", split="train").to_dict()["text"] == ["a", "b"]
print("all loaded")
"""


def test_transformers_and_datasets_work_unchanged(
    api: HfApi, endpoint: str, tmp_path: Path, tiny_model: Any, text_backbone: Path
):
    import shutil

    import torch

    folder = tmp_path / "model"
    shutil.copytree(text_backbone, folder)
    model = tiny_model("bert")
    with torch.no_grad():
        model.classifier.bias[:] = torch.tensor([0.0, 100.0, 0.0])
    model.save_pretrained(folder)
    api.create_repo("u/m")
    api.upload_file(path_or_fileobj=CARD.encode(), path_in_repo="README.md", repo_id="u/m")
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "PYTHONPATH")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip().endswith("all loaded"), done.stderr
