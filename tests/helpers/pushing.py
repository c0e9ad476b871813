"""A push to a local Hub, and what is found there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hf_fsl.config import HubConfig
from hf_fsl.hub.push import PushResult, push_bundle

REPO = "me/things"
TOKEN = "secret"


def push(bundle: Path, endpoint: str, token: str = TOKEN, **hub: Any) -> PushResult:
    return push_bundle(bundle, HubConfig(**{"hub_model_id": REPO} | hub), token=token, endpoint=endpoint)


def titles(api: HfApi, revision: str | None = None) -> list[str]:
    return [commit.title for commit in api.list_repo_commits(REPO, revision=revision)]


def content(api: HfApi, name: str, cache: Path, repo: str = REPO) -> bytes:
    return Path(api.hf_hub_download(repo, name, cache_dir=cache)).read_bytes()
