"""All repositories of a local Hub, below one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_fsl.hub.local.repo import Repo, now
from hf_fsl.hub.local.rules import HubError, check_repo
from hf_fsl.hub.local.storage import Storage


class Store:
    """Creates, finds and deletes repositories.

    Args:
        root: the folder; made if it is not there. Several servers may share it.
    """

    def __init__(self, root: str | Path) -> None:
        self.storage = Storage(root)

    def repo(self, kind: str, namespace: str, name: str) -> Repo:
        """A repository that exists. Raises HubError 404 (RepoNotFound), 400 for what is no id."""
        return self._repo(kind, namespace, name).require()

    def create(self, kind: str, namespace: str, name: str, meta: dict[str, Any]) -> Repo:
        """A new repository with an empty first commit. Raises HubError 409 where it exists."""
        repo = self._repo(kind, namespace, name)
        with repo.locked():
            if repo.exists:
                raise HubError(409, f"You already created this {kind[:-1]} repo: {repo.id}.")
            repo.set_meta(meta | {"created": now()})
            repo.move_ref("heads/main", repo.write_commit(None, "initial commit", "", {}))
        return repo

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes a repository with its history; contents stay, other repositories may share them."""
        repo = self._repo(kind, namespace, name)
        with repo.locked():
            repo.require()
            self.storage.discard(repo.folder)

    def repos(self, kind: str) -> list[Repo]:
        """All repositories of a kind, by id."""
        found = sorted((self.storage.root / kind).glob("*/*/refs/heads/main"))
        return [Repo(self.storage, kind, *path.parts[-5:-3]) for path in found]

    def _repo(self, kind: str, namespace: str, name: str) -> Repo:
        check_repo(namespace, name)
        return Repo(self.storage, kind, namespace, name)
