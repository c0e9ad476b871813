"""The configuration of ``recipes/few_shot.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from hf_fsl.config.adaptation import AdaptationConfig
from hf_fsl.config.sections import (
    DDP_TIMEOUT,
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    HubConfig,
    ModelConfig,
    _at_least,
)
from hf_fsl.core.placeholders import has_one_place

Head = Literal["auto", "nearest_mean", "cosine", "cl2n", "lda", "ridge", "logistic", "anchored", "named_lda", "cache"]
Refinement = Literal["soft_k_means", "bd_cspn", "alpha_tim"]


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig:
    """N-way k-shot episodes: what is drawn, from where, and which methods answer."""

    n_way: int | None = None
    """Classes an episode; ``null``: all there are."""
    k_shot: list[int] = field(default_factory=lambda: [1, 5])
    """Examples a class in the support set; each number makes a row of the table."""
    n_query: int = 15
    """Queries a class."""
    episodes: int = 600
    seed: int = 0
    support: Literal["train", "test"] = "train"
    """``train``: support sets come from the training split, queries from the test split. ``test``: both come from the
    test split, never the same example; for classes that training has not seen."""
    classes: list[str] | None = None
    """The classes of the episodes; ``null``: all that the test split has."""
    query_name: str | None = None
    """Another configuration of the data set that the queries come from (another style of the same things)."""
    methods: list[Head] = field(default_factory=lambda: ["nearest_mean", "cl2n", "lda", "ridge", "auto"])
    reference: Head = "nearest_mean"
    """Every other method is compared with it on the same episodes."""
    transductive: list[Refinement] = field(default_factory=list)
    """Methods that also see all queries of an episode at once, reported beside the others."""
    unbalanced: int | None = None
    """Mean queries a class of further episodes whose classes are unbalanced (Dirichlet), where transductive methods
    break; a class may come to have several times as many. ``null``: none."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if not self.k_shot or min(self.k_shot) < 1:
            yield f"k_shot: numbers of 1 or more, got {self.k_shot}"
        if self.n_way is not None and self.n_way < 2:
            yield f"n_way: at least 2, got {self.n_way}"
        for name in ("n_query", "episodes", "unbalanced"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                yield f"{name}: at least 1, got {getattr(self, name)}"
        if self.reference not in self.methods:
            yield f"reference: one of methods {self.methods}, got {self.reference!r}"
        if len(set(self.methods)) < len(self.methods):
            yield f"methods: each once, got {self.methods}"
        if self.classes is not None and len(set(self.classes)) < 2:
            yield f"classes: two different ones or more, got {self.classes}"


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The classifier that is fitted and published, as :class:`hf_fsl.FewShotClassifier` takes it."""

    shots: int | None = None
    """Examples a class it is fitted on; ``null``: every example of the support pool (with ``support: test``, the
    largest ``k_shot``)."""
    head: Head = "auto"
    adapt: Literal["never", "auto", "always"] = "never"
    """Whether the backbone is adapted to the support set; ``auto``: where that is better on held-out examples."""
    templates: list[str] = field(default_factory=lambda: ["{}"])
    """What label texts are put into, each with one place ``{}``."""
    label_texts: dict[str, str] = field(default_factory=dict)
    """Class name -> the text that stands for it in the templates; else its name, ``card_payment`` and ``CardPayment``
    as two words."""
    use_label_texts: Literal["auto", False] = "auto"
    """``auto``: as far as they help on held-out examples, where the backbone encodes texts. ``false``: not at all."""
    folds: int = 2
    """Trainings on parts of the support set by which an adapted backbone is judged and calibrated; 0: none."""
    coverage: float = 0.9
    """Share of in-scope queries that refusal is to let through."""
    keep_support: bool = False
    """Publish the support embeddings, which growing needs for heads without sufficient statistics."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        if self.shots is not None and self.shots < 1:
            yield f"shots: at least 1, got {self.shots}"
        if self.folds < 0 or self.folds == 1:
            yield f"folds: 0 or at least 2, got {self.folds}"
        if not 0 < self.coverage < 1:
            yield f"coverage: above 0 and below 1, got {self.coverage}"
        for template in self.templates:
            if not has_one_place(template):
                yield f"templates: each has one place {{}} for the label, got {template!r}"
        if not self.templates:
            yield "templates: at least one, such as '{}'"


@dataclass(frozen=True, kw_only=True)
class FewShotRecipeConfig:
    """Everything ``recipes/few_shot.py`` is told."""

    data: DataConfig
    model: ModelConfig
    pooling: str | None = None
    """Token states -> embedding; ``null``: as the backbone's repository says. ``stock``: what the stock class of its
    family classifies, so that the model is published as that class."""
    episodes: EpisodesConfig = EpisodesConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    adapter: AdapterConfig = AdapterConfig()
    """Of the backbone, where it is adapted or meta-trained."""
    adaptation: AdaptationConfig = AdaptationConfig()
    meta_training: bool = False
    """Train the backbone by metric learning on the classes of the training split that are in no episode, before
    anything else; the untrained one is measured beside it."""
    evaluation: EvaluationConfig = EvaluationConfig(baselines=[])
    hub: HubConfig = HubConfig()
    recipe: Literal["few_shot"] = "few_shot"
    output_dir: str = "outputs/few_shot"
    ddp_timeout: float = DDP_TIMEOUT
    """Seconds for which the processes of a launch wait for each other."""

    def problems(self) -> Iterator[str]:
        """What is out of range or does not go together, a message each."""
        yield from _at_least(self, 1, "ddp_timeout")
        if self.data.text_pair_column is not None or self.data.problem_type != "single_label_classification":
            yield "data: single texts or images with one label each"
        if self.classifier.adapt == "auto" and not self.classifier.folds:
            yield "classifier.folds: at least 2 with adapt: auto, which compares on what was held out"
        if self.meta_training and self.classifier.adapt != "never":
            yield (
                f"classifier.adapt: never with meta_training, got {self.classifier.adapt}: an adapter on top of the "
                "meta-trained backbone names the original one, on which it makes another model. Leave out one of them"
            )
        if self.adapter.method == "head" and (self.meta_training or self.classifier.adapt != "never"):
            yield "adapter.method: head adapts no backbone; choose lora, or full for all parameters"
        if self.episodes.query_name is not None and self.data.item_column is None:
            yield "data.item_column: needed with episodes.query_name, so that support and query never show the same"
