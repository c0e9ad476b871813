"""Files and folders that are there whole or not at all, whoever else writes them, and whenever a writer dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_fsl.core import files
from hf_fsl.core.files import atomic_write, put_in_place, remove_leftovers, temporary_beside, write_text


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path, failures = tmp_path / "notes.txt", []

    def write(letter: str) -> None:
        try:
            for _ in range(50):
                write_text(path, letter * 10_000)
                content = path.read_text()
                assert len(content) == 10_000 and len(set(content)) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = write_text(tmp_path / "notes.txt", "old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


DIES = """
import os, sys, time
from pathlib import Path
from hf_fsl.core.files import atomic_write, temporary_beside
place = Path(sys.argv[1])
with atomic_write(place / "notes.txt"), temporary_beside(place / "bundle", folder=True) as folder:
    (folder / "part").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_dead_writer_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        write_text(tmp_path / "notes.txt", "of another writer")
        assert len(list(tmp_path.iterdir())) == 3
        process.kill()
    assert len(list(tmp_path.iterdir())) == 3
    write_text(tmp_path / "others.txt", "next")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "others.txt"}


def test_without_locks_only_old_leftovers_are_removed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with temporary_beside(tmp_path / "bundle", folder=True) as temporary:
        remove_leftovers(tmp_path)
        assert temporary.exists()
        os.utime(temporary, (time.time() - 2 * 24 * 3600,) * 2)
        (tmp_path / ".bundle.tmp").write_text("of somebody else")
        remove_leftovers(tmp_path)
        assert not temporary.exists()
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.tmp"]


def folder_of(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    bundle = folder_of(tmp_path / "bundle", "old")
    new = folder_of(tmp_path / "new", "new")
    put_in_place(new, bundle)
    assert (bundle / "file").read_text() == "new"
    assert (new / "file").read_text() == "old"
    files.remove(new)
    assert list(tmp_path.iterdir()) == [bundle]


@pytest.mark.skipif(sys.platform != "linux", reason="no exchange of two names")
def test_there_is_no_moment_without_the_folder(tmp_path):
    bundle, stop, seen = folder_of(tmp_path / "bundle", "0"), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(bundle.is_dir())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        with temporary_beside(bundle, folder=True) as new:
            (new / "file").write_text(str(number))
            put_in_place(new, bundle)
    stop.set()
    reader.join()
    assert len(seen) > 300 and all(seen)
    assert (bundle / "file").read_text() == "299"
    assert list(tmp_path.iterdir()) == [bundle]


def test_the_old_folder_of_a_writer_that_died_between_two_renames_is_put_back(tmp_path):
    old = tmp_path / f".bundle.hf_fsl-{'0' * 32}.tmp.old"
    old.mkdir()
    (old / "a").write_text("whole")
    remove_leftovers(tmp_path)
    assert (tmp_path / "bundle" / "a").read_text() == "whole" and not old.exists()
