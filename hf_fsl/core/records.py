"""Records: what a run was given, did and measured, as JSON. A model card renders from its record alone.

``None`` means unknown, and is rendered as such.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from hf_fsl.core.errors import UserError
from hf_fsl.core.measurement import Measurement, TruncationRecord
from hf_fsl.core.renamed import RENAMED_ESTIMATORS
from hf_fsl.core.serialization import Serializable, damage_told, from_plain, json_object

SCHEMA_VERSION = 1
MANY_CLASSES = 50
"""From so many on, a record keeps and a card shows confused pairs in place of a confusion matrix."""


@dataclass(kw_only=True)
class SplitRecord:
    """One split: its size and how many examples each class has."""

    name: str
    rows: int
    class_counts: dict[str, int]


@dataclass(kw_only=True)
class DataRecord:
    """The data set as it was used."""

    path: str
    name: str | None = None
    revision: str | None = None
    """The commit that was read, where the source has one."""
    public: bool | None = None
    """Whether anybody may read it on the Hub; a record that is published knows."""
    license: str | None = None
    splits: dict[str, SplitRecord] = field(default_factory=dict)
    """Keys: train, validation, test."""
    on_overlap: str = "error"
    overlap: dict[str, int] = field(default_factory=dict)
    """``"train/test" -> n`` examples found in both, under the policy ``on_overlap``."""
    dropped: int = 0
    """Training and validation examples dropped because of the overlap."""
    notes: list[str] = field(default_factory=list)
    """What was read in which way, left out or set aside, in sentences."""


@dataclass(kw_only=True)
class ModelRecord:
    """The backbone and how it was adapted."""

    base_model: str
    base_revision: str | None = None
    base_license: str | None = None
    architecture: str
    adapter: dict[str, Any]
    """The adapter section of the config, and ``peft`` with the PEFT config that came of it. Its method is
    ``none`` where nothing was trained."""
    total_parameters: int
    trainable_parameters: int
    prompt: str = ""
    """Put before every text."""
    truncation: TruncationRecord | None = None
    """Of the texts of all splits that were used."""

    def __post_init__(self) -> None:
        # Until 0.2, "none" meant full fine-tuning too, beside its meaning that nothing was trained.
        if self.trainable_parameters and self.adapter.get("method") == "none":
            self.adapter = {**self.adapter, "method": "full"}


@dataclass(kw_only=True)
class SeedRecord:
    """One training run."""

    seed: int
    steps: int
    best_step: int | None
    wall_seconds: float
    validation: dict[str, float]
    test: dict[str, Measurement]


@dataclass(kw_only=True)
class Comparison:
    """Another method on the same test examples, and the paired difference (ours minus theirs)."""

    name: str
    metric: str
    baseline: Measurement
    difference: Measurement
    of: str | None = None
    """What is compared with it, where that is not what was chosen."""


@dataclass(kw_only=True)
class MethodRecord:
    """One way of doing it among several that were compared on the same examples."""

    name: str
    settings: dict[str, Any]
    validation: Measurement | None
    """None where there was nothing to choose."""
    test: Measurement
    chosen: bool = False
    """Whether validation chose it, among those of its name."""

    @property
    def label(self) -> str:
        """The method and its settings in a few words."""
        words = [f"{key} {value}" if not isinstance(value, bool) else key for key, value in self.settings.items()
                 if value is not False]  # fmt: skip
        return ", ".join([self.name, *words])


@dataclass(kw_only=True)
class EpisodicRow:
    """One method's answers to the episodes of one k."""

    method: str
    k_shot: int
    meta_trained: bool = False
    """Whether the backbone was trained on other classes before."""
    transductive: bool = False
    """Whether the method saw all queries of an episode at once."""
    accuracy: Measurement
    """Mean over episodes."""
    difference: Measurement | None = None
    """To the reference method on the same episodes; None for the reference itself."""
    ece: float | None = None
    unbalanced: Measurement | None = None
    """Accuracy on queries whose classes are unbalanced."""

    def __post_init__(self) -> None:
        self.method = RENAMED_ESTIMATORS.get(self.method, self.method)


@dataclass(kw_only=True)
class EpisodesRecord:
    """What the episodes were, and how the methods did."""

    n_way: int
    n_query: int
    episodes: int
    seed: int
    classes: list[str]
    support: str
    """Where support sets come from, in words; ``query`` likewise."""
    query: str
    reference: str
    dirichlet: float | None = None
    """Concentration of the unbalanced queries' class shares."""
    results: list[EpisodicRow]


@dataclass(kw_only=True)
class HeadRecord:
    """The few-shot head that is published."""

    RENAMED: ClassVar[dict[str, str]] = {"words": "label_texts"}

    shots: dict[str, int]
    """Class -> examples it was fitted on."""
    estimator: str
    hyperparameters: dict[str, Any]
    reason: str
    stock: bool | None = None
    """Whether it is published as a stock class of transformers; ``published_as`` says why."""
    published_as: str | None = None
    label_texts: dict[str, str] = field(default_factory=dict)
    """Class -> its text, where they are used."""
    refusal: dict[str, Measurement | None] = field(default_factory=dict)
    """``coverage`` on test examples of the known classes; ``auroc`` against classes that are not known."""

    def __post_init__(self) -> None:
        self.estimator = RENAMED_ESTIMATORS.get(self.estimator, self.estimator)


@dataclass(kw_only=True)
class CostRecord:
    """What it took, of all seeds together."""

    wall_seconds: float
    peak_memory_bytes: int | None = None
    hardware: str | None = None
    processes: int = 1


