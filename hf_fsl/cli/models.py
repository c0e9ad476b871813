"""``hf-fsl predict`` and ``hf-fsl evaluate``: a published model on inputs, or on a labelled data set."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from hf_fsl.cli.zero_shot import zero_shot_answers
from hf_fsl.errors import UserError


def add_commands(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="labels for texts or images by a published model",
        description="Texts, or paths or URLs of images, by a local or Hub model. Without INPUT, or with -, every line "
        'of the standard input is one. A pair of texts is given as one JSON list: \'["premise", "hypothesis"]\'.',
    )
    predict.add_argument("model", metavar="MODEL", help="Hub id or folder")
    predict.add_argument("inputs", nargs="*", metavar="INPUT")
    predict.add_argument("--revision")
    predict.add_argument(
        "--labels", metavar="A,B,C", help="zero-shot: candidate labels, by an NLI model, a text encoder, or CLIP's kin"
    )
    predict.add_argument(
        "--template", action="append", help="zero-shot: with a place {} for the label; may be repeated"
    )
    predict.add_argument("--multi-label", action="store_true", help="zero-shot: each label on its own")
    predict.add_argument(
        "--top-k", type=int,
        help="labels shown an input (default 1; of a multi-label model, those from 0.5 on, or the best)",
    )  # fmt: skip
    predict.add_argument("--batch-size", type=int, help="inputs at once (default 32)")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.add_argument("--trust-remote-code", action="store_true")
    predict.set_defaults(run=_predict, takes_inputs=True)

    evaluate = commands.add_parser("evaluate", help="metrics with 95 %% intervals of a published model on a data set")
    evaluate.add_argument("model", metavar="MODEL", help="Hub id or folder")
    evaluate.add_argument("dataset", metavar="DATASET", help="Hub id, folder or file")
    evaluate.add_argument("--name", help="configuration of the data set")
    evaluate.add_argument("--split", default="test")
    evaluate.add_argument("--revision", help="of the model")
    evaluate.add_argument("--dataset-revision")
    evaluate.add_argument("--text-column", help="default for text models: text")
    evaluate.add_argument("--text-pair-column")
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
    evaluate.add_argument("--batch-size", type=int, default=64)
    evaluate.add_argument("--json", action="store_true")
    evaluate.set_defaults(run=_evaluate)


def _predict(options: argparse.Namespace) -> int:
    inputs = options.inputs if options.inputs and options.inputs != ["-"] else _lines()
    if not inputs:
        raise UserError("Nothing to predict: give texts or images as arguments, or one a line on the standard input.")
    if options.labels is None and (options.template or options.multi_label):
        raise UserError("--template and --multi-label go with --labels, the candidate labels of zero-shot use.")
    answers = zero_shot_answers(options, inputs) if options.labels is not None else _answers(options, inputs)
    width = min(60, max(len(text) for text in inputs))
    for text, answer in zip(inputs, answers, strict=True):
        scores = answer if options.labels is None else answer[: options.top_k or 1]
        if options.json:
            print(json.dumps({"input": text, "labels": scores}, ensure_ascii=False), flush=True)
        else:
            shown = text if len(text) <= width else text[: width - 1] + "…"
            scored = "  ".join(f"{row['label']} {row['score']:.3f}" for row in scores)
            print(f"{shown:<{width}}  {scored}", flush=True)
    return 0


def _answers(options: argparse.Namespace, inputs: list[str]) -> list[list[dict[str, Any]]]:
    """For each input the labels to show by falling score, by a model that was trained for them."""
    import transformers

    import hf_fsl.auto  # noqa: F401  # few-shot models of ours load without remote code
    from hf_fsl.backbones.texts import longest_input
    from hf_fsl.backbones.weights import loading, require_class_names
    from hf_fsl.pipelines.loading import whole_pipeline

    source = (options.model, options.revision, options.trust_remote_code)
    task = _pipeline_task(*source)
    image = task == "image-classification"
    kind = transformers.ImageClassificationPipeline if image else transformers.TextClassificationPipeline
    with loading(UserError, options.model, options.revision, f"as a model for {task}"):
        pipe = whole_pipeline(task, kind, *source)
        require_class_names(pipe.model.config)
    is_text = pipe.task == "text-classification"
    given = [_pair(text) for text in inputs] if is_text else inputs
    settings: dict[str, Any] = {}
    if is_text:
        settings = {"truncation": True, "max_length": longest_input(pipe.model, pipe.tokenizer, None)}
    several = options.top_k is None and pipe.model.config.problem_type == "multi_label_classification"
    top_k = pipe.model.config.num_labels if several else options.top_k or 1
    try:
        answers = pipe(given, top_k=top_k, batch_size=options.batch_size or 32, **settings)
    except (OSError, ValueError) as error:
        raise UserError(f"{options.model} cannot read the input: {error}") from error
    answers = [answer if isinstance(answer, list) else [answer] for answer in answers]
    if several:
        answers = [[row for row in answer if row["score"] >= 0.5] or answer[:1] for answer in answers]
    return answers


def _evaluate(options: argparse.Namespace) -> int:
    import transformers
    from accelerate import Accelerator

    import hf_fsl.auto  # noqa: F401  # few-shot models of ours load without remote code
    from hf_fsl.backbones.classification import load_processor
    from hf_fsl.backbones.texts import longest_input
    from hf_fsl.backbones.weights import load_whole, loading, require_class_names
    from hf_fsl.config import DataConfig, EvaluationConfig, ModelConfig
    from hf_fsl.data import load_split
    from hf_fsl.inputs import EncodedSplit, label_tensor
    from hf_fsl.reporting import measure
    from hf_fsl.tasks import Modality, ProblemType, Task
    from hf_fsl.training import predict_logits

    image = _pipeline_task(options.model, options.revision, False) == "image-classification"
    modality: Modality = "image" if image else "text-pair" if options.text_pair_column else "text"
    auto = transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    with loading(UserError, options.model, options.revision, f"as a model for {modality} classification"):
        model = load_whole(auto, options.model, revision=options.revision).eval()
        require_class_names(model.config)
        names = tuple(name for _, name in sorted(model.config.id2label.items()))
        problem_type: ProblemType = model.config.problem_type or "single_label_classification"
        task = Task(modality=modality, label_names=names, problem_type=problem_type)
        processor = load_processor(ModelConfig(model_name_or_path=options.model, revision=options.revision), task)
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
    encoded = EncodedSplit(split, task, processor, longest_input(model, processor, None), model.dtype)
    logits = predict_logits(model, encoded, accelerator, options.batch_size, options.split)
    labels = label_tensor(split["label"], task).numpy()
    measured = measure(logits, labels, task, EvaluationConfig(metrics=options.metrics))
    if options.json:
        print(json.dumps({name: vars(value) for name, value in measured.items()}))
        return 0
    print(f"{options.model} on {options.dataset} ({options.split}, {len(split)} examples)")
    for name, value in measured.items():
        interval = f"  95 % [{value.ci95[0]:.4f}, {value.ci95[1]:.4f}]" if value.ci95 else ""
        print(f"  {name:<10} {value.value:.4f}{interval}")
    return 0


def _pipeline_task(model: str, revision: str | None, trust_remote_code: bool) -> str:
    """The pipeline for a model, from its architecture: works offline and for folders, unlike the Hub's tag."""
    from transformers import AutoConfig

    from hf_fsl.backbones.weights import loading

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


def _pair(text: str) -> Any:
    try:
        values = json.loads(text) if text.startswith("[") else None
    except json.JSONDecodeError:
        return text
    if isinstance(values, list) and len(values) == 2 and all(isinstance(value, str) for value in values):
        return {"text": values[0], "text_pair": values[1]}
    return text


def _lines() -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        return []
    return [line.strip() for line in sys.stdin if line.strip()]
