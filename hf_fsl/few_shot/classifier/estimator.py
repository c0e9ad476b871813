"""FewShotClassifier: a Hub encoder and a few labels, as a scikit-learn estimator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import peft
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from torch import Tensor

from hf_fsl.config.adaptation import AdaptationConfig
from hf_fsl.config.sections import AdapterConfig
from hf_fsl.core.renamed import RENAMED_ESTIMATORS, renamed_arguments
from hf_fsl.few_shot.adaptation.adapt import Adapted
from hf_fsl.few_shot.classifier import publishing
from hf_fsl.few_shot.classifier.examples import LabeledExamples, read_examples
from hf_fsl.few_shot.classifier.fitting import (
    STOCK,
    Adapting,
    Fitted,
    HeadKind,
    fit_adapted,
    fit_better,
    fit_frozen,
    load_backbone,
)
from hf_fsl.few_shot.classifier.incremental import grown, state_of
from hf_fsl.few_shot.classifier.publishing import PublishableModel, load
from hf_fsl.few_shot.classifier.state import FewShotState
from hf_fsl.few_shot.errors import FewShotError
from hf_fsl.few_shot.heads.estimators import ESTIMATORS
from hf_fsl.few_shot.heads.refusal import Refusal
from hf_fsl.hub.push import PushResult
from hf_fsl.models.backbones.backbone import Backbone
from hf_fsl.models.backbones.cache import EmbeddingCache
from hf_fsl.models.published.cache_head import CacheHead
from hf_fsl.models.published.linear_head import LinearHead
from hf_fsl.models.published.pooling import Pooling

_SAMPLED = 8
"""Support examples that stay with the classifier, to verify by what it is published."""
_HELD = ("backbone", "class_weight", "coverage", "templates")
"""Parameters that the head and the threshold of a published model came of."""


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """Classifies texts or images after a few examples a class: in seconds, without a validation set.

    Example::

        classifier = FewShotClassifier("sentence-transformers/all-MiniLM-L6-v2")
        classifier.fit(["a cat", "a dog", "red wine", "an apple pie"], ["animal", "animal", "food", "food"])
        classifier.predict(["a horse"])  # array(['animal'])
        classifier.push_to_hub("me/animals-and-food")

    Args:
        backbone: a Hub id, a folder, or a loaded ``Backbone``, which is never changed.
        head: a name of ``hf_fsl.few_shot.heads.ESTIMATORS``, or ``auto``: chosen from the support set alone.
        adapter: None: the backbone stays as it is. An ``AdapterConfig`` or ``peft.PeftConfig``: it is adapted to the
            support set by metric learning. ``auto``: by LoRA, where that takes a tenth off the log-loss on
            held-out examples.
        keep_adapter: ``better``: a given adapter is kept only where it is as much better on held-out examples, too.
        use_label_texts: ``auto``: the texts of the classes count as evidence where classes have some and the backbone
            encodes texts, as far as they help on held-out examples. False: they are not used.
        templates: what label texts are put into, each with one place ``{}``; the embeddings are averaged.
        adaptation: how the backbone is adapted; None: the defaults.
        folds: trainings on parts of the support set by which an adapted model is judged and calibrated; 0: none. Equal
            examples are held out together.
        coverage: share of the queries of known classes that ``refuses`` lets through.
        class_weight: None: every example counts as one. A dict class -> as how many each of its examples counts, 1
            for a class that it does not name; for the heads ``ridge``, ``logistic``, ``anchored`` and ``cache``, as
            the others hold classes for equally likely. ``balanced``: such that every class counts alike. Held where
            the model grows.
        keep_support: the support embeddings stay in the model and are published with it; ``add_examples`` needs them
            for heads that have no sufficient statistics.
        pooling: of a backbone given by name, see ``Backbone.from_pretrained``. ``stock``: the embedding and a head
            that fold into the stock class of the backbone's family.
        prompt: put before every text, of a backbone given by name; None: what its repository says.
        prompt_name: one of the prompts of its repository.
        revision: a branch, tag or commit of its repository.
        trust_remote_code: whether code of its repository may run.
        device: where it runs, such as ``cuda``.
        cache_dir: embeddings of the backbone as it is are kept there.
        open_files: where the backbone takes images, a string that is the path of one, or its URL, stands for it.
            False: nothing is opened; a server must not open the path or URL that a client sent.
        progress: shows a progress bar.
        random_state: of folds and of adapting.
    """

    @renamed_arguments(prior="use_label_texts")
    def __init__(
        self,
        backbone: str | Backbone = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        head: str = "auto",
        adapter: Literal["auto"] | AdapterConfig | peft.PeftConfig | None = None,
        keep_adapter: Literal["always", "better"] = "always",
        use_label_texts: Literal["auto", False] = "auto",
        templates: Sequence[str] = ("{}",),
        adaptation: AdaptationConfig | None = None,
        folds: int = 2,
        coverage: float = 0.9,
        class_weight: Literal["balanced"] | Mapping[Any, float] | None = None,
        keep_support: bool = False,
        pooling: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str | None = None,
        cache_dir: str | Path | None = None,
        open_files: bool = True,
        progress: bool = False,
        random_state: int = 0,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.adapter = adapter
        self.keep_adapter = keep_adapter
        self.use_label_texts = use_label_texts
        self.templates = templates
        self.adaptation = adaptation
        self.folds = folds
        self.coverage = coverage
        self.class_weight = class_weight
        self.keep_support = keep_support
        self.pooling = pooling
        self.prompt = prompt
        self.prompt_name = prompt_name
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.cache_dir = cache_dir
        self.open_files = open_files
        self.progress = progress
        self.random_state = random_state

    def fit(
        self,
        X: Iterable[Any],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None = None,
        *,
        unlabeled: Iterable[Any] | None = None,
        label_texts: Mapping[Any, str] | None = None,
    ) -> FewShotClassifier:
        """Fits on a support set, from the pristine backbone.

        Args:
            X: texts or images, a column or a frame of one column among them, see ``Backbone.read``; may be empty where
                ``label_texts`` names the classes. What they are, all later inputs have to be.
            y: their classes, texts or numbers.
            sample_weight: as how many examples each counts in the head; what weighs 0 is left out. An adapter is
                trained on all others alike.
            unlabeled: further inputs, whose mean is where ``cl2n`` centres; other heads have no use for them, and they
                are not encoded then.
            label_texts: class -> its text; None: the classes themselves, where they are texts.

        Returns:
            The classifier itself.

        Raises:
            FewShotError: parameters, inputs, labels or weights that cannot be learned from.
            HeadError: a support set that the head asked for cannot use.
            BackboneError: a backbone that cannot be loaded, or inputs that it does not take.
        """
        check_parameters(self.get_params(deep=False))
        backbone = self._loaded_backbone()
        items = backbone.read(X, open_files=self.open_files)
        others = None if unlabeled is None else backbone.read(unlabeled, open_files=self.open_files)
        if items and others and isinstance(items[0], str) != isinstance(others[0], str):
            raise FewShotError("unlabeled is of the kind of the examples, texts or pictures, and got the other.")
        support = read_examples(
            items, y, label_texts=label_texts, templates=self.templates,
            use_label_texts=self.use_label_texts is not False, unlabeled=others, sample_weight=sample_weight,
            class_weight=self.class_weight,
        )  # fmt: skip
        if label_texts is not None and backbone.tokenizer is None:
            raise FewShotError(f"label_texts: {backbone.name} encodes no texts. Leave them out.")
        fitted = self._fitted(support, backbone)
        self.adopt(state_of(fitted, support, self.coverage, self.keep_support), fitted.backbone)
        self.choice_, self.adapted_, self.support_labels_ = fitted.choice, fitted.adapted, support.labels
        self.sample_ = support.items[:_SAMPLED]
        return self

    def adopt(self, state: FewShotState, backbone: Backbone) -> None:
        """Becomes a published model, as it was loaded.

        Args:
            state: what was fitted.
            backbone: what it was fitted on.
        """
        self.state_, self.backbone_ = state, backbone
        self.adapted_, self.sample_ = None, []

    def logits(self, X: Iterable[Any]) -> np.ndarray:
        """Calibrated scores of the classes, where there was something to calibrate them by.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            Logits ``(N, C)`` in the order of ``classes_``.
        """
        return self._logits(X).numpy()

    def decision_function(self, X: Iterable[Any]) -> np.ndarray:
        """What scikit-learn decides by.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            :meth:`logits` ``(N, C)``. Of two classes ``(N,)``: above 0 where it is the second, whose probability is
            the sigmoid.
        """
        logits = self.logits(X)
        return logits if len(self.classes_) > 2 else logits[:, 1] - logits[:, 0]

    def predict_proba(self, X: Iterable[Any]) -> np.ndarray:
        """Probabilities of the classes.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            ``(N, C)`` in the order of ``classes_``.
        """
        return self._logits(X).softmax(-1).numpy()

    def predict_log_proba(self, X: Iterable[Any]) -> np.ndarray:
        """Logarithms of the probabilities.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            ``(N, C)`` in the order of ``classes_``.
        """
        return self._logits(X).log_softmax(-1).numpy()

    def predict(self, X: Iterable[Any]) -> np.ndarray:
        """The likeliest classes.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            Members of ``classes_`` ``(N,)``.
        """
        return self.classes_[self._logits(X).argmax(-1).numpy()]

    def refuses(self, X: Iterable[Any]) -> np.ndarray:
        """Which inputs are unlike every class, at a threshold that lets ``coverage`` of the known through.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            Booleans ``(N,)``.

        Raises:
            FewShotError: the support set had one example a class, from which no threshold can be told.
        """
        return self._refusal().refuses(self._embeddings(X)).numpy()

    def add_examples(self, X: Iterable[Any], y: Iterable[Any]) -> FewShotClassifier:
        """Learns from further examples of known classes; equal to a refit with transform and hyperparameters held.

        Args:
            X: inputs, as in :meth:`fit`.
            y: their classes.

        Returns:
            The classifier itself.

        Raises:
            FewShotError: a class that is not known, or a head that needs the support embeddings, which were not kept.
        """
        return self._grow(X, y, new=False)

    def add_classes(
        self, X: Iterable[Any], y: Iterable[Any], *, label_texts: Mapping[Any, str] | None = None
    ) -> FewShotClassifier:
        """Learns new classes from their examples; see :meth:`add_examples`.

        Args:
            X: inputs, as in :meth:`fit`.
            y: their classes.
            label_texts: new class -> its text; None: the classes themselves, where the others have texts.

        Returns:
            The classifier itself.

        Raises:
            FewShotError: a class that is known already, or without a label text where the others have one.
        """
        return self._grow(X, y, new=True, label_texts=label_texts)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> Path:
        """Writes the model as a repository.

        Args:
            save_directory: a folder; what others put there stays.
            **options: of :func:`hf_fsl.few_shot.classifier.publishing.save`: ``stock``, ``repo_id``.

        Returns:
            The folder.
        """
        return publishing.save(self.publishable(), Path(save_directory), **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> PushResult:
        """Saves the model, verifies it in a fresh process, and pushes it as one commit.

        Args:
            repo_id: such as ``me/my-model``.
            **options: of :func:`hf_fsl.few_shot.classifier.publishing.push`: ``private``, ``token``, ``create_pr`` …

        Returns:
            Where it went, and whether anything changed there.
        """
        return publishing.push(self.publishable(), repo_id, **options)

    def publishable(self, trained: Adapted | None = None) -> PublishableModel:
        """What is published of it.

        Args:
            trained: what made the backbone that the classifier was given, where it did not adapt it further.

        Returns:
            What :func:`hf_fsl.few_shot.classifier.publishing.save` and ``push`` take.
        """
        state, choice = self._state(), getattr(self, "choice_", None)
        held_out = None
        # An adapted backbone has seen the examples that its head was held out from.
        if choice is not None and choice.held_out_logits is not None and self.adapted_ is None:
            held_out = choice.held_out_logits, self.support_labels_
        return PublishableModel(state, self.backbone_, self.adapted_ or trained, self.sample_, held_out)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        device: str | None = None,
        **parameters: Any,
    ) -> FewShotClassifier:
        """Loads what :meth:`save_pretrained` wrote; it predicts, refuses and grows as it did.

        Args:
            model_name_or_path: a Hub id or a folder.
            revision: a branch, tag or commit of the repository.
            token: of the Hub.
            device: where the model runs.
            **parameters: of the classifier, for fitting it anew on the published backbone; what the published model
                holds (backbone, coverage, templates, class_weight) is not among them.

        Returns:
            A fitted classifier.

        Raises:
            FewShotError: a parameter that there is not or that the model holds; the repository cannot be had, holds no
                few-shot model, a damaged one, or weights, processor and state that are of two fits.
        """
        cls._check_parameters_of_published(parameters)
        state, backbone = load(model_name_or_path, revision=revision, token=token, device=device)
        classifier = cls(backbone, coverage=state.coverage, templates=state.templates, device=device, **parameters)
        classifier.adopt(state, backbone)
        return classifier

    @classmethod
    def _check_parameters_of_published(cls, given: Mapping[str, Any]) -> None:
        held = sorted(set(given) & set(_HELD))
        if held:
            raise FewShotError(
                f"{', '.join(held)}: held by a published model, whose head and threshold came of it. Load it without, "
                f"and for another {held[0]} fit anew: classifier.set_params({held[0]}=…).fit(X, y)."
            )
        known = sorted(set(cls().get_params(deep=False)) - set(_HELD))
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise FewShotError(
                f"from_pretrained: no option {', '.join(unknown)}; there are revision, token, device, and for fitting "
                f"anew {', '.join(known)}."
            )

    def _grow(
        self, X: Iterable[Any], y: Iterable[Any], new: bool, label_texts: Mapping[Any, str] | None = None
    ) -> FewShotClassifier:
        items = self._items(X)
        self.state_ = grown(self._state(), self.backbone_, items, y, new=new, label_texts=label_texts)
        self.sample_ = [*self.sample_, *items][:_SAMPLED]
        return self

    @property
    def classes_(self) -> np.ndarray:
        """The classes ``(C,)``, sorted, as scikit-learn has them."""
        return self._state().classes

    @property
    def head_(self) -> LinearHead | CacheHead:
        return self._state().head

    @property
    def reason_(self) -> str:
        """What was chosen, and why, as a sentence."""
        return self._state().reason

    def refusal_scores(self, X: Iterable[Any]) -> np.ndarray:
        """How unlike every class inputs are: what :meth:`refuses` compares with its threshold.

        Args:
            X: N inputs, as in :meth:`fit`.

        Returns:
            Distances to the nearest class mean ``(N,)``.
        """
        return self._refusal().score(self._embeddings(X)).numpy()

    def _state(self) -> FewShotState:
        if not hasattr(self, "state_"):
            raise NotFittedError("This FewShotClassifier is not fitted yet. Call fit, or load one by from_pretrained.")
        return self.state_

    def _refusal(self) -> Refusal:
        state = self._state()
        if state.refusal is None:
            raise FewShotError(f"There is no threshold to refuse by. {state.no_refusal}")
        return state.refusal

    def _embeddings(self, X: Iterable[Any]) -> Tensor:
        items = self._items(X)
        return self.backbone_.encode(items, progress=self.progress, cache=self._cache(), open_files=False)

    def _logits(self, X: Iterable[Any]) -> Tensor:
        embeddings = self._embeddings(X)
        return self._state().head(embeddings) if len(embeddings) else torch.empty(0, len(self.classes_))

    def _items(self, X: Iterable[Any]) -> list[Any]:
        """Inputs of the kind that the classifier was fitted on."""
        state = self._state()
        items = self.backbone_.read(X, open_files=self.open_files)
        if items and sum(state.counts) and isinstance(items[0], str) != (state.modality == "text"):
            given, taken = ("images", "texts") if state.modality == "text" else ("texts", "images")
            raise FewShotError(f"This classifier was fitted on {taken}, and was given {given}. Give it {taken}.")
        return items

    def _cache(self) -> EmbeddingCache | None:
        return EmbeddingCache(self.cache_dir) if self.cache_dir is not None else None

    def _loaded_backbone(self) -> Backbone:
        if isinstance(self.backbone, Backbone):
            return self.backbone
        return load_backbone(
            self.backbone, pooling=self.pooling, prompt=self.prompt, prompt_name=self.prompt_name,
            revision=self.revision, device=self.device, trust_remote_code=self.trust_remote_code,
        )  # fmt: skip

    def _fitted(self, support: LabeledExamples, backbone: Backbone) -> Fitted:
        kind = HeadKind(self.head, foldable=self.pooling == STOCK)
        if self.adapter is None:
            return fit_frozen(support, backbone, kind, self._cache())
        adapter = AdapterConfig() if self.adapter == "auto" else self.adapter
        config = self.adaptation or AdaptationConfig()
        how = Adapting(adapter, config, self.folds, self.random_state, self.progress)
        if self.adapter == "auto" or self.keep_adapter == "better":
            return fit_better(support, backbone, kind, how, self._cache())
        return fit_adapted(support, backbone, kind, how)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags


_CHOICES: dict[str, tuple[str | bool | None, ...]] = {
    "head": ("auto", *ESTIMATORS),
    "keep_adapter": ("always", "better"),
    "use_label_texts": ("auto", False),
    "pooling": (None, STOCK, *get_args(Pooling)),
}


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises FewShotError, which names all that is wrong with what ``get_params`` gave."""
    wrong = list(_problems(parameters))
    if wrong:
        raise FewShotError("FewShotClassifier: " + "; ".join(wrong) + ".")


