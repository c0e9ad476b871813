"""``hf-fsl predict`` and ``hf-fsl evaluate``: a published model on inputs, or on a labelled data set."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

import hf_fsl
from hf_fsl.cli.inputs import Given, read_inputs, read_labels
from hf_fsl.core.errors import UserError
from hf_fsl.core.images import as_rgb
from hf_fsl.core.terminal import printable

AT_ONCE = 32
"""Inputs at a time."""


def add_commands(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="labels for texts or images by a published model",
        description="Texts, or paths or URLs of images, by a local or Hub model. A file is its inputs: each line of a "
        ".txt, or a column of a .csv, .tsv, .jsonl or .parquet; so is every line of the standard input, without INPUT "
        "or with -. Each line or row gives one answer, blank ones an empty one. A pair of texts is given as one JSON "
        'list: \'["premise", "hypothesis"]\'.',
    )
    predict.add_argument("model", metavar="MODEL", help="Hub id or folder")
    predict.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help="a text, the path or URL of an image, or a data file; may be left out: lines of the standard input",
    )  # fmt: skip
    predict.add_argument("--revision", help="branch, tag or commit of the model (default: main)")
    predict.add_argument("--text-column", help="of a data file (default: text, or the only one)")
    predict.add_argument("--text-pair-column", help="of a data file: the second texts of pairs")
    predict.add_argument(
        "--image-column", help="of a data file: paths, URLs or pictures (default: image, or the only one)"
    )
    predict.add_argument(
        "--labels", metavar="A,B,C|FILE.txt",
        help="zero-shot: candidate labels, or a file of one a line; by an NLI model, a text encoder, or CLIP's kin",
    )  # fmt: skip
    predict.add_argument(
        "--template", action="append", help="zero-shot: with a place {} for the label; may be repeated"
    )
    predict.add_argument("--multi-label", action="store_true", help="zero-shot: each label on its own")
    predict.add_argument(
        "--top-k", type=_positive,
        help="labels shown an input (default 1; with --multi-label, or of a multi-label model, those from 0.5 on, or "
        "the best)",
    )  # fmt: skip
    predict.add_argument("--batch-size", type=_positive, help=f"inputs at once (default {AT_ONCE})")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--trust-remote-code", action="store_true", help="run code of the model's repository")
    predict.set_defaults(run=_predict, takes_inputs=True)

    evaluate = commands.add_parser("evaluate", help="metrics with 95 %% intervals of a published model on a data set")
    evaluate.add_argument("model", metavar="MODEL", help="Hub id or folder")
    evaluate.add_argument("dataset", metavar="DATASET", help="Hub id, folder or file")
    evaluate.add_argument("--name", help="configuration of the data set")
    evaluate.add_argument("--split", default="test", help="default: test")
    evaluate.add_argument("--revision", help="of the model (default: main)")
    evaluate.add_argument("--dataset-revision", help="of the data set (default: main)")
    evaluate.add_argument("--text-column", help="default for text models: text")
    evaluate.add_argument("--text-pair-column", help="the second texts of pairs")
    evaluate.add_argument("--image-column", help="default for image models: image")
    evaluate.add_argument(
        "--label-column", nargs="+", default=["label"], metavar="COLUMN",
        help="several, of a multi-label model: one a class, 0 or 1 in each",
    )  # fmt: skip
    evaluate.add_argument("--label-separator", help="between the labels of a text column, of a multi-label model")
    evaluate.add_argument(
        "--label-names", nargs="+", metavar="NAME",
        help="names of the labels 0, 1, … of a data set that has numbers only; matched with the model's by name",
    )  # fmt: skip
    evaluate.add_argument("--metrics", nargs="+", metavar="NAME", help="default: those defined for the kind of task")
    evaluate.add_argument("--batch-size", type=_positive, default=64, help="inputs at once (default 64)")
    evaluate.add_argument("--json", action="store_true", help="one JSON object")
    evaluate.add_argument(
        "--trust-remote-code", action="store_true", help="run code of the model's repository, and scripts of --metrics"
    )
    evaluate.set_defaults(run=_evaluate)


def _predict(options: argparse.Namespace) -> int:
    if options.labels is None and (options.template or options.multi_label):
        raise UserError("--template and --multi-label go with --labels, the candidate labels of zero-shot use.")
    from hf_fsl.models import registration  # noqa: F401  # few-shot models load without remote code

    source = (options.model, options.revision, options.trust_remote_code)
    task = _pipeline_task(*source) if options.labels is None else zero_shot_task(*source)
    given = read_inputs(options, image="image" in task)
    if not given:
        raise UserError("Nothing to predict: give texts or images as arguments, or one a line on the standard input.")
    items = [one for one in given if one.value is not None]
    answers = (_answers if options.labels is None else zero_shot_answers)(options, task, items)
    shown = [printable(one.shown) for one in given]
    width = min(60, max(map(len, shown)))
    # Where the answers are seen as they come, they are the progress.
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()
    for one, text in tqdm(zip(given, shown, strict=True), total=len(given), disable=quiet, delay=2, leave=False):
        scores = [] if one.value is None else next(answers)
        if options.json:
            print(_json_line({"input": one.shown, "labels": scores}), flush=True)
        else:
            text = text if len(text) <= width else text[: width - 1] + "…"
            scored = "  ".join(f"{printable(row['label'])} {row['score']:.3f}" for row in scores)
            print(f"{text:<{width}}  {scored}".rstrip(), flush=True)
    return 0


def _answers(options: argparse.Namespace, task: str, items: Sequence[Given]) -> Iterator[list[dict[str, Any]]]:
    """For each input the labels to show by falling score, by a model that was trained for them."""
    import transformers

    from hf_fsl.models.backbones.inputs import read_inputs
    from hf_fsl.models.backbones.texts import longest_input, tokenize, truncation, warn_of_cut
    from hf_fsl.models.backbones.weights import loading, require_class_names
    from hf_fsl.zero_shot.pipelines.loading import whole_pipeline

    image = task == "image-classification"
    kind = transformers.ImageClassificationPipeline if image else transformers.TextClassificationPipeline
    with loading(UserError, options.model, options.revision, f"as a model for {task}"):
        _require_own_parts(options)
        pipe = whole_pipeline(task, kind, options.model, options.revision, options.trust_remote_code)
        require_class_names(pipe.model.config)
    settings: dict[str, Any] = {"batch_size": options.batch_size or AT_ONCE}
    limit = None if image else longest_input(pipe.model, pipe.tokenizer, None)
    said: set[str] = set()
    if not image:
        settings |= {"truncation": True, "max_length": limit}
    several = options.top_k is None and pipe.model.config.problem_type == "multi_label_classification"
    top_k = pipe.model.config.num_labels if several else options.top_k or 1
    for start in range(0, len(items), settings["batch_size"]):
        given = [one.value for one in items[start : start + settings["batch_size"]]]
        # The pipeline's own reader would clip 16 bits, and take the path of a picture for a text.
        for number, value in enumerate(given, start):
            for part in value.values() if isinstance(value, dict) else [value]:
                (read,) = read_inputs([part], text=not image, image=image, open_files=True, first=number)
                given[number - start] = as_rgb(read) if image else value
        texts = [] if image else [value for value in given if isinstance(value, str)]
        if texts:
            lengths = [len(ids) for ids in tokenize(pipe.tokenizer, texts, limit)]
            warn_of_cut(truncation(pipe.tokenizer, [texts], lengths, limit), said)
        try:
            answers = pipe(given, top_k=top_k, **settings)
        except (OSError, ValueError) as error:
            raise UserError(f"{options.model} cannot read the input: {error}") from error
        for answer in answers:
            rows = answer if isinstance(answer, list) else [answer]
            yield likely(rows) if several else rows


def _json_line(row: Mapping[str, Any]) -> str:
    """As it may be sent to a terminal: where it could act on one, all but ASCII is escaped."""
    line = json.dumps(row, ensure_ascii=False)
    return line if printable(line) == line else json.dumps(row).replace("\x7f", "\\u007f")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of 1 or more, got {text!r}")
    return int(text)


def _evaluate(options: argparse.Namespace) -> int:
    import transformers
    from accelerate import Accelerator

    from hf_fsl.config.sections import DataConfig, EvaluationConfig, ModelConfig
    from hf_fsl.core.task import Modality, ProblemType, Task
    from hf_fsl.data.encoding import EncodedSplit, label_tensor
    from hf_fsl.data.loading import load_split
    from hf_fsl.metrics.measure import measure
    from hf_fsl.models import registration  # noqa: F401  # few-shot models load without remote code
    from hf_fsl.models.backbones.classification import load_processor
    from hf_fsl.models.backbones.texts import longest_input, truncation, warn_of_cut
    from hf_fsl.models.backbones.weights import load_whole, loading, require_class_names
    from hf_fsl.training.prediction import predict_logits

    evaluation = EvaluationConfig(metrics=options.metrics, trust_remote_code=options.trust_remote_code)
    for problem in evaluation.problems():
        raise UserError(f"--{problem}.")
    image = _pipeline_task(options.model, options.revision, options.trust_remote_code) == "image-classification"
    modality: Modality = "image" if image else "text-pair" if options.text_pair_column else "text"
    source = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    auto = transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    with loading(UserError, options.model, options.revision, f"as a model for {modality} classification"):
        _require_own_parts(options)
        model = load_whole(auto, options.model, **source).eval()
        require_class_names(model.config)
        names = tuple(name for _, name in sorted(model.config.id2label.items()))
        problem_type: ProblemType = model.config.problem_type or "single_label_classification"
        task = Task(modality=modality, label_names=names, problem_type=problem_type)
        processor = load_processor(ModelConfig(model_name_or_path=options.model, **source), task)
    data = DataConfig(
        path=options.dataset,
        name=options.name,
        revision=options.dataset_revision,
        text_column=None if image else options.text_column or "text",
        text_pair_column=options.text_pair_column,
        image_column=(options.image_column or "image") if image else None,
        label_column=options.label_column[0] if len(options.label_column) == 1 else options.label_column,
        label_separator=options.label_separator,
        label_names=options.label_names,
        problem_type=task.problem_type,
    )
    split = load_split(data, options.split, task)
    accelerator = Accelerator()
    model.to(accelerator.device)
    limit = longest_input(model, processor, None)
    encoded = EncodedSplit(split, task, processor, limit, model.dtype)
    if encoded.lengths is not None:
        columns = [list(split[column]) for column in task.input_columns]
        warn_of_cut(truncation(processor, columns, encoded.lengths, limit))
    logits = predict_logits(model, encoded, accelerator, options.batch_size, options.split)
    labels = label_tensor(split["label"], task).numpy()
    measured = measure(logits, labels, task, evaluation)
    if options.json:
        print(json.dumps({name: vars(value) for name, value in measured.items()}))
        return 0
    print(f"{options.model} on {options.dataset} ({options.split}, {len(split)} examples)")
    for name, value in measured.items():
        interval = f"  95 % [{value.ci95[0]:.4f}, {value.ci95[1]:.4f}]" if value.ci95 else ""
        print(f"  {name:<10} {value.value:.4f}{interval}")
    return 0


def _require_own_parts(options: argparse.Namespace) -> None:
    """Raises ValueError where the weights of a few-shot model are not those that its state was written with."""
    from hf_fsl.models.export.loading import published_class, repository_folder, require_own_parts

    if published_class(options.model, options.revision) is not None:
        require_own_parts(repository_folder(options.model, revision=options.revision))


def _pipeline_task(model: str, revision: str | None, trust_remote_code: bool) -> str:
    """The pipeline for a model, from its architecture: works offline and for folders, unlike the Hub's tag."""
    from transformers import AutoConfig

    from hf_fsl.models.backbones.weights import loading

    with loading(UserError, model, revision, "as a classification model"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    names = config.architectures or []
    if any(name.endswith("ForImageClassification") for name in names):
        return "image-classification"
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "text-classification"
    raise UserError(
        f"{model} holds {', '.join(names) or 'no architecture'}: neither a sequence nor an image classification "
        "model. Publish one with hf-fsl run fine_tune."
    )


PICTURES_AT_ONCE = 32
_PIPELINES = {
    "zero-shot-classification": "ZeroShotTextPipeline",
    "zero-shot-image-classification": "ZeroShotImagePipeline",
    "feature-extraction": "ZeroShotEmbeddingPipeline",
}


def zero_shot_answers(
    options: argparse.Namespace, task: str, items: Sequence[Given]
) -> Iterator[list[dict[str, Any]]]:
    """For each input its labels to show, by falling score.

    Args:
        task: see :func:`zero_shot_task`.

    Raises:
        UserError: options that do not go with the model, or an input that cannot be read.
    """
    from hf_fsl.config.sections import ModelConfig
    from hf_fsl.zero_shot.pipelines.loading import load_pipeline

    settings: dict[str, Any] = {"hypothesis_template": options.template} if options.template else {}
    if task == "zero-shot-image-classification":
        if options.multi_label:
            raise UserError("--multi-label is for texts: an image model scores its labels as it was trained to.")
        settings["batch_size"] = options.batch_size or PICTURES_AT_ONCE
    else:
        if options.batch_size is not None:
            raise UserError("--batch-size is for images: with --labels, texts are batched by tokens. Leave it out.")
        settings["multi_label"] = options.multi_label
    for number, one in enumerate(items):
        if isinstance(one.value, dict):
            raise UserError(f"Input {number} is a pair of texts; with --labels a model takes one text. Give one.")
    chosen = ModelConfig(
        model_name_or_path=options.model, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    labels = read_labels(options.labels)
    pipe = load_pipeline(getattr(hf_fsl, _PIPELINES[task]), task, chosen)
    try:
        # A generator, so that answers come while the rest is read.
        for answer in pipe((one.value for one in items), candidate_labels=labels, **settings):
            rows = answer
            if isinstance(answer, dict):
                pairs = zip(answer["labels"], answer["scores"], strict=True)
                rows = [{"label": label, "score": score} for label, score in pairs]
            yield likely(rows) if options.multi_label and options.top_k is None else rows[: options.top_k or 1]
    except OSError as error:
        raise UserError(f"{options.model} cannot read the input: {error}") from error


def likely(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of labels on their own, by falling score, those from 0.5 on, or the best."""
    return [row for row in rows if row["score"] >= 0.5] or rows[:1]


def zero_shot_task(model: str, revision: str | None, trust_remote_code: bool) -> str:
    """The stock task that loads a model for zero-shot use. Raises UserError where it is for none."""
    from transformers import AutoConfig

    from hf_fsl.models.backbones.weights import loading

    with loading(UserError, model, revision, "as a model for zero-shot use"):
        config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        return "zero-shot-classification"
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        return "zero-shot-image-classification"
    if hasattr(config, "vocab_size"):
        return "feature-extraction"
    raise UserError(
        f"{model} holds {', '.join(config.architectures or []) or 'no architecture'}: with --labels a model is an NLI "
        "classifier, a text encoder, or an image-text model such as CLIP or SigLIP."
    )
