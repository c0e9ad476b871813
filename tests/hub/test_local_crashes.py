"""Writers of the local Hub at once, killed, cut off or out of disk: the last whole revision stays."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi

from hf_fsl.hub.local import running
from hf_fsl.hub.local.store import Store
from tests.helpers.local_hub import LARGE, add, fetch, server_process

pytestmark = pytest.mark.usefixtures("online")


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
