"""The local Hub through the stock clients, and through raw HTTP where they are too polite."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from hf_fsl.errors import UserError
from hf_fsl.hub.local import running, serve
from hf_fsl.hub.seed import MINILM, seed

LARGE = os.urandom(2 << 20)


@pytest.fixture
def endpoint(tmp_path):
    with running(tmp_path / "root") as address:
        yield address


@pytest.fixture
def api(endpoint):
    return HfApi(endpoint=endpoint, token="any")


def add(api, content=b"1", path="f", **options):
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="me/model", **options)


def test_regular_and_lfs_files_come_back_as_they_went(api, endpoint, tmp_path):
    api.create_repo("me/model")
    operations = [CommitOperationAdd("a/note.txt", b"hello"), CommitOperationAdd("weights.bin", LARGE)]
    commit = api.create_commit("me/model", operations, commit_message="both")
    info = api.model_info("me/model", files_metadata=True)
    assert info.sha == commit.oid
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert files["weights.bin"].lfs.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert files["a/note.txt"].lfs is None and files["a/note.txt"].size == 5
    for name, content in (("a/note.txt", b"hello"), ("weights.bin", LARGE)):
        path = hf_hub_download("me/model", name, endpoint=endpoint, cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == content
    folder = snapshot_download("me/model", endpoint=endpoint, cache_dir=tmp_path / "other")
    assert sorted(os.listdir(folder)) == ["a", "weights.bin"]


def test_existing_repo_is_409_unless_allowed(api):
    first = api.create_repo("me/model")
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("me/model")
    assert caught.value.response.status_code == 409
    assert api.create_repo("me/model", exist_ok=True) == first


def test_typed_404s(api, endpoint, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/none")
    api.create_repo("me/model")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/model", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/model", "none.txt", endpoint=endpoint, cache_dir=tmp_path)


def test_branches_tags_and_pull_requests(api):
    api.create_repo("me/model")
    first = add(api).oid
    api.create_tag("me/model", tag="v1")
    api.create_branch("me/model", branch="dev/x")
    add(api, b"2", revision="dev/x")
    assert add(api, b"3", create_pr=True).pr_revision == "refs/pr/1"
    add(api, b"4", "g", revision="refs/pr/1")
    assert api.model_info("me/model").sha == api.model_info("me/model", revision="v1").sha == first
    assert {s.rfilename for s in api.model_info("me/model", revision="refs/pr/1").siblings} == {"f", "g"}
    refs = api.list_repo_refs("me/model")
    assert {branch.name for branch in refs.branches} == {"main", "dev/x"}
    assert [tag.name for tag in refs.tags] == ["v1"]
    api.delete_branch("me/model", branch="dev/x")
    api.delete_tag("me/model", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("me/model", revision="v1")
    assert api.list_repo_commits("me/model")[0].commit_id == first


def test_deletions_and_tree(api):
    api.create_repo("me/model", repo_type="dataset")
    operations = [CommitOperationAdd(name, name.encode()) for name in ("a/x.txt", "a/y.txt", "b.txt")]
    api.create_commit("me/model", operations, commit_message="add", repo_type="dataset")
    delete = [CommitOperationDelete("a/", is_folder=True)]
    api.create_commit("me/model", delete, commit_message="delete", repo_type="dataset")
    assert [entry.path for entry in api.list_repo_tree("me/model", recursive=True, repo_type="dataset")] == ["b.txt"]
    assert [p.path for p in api.get_paths_info("me/model", ["b.txt", "no"], repo_type="dataset")] == ["b.txt"]


def test_unchanged_content_makes_no_commit(api):
    api.create_repo("me/model")
    assert add(api).oid == add(api).oid
    assert len(api.list_repo_commits("me/model")) == 2


def test_stale_parent_is_412_and_changes_nothing(api):
    api.create_repo("me/model")
    old = api.model_info("me/model").sha
    new = add(api).oid
    with pytest.raises(HfHubHTTPError) as caught:
        add(api, b"2", parent_commit=old)
    assert caught.value.response.status_code == 412
    assert api.model_info("me/model").sha == new


def test_concurrent_commits_lose_nothing(api):
    api.create_repo("me/model")
    threads = [threading.Thread(target=add, args=(api, b"x", f"{number}.txt")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(api.list_repo_files("me/model")) == {f"{number}.txt" for number in range(8)}


def test_ranges_and_headers(api, endpoint):
    api.create_repo("me/model")
    add(api, LARGE, "w.bin")
    url = f"{endpoint}/me/model/resolve/main/w.bin"
    part = httpx2.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, LARGE[100:200])
    head = httpx2.head(url).headers
    digest = hashlib.sha256(LARGE).hexdigest()
    assert head["x-linked-etag"] == f'"{digest}"' and head["x-linked-size"] == str(len(LARGE))
    assert len(head["x-repo-commit"]) == 40


def test_token_is_wanted_everywhere(tmp_path):
    with running(tmp_path, token="secret") as endpoint:
        good = HfApi(endpoint=endpoint, token="secret")
        good.create_repo("me/model")
        add(good)
        paths = ["/api/whoami-v2", "/api/models/me/model", "/me/model/resolve/main/f", "/", "/lfs/" + "0" * 64]
        for path in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                assert httpx2.get(endpoint + path, headers=headers).status_code == 401
        assert httpx2.get(endpoint + paths[2], headers={"Authorization": "Bearer secret"}).text == "1"


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/../../etc",
        "/api/models/%2e%2e/%2e%2e",
        "/api/models/me/..",
        "/me/model/resolve/main/../../meta.json",
        "/me/model/resolve/main/%2e%2e/%2e%2e/meta.json",
        "/me/model/resolve/main/a%2f..%2f..%2fmeta.json",
        "/me/model/resolve/..%2f..%2fheads%2fmain/f",
        "/me/model/resolve/main/%5c..%5cx",
        "/me/model/resolve/main/a%00b",
        "/me/model/resolve/main//etc/passwd",
        "/lfs/..%2f..%2fmodels",
    ],
)
def test_no_path_leads_out_of_the_root(path, api, endpoint):
    api.create_repo("me/model")
    host, port = endpoint.removeprefix("http://").split(":")
    for method in ("GET", "PUT" if path.startswith("/lfs") else "HEAD"):
        with socket.create_connection((host, int(port)), 5) as raw:
            request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            raw.sendall(request.encode())
            status = int(raw.makefile("rb").readline().split()[1])
        assert status in (400, 404), (method, path, status)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "a\\b", "a//b", "."])
def test_commits_outside_the_repository_are_refused(path, api, endpoint):
    api.create_repo("me/model")
    head = api.model_info("me/model").sha
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": {"path": path, "content": "eA=="}}]
    body = "\n".join(map(json.dumps, lines))
    assert httpx2.post(f"{endpoint}/api/models/me/model/commit/main", content=body).status_code == 400
    assert api.model_info("me/model").sha == head


def test_content_that_is_not_what_was_announced_is_refused(api, endpoint):
    wanted = hashlib.sha256(b"right").hexdigest()
    assert httpx2.put(f"{endpoint}/lfs/{wanted}", content=b"wrong").status_code == 422
    assert httpx2.post(f"{endpoint}/lfs/{wanted}/verify", json={"oid": wanted, "size": 5}).status_code == 422
    api.create_repo("me/model")
    value = {"path": "w", "algo": "sha256", "oid": wanted, "size": 5}
    body = json.dumps({"key": "lfsFile", "value": value})
    assert httpx2.post(f"{endpoint}/api/models/me/model/commit/main", content=body).status_code == 400


def start_server(root, port):
    code = f"from hf_fsl.hub.local import serve; serve({str(root)!r}, port={port})"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    for _ in range(500):
        try:
            httpx2.get(f"http://127.0.0.1:{port}/")
            return server
        except httpx2.HTTPError:
            time.sleep(0.02)
    raise AssertionError("the server did not start")


def test_killed_in_the_middle_of_an_upload_the_last_revision_stays(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start_server(tmp_path / "root", port)
    api = HfApi(endpoint=f"http://127.0.0.1:{port}", token="any")
    api.create_repo("me/model")
    good = add(api, LARGE, "w.bin").oid
    content = os.urandom(4 << 20)

    def chunks():
        yield content[: 1 << 20]
        time.sleep(0.3)
        server.send_signal(signal.SIGKILL)
        yield content[1 << 20 :]

    with pytest.raises(httpx2.HTTPError):
        httpx2.put(f"http://127.0.0.1:{port}/lfs/{hashlib.sha256(content).hexdigest()}", content=chunks())
    server.wait()
    server = start_server(tmp_path / "root", port)
    try:
        assert api.model_info("me/model").sha == good
        again = add(api, content, "w.bin").oid
        assert api.model_info("me/model").sha == again != good
    finally:
        server.kill()


def test_listing_and_pages_for_people(api, endpoint):
    api.create_repo("me/model")
    card = b"---\npipeline_tag: text-classification\ntags: [x]\n---\n# <script>alert(1)</script>"
    add(api, card, "README.md")
    api.create_repo("you/other")
    assert [model.id for model in api.list_models(author="me")] == ["me/model"]
    assert [model.id for model in api.list_models(filter="x")] == ["me/model"]
    assert api.model_info("me/model").pipeline_tag == "text-classification"
    page = httpx2.get(f"{endpoint}/me/model").text
    assert "README.md" in page and "<script>alert" not in page
    assert "you/other" in httpx2.get(endpoint).text


def test_private_and_delete(api):
    api.create_repo("me/model", private=True)
    assert api.model_info("me/model").private
    api.update_repo_settings("me/model", private=False)
    assert not api.model_info("me/model").private
    api.delete_repo("me/model")
    assert not api.repo_exists("me/model")


def test_open_host_without_a_token_and_a_taken_port_are_refused(tmp_path, endpoint):
    with pytest.raises(UserError, match="HF_FSL_HUB_TOKEN"):
        serve(tmp_path, host="0.0.0.0")
    with pytest.raises(UserError, match="Choose another with --port"):
        serve(tmp_path, port=int(endpoint.rpartition(":")[2]))


def test_stock_transformers_and_datasets_load_from_it(hub_environment):
    code = """
from datasets import load_dataset
from transformers import AutoModel
data = load_dataset("hf-fsl/emoji", "noto-subcategory")
assert set(data) == {"base", "validation", "novel"} and data["novel"][0]["image"].size == (64, 64)
assert load_dataset("hf-fsl/supersense", split="test").features["label"].num_classes == 24
assert AutoModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2").config.hidden_size == 384
"""
    subprocess.run([sys.executable, "-c", code], env=hub_environment, check=True)


def test_seeding_twice_changes_nothing(hub):
    api = HfApi(endpoint=hub, token="any")
    before = api.model_info(MINILM).sha
    lines: list[str] = []
    assert seed(hub, token="any", log=lines.append) == [MINILM]
    assert api.model_info(MINILM).sha == before
    assert lines == [f"model {MINILM}: already there"]
