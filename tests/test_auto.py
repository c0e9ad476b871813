"""A fresh process: importing hf_fsl is light, importing hf_fsl.auto registers."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import hf_fsl
assert "torch" not in sys.modules
import hf_fsl.auto
from transformers import pipeline
pipe = pipeline("zero-shot-embedding-classification", model=sys.argv[1])
assert type(pipe) is hf_fsl.ZeroShotEmbeddingPipeline
print(pipe("the cat sleeps", ["cat", "rain"])["labels"])
assert type(pipeline("zero-shot-classification", model=sys.argv[2])).__module__.startswith("transformers")
pipe = pipeline("few-shot-classification", model=sys.argv[1])
assert type(pipe) is hf_fsl.few_shot.pipeline.FewShotPipeline
support = {"animals": ["the cat runs", "a dog"], "weather": ["rain", "the sun"]}
assert {answer["label"] for answer in pipe("the cat sleeps", support=support)} == {"animals", "weather"}
import importlib
importlib.reload(hf_fsl.auto)
"""


def test_auto_registers_the_embedding_pipeline_and_leaves_the_stock_tasks(text_backbone, nli_model):
    command = [sys.executable, "-W", "error::UserWarning:hf_fsl", "-c", SCRIPT, str(text_backbone), str(nli_model)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "already registered" not in done.stderr
