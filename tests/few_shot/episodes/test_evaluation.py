from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from hf_fsl.few_shot.episodes import EpisodeError, Episodes, EpisodeSampler, Method, NearestMean, evaluate_episodes
from hf_fsl.few_shot.episodes.evaluation import _chunk_size
from hf_fsl.few_shot.episodes.pooled import PooledMeans
from hf_fsl.few_shot.heads import ESTIMATORS, choose_head, fit_head
from hf_fsl.metrics.intervals import expected_calibration_error, softmax
from hf_fsl.models.export import LinearHead

ROOT = Path(__file__).parents[3]
LABELS = torch.arange(6 * 30) % 6
EMBEDDINGS = torch.nn.functional.one_hot(LABELS, 8) + torch.randn(180, 8, generator=torch.Generator().manual_seed(0))
WAYS = [{}, {"dirichlet": 2.0}]


def _episodes(number: int = 300, **options) -> Episodes:
    return EpisodeSampler(4, 3, 5, episodes=number, seed=3, **options).sample(LABELS)


def cosine(support: torch.Tensor, labels: torch.Tensor, names: torch.Tensor | None) -> LinearHead:
    means = torch.nn.functional.normalize(support.unflatten(1, (4, 3)).mean(2), dim=-1)
    return LinearHead(5 * means, torch.zeros(means.shape[:2]))


def by_label(support: torch.Tensor, labels: torch.Tensor, names: torch.Tensor | None) -> LinearHead:
    assert names is not None and names.shape == (len(support), 4, 8)
    return LinearHead(names, torch.zeros(names.shape[:2]))


