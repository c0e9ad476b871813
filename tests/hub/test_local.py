"""The stock clients against the local Hub."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_fsl.hub.local.views import front_matter
from tests.helpers.local_hub import CARD, LARGE, add, fetch


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
