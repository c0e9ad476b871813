"""The words of the tests as a tokenizer."""

from __future__ import annotations

import pytest
from conftest import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
