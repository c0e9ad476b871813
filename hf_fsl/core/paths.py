"""Where the recipes are, and paths without what is private to this machine."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from hf_fsl.core.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_PATH = re.compile(r"(?:(?<![\w.~:/\\-])|(?<=://)|(?<=:///))/(?!/)[^\s'\"`,;|<>()\[\]{}]+")
"""An absolute path in a text, or in the address of a local file; not the path of a URL."""
_PASSWORD = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]+@")


def recipes_folder() -> Path:
    """The folder with the recipe scripts, ``configs/`` and ``data/``: in an installed wheel it is in the package.

    Raises:
        UserError: it is not there.
    """
    folders = [_PACKAGE / "_recipes", _PACKAGE.parent / "recipes"]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"This installation of hf_fsl is not whole: {folders[0]} is missing. Install it again.")


def find_config(name: str, recipe: str | None = None) -> Path:
    """A config file: the path as given, else below the recipes folder, else ``configs/<recipe>/<name>.yaml`` there.

    Args:
        recipe: whose config it is; None: any recipe's, if only one has a config of that name.

    Raises:
        UserError: there is none, or more than one; the message lists what is there.
    """
    folder = recipes_folder() / "configs"
    wanted = [Path(name), recipes_folder() / name, folder / name]
    found = next((path for path in wanted if path.is_file()), None)
    if found is None:
        # Compared, not globbed: a glob takes no absolute path, and "*" and "[" for patterns.
        there = sorted(folder.rglob("*.yaml"))
        own = [path.as_posix() for path in there if recipe is None or path.is_relative_to(folder / recipe)]
        matches = [Path(path) for path in own if path.endswith((f"/{name}.yaml", f"/{name}"))]
        if len(matches) == 1:
            return matches[0]
        known = ", ".join(str(path.relative_to(folder)) for path in matches or there)
        found_some = f"Several recipes have a config {name!r}" if matches else f"There is no config {name!r}"
        raise UserError(f"{found_some}. Give a file, or one that comes with hf_fsl: {known}.")
    return found


def portable(path: str) -> str:
    """A path without what is private to this machine, for records and cards that are published.

    Below the recipes or the working folder it becomes relative; elsewhere only the last part is kept.
    """
    if not os.path.isabs(path):
        return path
    given = Path(path)
    if given.is_relative_to(recipes_folder()):
        return f"recipes/{given.relative_to(recipes_folder()).as_posix()}"
    return given.relative_to(Path.cwd()).as_posix() if given.is_relative_to(Path.cwd()) else given.name or path


def portable_text(text: str) -> str:
    """A text with :func:`portable` in place of the paths of this machine, and without passwords in addresses.

    What merely begins with a slash, such as a class called ``/r/python``, is no path of this machine.
    """
    if os.path.isabs(text) and _is_here(text):
        return portable(text)
    text = _PASSWORD.sub(r"\1:***@", text)
    return _PATH.sub(lambda found: portable(found[0]) if _is_here(found[0]) else found[0], text)


def portable_values(value: Any) -> Any:
    """:func:`portable_text` of every string in nested lists and mappings; keys stay."""
    if isinstance(value, str):
        return portable_text(value)
    if isinstance(value, dict):
        return {name: portable_values(item) for name, item in value.items()}
    return [portable_values(item) for item in value] if isinstance(value, (list, tuple)) else value


def machine_folders() -> list[Path]:
    """Folders whose names are private to this machine or its user: home, working folder, temporary files, cache."""
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    named = [Path.home(), Path.cwd(), Path(tempfile.gettempdir()), cache]
    return list(dict.fromkeys(path for folder in named for path in (folder, folder.resolve()) if path != path.parent))


def _is_here(path: str) -> bool:
    try:
        return any(Path(path).is_relative_to(folder) for folder in machine_folders()) or Path(path).exists()
    except (OSError, ValueError):  # too long for a name, or with a null character
        return False
