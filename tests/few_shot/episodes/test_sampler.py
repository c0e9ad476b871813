from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from hf_fsl.few_shot.episodes import EpisodeError, Episodes, EpisodeSampler, sampler
from hf_fsl.few_shot.episodes.sampler import without_replacement

LABELS = torch.arange(7 * 24) % 7


def _same(one: Episodes, other: Episodes) -> bool:
    fields = ("classes", "support", "query", "query_labels")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in fields)


def _shuffled(uniform: np.ndarray, size: int) -> list[int]:
    """Fisher and Yates by the book."""
    items = list(range(size))
    for step, number in enumerate(uniform):
        partner = step + int(number * (size - step))
        items[step], items[partner] = items[partner], items[step]
    return items[: len(uniform)]


def test_drawing_is_the_shuffle_by_the_book_whatever_the_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    sizes, uniform = rng.integers(6, 40, 200), rng.random((200, 6))
    expected = [_shuffled(row, size) for row, size in zip(uniform, sizes, strict=True)]
    assert without_replacement(uniform, sizes).tolist() == expected
    monkeypatch.setattr(sampler, "_CELLS", 40 * 64)
    monkeypatch.setattr(sampler, "_LEAST_ROWS", 7)
    assert without_replacement(uniform, sizes).tolist() == expected