def _problems(given: Mapping[str, Any]) -> Iterator[str]:
    for name, choices in _CHOICES.items():
        if not any(given[name] is choice or given[name] == choice for choice in choices):
            renamed = RENAMED_ESTIMATORS.get(given[name]) if name == "head" else None
            now = f", which is now called {renamed!r}" if renamed else ""
            yield f"{name} is one of {', '.join(map(repr, choices))}, not {given[name]!r}{now}"
    if not isinstance(given["backbone"], (str, Backbone)):
        yield f"backbone is a name, a folder or a loaded Backbone, not {type(given['backbone']).__name__}"
    for name in ("prompt", "prompt_name"):
        if given[name] is not None and isinstance(given["backbone"], Backbone):
            yield f"{name} is of a backbone given by name; load this one by Backbone.from_pretrained(…, {name}=…)"
    adapter = given["adapter"]
    if adapter is not None and adapter != "auto" and not isinstance(adapter, (AdapterConfig, peft.PeftConfig)):
        yield f"adapter is None, 'auto', an AdapterConfig or a peft.PeftConfig, not {adapter!r}"
    if given["adaptation"] is not None and not isinstance(given["adaptation"], AdaptationConfig):
        yield f"adaptation is None or an AdaptationConfig, not {type(given['adaptation']).__name__}"
    folds = given["folds"]
    if not _is_number(folds, Integral) or folds < 0 or folds == 1:
        yield f"folds is 0, or 2 and more, not {folds!r}"
    elif folds == 0 and adapter is not None and (adapter == "auto" or given["keep_adapter"] == "better"):
        yield "folds is 2 or more where an adapter is kept only if it is better, which held-out examples say; got 0"
    if not _is_number(given["coverage"], Real) or not 0 < given["coverage"] < 1:
        yield f"coverage is a share above 0 and below 1, not {given['coverage']!r}"
    by_class = given["class_weight"]
    if by_class is not None and by_class != "balanced":
        numbers: list[Any] = list(by_class.values()) if isinstance(by_class, Mapping) else [None]
        if not all(_is_number(one, Real) and 0 < one < math.inf for one in numbers):
            yield f"class_weight is None, 'balanced' or a dict class -> number above 0, not {by_class!r}"
        elif given["head"] == "auto" or (known := ESTIMATORS.get(given["head"])) is not None and known.compares_means:
            yield (
                f"class_weight is for heads that are likelier to answer what there is more of; head={given['head']!r} "
                "holds classes for equally likely, as 'balanced' says. Leave it out, or take head='ridge', "
                "'logistic', 'anchored' or 'cache'"
            )
    if not _is_number(given["random_state"], Integral) or given["random_state"] < 0:
        yield f"random_state is an integer of 0 or more, not {given['random_state']!r}"


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
