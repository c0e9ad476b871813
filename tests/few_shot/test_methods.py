"""The methods of the recipes' tables: what refinement starts from, and what is measured beside zero-shot."""

from __future__ import annotations

import torch

from hf_fsl.config import FewShotRecipeConfig, load_config
from hf_fsl.few_shot.episodes import EpisodeSampler, Method, evaluate_episodes
from hf_fsl.few_shot.evaluation import _methods
from hf_fsl.few_shot.heads import fit_head
from hf_fsl.few_shot.heads.transductive import bd_cspn
from hf_fsl.few_shot.k_shot_rows import usual_heads

MINIMAL = ["--data.path", "u/d", "--data.text_column", "text", "--model.model_name_or_path", "u/m"]
LABELS = torch.arange(120) % 6
EMBEDDINGS = torch.nn.functional.one_hot(LABELS, 8) + torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
EMBEDDINGS = EMBEDDINGS + 3 * torch.ones(8)  # all embeddings of an encoder lie about one direction


def test_refinement_starts_from_cl2n_about_the_base_classes_as_the_benchmark_does():
    config = load_config(FewShotRecipeConfig, None, [*MINIMAL, "--episodes.transductive", "[bd_cspn]"])
    episodes = EpisodeSampler(4, 1, 5, episodes=40, seed=0).sample(LABELS)
    mean = EMBEDDINGS.mean(0)

    def accuracies(method):
        return evaluate_episodes(EMBEDDINGS, episodes, {"x": method})["x"].accuracies.tolist()

    for name, base_mean in (("cl2n", mean), ("nearest_mean", None)):
        start = Method(lambda s, y, _, name=name, mean=base_mean: fit_head(name, s, y, base_mean=mean), bd_cspn)
        assert accuracies(_methods(config, base_mean)["bd_cspn"]) == accuracies(start)
    assert sum(accuracies(_methods(config, mean)["bd_cspn"])) > sum(accuracies(_methods(config, None)["bd_cspn"]))


def test_the_usual_heads_of_image_text_models_use_examples_and_names():
    of_labels = torch.eye(6, 8) + 0.4 * torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    queries, truth = (EMBEDDINGS - EMBEDDINGS.mean(0))[48:], LABELS[48:]
    for shots, names in (
        (1, ["Tip-Adapter", "kernel ridge around the names"]),
        (8, ["Tip-Adapter", "kernel ridge around the names", "LDA + zero-shot"]),
    ):
        support = (EMBEDDINGS - EMBEDDINGS.mean(0))[: 6 * shots]
        heads = usual_heads(support, LABELS[: 6 * shots], of_labels)
        assert list(heads) == names
        for name, head in heads.items():
            assert (head(queries).argmax(-1) == truth).float().mean() > 0.3, name
        if shots == 8:
            lda = fit_head("lda", support, LABELS[:48])(queries).argmax(-1)
            assert (heads["LDA + zero-shot"](queries).argmax(-1) != lda).any()
