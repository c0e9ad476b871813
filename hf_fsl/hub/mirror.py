"""What a repository lacks to be a copy of local files, and how large files get to a Hub that knows no Xet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterator, Mapping
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants
from huggingface_hub.utils.sha import git_hash

Operation = CommitOperationAdd | CommitOperationDelete


def remote_files(api: HfApi, repo: str, *, kind: str = "model", revision: str | None = None) -> dict[str, RepoFile]:
    """The files of a repository by their paths."""
    tree = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type=kind)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def differences(
    remote: Mapping[str, RepoFile], files: Mapping[str, str | bytes], owned: Container[str]
) -> list[Operation]:
    """What to commit for a repository to hold these files; empty where it does.

    Args:
        remote: what it holds, see :func:`remote_files`.
        files: path in the repository -> local path, or content.
        owned: files that go where only the repository has them.
    """
    additions = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
    changed: list[Operation] = [add for add in additions if not _same(add, remote.get(add.path_in_repo))]
    gone = sorted(name for name in set(remote) - set(files) if name in owned)
    return [*changed, *(CommitOperationDelete(name) for name in gone)]


@contextlib.contextmanager
def lfs_where_xet_is_not(endpoint: str) -> Iterator[None]:
    """Sends large files through LFS while the block lasts, unless the Hub is Hugging Face's own.

    Other Hubs rarely speak Xet, and the client has no fallback from it. ``HF_HUB_DISABLE_XET=0`` says that one does.
    """
    host = urlsplit(endpoint).hostname or ""
    official = host == "huggingface.co" or host.endswith(".huggingface.co")
    promised = os.environ.get("HF_HUB_DISABLE_XET", "1").upper() in ("0", "FALSE", "NO", "OFF", "")
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or not (official or promised)
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _same(addition: CommitOperationAdd, there: RepoFile | None) -> bool:
    if there is None or there.size != addition.upload_info.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return there.blob_id == git_hash(file.read())