def _reference(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Logits of Euclidean nearest means, and right answers, one episode and one query at a time, in float64."""
    points, logits = EMBEDDINGS.double().numpy(), []
    for number in range(len(episodes)):
        means = [points[rows].mean(0) for rows in episodes.support[number].numpy()]
        for query in episodes.query[number].numpy():
            logits.append([2 * mean @ points[query] - mean @ mean for mean in means])
    return np.asarray(logits), episodes.query_labels.flatten().numpy()


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("pooled", [True, False])
def test_nearest_mean_is_the_loop_over_episodes(options, pooled, monkeypatch):
    monkeypatch.setattr(PooledMeans, "cheaper", staticmethod(lambda embeddings, episodes: pooled))
    episodes = _episodes(**options)
    logits, labels = _reference(episodes)
    result = evaluate_episodes(EMBEDDINGS, episodes, ["nearest_mean"])["nearest_mean"]
    right = (logits.argmax(-1) == labels).reshape(300, 20).mean(1)
    assert np.allclose(result.accuracies, right, atol=1e-12)
    assert result.ece == pytest.approx(expected_calibration_error(softmax(logits), labels), abs=1e-6)
    assert result.difference is None
    half = stats.t.ppf(0.975, 299) * stats.sem(right)
    assert result.accuracy.value == pytest.approx(right.mean())
    assert result.accuracy.ci95 == pytest.approx((right.mean() - half, right.mean() + half))
    assert NearestMean(2.0).scorer(EMBEDDINGS, episodes).score(episodes, None).reshape(-1, 4).numpy() == pytest.approx(
        2 * logits, abs=1e-4
    )


def test_the_cheaper_way_is_chosen_by_size():
    episodes = _episodes(1000)
    assert PooledMeans.cheaper(torch.empty(180, 384), episodes)
    assert not PooledMeans.cheaper(torch.empty(180, 8), episodes)
    assert not PooledMeans.cheaper(torch.empty(180, 384), episodes[:2])


def test_methods_are_compared_on_the_same_episodes():
    episodes = _episodes()
    methods = {"cosine": cosine, "names": by_label, "mean": "nearest_mean", "mean again": Method(NearestMean()._fit)}
    results = evaluate_episodes(EMBEDDINGS, episodes, methods, label_embeddings=torch.eye(8)[:6], reference="mean")
    assert list(results) == list(methods)
    assert results["mean again"].difference.value == pytest.approx(0, abs=1e-9)
    gap = results["cosine"].accuracies - results["mean"].accuracies
    assert results["cosine"].difference.value == pytest.approx(gap.mean())
    assert results["cosine"].difference.ci95[1] - gap.mean() == pytest.approx(stats.t.ppf(0.975, 299) * stats.sem(gap))
    right = EMBEDDINGS[episodes.query].gather(2, episodes.classes.unsqueeze(1).expand(-1, 20, -1)).argmax(-1)
    assert np.allclose(results["names"].accuracies, (right == episodes.query_labels).double().mean(1).numpy())


def test_a_method_may_refine_its_heads_with_the_queries():
    seen = []

    def refine(head, support, labels, queries):
        seen.append((support.shape[1:], labels.shape[1:], queries.shape[1:]))
        return LinearHead(-head.weight, -head.bias)

    results = evaluate_episodes(EMBEDDINGS, _episodes(), {"cosine": cosine, "turned": Method(cosine, refine)})
    assert set(seen) == {((12, 8), (12,), (20, 8))}
    assert results["turned"].accuracy.value < 0.25 < results["cosine"].accuracy.value - 0.05


def test_named_heads_are_the_estimators():
    of_labels = torch.nn.functional.normalize(EMBEDDINGS[:6], dim=-1)
    episodes = _episodes(20)
    methods = list(ESTIMATORS)
    results = evaluate_episodes(
        EMBEDDINGS, episodes, methods, label_embeddings=of_labels, base_mean=EMBEDDINGS.mean(0)
    )
    for name in methods:
        for number in range(3):
            some = episodes[number : number + 1]
            options = (
                {"label_embeddings": of_labels[some.classes[0]]} if ESTIMATORS[name].uses_label_embeddings else {}
            )
            head = fit_head(name, EMBEDDINGS[some.support[0].flatten()], some.support_labels[0],
                                       base_mean=EMBEDDINGS.mean(0), **options)  # fmt: skip
            right = head(EMBEDDINGS[some.query[0]]).argmax(-1) == some.query_labels[0]
            assert results[name].accuracies[number] == pytest.approx(right.double().mean().item()), name


@pytest.mark.parametrize("named", [True, False])
def test_auto_is_chosen_for_each_episode(named):
    episodes = _episodes(5)
    of_labels = EMBEDDINGS[:6] if named else None
    result = evaluate_episodes(EMBEDDINGS, episodes, ["auto"], label_embeddings=of_labels)["auto"]
    for number in range(5):
        names = of_labels[episodes.classes[number]] if named else None
        support = EMBEDDINGS[episodes.support[number].flatten()]
        head = choose_head(support, episodes.support_labels[number], label_embeddings=names).head
        right = head(EMBEDDINGS[episodes.query[number]]).argmax(-1) == episodes.query_labels[number]
        assert result.accuracies[number] == pytest.approx(right.double().mean().item())


def test_bad_input_is_refused():
    episodes, broken = _episodes(4), EMBEDDINGS.clone()
    broken[7, 2] = torch.nan
    with pytest.raises(EpisodeError, match="1 of 180 are not, the first is row 7"):
        evaluate_episodes(broken, episodes, ["nearest_mean"])
    with pytest.raises(EpisodeError, match="drawn from other examples"):
        evaluate_episodes(EMBEDDINGS[:50], episodes, ["nearest_mean"])
    with pytest.raises(EpisodeError, match="reference is one of the methods"):
        evaluate_episodes(EMBEDDINGS, episodes, ["nearest_mean"], reference="other")
    with pytest.raises(EpisodeError, match="a row for every label"):
        evaluate_episodes(EMBEDDINGS, episodes, {"names": by_label}, label_embeddings=torch.eye(8)[:3])
    with pytest.raises(EpisodeError, match="at least one"):
        evaluate_episodes(EMBEDDINGS, episodes, [])
    with pytest.raises(EpisodeError, match="NaN among its logits"):
        evaluate_episodes(EMBEDDINGS, episodes, {"bad": lambda *given: cosine(*given).scaled(torch.nan)})


SCRIPT = """
import json, sys, torch
from tests.few_shot.episodes.test_evaluation import EMBEDDINGS, _episodes, cosine
from hf_fsl.few_shot.episodes import evaluate_episodes
from hf_fsl.training import make_accelerator

torch.set_num_threads(1)
accelerator = make_accelerator()
own = [0]

def counted(support, labels, names):
    own[0] += len(support)
    return cosine(support, labels, names)

results = evaluate_episodes(EMBEDDINGS, _episodes(), {"a": "nearest_mean", "b": counted}, accelerator=accelerator)
told = {name: [result.accuracies.tolist(), result.ece] for name, result in results.items()}
print(json.dumps([accelerator.num_processes, own[0], told]).replace("\\n", ""), file=open(
    f"{sys.argv[1]}/{accelerator.process_index}.json", "w"))
accelerator.end_training()
"""


def test_two_processes_give_what_one_gives(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"}
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file",
        "recipes/accelerate_configs/cpu_2proc.yaml", "--main_process_port", "0", str(script), str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    torch.set_num_threads(1)
    one = evaluate_episodes(EMBEDDINGS, _episodes(), {"a": "nearest_mean", "b": cosine})
    expected = {name: [result.accuracies.tolist(), result.ece] for name, result in one.items()}
    told = [json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2)]
    assert all((processes, results) == (2, expected) for processes, _, results in told)
    shares = [own for _, own, _ in told]
    assert sum(shares) == 300 and min(shares) > 100, shares  # neither answered them all


@pytest.mark.parametrize("count", [20, 50, 600, 10_000])
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_episodes_of_usual_numbers_are_work_for_every_process(count, processes):
    size = _chunk_size(count, 1000)
    shares = [sum(min(size, count - start) for start in range(process * size, count, processes * size))
              for process in range(processes)]  # fmt: skip
    assert sum(shares) == count and min(shares) >= 0.6 * count / processes, shares
