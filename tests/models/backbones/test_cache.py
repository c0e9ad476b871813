"""The embedding cache: writers beside each other, damage, and disks without room."""

from __future__ import annotations

import errno
import multiprocessing
import pickle
import random
import time
from pathlib import Path

import pytest
import torch

from hf_fsl.models.backbones import EmbeddingCache
from hf_fsl.models.backbones import cache as cache_module

WAY = {"weights": "a", "prompt": ""}


def row(number: int) -> torch.Tensor:
    return torch.arange(8.0) + number


def entries(numbers) -> dict[str, torch.Tensor]:
    return {str(number): row(number) for number in numbers}


def assert_right(known: dict[str, torch.Tensor]) -> None:
    for key, value in known.items():
        assert torch.equal(value, row(int(key)))


def test_what_is_stored_adds_up(tmp_path):
    cache, other = EmbeddingCache(tmp_path), EmbeddingCache(tmp_path)
    cache.store(WAY, entries([1, 2]))
    other.store(WAY, entries([2, 3]))
    other.store({**WAY, "prompt": "query: "}, {"1": row(9)})
    assert cache.load(WAY).keys() == {"1", "2", "3"}
    assert_right(cache.load(WAY))
    assert torch.equal(cache.load({**WAY, "prompt": "query: "})["1"], row(9))
    assert cache.load({"weights": "b"}) == {}


def test_values_come_back_as_they_were(tmp_path):
    cache = EmbeddingCache(tmp_path)
    matrix = torch.randn(3, 5)
    stored = {"labels": matrix, "row": matrix[1], "half": matrix[0].half(), 'odd "key"\n': torch.ones(0)}
    cache.store(WAY, stored)
    loaded = cache.load(WAY)
    assert loaded.keys() == stored.keys()
    for key, value in stored.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value)


def test_many_small_files_become_one(tmp_path):
    cache = EmbeddingCache(tmp_path)
    for number in range(100):
        cache.store(WAY, entries([number]))
    assert len(list(tmp_path.iterdir())) <= cache_module._MANY
    assert len(cache.load(WAY)) == 100
    assert_right(cache.load(WAY))


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_is_a_miss(tmp_path, seed):
    cache, rng = EmbeddingCache(tmp_path), random.Random(seed)
    cache.store(WAY, entries(range(20)))
    cache.store(WAY, entries([20]))
    path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    if seed < 30:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    else:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)
    assert cache.load(WAY).keys() == {"20"}
    cache.store(WAY, entries(range(20)))
    assert len(cache.load(WAY)) == 21
    assert_right(cache.load(WAY))


def hammer(folder: Path, start: int, until: float, stored: multiprocessing.Queue) -> None:
    cache, number = EmbeddingCache(folder), start
    try:
        while time.monotonic() < until:
            cache.store(WAY, entries(range(number, number + 3)))
            number += 3
            known = cache.load(WAY)
            assert known.keys() >= {str(one) for one in range(start, number)}
            assert_right(known)
    except BaseException as error:
        stored.put(pickle.dumps(f"{type(error).__name__}: {error}"))
        raise
    stored.put(pickle.dumps((start, number)))


def test_writers_beside_each_other_lose_and_mix_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    stored, until = context.Queue(), time.monotonic() + 3
    processes = [context.Process(target=hammer, args=(tmp_path, 10**6 * n, until, stored)) for n in range(3)]
    for process in processes:
        process.start()
    ranges = [pickle.loads(stored.get(timeout=60)) for _ in processes]
    for process in processes:
        process.join(60)
    assert all(isinstance(one, tuple) for one in ranges), ranges
    known = EmbeddingCache(tmp_path).load(WAY)
    assert known.keys() == {str(number) for start, end in ranges for number in range(start, end)}
    assert_right(known)
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())


def test_a_full_disk_costs_the_cache_only(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path)
    cache.store(WAY, entries([1]))

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match=r"cannot be kept there .*No space left"):
        cache.store(WAY, entries([2]))
    assert cache.load(WAY).keys() == {"1"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_folders_place_costs_the_cache_only(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    cache = EmbeddingCache(tmp_path / "cache")
    with pytest.warns(UserWarning, match="cannot be kept there"):
        cache.store(WAY, entries([1]))
    assert cache.load(WAY) == {}
