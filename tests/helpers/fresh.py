"""Loads published models as somebody would who has no hf_fsl: run as a script, in a process of its own.

    python -I fresh.py WORK [--registered]

WORK/jobs.json is a list of ``{"folder", "kind", "inputs", "trust"}``; WORK/logits.safetensors gets their logits, all
inputs of a model in one batch. With --registered the process has hf_fsl, and imports hf_fsl.auto.
"""

import json
import sys
from pathlib import Path


class Absent:
    """hf_fsl is not to be found, wherever it is installed."""

    def find_spec(self, name, *_):
        if name.partition(".")[0] == "hf_fsl":
            raise ModuleNotFoundError(name)


def hide() -> None:
    sys.meta_path.insert(0, Absent())
    try:
        import hf_fsl
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError(f"{hf_fsl} can be imported here")


def main(work: Path, registered: bool) -> None:
    if registered:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        import hf_fsl.auto  # noqa: F401
    else:
        hide()
    import torch
    import transformers
    from PIL import Image
    from safetensors.torch import save_file

    found, answers = {}, {}
    for job in json.loads((work / "jobs.json").read_text()):
        image, source = job["kind"] == "image", {"trust_remote_code": job["trust"]}
        auto = "AutoModelForImageClassification" if image else "AutoModelForSequenceClassification"
        model = getattr(transformers, auto).from_pretrained(job["folder"], **source).eval()
        processor = (transformers.AutoImageProcessor if image else transformers.AutoTokenizer).from_pretrained(
            job["folder"]
        )
        given = [Image.open(name).convert("RGB") for name in job["inputs"]] if image else job["inputs"]
        inputs = processor(given, return_tensors="pt", **({} if image else {"padding": True, "truncation": True}))
        with torch.inference_mode():
            pixels = {name: value.to(model.dtype) if image else value for name, value in inputs.items()}
            logits = model(**pixels).logits
        found[job["folder"]] = logits.float()
        task = "image-classification" if image else "text-classification"
        pipe = transformers.pipeline(task, model=job["folder"], **source)
        (answer,) = pipe(given[:1], top_k=1)
        answers[job["folder"]] = [type(model).__name__, answer[0]["label"]]
    assert registered or not [name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft")]
    save_file(found, work / "logits.safetensors")
    (work / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--registered" in sys.argv)
