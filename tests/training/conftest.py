"""Examples and a model that take no time."""

from __future__ import annotations

import datasets
import pytest
import torch

from hf_fsl.config import AdapterConfig
from hf_fsl.data.encoding import EncodedSplit
from hf_fsl.models.adapters import attach_adapter
from tests.helpers.tiny_runs import TASK


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    from tests.helpers.tiny_models import WORDS, write_tokenizer

    generator = torch.Generator().manual_seed(5)
    texts = []
    for _ in range(18):
        picks = torch.randint(len(WORDS), (int(torch.randint(2, 12, (1,), generator=generator)),), generator=generator)
        texts.append(" ".join(WORDS[index] for index in picks))
    data = datasets.Dataset.from_dict({"text": texts, "label": [index % 3 for index in range(18)]})
    return EncodedSplit(data, TASK, write_tokenizer(tmp_path_factory.mktemp("tokenizer")), 32)


@pytest.fixture
def make(tiny_model):
    def build(dropout: float = 0.0):
        model = tiny_model("bert")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        torch.manual_seed(11)
        return attach_adapter(model, AdapterConfig(r=2), ["classifier"])

    return build