def test_every_order_is_drawn_equally_often():
    drawn = without_replacement(np.random.default_rng(0).random((24_000, 3)), np.full(24_000, 4))
    counts = np.unique(drawn @ [100, 10, 1], return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_an_episode_has_its_classes_and_nothing_twice():
    episodes = EpisodeSampler(5, 3, 4, episodes=200, seed=1).sample(LABELS)
    assert episodes.support.shape == (200, 5, 3) and episodes.query.shape == (200, 20)
    assert (LABELS[episodes.support] == episodes.classes[..., None]).all()
    assert torch.equal(LABELS[episodes.query], episodes.classes.gather(1, episodes.query_labels))
    used = torch.cat([episodes.support.flatten(1), episodes.query], 1)
    assert all(len(row.unique()) == 35 for row in used)
    assert all(len(row.unique()) == 5 for row in episodes.classes)
    assert (torch.bincount(episodes.query_labels.flatten()) == 800).all()
    assert set(used.flatten().tolist()) == set(range(len(LABELS)))


@pytest.mark.parametrize("options", [{}, {"dirichlet": 2.0}])
def test_a_seed_draws_the_same_episodes_and_fewer_are_the_first(options):
    many = EpisodeSampler(3, 2, 4, episodes=100, seed=5, **options).sample(LABELS)
    few = EpisodeSampler(3, 2, 4, episodes=17, seed=5, **options).sample(LABELS)
    other = EpisodeSampler(3, 2, 4, episodes=17, seed=6, **options).sample(LABELS)
    assert _same(few, many[:17])
    assert not torch.equal(few.support, other.support)


def test_only_the_given_classes_are_drawn():
    names = [f"kind {label}" for label in range(7)]
    sampler = EpisodeSampler(2, 2, 3, episodes=50)
    episodes = sampler.sample(LABELS, classes=[1, 4, 6])
    assert set(episodes.classes.flatten().tolist()) == {1, 4, 6}
    assert _same(episodes, sampler.sample(LABELS.tolist(), classes=["kind 1", "kind 4", "kind 6"], label_names=names))


def test_unbalanced_queries_have_dirichlet_shares_and_a_fixed_number():
    labels = np.arange(5 * 200) % 5
    episodes = EpisodeSampler(5, 1, 20, episodes=4000, dirichlet=2.0).sample(labels)
    counts = torch.nn.functional.one_hot(episodes.query_labels, 5).sum(1).double()
    assert (counts.sum(1) == 100).all()
    assert torch.equal(LABELS.new_tensor(labels)[episodes.query], episodes.classes.gather(1, episodes.query_labels))
    assert all(len(row.unique()) == 105 for row in torch.cat([episodes.support.flatten(1), episodes.query], 1))
    # The mean and variance of a share of Dirichlet(2, 2, 2, 2, 2): 1/5 and (1/5)(4/5)/11.
    assert counts.mean() == 20
    assert counts.var(0).mean().item() == pytest.approx(100**2 * 0.2 * 0.8 / 11, rel=0.05)


def test_two_pools_never_show_one_thing_in_both_parts():
    things = np.arange(6 * 10)
    labels = np.r_[things % 6, things % 6]
    style = np.repeat([0, 1], 60)
    episodes = EpisodeSampler(4, 2, 8, episodes=300).sample(
        labels, ids=np.r_[things, things], support_from=style == 0, query_from=style == 1
    )
    assert (episodes.support < 60).all() and (episodes.query >= 60).all()
    used = torch.cat([episodes.support.flatten(1), episodes.query - 60], 1)
    assert all(len(row.unique()) == 40 for row in used)
    assert torch.equal(torch.from_numpy(labels)[episodes.query], episodes.classes.gather(1, episodes.query_labels))


def test_pools_that_share_some_things_draw_each_of_the_others_equally_often():
    # Class 0: things 0-4 in both pools, 5-7 for queries only; no thing is left out when all queries are asked for.
    ids = ["a", "b", "c", "d", "e", *"abcdefgh"] + [f"other {row}" for row in range(13)]
    labels = [0] * 13 + [1] * 13
    first = [True] * 5 + [False] * 8
    episodes = EpisodeSampler(2, 1, 4, episodes=3000, seed=2).sample(
        labels, ids=ids, support_from=first * 2, query_from=[not one for one in first] * 2
    )
    queries = episodes.query[episodes.classes.gather(1, episodes.query_labels) == 0]
    counts = torch.bincount(queries, minlength=13)[5:13].double()
    # Things in both pools are supports a fifth of the time, and queries in 4 of 7 draws of the rest.
    assert counts[5:].mean().item() == pytest.approx(3000 * 4 / 7, rel=0.03)
    assert counts[:5].mean().item() == pytest.approx(3000 * 4 / 7 * 4 / 5, rel=0.03)


def test_equal_contents_are_never_support_and_query():
    ids = torch.arange(len(LABELS)) // 14
    labels = ids % 4
    episodes = EpisodeSampler(3, 1, 2, episodes=400).sample(labels, classes=[0, 1, 2], ids=ids)
    used = ids[torch.cat([episodes.support.flatten(1), episodes.query], 1)]
    assert all(len(row.unique()) == 9 for row in used)
    assert len(torch.unique(episodes.query)) > 100  # any of the equal ones


def test_short_classes_are_named_with_what_they_have():
    labels, names = [0] * 9 + [1] * 8 + [2] * 3, ["act", "food", "time"]
    with pytest.raises(EpisodeError, match=r"'food' has 8, needs 4 \+ 5; 'time' has 3, needs 4 \+ 5\. Lower k_shot"):
        EpisodeSampler(2, 4, 5, episodes=1).sample(labels, label_names=names)
    with pytest.raises(EpisodeError, match=r"2 has 3, needs 1 \+ "):
        EpisodeSampler(3, 1, 3, episodes=200, dirichlet=2.0).sample(labels)
    copies = [*range(9), *[9] * 4, *range(10, 14), 14, 15, 16]
    with pytest.raises(EpisodeError, match=r"1 has 5, needs 2 \+ 4"):
        EpisodeSampler(2, 2, 4, episodes=1).sample(labels, ids=copies, classes=[0, 1])
    things = list(range(5)) * 2 + list(range(5, 10)) * 2
    first = [True] * 5 + [False] * 5
    with pytest.raises(EpisodeError, match=r"0 has 5 for supports, 5 for queries, needs 2 \+ 4"):
        EpisodeSampler(2, 2, 4, episodes=1).sample(
            [0] * 10 + [1] * 10, ids=things, support_from=first * 2, query_from=[not one for one in first] * 2
        )


def test_bad_input_is_refused():
    sampler = EpisodeSampler(3, 1, 2, episodes=4)
    with pytest.raises(EpisodeError, match="there are 2"):
        sampler.sample(LABELS, classes=[0, 1])
    with pytest.raises(EpisodeError, match=r"no example has \[9\]"):
        sampler.sample(LABELS, classes=[0, 1, 9])
    with pytest.raises(EpisodeError, match="given twice"):
        sampler.sample(LABELS, classes=[0, 1, 1])
    with pytest.raises(EpisodeError, match="'x' is no label name; the labels are a, b"):
        sampler.sample(LABELS, classes=["x"], label_names=["a", "b"])
    with pytest.raises(EpisodeError, match="'same' is 0 in example 0 and 1 in example 1"):
        sampler.sample([0, 1, 2], ids=["same", "same", "other"])
    with pytest.raises(EpisodeError, match="one entry an example: 168, not 2"):
        sampler.sample(LABELS, ids=[1, 2])
    with pytest.raises(EpisodeError, match="holds booleans"):
        sampler.sample([0, 1], support_from=[1, 0])
    with pytest.raises(EpisodeError, match="class index"):
        sampler.sample([0.5, 1.0])
    with pytest.raises(EpisodeError, match="n_way is at least 2, not 1"):
        EpisodeSampler(1, 1, 1, episodes=1)
    with pytest.raises(EpisodeError, match="above 0, not -1"):
        EpisodeSampler(2, 1, 1, episodes=1, dirichlet=-1)
