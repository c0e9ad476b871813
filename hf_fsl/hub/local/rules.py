"""What the local Hub accepts as a repository id, a path, a revision; and how it says no."""

from __future__ import annotations

import json
import re
from typing import Any

KINDS = ("models", "datasets", "spaces")

_RESERVED = {*KINDS, "api", "lfs"}  # first parts of URLs: a namespace of that name could not be reached
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REVISION_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class HubError(Exception):
    """An answer other than success.

    Args:
        status: HTTP status.
        message: what a person should know.
        code: the Hub's name for it (RepoNotFound, RevisionNotFound, EntryNotFound), which clients turn into
            typed exceptions.
    """

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def json_object(text: str | bytes) -> dict[str, Any]:
    """A request's JSON object. Raises HubError 400 for what is none, and for numbers that are none in JSON.

    Infinity and NaN are Python's alone, and a nesting that Python's reader cannot follow is of no client.
    """
    try:
        values = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HubError(400, f"This is not JSON: {str(error) or type(error).__name__}.") from error
    if not isinstance(values, dict):
        raise HubError(400, f"A JSON object is wanted, not {type(values).__name__}.")
    return values


def whole_number(value: object, name: str) -> int:
    """A size or count that a client gave. Raises HubError 400 for what is none that a file could have."""
    digits = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,18}", digits):
        raise HubError(400, f"{name}: a whole number from 0 on, at most 18 digits. Got {value!r:.50}.")
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def check_repo(namespace: str, name: str) -> None:
    """Raises HubError 400 for what is no repository id; what passes is safe as a folder name."""
    for part in (namespace, name):
        bad = not _NAME.fullmatch(part) or ".." in part or "--" in part or part.endswith(".git") or len(part) > 96
        if bad or namespace.lower() in _RESERVED:
            raise HubError(
                400,
                f"A repository id is namespace/name: letters, digits, '_', single '-' and '.' inside, at most 96 "
                f"each, and no namespace {', '.join(sorted(_RESERVED))}. Got {namespace!r} and {name!r}.",
            )


def check_path(path: object) -> str:
    """The path of a file inside a repository. Raises HubError 400 where it could lead anywhere else."""
    if (
        not isinstance(path, str)
        or not 0 < len(path) <= 1000
        or "\\" in path
        or _CONTROL.search(path)
        or any("\ud800" <= letter <= "\udfff" for letter in path)
        or any(part in ("", ".", "..") for part in path.split("/"))
    ):
        raise HubError(
            400,
            f"A path in a repository is relative, divided by single '/', without '.', '..', backslashes and control "
            f"characters, at most 1000 letters. Got {path!r:.200}.",
        )
    return path


def is_revision(revision: str) -> bool:
    """Whether this could name a branch, tag, pull request or commit."""
    parts = revision.split("/")
    return len(revision) <= 100 and all(_REVISION_PART.fullmatch(part) and ".." not in part for part in parts)


def check_ref_name(name: object) -> str:
    """The name of a new branch or tag. Raises HubError 400."""
    if (
        not isinstance(name, str)
        or not is_revision(name)
        or name.startswith("refs/")
        or name.endswith(".lock")
        or re.fullmatch(r"[0-9a-f]{40}", name)  # would hide the commit of that id
    ):
        raise HubError(
            400,
            f"A branch or tag is named by letters, digits and '._+-' in parts divided by '/', at most 100 letters, "
            f"not like a commit id and not below refs/. Got {name!r:.200}.",
        )
    return name
