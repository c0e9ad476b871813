"""A local Hub in a process of its own, and what its tests put there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

import hf_fsl

PACKAGE_ROOT = Path(hf_fsl.__file__).parents[1]
LARGE = bytes(range(256)) * 8000  # 2 MB: goes through LFS
CARD = """---
pipeline_tag: text-classification
library_name: transformers
license: apache-2.0
tags: [hf_fsl]
---
# A <b>card</b>
"""


@contextlib.contextmanager
def server_process(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    code = f"from hf_fsl.hub.local import serve; serve({str(root)!r}, port=0)"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            address = process.stdout.readline().split("HF_ENDPOINT=")[1].split()[0]
            yield process, address
        finally:
            process.kill()


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def fetch(api: HfApi, tmp_path: Path, repo: str, path: str, **options: Any) -> bytes:
    return Path(
        hf_hub_download(repo, path, endpoint=api.endpoint, cache_dir=tmp_path / "cache", token=api.token, **options)
    ).read_bytes()
