"""What the adapter search benchmark concludes, on rows made up so that the numbers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from adapter_bars import against_random, against_uniform, summary
from adapter_replay import Entry, Point, Replay, Visit, bootstrap, ratio_of_means, test_hypervolume
from adapter_runs import best_rung

from hf_fsl.search.space import Architecture

test_hypervolume.__test__ = False  # a function of the benchmark, not a test
REFERENCE = (3.0, 6.0)


def row(validation, test, parameters, *, flops=10.0, steps=4.0, texts=None):
    """A run of two rungs, of which the last is better on validation."""
    early = {
        "validation_loss": validation + 1,
        "test_loss": test - 5,
        "token_flops": flops / 2,
        "gradient_steps": steps / 2,
    }
    late = {"validation_loss": validation, "test_loss": test, "token_flops": flops, "gradient_steps": steps}
    return {"parameters": parameters, "rungs": [early, late, {**late, "validation_loss": validation + 0.5}],
            "test_losses": texts if texts is not None else [test] * 4}  # fmt: skip


def point(hypervolume, flops, steps):
    return Point(1, flops, steps, flops / 2, steps / 2, hypervolume)


def test_the_best_rung_is_chosen_on_validation_and_not_later_than_asked():
    run = row(1.0, 2.0, 10)
    assert best_rung(run)["test_loss"] == 2.0  # the first rung has the lower test loss, and is not taken
    assert best_rung(run, 0)["test_loss"] == -3.0


def test_hypervolume_is_of_test_losses_at_the_best_rung_and_log_parameters():
    rows = [row(9.0, 2.0, 10**4), row(9.0, 1.0, 10**5), row(9.0, 2.5, 10**5)]
    assert test_hypervolume(rows, REFERENCE) == pytest.approx(1 * 2 + 1 * 1)
    assert test_hypervolume([row(1.0, 4.0, 10)], REFERENCE) == 0 == test_hypervolume([], REFERENCE)


def test_bootstrap_holds_the_ratio_and_its_interval():
    found = bootstrap(ratio_of_means, [10.0, 10.0], [2.0, 2.0])
    assert found == {"value": 5.0, "ci95": [5.0, 5.0], "n": [2, 2]}
    wide = bootstrap(np.mean, [0.0, 1.0] * 50)
    assert wide["value"] == 0.5 and wide["ci95"] == pytest.approx([0.4, 0.6], abs=0.02)


@pytest.mark.parametrize(
    ("hypervolume", "flops", "steps", "ok"),
    [(1.0, 20.0, 10.0, True), (0.981, 20.0, 10.0, True), (0.979, 20.0, 10.0, False),
     (1.0, 20.1, 10.0, False), (1.0, 20.0, 10.1, False)],
)  # fmt: skip
def test_bar_one_asks_for_98_percent_at_a_tenth_of_the_steps_and_a_fifth_of_the_compute(hypervolume, flops, steps, ok):
    found = against_random([point(hypervolume, flops, steps)] * 3, [point(1.0, 100.0, 100.0)] * 3)
    assert found["ok"] is ok
    assert found["hypervolume_relative_to_random"]["value"] == pytest.approx(hypervolume - 1)
    assert found["times_fewer_gradient_steps"]["value"] == pytest.approx(100 / steps)
    assert found["times_fewer_search_token_flops"]["value"] == pytest.approx(100 / flops)


def test_bar_one_is_held_by_the_lower_end_of_the_interval():
    ours = [point(value, 20.0, 10.0) for value in (0.9, 1.1, 1.0)]
    found = against_random(ours, [point(1.0, 100.0, 100.0)] * 3)
    assert found["hypervolume_relative_to_random"]["value"] == pytest.approx(0) and not found["ok"]


def test_bar_two_compares_what_is_no_larger_and_best_on_validation():
    large = row(0.1, 0.0, 300)
    front = [row(2.0, 0.5, 50), row(1.0, 2.0, 100), large]
    found = against_uniform([front, front], {1: [row(1.0, 1.5, 100)] * 2, 8: [row(1.0, 1.5, 300)] * 2, 0: [large] * 2})
    assert found["r=1"]["our_parameters"] == [100, 100] and found["r=1"]["loss_difference"] == pytest.approx(0.5)
    assert found["r=1"]["ci95"] == pytest.approx([0.5, 0.5]) and not found["r=1"]["ok"]
    assert found["r=8"]["our_parameters"] == [300, 300] and found["r=8"]["loss_difference"] == pytest.approx(-1.5)
    assert found["r=8"]["ok"] and found["r=0"]["ok"]
    none = against_uniform([front], {1: [row(1.0, 1.5, 49)]})
    assert not none["r=1"]["ok"] and "no member" in none["r=1"]["note"]


def test_bar_two_is_held_where_the_interval_holds_zero():
    ours, theirs = row(1.0, 0, 10, texts=[2.0, 0.0, 2.0, 0.5]), row(1.0, 0, 10, texts=[1.0, 1.0, 1.0, 1.0])
    found = against_uniform([[ours]] * 2, {1: [theirs] * 2})["r=1"]
    assert found["loss_difference"] == pytest.approx(0.125) and found["ci95"][0] < 0 < found["ci95"][1] and found["ok"]


def test_summary_gives_the_cost_at_which_the_mean_course_reaches_the_target():
    courses = {"slow": [[point(0.5, 1.0, 1.0), point(0.97, 2.0, 2.0), point(1.0, 3.0, 3.0)],
                        [point(0.7, 1.0, 1.0), point(0.99, 4.0, 4.0), point(1.0, 5.0, 5.0)]],
               "never": [[point(0.5, 9.0, 9.0)]]}  # fmt: skip
    found = summary(courses, 1.0)
    assert found["slow"]["token_flops_to_reach_random"] == 3.0  # 0.98 in the mean, at 2 and at 4
    assert found["slow"]["token_flops"] == 4.0 and found["slow"]["hypervolume"]["value"] == 1.0
    assert found["never"]["gradient_steps_to_reach_random"] is None


@pytest.fixture
def replay():
    """Three configurations and one without an adapter; the search sees validation, the other run counts by test."""
    sizes, losses = [10**2, 10**3, 10**4, 10**5], [2.9, 2.0, 2.5, 1.0]
    table = [
        Entry(Architecture.uniform(rank, 1), size, (row(loss, loss, size), row(loss, loss + 0.1, size)))
        for rank, size, loss in zip((0, 1, 2, 4), sizes, losses, strict=True)
    ]
    made = Replay(table, SimpleNamespace(), 0, 2, REFERENCE)
    made.shown[:] = 0
    return made


def test_finalists_hold_most_on_validation_and_leave_out_what_is_dominated(replay):
    assert replay.finalists([0, 1, 2, 3]) == [1, 3]
    assert replay.finalists([2, 0]) == [0, 2] and replay.finalists([]) == []


def test_a_course_pays_for_trials_and_finalists_and_counts_the_other_seed(replay):
    course = replay.points([Visit(0), Visit(1, 0), Visit(3)])
    assert [each.search_token_flops for each in course] == [10.0, 15.0, 25.0]  # stopped at a rung: half
    assert [each.token_flops for each in course] == [20.0, 25.0, 45.0]  # and its finalists: one, one, two
    assert [each.gradient_steps for each in course] == [8.0, 10.0, 18.0]
    assert course[0].hypervolume == pytest.approx(0, abs=1e-9)  # as bad as guessing by test
    assert course[2].hypervolume == pytest.approx(3.0 - 1.1)


def test_what_tries_nothing_pays_for_what_it_hands_out_only(replay):
    made = replay.handed_out([1, 3])
    assert (made.token_flops, made.gradient_steps, made.search_token_flops) == (20.0, 8.0, 0.0)
    assert made.hypervolume == pytest.approx(0.9 * 3 + 1.0 * 1)


def test_sizes_alone_give_one_of_each_size(replay):
    assert sorted(replay.by_size(4)) == [0, 1, 2, 3]


def test_halving_and_random_visit_each_configuration_once(replay):
    for visits in (replay.random(4), replay.halving(4)):
        assert sorted(visit.entry for visit in visits) == [0, 1, 2, 3]
    assert len(replay.random(2)) == 2
