"""Launches that share a folder: one finishes, the others wait, and one of them takes over where it dies."""

from __future__ import annotations

import threading

import pytest

from hf_fsl.search import locks
from hf_fsl.search.locks import in_turn, only_worker
from hf_fsl.training import make_accelerator


class Dies(Exception):
    pass


@pytest.fixture
def finisher(tmp_path, monkeypatch):
    """how it ends -> a thread that holds the folder's finish until it is told to go on."""
    monkeypatch.setattr(locks, "POLL", 0.02)
    started, go_on = threading.Event(), threading.Event()

    def finish(dies):
        try:
            with only_worker(tmp_path, make_accelerator(), print) as mine:
                assert mine
                started.set()
                go_on.wait(30)
                if dies:
                    raise Dies
        except Dies:
            pass  # the kernel frees its lock

    def start(dies):
        threading.Thread(target=finish, args=(dies,)).start()
        assert started.wait(30)
        return go_on

    return start


@pytest.mark.parametrize("dies", [False, True])
def test_who_waited_for_the_finish_takes_over_only_where_it_did_not_come(dies, finisher, tmp_path):
    go_on, said = finisher(dies), []

    def say(line):
        said.append(line)
        go_on.set()

    with only_worker(tmp_path, make_accelerator(), say) as mine:
        assert mine is dies
    assert len(said) == 1 and "another worker trains the best of it again; waiting" in said[0]


def test_a_search_that_is_finished_can_be_finished_again(tmp_path):
    for _ in range(2):
        with only_worker(tmp_path, make_accelerator(), pytest.fail) as mine:
            assert mine


def test_turns_are_taken_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.01)
    inside, seen, said = [], [], []

    def work(number):
        with in_turn(tmp_path / "new" / "lock", make_accelerator(), said.append, "waiting"):
            inside.append(number)
            threading.Event().wait(0.05)
            seen.append(len(inside))
            inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert seen == [1] * 4 and set(said) <= {"waiting"}
