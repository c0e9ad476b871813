"""What is to be classified: modality, columns, label names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

ProblemType = Literal["single_label_classification", "multi_label_classification"]
Modality = Literal["text", "text-pair", "image"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task, the same for every rung of the ladder.

    After :func:`hf_fsl.data.load_splits` the columns of every split are named ``text`` (and ``text_pair``) or
    ``image``, and ``label``: an index into ``label_names``, or for multi-label tasks a list of such indices.
    """

    modality: Modality
    label_names: tuple[str, ...]
    problem_type: ProblemType = "single_label_classification"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the mapped splits that hold the input."""
        return {"text": ("text",), "text-pair": ("text", "text_pair"), "image": ("image",)}[self.modality]

    @property
    def multi_label(self) -> bool:
        return self.problem_type == "multi_label_classification"

    @property
    def pipeline_tag(self) -> str:
        """The transformers pipeline that runs a model of this task."""
        return "image-classification" if self.modality == "image" else "text-classification"

    @property
    def auto_model(self) -> str:
        """The class of transformers that loads a model of this task."""
        return f"AutoModelFor{'Image' if self.modality == 'image' else 'Sequence'}Classification"

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.label_names)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in JSON."""
        return asdict(self) | {"label_names": list(self.label_names)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """What :meth:`to_dict` gave."""
        return cls(**{**values, "label_names": tuple(values["label_names"])})
