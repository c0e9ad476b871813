"""Few-shot classification of texts or images, the support set given at call time."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import Pipeline

from hf_fsl.core.errors import UserError
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads.auto import head_by_name
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.encoder import load_encoder
from hf_fsl.models.backbones.errors import BackboneError
from hf_fsl.models.backbones.inputs import input_keys, rows_of
from hf_fsl.models.backbones.weights import loading
from hf_fsl.models.export.loading import backbone_of, is_published, load_published_model, published_class
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead
from hf_fsl.models.templates import as_labels, as_templates, require_candidates
from hf_fsl.zero_shot.bi_encoder import LabelEncoder
from hf_fsl.zero_shot.clip import IMAGE_TEMPLATE
from hf_fsl.zero_shot.label_cache import weights_state
from hf_fsl.zero_shot.label_sets import LabelSet
from hf_fsl.zero_shot.pipelines.cutting import CUTTING, Cutting, read_cutting
from hf_fsl.zero_shot.pipelines.streaming import Answers, require_options


class EncoderError(UserError):
    """A repository that does not load as an encoder.

    No ValueError: of those, ``pipeline()`` would try the class that the repository names, whatever it is.
    """


@dataclass(frozen=True)
class FittedSupport:
    """The classifier that a support set gave."""

    labels: tuple[str, ...]
    head: LinearHead | CacheHead
    reason: str
    """Why it is this one."""
    kind: type
    """Of the examples: str, or an image."""
    examples: frozenset[str]
    """Their keys, by their contents."""


def examples_by_label(support: Any) -> tuple[list[str], list[list[Any]]]:
    """Reads a support set.

    Args:
        support: label -> its examples.

    Returns:
        Labels, and the examples of each.

    Raises:
        FewShotError: no mapping, one label only, a label without examples, or examples that are none.
    """
    if not isinstance(support, Mapping):
        raise FewShotError(
            "Few-shot classification needs support={label: [examples, …], …}, "
            + ("and got none." if support is None else f"and got a {type(support).__name__}.")
        )
    labels = as_labels(list(support)) if support else []
    if len(labels) < 2:
        raise FewShotError(f"A support set has at least two labels, got {labels or 'none'}.")
    examples = []
    for label in labels:
        try:
            examples.append(list(rows_of(support[label])[1]))
        except BackboneError as error:
            raise FewShotError(f"support[{label!r}]: {error}") from error
    empty = [label for label, rows in zip(labels, examples, strict=True) if not rows]
    if empty:
        raise FewShotError(
            f"Every label needs an example; without any: {', '.join(empty)}. Add one, or ask a zero-shot pipeline."
        )
    return labels, examples


def check_owners(labels: Sequence[str], owners: Sequence[int], keys: Sequence[str]) -> None:
    """Sees that no example is given for two labels.

    Args:
        labels: all of them.
        owners: index of each example's label ``(n,)``.
        keys: of each example, by its contents ``(n,)``.

    Raises:
        FewShotError: one is.
    """
    owner: dict[str, int] = {}
    for key, row in zip(keys, owners, strict=True):
        if owner.setdefault(key, row) != row:
            raise FewShotError(
                f"An example is given for {labels[owner[key]]!r} and for {labels[row]!r}. Take it out of one of them."
            )


WINDOW = {"text": 1024, "image": 128}
"""Queries encoded at a time."""
KEPT = 16
"""Classifiers remembered, the latest ones."""
_OPTIONS = (
    "support", "head", "use_label_texts", "hypothesis_template", "label_texts", "on_overlap", "top_k", "timeout",
    "open_files", "progress", *CUTTING,
)  # fmt: skip


class EncoderLoader:
    """What ``pipeline()`` loads a repository by: an encoder, or a published few-shot model, whose encoder is used."""

    @classmethod
    def from_pretrained(cls, model_name_or_path: str, **options: Any) -> Any:
        """The model of a repository. Raises EncoderError where its embeddings would be random, or it does not load."""
        revision = options.get("revision")
        try:
            with loading(EncoderError, model_name_or_path, revision, "as an encoder or a few-shot model"):
                kind = published_class(model_name_or_path, revision)
                if kind is None:
                    return load_encoder(model_name_or_path, **options)
                return load_published_model(kind, model_name_or_path, **options)
        except BackboneError as error:
            raise EncoderError(str(error)) from error


class FewShotPipeline(Pipeline):
    """Classifies by a few examples of each label, which every call may bring anew.

    A support set is encoded once, and its classifier remembered as long as it is asked for again.

    Example::

        import hf_fsl.auto

        pipe = pipeline("few-shot-classification", model="sentence-transformers/all-MiniLM-L6-v2")
        pipe("Two all at the whistle.", support={"sport": ["He scored twice."], "politics": ["She was elected."]})

    Args:
        backbone: encodes instead of ``model`` and its processors, pooled as it says.

    Raises:
        BackboneError: the model is no encoder that embeds texts or images.
    """

    _load_tokenizer: Any = None
    _load_image_processor: Any = None
    _load_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args: Any, backbone: Backbone | None = None, **kwargs: Any) -> None:
        if backbone is not None:
            kwargs |= {
                "model": backbone.model,
                "tokenizer": backbone.tokenizer,
                "image_processor": backbone.image_processor,
            }
        super().__init__(*args, **kwargs)
        self.backbone = backbone or _backbone(self.model, self.tokenizer, self.image_processor)
        self._fitted: OrderedDict[Any, FittedSupport] = OrderedDict()

    def __call__(self, queries: Any, support: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Classifies queries.

        Args:
            queries: a text or an image (PIL, or its path or URL where the model embeds images; base64 where it embeds
                nothing else), a list or column of them, a generator, or a data set. Generators and data sets are
                streamed.
            support: label -> its examples, of the same kind as the queries. At least two labels.
            head: an estimator of ``hf_fsl.few_shot.heads``, or ``auto``: chosen from the support set.
            use_label_texts: ``auto``: labels count as evidence where the model embeds texts, as far as the support set
                bears it out. False: they do not.
            hypothesis_template: what a label text is put into, with one place ``{}``; of several the embeddings are
                averaged.
            label_texts: label -> the text that stands for it in the template.
            on_overlap: ``error`` where a query is among the supports, whose answer would say nothing; or ``ignore``.
            top_k: answers a query, the likeliest; None: all.
            timeout: seconds to wait for an image from the web.
            open_files: False: paths and URLs are not opened. A server must not open those that a client sent.
            truncation, max_length: a text, support or query, that is longer than ``max_length`` tokens, or than the
                model takes, is cut; with ``truncation=False`` it is an error.
            padding: has no effect on the answers.
            tokenizer_kwargs: a mapping of these three.
            progress: shows a progress bar.

        Returns:
            ``[{"label", "score"}, …]`` by falling score; a list of such lists for a list; an iterator of them, which
            reads a window ahead, for a generator or a data set.

        Raises:
            FewShotError: no support set, one label only, a label without examples, an example of two labels, a query
                among the supports.
            BackboneError: texts given to a model of images, or the reverse; what cannot be read, see
                ``Backbone.read``.
        """
        if support is not None:
            options["support"] = support
        first, _, last = self._sanitize_parameters(**options)
        settings = {**self._preprocess_params, **first}
        answering = last if "top_k" in options else {**self._postprocess_params, **last}
        fitted = self.fit(**settings)
        single, rows = rows_of(queries)
        total = len(queries) if isinstance(queries, Sized) and not single else None
        answers = self._answers(rows, total, fitted, settings, answering)
        if single:
            return next(answers)
        streamed = isinstance(queries, (Dataset, Iterator))
        return Answers(answers, queries) if streamed else list(answers)

    def fit(
        self,
        support: Any = None,
        head: str = "auto",
        use_label_texts: Literal["auto", False] = "auto",
        hypothesis_template: Any = None,
        label_texts: Mapping[str, str] | None = None,
        **options: Any,
    ) -> FittedSupport:
        """The classifier of a support set.

        Args:
            support: this and what follows as in a call.
            head: see there.
            use_label_texts: see there.
            hypothesis_template: see there.
            label_texts: see there.
            **options: of reading and cutting, see there.

        Returns:
            The head, and why it is this one.

        Raises:
            FewShotError: a support set that cannot be learned from.
        """
        labels, examples = examples_by_label(support)
        items = self._loaded([item for rows in examples for item in rows], options)
        keys = input_keys(items)
        owners = [label for label, rows in enumerate(examples) for _ in rows]
        check_owners(labels, owners, keys)
        template = hypothesis_template or ("{}" if isinstance(items[0], str) else IMAGE_TEMPLATE)
        require_candidates(label_texts or (), labels)
        label_set = LabelSet.of(labels, as_templates(template), label_texts)
        if use_label_texts not in ("auto", False):
            raise FewShotError(f"use_label_texts: 'auto' or False, got {use_label_texts!r}.")
        named = use_label_texts is not False and self.backbone.tokenizer is not None
        cutting = read_cutting(options, FewShotError)
        key = (tuple(zip(owners, keys, strict=True)), label_set, head, named, cutting, weights_state(self.model))
        if key not in self._fitted:
            embeddings = self._encoded(items, cutting)
            names = LabelEncoder(self.backbone).label_embeddings(label_set) if named else None
            choice = head_by_name(
                head, embeddings, torch.tensor(owners), num_classes=len(labels), label_embeddings=names
            )
            kind = str if isinstance(items[0], str) else Image.Image
            self._fitted[key] = FittedSupport(tuple(labels), choice.head, choice.reason, kind, frozenset(keys))
        self._fitted.move_to_end(key)
        while len(self._fitted) > KEPT:
            self._fitted.popitem(last=False)
        return self._fitted[key]

    def preprocess(self, input_: Any, **settings: Any) -> Any:
        """Queries of a window, and the supports that they must not be among -> texts or images."""
        queries, fitted = input_
        items = self._loaded(queries, settings)
        if not isinstance(items[0], fitted.kind):
            kinds = ("texts", "images") if fitted.kind is str else ("images", "texts")
            raise FewShotError("The supports are {}, the queries {}. Give queries of the same kind.".format(*kinds))
        if settings.get("on_overlap", "error") == "error":
            shared = [row for row, key in enumerate(input_keys(items)) if key in fitted.examples]
            if shared:
                shown = repr(items[shared[0]])[:80]
                raise FewShotError(
                    f"{len(shared)} of the queries are among the supports, such as {shown}; what they are is given, "
                    "and an answer says nothing. Take them out, or pass on_overlap='ignore'."
                )
        return items

    def _forward(self, input_tensors: Any, **_: Any) -> Any:
        items, fitted = input_tensors["items"], input_tensors["fitted"]
        return {"logits": fitted.head(self._encoded(items, input_tensors["cutting"])), "fitted": fitted}

    def postprocess(self, model_outputs: Any, **answering: Any) -> list[dict[str, Any]]:
        """Labels and their logits ``(C,)`` -> the answer."""
        labels, logits = model_outputs
        top_k: int | None = answering.get("top_k")
        ranked = logits.softmax(-1).sort(descending=True, stable=True)
        pairs = zip(ranked.values.tolist(), ranked.indices.tolist(), strict=True)
        return [{"label": labels[row], "score": score} for score, row in itertools.islice(pairs, top_k)]

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for compatible in ("batch_size", "num_workers"):  # batches are made by tokens
            kwargs.pop(compatible, None)
        require_options(self, kwargs, _OPTIONS)
        read_cutting(kwargs, FewShotError)
        if kwargs.get("on_overlap", "error") not in ("error", "ignore"):
            raise FewShotError(f"on_overlap: 'error' or 'ignore', got {kwargs['on_overlap']!r}.")
        top_k = kwargs.pop("top_k", None)
        if top_k is not None and top_k < 1:
            raise FewShotError(f"top_k: at least 1, or None for all labels; got {top_k}.")
        return kwargs, {}, {} if top_k is None else {"top_k": top_k}

    def _answers(
        self,
        queries: Iterable[Any],
        total: int | None,
        fitted: FittedSupport,
        settings: dict[str, Any],
        answering: dict[str, Any],
    ) -> Iterator[list[dict[str, Any]]]:
        size = WINDOW["text" if self.backbone.image_processor is None else "image"]
        rows, cutting = iter(queries), read_cutting(settings, FewShotError)
        with tqdm(total=total, unit="query", disable=not settings.get("progress"), leave=False) as bar:
            read = 0
            while window := list(itertools.islice(rows, size)):
                items = self.preprocess((window, fitted), **settings, first=read)
                read += len(window)
                for logits in self.forward({"items": items, "fitted": fitted, "cutting": cutting})["logits"]:
                    yield self.postprocess((fitted.labels, logits), **answering)
                bar.update(len(window))

    def _encoded(self, items: list[Any], cutting: Cutting) -> Tensor:
        backbone = self.backbone
        if items and isinstance(items[0], str):
            backbone = backbone.with_limit(items, cutting.max_length, cut=cutting.cut, error=FewShotError)
        return backbone.encode(items, open_files=False)

    def _loaded(self, values: Sequence[Any], settings: Mapping[str, Any]) -> list[Any]:
        """Texts, or images read from what names them."""
        reading = {name: settings[name] for name in ("open_files", "timeout", "first") if name in settings}
        return self.backbone.read(values, **reading)


def _backbone(model: Any, tokenizer: Any, image_processor: Any) -> Backbone:
    if is_published(model):
        image = model.main_input_name == "pixel_values"
        return backbone_of(model, image_processor if image else tokenizer)
    takes_pixels = model.main_input_name == "pixel_values"
    if takes_pixels:
        tokenizer = None
    elif not hasattr(model, "get_image_features"):
        image_processor = None
    if tokenizer is None and image_processor is None:
        raise BackboneError(f"{type(model).__name__}: its tokenizer or image processor is missing.")
    return Backbone.of_model(model, tokenizer, image_processor)
