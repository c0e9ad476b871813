"""A commit as the Hub's clients send it (NDJSON), applied to a repository."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from hf_fsl.hub.local.repo import Commit, Entry, Repo, lfs_pointer
from hf_fsl.hub.local.rules import HubError, check_path, json_object
from hf_fsl.hub.local.storage import Storage

_LONGEST_LINE = 16 << 20  # bounds memory: clients send files from LFS_THRESHOLD on through LFS

_Operation = tuple[str, str, Entry | None]


def apply_commit(repo: Repo, revision: str, body: Path, create_pr: bool) -> tuple[Commit, str | None]:
    """Applies the operations of an NDJSON file.

    Args:
        revision: branch or pull request to commit to; with ``create_pr`` the revision a new one starts from.

    Returns:
        The commit, or the unchanged head where nothing differs; and the pull request's number if one was opened.

    Raises:
        HubError: 412 for a stale parent, 404 for what is not there, 400 or 413 for what cannot be applied.
    """
    # Contents are stored before the lock is taken: others may commit meanwhile, and nothing refers to them yet.
    header, operations = _read(repo.storage, body)
    with repo.locked():
        repo.require()
        head = repo.resolve(revision)
        parent = header.get("parentCommit")
        if parent and not head.oid.startswith(str(parent).lower()):
            raise HubError(
                412, f"{revision} is at {head.oid}, not at {parent}: somebody committed in between. Fetch, try again."
            )
        ref = repo.writable_ref(revision)
        number = None
        if create_pr:
            number = str(1 + max((int(name) for name in repo.refs("pr")), default=0))
            ref = f"pr/{number}"
        elif ref is None:
            raise HubError(400, f"{revision!r} is a tag or commit id. Commit to a branch or a pull request.")
        files = dict(head.files)
        for operation in operations:
            _apply(operation, files)
        _check_tree(files)
        oid = head.oid
        if files != head.files:
            oid = repo.write_commit(head.oid, _text(header.get("summary")), _text(header.get("description")), files)
        if ref is not None and (create_pr or oid != head.oid):
            repo.move_ref(ref, oid)
        return repo.commit(oid), number


def git_oid(content: bytes) -> str:
    """The id git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _read(storage: Storage, body: Path) -> tuple[dict[str, Any], list[_Operation]]:
    header: dict[str, Any] = {}
    operations: list[_Operation] = []
    with body.open("rb") as file:
        while line := file.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise HubError(413, f"A line of a commit holds at most {_LONGEST_LINE:,} bytes. Use LFS for the file.")
            if not line.strip():
                continue
            try:
                row = json_object(line)
                key, value = row["key"], dict(row["value"])
            except (KeyError, TypeError, ValueError) as error:
                raise HubError(400, 'A line of a commit is JSON like {"key": …, "value": {…}}.') from error
            if key == "header":
                header = value
            else:
                operations.append(_operation(storage, key, value))
    return header, operations


def _operation(storage: Storage, key: object, value: dict[str, Any]) -> _Operation:
    path = value.get("path")
    if key == "file":
        return "add", check_path(path), _inline(storage, value)
    if key == "lfsFile":
        return "add", check_path(path), _uploaded(storage, value)
    if key == "deletedFile":
        return "delete", check_path(path), None
    if key == "deletedFolder":
        return "delete folder", check_path(str(path).removesuffix("/")), None
    raise HubError(400, f"A commit has file, lfsFile, deletedFile and deletedFolder, not {key!r:.100}.")


def _inline(storage: Storage, value: dict[str, Any]) -> Entry:
    content, encoding = value.get("content"), value.get("encoding", "base64")
    if not isinstance(content, str) or encoding not in ("base64", "utf-8"):
        raise HubError(400, f"{value.get('path')}: content is a string in base64 or utf-8.")
    try:
        data = base64.b64decode(content, validate=True) if encoding == "base64" else content.encode()
    except ValueError as error:
        raise HubError(400, f"{value.get('path')}: its content cannot be decoded: {error}.") from error
    with storage.incoming() as upload:
        upload.write(data)
        return Entry(upload.keep(), len(data), git_oid(data), lfs=False)


def _uploaded(storage: Storage, value: dict[str, Any]) -> Entry:
    sha256 = value.get("oid")
    blob = storage.blob(sha256)
    if not blob.is_file():
        raise HubError(400, f"{value.get('path')}: its content {sha256} is not here. Upload it through LFS first.")
    size = blob.stat().st_size
    if value.get("size", size) != size:  # a copied file comes without one
        raise HubError(400, f"{value.get('path')}: {sha256} has {size} bytes, not {value['size']}.")
    return Entry(str(sha256), size, git_oid(lfs_pointer(str(sha256), size)), lfs=True)


def _apply(operation: _Operation, files: dict[str, Entry]) -> None:
    verb, path, entry = operation
    if entry is not None:
        files[path] = entry
        return
    doomed = [path] if verb == "delete" else [name for name in files if name.startswith(f"{path}/")]
    if not doomed or doomed[0] not in files:
        raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    for name in doomed:
        del files[name]


def _text(value: object) -> str:
    """Without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return str(value or "").encode(errors="replace").decode()


def _check_tree(files: dict[str, Entry]) -> None:
    for path in files:
        for folder in PurePosixPath(path).parents:
            if str(folder) in files:
                raise HubError(400, f"{folder} is a file, so {path} cannot be in it. Delete {folder} in this commit.")
