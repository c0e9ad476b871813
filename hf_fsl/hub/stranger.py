"""Loads a bundle as somebody would who has never heard of hf_fsl; run as a script in a process of its own.

    python -I stranger.py BUNDLE WORK [--trust-remote-code | --registered FOLDER]

A few-shot model that is no stock class is loaded by the code in its bundle, or by hf_fsl (found in FOLDER), whose
``hf_fsl.auto`` is then imported first.

WORK/inputs.json names the task and the inputs; WORK/logits.safetensors and WORK/labels.json are written.
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


def main(bundle: str, work: Path, trust: bool = False, package: str | None = None) -> None:
    if package is not None:
        sys.path.insert(0, package)
        importlib.import_module("hf_fsl.auto")
    import transformers
    from PIL import Image
    from safetensors.torch import save_file

    given = json.loads((work / "inputs.json").read_text(encoding="utf-8"))
    image = given["task"] == "image-classification"
    kind = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
    model = getattr(transformers, kind).from_pretrained(bundle, trust_remote_code=trust, use_safetensors=True)
    inputs: list[Any] = given["inputs"]
    questions: list[Any]
    if image:
        processor = transformers.AutoImageProcessor.from_pretrained(bundle, trust_remote_code=False)
        inputs = [Image.open(work / name).convert("RGB") for name in inputs]
        questions = inputs[:2]
    else:
        processor = transformers.AutoTokenizer.from_pretrained(bundle, trust_remote_code=False)
        pairs = [text if isinstance(text, list) else [text] for text in inputs]
        questions = [{"text": pair[0], "text_pair": pair[1]} if len(pair) == 2 else pair[0] for pair in pairs[:2]]
    save_file({"logits": logits_one_by_one(model, processor, inputs)}, work / "logits.safetensors")
    pipe = transformers.pipeline(given["task"], model=bundle, trust_remote_code=trust)
    options = {"top_k": 1} if image else {"top_k": 1, "truncation": True}
    answers = [pipe(question, **options) for question in questions]
    labels = [(answer[0] if isinstance(answer, list) else answer)["label"] for answer in answers]
    foreign = sorted(name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft"))
    names = [name for _, name in sorted(model.config.id2label.items())]
    answer = {"labels": labels, "names": names, "problem_type": model.config.problem_type, "foreign": foreign}
    answer |= {"dtype": str(pipe.model.dtype).removeprefix("torch."), "device": pipe.device.type}
    (work / "labels.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    folder = sys.argv[4] if "--registered" in sys.argv else None
    main(sys.argv[1], Path(sys.argv[2]), "--trust-remote-code" in sys.argv, folder)
