"""Loads a bundle as somebody would who has never heard of hf_fsl; run as a script in a process of its own.

    python -I load_check.py BUNDLE WORK [--trust-remote-code | --import MODULE FOLDER]

A few-shot model that is no stock class is loaded by the code in its bundle, or by classes that MODULE, found in
FOLDER, registers.

WORK/inputs.json names the task and the inputs: for a dual encoder pictures, texts and candidate labels. What the model
makes of them is written to WORK/outputs.safetensors and WORK/answers.json.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def logits_one_by_one(model: Any, processor: Any, inputs: list[Any]) -> Any:
    """Logits ``(N, C)`` in float32 on the CPU, every input (image, text, pair of texts) in a batch of its own.

    The model is changed to float32: in half precision the same weights give other logits on other machines.
    """
    import torch

    model = model.to("cpu", torch.float32).eval()
    rows = []
    for given in inputs:
        if model.main_input_name == "pixel_values":
            encoded = processor(given, return_tensors="pt")
        else:
            pair = [given] if isinstance(given, str) else given
            encoded = processor(*pair, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**encoded).logits[0])
    return torch.stack(rows)


def check_classifier(bundle: str, work: Path, inputs: dict[str, Any], trust: bool) -> tuple[dict[str, Any], Any]:
    """Answers and ``logits`` of a model that classifies, through its class and through ``pipeline()``."""
    import transformers
    from PIL import Image

    task, examples = inputs["task"], inputs["inputs"]
    image = task == "image-classification"
    kind = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
    model = getattr(transformers, kind).from_pretrained(bundle, trust_remote_code=trust, use_safetensors=True)
    queries: list[Any]
    if image:
        processor = transformers.AutoImageProcessor.from_pretrained(bundle, trust_remote_code=False)
        examples = [Image.open(work / name).convert("RGB") for name in examples]
        queries = examples[:2]
    else:
        processor = transformers.AutoTokenizer.from_pretrained(bundle, trust_remote_code=False)
        pairs = [text if isinstance(text, list) else [text] for text in examples]
        queries = [{"text": pair[0], "text_pair": pair[1]} if len(pair) == 2 else pair[0] for pair in pairs[:2]]
    logits = logits_one_by_one(model, processor, examples)
    pipe = transformers.pipeline(task, model=bundle, trust_remote_code=trust)
    options = {"top_k": 1} if image else {"top_k": 1, "truncation": True}
    answers = [pipe(query, **options) for query in queries]
    return {
        "labels": [(answer[0] if isinstance(answer, list) else answer)["label"] for answer in answers],
        "names": [name for _, name in sorted(model.config.id2label.items())],
        "problem_type": model.config.problem_type,
        "dtype": str(pipe.model.dtype).removeprefix("torch."),
        "device": pipe.device.type,
    }, {"logits": logits}


def check_dual_encoder(bundle: str, work: Path, inputs: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Answers and embeddings (``images``, ``texts``) of a dual encoder."""
    import torch
    import transformers
    from PIL import Image

    pictures = [Image.open(work / name).convert("RGB") for name in inputs["images"]]
    model = transformers.AutoModel.from_pretrained(bundle, use_safetensors=True, trust_remote_code=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle, trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(bundle, trust_remote_code=False)
    siglip = "siglip" in model.config.model_type
    padding = {"padding": "max_length", "max_length": 64} if siglip else {"padding": True}
    tokens = tokenizer(inputs["texts"], truncation=True, return_tensors="pt", **padding)
    with torch.inference_mode():
        out = model(**tokens, **processor(pictures, return_tensors="pt"))
    pipe = transformers.pipeline(inputs["task"], model=bundle, trust_remote_code=False)
    options = {"candidate_labels": inputs["candidate_labels"], "hypothesis_template": inputs["template"]}
    labels = [pipe(picture, **options)[0]["label"] for picture in pictures[:2]]
    embeddings = {"images": out.image_embeds.float().contiguous(), "texts": out.text_embeds.float().contiguous()}
    return {"labels": labels}, embeddings


def main(bundle: str, work: Path, trust: bool = False, module: str | None = None, folder: str | None = None) -> None:
    if module is not None and folder is not None:
        sys.path.insert(0, folder)
        importlib.import_module(module)
    from safetensors.torch import save_file

    inputs = json.loads((work / "inputs.json").read_text(encoding="utf-8"))
    if "candidate_labels" in inputs:
        answers, outputs = check_dual_encoder(bundle, work, inputs)
    else:
        answers, outputs = check_classifier(bundle, work, inputs, trust)
    answers["foreign"] = sorted(name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft"))
    save_file(outputs, work / "outputs.safetensors")
    (work / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    options = sys.argv[3:]
    main(
        sys.argv[1], Path(sys.argv[2]), "--trust-remote-code" in options,
        *(options[1:3] if options[:1] == ["--import"] else ()),
    )  # fmt: skip