@dataclass(kw_only=True)
class RunRecord(Serializable):
    """A run, from what it was given to what it measured."""

    recipe: str
    command: str
    config: dict[str, Any]
    created: str
    """UTC, ISO 8601."""
    task: dict[str, Any]
    data: DataRecord
    model: ModelRecord
    runs: list[SeedRecord] = field(default_factory=list)
    """None where nothing was trained."""
    published_seed: int | None = None
    metrics: dict[str, Measurement]
    """On the test split: of what is published, with its bootstrap interval."""
    metrics_over_seeds: dict[str, Measurement] = field(default_factory=dict)
    """Mean over seeds with Student's t interval, where there are several."""
    comparisons: list[Comparison] = field(default_factory=list)
    methods: list[MethodRecord] = field(default_factory=list)
    candidate_labels: list[str] = field(default_factory=list)
    """The classes of the test, where they are others than the model's own (zero-shot)."""
    episodes: EpisodesRecord | None = None
    head: HeadRecord | None = None
    pipeline_tag: str | None = None
    """Where the model is for another pipeline than its task's."""
    confusion_matrix: list[list[int]] | None = None
    """Rows: true class, columns: predicted, in the order of ``class_names``. Of few classes, see ``confusions``."""
    confusions: list[tuple[int, int, int]] | None = None
    """True class, predicted class, how many examples, of all that occur: of many classes, in place of the matrix."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """``{"input": …, "label": predicted, "score": …}`` for the card."""
    cost: CostRecord
    environment: dict[str, str] = field(default_factory=dict)
    """Package -> version."""
    search: dict[str, Any] | None = None
    """Of an adapter search: its report, without the trials that are not on the front."""
    schema_version: int = SCHEMA_VERSION

    @property
    def tuned_on(self) -> list[str]:
        """The classes that methods were chosen on (zero-shot)."""
        split = self.data.splits.get("validation")
        aside = self.config.get("zero_shot", {}).get("validation_labels", [])
        return list(aside) or [name for name, count in (split.class_counts if split else {}).items() if count]

    @property
    def confused_pairs(self) -> list[tuple[int, int, int]]:
        """``confusions`` of whichever the record has, without the right answers, the most frequent first."""
        cells = self.confusions
        if cells is None:
            cells = [(i, j, n) for i, row in enumerate(self.confusion_matrix or ()) for j, n in enumerate(row) if n]
        return sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: (-cell[2], cell[0], cell[1]))

    @property
    def shows_pairs(self) -> bool:
        """Whether the card shows the most confused pairs of classes, in place of the confusion matrix."""
        return self.confusions is not None or len(self.confusion_matrix or ()) >= MANY_CLASSES

    @property
    def class_names(self) -> list[str]:
        """What the test examples were put into."""
        return self.candidate_labels or list(self.task["label_names"])

    @property
    def shown_examples(self) -> list[dict[str, Any]]:
        """The examples that may be published: of public data, or of data whose owner says so."""
        shared = self.data.public or self.config.get("hub", {}).get("share_examples", False)
        return self.examples if shared else []

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises UserError for a record of another schema, and SerializationError for one that is damaged."""
        values = json_object(text)
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(
                f"This hf_fsl reads run records of schema {SCHEMA_VERSION}, the file has {version!r}. "
                "Install the hf_fsl version that wrote it."
            )
        return from_plain(cls, values)


@dataclass(kw_only=True)
class ZeroShotMeasurement:
    """A share of pictures that came out right, beside what guessing among so many candidates would give."""

    measurement: Measurement
    chance: float
    candidates: int


@dataclass(kw_only=True)
class TowerRecord:
    """One encoder, where it came from and how it was trained."""

    source: str
    revision: str | None = None
    license: str | None = None
    architecture: str
    method: str
    total_parameters: int
    trainable_parameters: int
    adapter: dict[str, Any] = field(default_factory=dict)
    """The PEFT config, where there was an adapter."""


@dataclass(kw_only=True)
class ContrastiveRecord(Serializable):
    """A run of ``train_contrastive``."""

    command: str
    config: dict[str, Any]
    created: str
    """UTC, ISO 8601."""
    data: DataRecord
    architecture: str
    image: TowerRecord
    text: TowerRecord
    steps: int
    best_step: int | None
    training_seconds: float
    validation: dict[str, float]
    """Of the published weights, which were chosen by it."""
    tests: dict[str, dict[str, ZeroShotMeasurement]]
    """Split (``test`` and the shifts) -> metric -> what was measured, once."""
    temperature: float
    candidate_labels: list[str]
    """Class names of the test split, for the card's snippet."""
    cost: CostRecord
    environment: dict[str, str] = field(default_factory=dict)
    """Package -> version."""
    recipe: str = "train_contrastive"
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises UserError for a record of another recipe or schema, SerializationError for one that is damaged."""
        values = json_object(text)
        found = (values.get("recipe"), values.get("schema_version"))
        if found != ("train_contrastive", SCHEMA_VERSION):
            raise UserError(
                f"This is read as a record of train_contrastive, schema {SCHEMA_VERSION}; the file is of {found[0]}, "
                f"schema {found[1]!r}. Install the hf_fsl version that wrote it, or give another record."
            )
        return from_plain(cls, values)


Record = RunRecord | ContrastiveRecord


def load_record(path: Path) -> Record:
    """The record in a file, read as its ``recipe`` says. Raises SerializationError for a damaged one."""
    with damage_told(path):
        contrastive = json_object(path.read_text(encoding="utf-8")).get("recipe") == "train_contrastive"
    return ContrastiveRecord.load(path) if contrastive else RunRecord.load(path)
