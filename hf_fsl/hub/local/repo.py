"""One repository: immutable commits, and refs (small files) that point to them.

A commit is a JSON file which lists every path with the digest of its content. A ref moves only when all it leads to
is on disk, so a reader or a restart after a kill sees the last whole revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_fsl.hub.local.rules import HubError, is_revision
from hf_fsl.hub.local.storage import Storage


@dataclass(frozen=True)
class Entry:
    """A file of a commit: digest and size of its content, its git object id, whether it came through LFS."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One revision of a repository."""

    oid: str
    parent: str | None
    title: str
    body: str
    date: str
    files: dict[str, Entry]


class Repo:
    """A repository's folder; whether it exists is for ``exists`` to say."""

    def __init__(self, storage: Storage, kind: str, namespace: str, name: str) -> None:
        self.storage, self.kind, self.id = storage, kind, f"{namespace}/{name}"
        self.folder = storage.root / kind / namespace / name
        # Not inside the folder: it would go with it, and two writers could hold two locks.
        self._lock = storage.root / "locks" / kind / namespace / name

    @property
    def exists(self) -> bool:
        return self._ref("heads/main").is_file()

    @property
    def meta(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(_read(self.folder / "meta.json", self._gone()))
        return values

    def set_meta(self, values: dict[str, Any]) -> None:
        self.storage.write(self.folder / "meta.json", json.dumps(values))

    def require(self) -> Repo:
        """Itself. Raises HubError 404 (RepoNotFound) where it does not exist."""
        if not self.exists:
            raise self._gone()
        return self

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, among all threads and all processes that share the root."""
        import fcntl  # not on Windows, where no local Hub is served

        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def refs(self, group: str) -> dict[str, str]:
        """The refs of a group (heads, tags or pr): name -> commit id."""
        folder = self.folder / "refs" / group
        found = {}
        try:
            for file in sorted(folder.iterdir()):
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    found[urllib.parse.unquote(file.name)] = file.read_text()
        except FileNotFoundError:  # there are none, or the repository went
            self.require()
        return found

    def move_ref(self, ref: str, oid: str) -> None:
        self.storage.write(self._ref(ref), oid)

    def delete_ref(self, ref: str) -> None:
        """Raises HubError 404 (RevisionNotFound)."""
        if not self._ref(ref).is_file():
            raise HubError(404, f"{self.id} has no {ref}.", "RevisionNotFound")
        self._ref(ref).unlink()

    def writable_ref(self, revision: str) -> str | None:
        """The branch or pull request that a revision names."""
        refs = [ref for ref in _candidates(revision) if not ref.startswith("tags/")]
        return next((ref for ref in refs if self._ref(ref).is_file()), None)

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or commit id (7 digits are enough).

        Raises:
            HubError: 404 (RevisionNotFound).
        """
        if is_revision(revision):
            for ref in _candidates(revision):
                if self._ref(ref).is_file():
                    return self.commit(_read(self._ref(ref), self._no_revision(revision)))
            if re.fullmatch(r"[0-9a-f]{7,40}", revision):
                found = list((self.folder / "commits").glob(f"{revision}*.json"))
                if len(found) == 1:
                    return self.commit(found[0].stem)
        raise self._no_revision(revision)

    def commit(self, oid: str) -> Commit:
        values = json.loads(_read(self.folder / "commits" / f"{oid}.json", self._no_revision(oid)))
        files = {path: Entry(**entry) for path, entry in values.pop("files").items()}
        return Commit(oid=oid, files=files, **values)

    def history(self, oid: str | None) -> Iterator[Commit]:
        """A commit and its ancestors, newest first."""
        while oid is not None:
            commit = self.commit(oid)
            yield commit
            oid = commit.parent

    def write_commit(self, parent: str | None, title: str, body: str, files: dict[str, Entry]) -> str:
        """Stores a commit. Returns its id; no ref leads to it yet."""
        values = {
            "parent": parent,
            "title": title,
            "body": body,
            "date": now(),
            "files": {path: asdict(files[path]) for path in sorted(files)},
        }
        text = json.dumps(values)
        oid = hashlib.sha1(f"{self.kind}/{self.id}\n{text}".encode()).hexdigest()
        self.storage.write(self.folder / "commits" / f"{oid}.json", text)
        return oid

    def _ref(self, ref: str) -> Path:
        group, _, name = ref.partition("/")
        return self.folder / "refs" / group / urllib.parse.quote(name, safe="")

    def _gone(self) -> HubError:
        return HubError(404, f"There is no repository {self.id} among the {self.kind}.", "RepoNotFound")

    def _no_revision(self, revision: str) -> HubError:
        return HubError(404, f"{self.id} has no revision {revision!r:.100}.", "RevisionNotFound")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _candidates(revision: str) -> list[str]:
    """The refs that a revision may mean, in order of precedence."""
    if revision.startswith("refs/"):
        ref = revision.removeprefix("refs/")
        return [ref] if ref.startswith(("heads/", "tags/", "pr/")) else []
    return [f"heads/{revision}", f"tags/{revision}"]


def _read(path: Path, missing: HubError) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:  # deleted since somebody saw it
        raise missing from error


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that stands in git for LFS content."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
