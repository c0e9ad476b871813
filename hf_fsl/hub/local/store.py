"""The repositories of a local Hub on disk: content-addressed blobs, immutable commits, refs moved last.

A commit is a JSON file that lists every path with the digest of its content. Whatever is written goes to a temporary
name, is synced and renamed, and a ref changes only when all it leads to is there: a kill at any moment leaves the last
good revision.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KINDS = ("models", "datasets", "spaces")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,200}")


class HubError(Exception):
    """An answer other than success: HTTP status, the Hub's error code, a message."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Entry:
    """A file of a commit: digest and size of its content, its git object id, whether it was sent through LFS."""

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


def check_path(path: str) -> str:
    """The path of a file inside a repository. Raises HubError where it could lead anywhere else."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts) or len(path) > 1000:
        raise HubError(400, None, f"{path!r} is no path inside a repository.")
    return path


class Store:
    """All repositories below one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        (self.root / "incoming").mkdir(exist_ok=True)

    def repo(self, kind: str, namespace: str, name: str) -> Repo:
        """A repository that exists. Raises HubError 404 (RepoNotFound)."""
        repo = Repo(self, self._folder(kind, namespace, name))
        if not repo.exists:
            raise HubError(404, "RepoNotFound", f"There is no repository {namespace}/{name} among the {kind}.")
        return repo

    def create(self, kind: str, namespace: str, name: str, private: bool) -> Repo:
        """A new repository with an empty first commit. Raises HubError 409 where it exists."""
        repo = Repo(self, self._folder(kind, namespace, name))
        with repo.locked():
            if repo.exists:
                raise HubError(409, None, "You already created this repository.")
            repo.set_meta({"private": private, "created": _now()})
            repo.move_ref("heads/main", repo.write_commit(None, "initial commit", "", {}).oid)
        return repo

    def delete(self, kind: str, namespace: str, name: str) -> None:
        folder = self.repo(kind, namespace, name).folder
        doomed = self.root / "incoming" / f"deleted-{os.urandom(8).hex()}"
        os.replace(folder, doomed)
        shutil.rmtree(doomed)

    def repos(self, kind: str) -> list[Repo]:
        found = sorted((self.root / kind).glob("*/*/refs/heads/main"))
        return [Repo(self, path.parents[2]) for path in found]

    def blob(self, sha256: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise HubError(400, None, f"{sha256!r} is no sha256.")
        return self.root / "blobs" / sha256[:2] / sha256

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A file being received; gone afterwards unless it was kept."""
        handle, name = tempfile.mkstemp(dir=self.root / "incoming")
        upload = Incoming(self, handle, Path(name))
        try:
            yield upload
        finally:
            upload.close()

    def _folder(self, kind: str, namespace: str, name: str) -> Path:
        for part in (namespace, name):
            if not _NAME.fullmatch(part) or ".." in part or part.endswith(".git"):
                raise HubError(
                    400, None, f"{namespace}/{name} is no repository id: letters, digits, '-', '_' and '.'."
                )
        return self.root / kind / namespace / name


class Incoming:
    """Content on its way in: hashed as it is written."""

    def __init__(self, store: Store, handle: int, path: Path) -> None:
        self.store, self.path, self.size = store, path, 0
        self._file = os.fdopen(handle, "wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def keep(self, expected: str | None = None) -> str:
        """Moves the content to its place. Returns its sha256; raises HubError where it is not the expected one."""
        sha256 = self._digest.hexdigest()
        if expected is not None and sha256 != expected:
            raise HubError(422, None, f"The content has sha256 {sha256}, not {expected} as announced. Send it again.")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        target = self.store.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path, target)
        return sha256

    def close(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class Repo:
    """One repository: its commits, refs and settings."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.id = f"{folder.parent.name}/{folder.name}"

    @property
    def exists(self) -> bool:
        return self._ref("heads/main").is_file()

    @property
    def meta(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return values

    def set_meta(self, values: dict[str, Any]) -> None:
        _write(self.folder / "meta.json", json.dumps(values))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, over all threads and processes that share the root."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def refs(self, group: str) -> dict[str, str]:
        """Names in a group (heads, tags, pr) -> commit ids."""
        folder = self.folder / "refs" / group
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return {urllib.parse.unquote(f.name): f.read_text() for f in files if not f.name.startswith(".")}

    def move_ref(self, ref: str, oid: str) -> None:
        _write(self._ref(ref), oid)

    def delete_ref(self, ref: str) -> None:
        path = self._ref(ref)
        if not path.is_file():
            raise HubError(404, "RevisionNotFound", f"{self.id} has no {ref}.")
        path.unlink()

    def find_ref(self, revision: str) -> str | None:
        """The movable ref that a revision names, for writing to it: a branch or a pull request."""
        for ref in self._candidates(revision):
            if not ref.startswith("tags/") and self._ref(ref).is_file():
                return ref
        return None

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or commit id. Raises HubError 404 (RevisionNotFound)."""
        if _REVISION.fullmatch(revision) and ".." not in revision:
            for ref in self._candidates(revision):
                if self._ref(ref).is_file():
                    return self.commit(self._ref(ref).read_text())
            if re.fullmatch(r"[0-9a-f]{40}", revision) and self._commit_file(revision).is_file():
                return self.commit(revision)
        raise HubError(404, "RevisionNotFound", f"{self.id} has no revision {revision!r}.")

    def commit(self, oid: str) -> Commit:
        values = json.loads(self._commit_file(oid).read_text())
        files = {path: Entry(**entry) for path, entry in values.pop("files").items()}
        return Commit(oid=oid, files=files, **values)

    def history(self, oid: str | None) -> Iterator[Commit]:
        while oid is not None:
            commit = self.commit(oid)
            yield commit
            oid = commit.parent

    def write_commit(self, parent: str | None, title: str, body: str, files: dict[str, Entry]) -> Commit:
        values = {
            "parent": parent,
            "title": title,
            "body": body,
            "date": _now(),
            "files": {path: asdict(files[path]) for path in sorted(files)},
        }
        text = json.dumps(values)
        oid = hashlib.sha1(text.encode()).hexdigest()
        _write(self._commit_file(oid), text)
        return self.commit(oid)

    def pull_request(self, base: str) -> str:
        """Opens a pull request ref at a commit. Returns its name, ``pr/<number>``."""
        number = 1 + max((int(name) for name in self.refs("pr")), default=0)
        self.move_ref(f"pr/{number}", base)
        return f"pr/{number}"

    def _candidates(self, revision: str) -> list[str]:
        if revision.startswith("refs/"):
            return [revision.removeprefix("refs/").replace("convert/", "heads/convert/", 1)]
        return [f"heads/{revision}", f"tags/{revision}"]

    def _ref(self, ref: str) -> Path:
        group, _, name = ref.partition("/")
        return self.folder / "refs" / group / urllib.parse.quote(name, safe="")

    def _commit_file(self, oid: str) -> Path:
        return self.folder / "commits" / f"{oid}.json"


def git_oid(content: bytes) -> str:
    """The id git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that stands in git for LFS content."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
