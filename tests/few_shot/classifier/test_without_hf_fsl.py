"""A model of our own class, pushed, and loaded in a virtual environment in which hf_fsl is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from hf_fsl import Backbone, FewShotClassifier
from hf_fsl.hub.local import running
from tests.helpers.encoders import pictures, save_encoder

TEXTS = ["the cat runs", "a dog sleeps", "the bird runs", "the red house", "a blue car", "the green train"]
ASKED = ["a fish sleeps", "a big house", "the sun"]
_STRANGER = """
import importlib.metadata, importlib.util, json, sys

def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

found = {"prefix": sys.prefix, "spec": importlib.util.find_spec("hf_fsl"), "version": installed("hf_fsl")}
import torch, transformers
model, task, *asked = sys.argv[1:]
try:
    transformers.pipeline(task, model=model)
    found["untrusted"] = "loaded"
except ValueError as error:
    found["untrusted"] = str(error)
classify = transformers.pipeline(task, model=model, trust_remote_code=True)
found["class"] = type(classify.model).__name__
found["code"] = sys.modules[type(classify.model).__module__].__file__
answers = [classify(one, top_k=None) for one in asked]
found["scores"] = [{row["label"]: row["score"] for row in answer} for answer in answers]
found["modules"] = [name for name in sys.modules if name.partition(".")[0] in ("hf_fsl", "peft", "sklearn")]
print()  # transformers asks whether to trust the code, on a line that it does not end
print(json.dumps(found))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> tuple[Path, Path]:
    """A virtual environment with the packages of this one but hf_fsl: its folder, and its interpreter."""
    folder = tmp_path_factory.mktemp("stranger") / "venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(source).iterdir():
            # The package, its metadata and, where it is installed as editable, what makes it importable.
            if "hf_fsl" not in entry.name and entry.suffix != ".pth" and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    return folder, folder / "bin" / "python"


@pytest.mark.parametrize("modality", ["text", "image"])
def test_it_predicts_there_what_it_predicts_here(stranger, modality, tmp_path, monkeypatch):
    folder, python = stranger
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    backbone = Backbone.from_pretrained(str(save_encoder("bert" if modality == "text" else "clip", tmp_path / "b")))
    examples, asked = (TEXTS, ASKED) if modality == "text" else (pictures(6), pictures(3))
    labels = ["animal"] * 3 + ["thing"] * 3
    classifier = FewShotClassifier(backbone, use_label_texts=False).fit(examples, labels)
    given = asked
    if modality == "image":
        given = [str(tmp_path / f"{number}.png") for number in range(len(asked))]
        for picture, name in zip(asked, given, strict=True):
            picture.save(name)
    with running(tmp_path / "hub", token="secret") as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        classifier.push_to_hub("me/few", token="secret")
        environment = {
            "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret",
            "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [str(python), "-I", "-c", _STRANGER, "me/few", f"{modality}-classification", *given],
            env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["prefix"] == str(folder) != sys.prefix
    assert found["spec"] is None and found["version"] is None and found["modules"] == []
    assert "trust_remote_code" in found["untrusted"]
    assert found["class"] == f"FewShotFor{'Sequence' if modality == 'text' else 'Image'}Classification"
    assert Path(found["code"]).is_relative_to(tmp_path / "home")
    expected = classifier.predict_proba(asked)
    scores = [[row[name] for name in classifier.classes_] for row in found["scores"]]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(expected[:, 0]) > 1e-3  # not one answer to everything
