"""Loads a dual encoder as somebody would who has never heard of hf_fsl; run as a script in a process of its own.

    python -I contrastive_stranger.py BUNDLE WORK

WORK/inputs.json names pictures, texts and candidate labels; embeddings.safetensors and answers.json are written.
"""

import json
import sys
from pathlib import Path


def main(bundle: str, work: Path) -> None:
    import torch
    import transformers
    from PIL import Image
    from safetensors.torch import save_file

    given = json.loads((work / "inputs.json").read_text(encoding="utf-8"))
    pictures = [Image.open(work / name).convert("RGB") for name in given["images"]]
    model = transformers.AutoModel.from_pretrained(bundle, use_safetensors=True, trust_remote_code=False).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle, trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(bundle, trust_remote_code=False)
    siglip = "siglip" in model.config.model_type
    padding = {"padding": "max_length", "max_length": 64} if siglip else {"padding": True}
    tokens = tokenizer(given["texts"], truncation=True, return_tensors="pt", **padding)
    pixels = processor(pictures, return_tensors="pt")
    with torch.inference_mode():
        out = model(**tokens, **pixels)
    embeddings = {"images": out.image_embeds.float().contiguous(), "texts": out.text_embeds.float().contiguous()}
    save_file(embeddings, work / "embeddings.safetensors")
    pipe = transformers.pipeline("zero-shot-image-classification", model=bundle, trust_remote_code=False)
    labels = given["candidate_labels"]
    answers = [pipe(one, candidate_labels=labels, hypothesis_template=given["template"]) for one in pictures[:2]]
    foreign = sorted(name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft"))
    result = {"labels": [answer[0]["label"] for answer in answers], "foreign": foreign}
    (work / "answers.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
