"""Loads a bundle as somebody would who has never heard of hf_fsl; run as a script in a process of its own.

    python -I stranger.py BUNDLE WORK

WORK/inputs.json names the task and the inputs; WORK/logits.safetensors and WORK/labels.json are written.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(bundle: str, work: Path) -> None:
    import torch
    import transformers
    from PIL import Image
    from safetensors.torch import save_file

    given = json.loads((work / "inputs.json").read_text(encoding="utf-8"))
    image = given["task"] == "image-classification"
    kind = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
    model = getattr(transformers, kind).from_pretrained(bundle).eval()
    questions: list[Any]
    if image:
        pictures = [Image.open(work / name).convert("RGB") for name in given["inputs"]]
        processor = transformers.AutoImageProcessor.from_pretrained(bundle)
        encoded = [processor(picture, return_tensors="pt") for picture in pictures]
        questions = pictures[:2]
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
        pairs = [text if isinstance(text, list) else [text] for text in given["inputs"]]
        encoded = [tokenizer(*pair, truncation=True, return_tensors="pt") for pair in pairs]
        questions = [{"text": pair[0], "text_pair": pair[1]} if len(pair) == 2 else pair[0] for pair in pairs[:2]]
    with torch.inference_mode():
        rows = [model(**inputs).logits[0].float() for inputs in encoded]
    save_file({"logits": torch.stack(rows)}, work / "logits.safetensors")
    pipe = transformers.pipeline(given["task"], model=bundle)
    options = {"top_k": 1} if image else {"top_k": 1, "truncation": True}
    answers = [pipe(question, **options) for question in questions]
    labels = [(answer[0] if isinstance(answer, list) else answer)["label"] for answer in answers]
    foreign = sorted(name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft"))
    names = [name for _, name in sorted(model.config.id2label.items())]
    answer = {"labels": labels, "names": names, "problem_type": model.config.problem_type, "foreign": foreign}
    (work / "labels.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
