"""How a program of ours ends: an error that its user can mend is one line, a fault of ours keeps its traceback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable

from hf_fsl.core.errors import UserError
from hf_fsl.core.processes import is_supervised
from hf_fsl.core.terminal import printable

TRACEBACK = "HF_FSL_TRACEBACK"
"""Environment variable: with it, every error keeps its traceback."""
HINT = (
    "This looks like a fault of hf_fsl, or of a library below it. Please report it with the lines above and what "
    "`hf-fsl env` prints."
)
_OUT_OF_MEMORY = (
    "The memory does not suffice: use smaller batches, shorter texts, a smaller model, or another machine."
)
_FOREIGN = {
    "_csv": {"Error"},
    "_pickle": {"UnpicklingError"},
    "datasets": {"DatasetsError"},
    "httpx2": {"HTTPError", "InvalidURL", "StreamError"},
    "optuna": {"OptunaError"},
    "pandas": {"ParserError", "EmptyDataError"},
    "PIL": {"DecompressionBombError"},
    "pyarrow": {"ArrowException"},
    "safetensors": {"SafetensorError"},
    "sqlalchemy": {"SQLAlchemyError"},
    "sqlite3": {"Error"},
    "tomllib": {"TOMLDecodeError"},
    "torch": {"DistError"},
    "yaml": {"YAMLError"},
    "zipfile": {"BadZipFile"},
    "zlib": {"error"},
}
"""Package -> its errors that speak of files, servers and processes; looked up by name, so that none is loaded."""


def run_plainly(work: Callable[[], int], program: str) -> int:
    """Runs a program. Returns its exit code, after one line on the standard error where it failed.

    Args:
        program: what the line begins with.

    Raises:
        Exception: what must be a fault of ours, with a note on how to report it.
    """
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # a reader that is gone is noticed here, not while the interpreter ends
        return code
    except BrokenPipeError:  # as by `| head`: the reader has what it wanted
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE
    except (Exception, KeyboardInterrupt) as error:
        line = explanation(error)
        if line is None or os.environ.get(TRACEBACK):
            if line is None:
                error.add_note(HINT)
            raise
        if line:
            begun = "" if isinstance(error, KeyboardInterrupt) else f"{program}: "
            print(printable(begun + line, lines=True), file=sys.stderr, flush=True)
        return int(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))


def explanation(error: BaseException) -> str | None:
    """What an error tells somebody who cannot change the code; None for what must be a fault of ours.

    Empty for a Ctrl-C of which the process that launched this one speaks, or another of its launch.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        alone = type(error) is KeyboardInterrupt and not is_supervised()
        return str(error) or ("Interrupted." if alone else "")
    where = f" ({TRACEBACK}=1 shows where.)"
    if _is_out_of_memory(error):
        return _OUT_OF_MEMORY + where
    if isinstance(error, UnicodeEncodeError):
        return f"The output is in {error.encoding}, which lacks some letters. Set PYTHONUTF8=1." + where
    if isinstance(error, UnicodeDecodeError):
        return f"A file is not UTF-8 text: {error}." + where
    if isinstance(error, json.JSONDecodeError):
        return f"A file, or a server's answer, is not JSON: {error}." + where
    if isinstance(error, ImportError) and not (error.name or "").startswith("hf_fsl"):
        return _sentence(error) + where
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{_shown(error.filename)}: {error.strerror}." + where
    if isinstance(error, OSError) or _is_foreign(error):
        cause = f" {_sentence(error.__cause__)}" if error.__cause__ is not None else ""
        return f"{_sentence(error)}{cause}{where}"
    return None


def _is_foreign(error: BaseException) -> bool:
    kinds = type(error).__mro__
    return any(
        kind.__module__ == "huggingface_hub.errors"
        or kind.__name__ in _FOREIGN.get(kind.__module__.partition(".")[0], ())
        for kind in kinds
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    said = str(error) if isinstance(error, RuntimeError) else ""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or "DefaultCPUAllocator" in said or "out of memory" in said


def _shown(filename: object) -> str:
    return os.fsdecode(filename) if isinstance(filename, (str, bytes, os.PathLike)) else str(filename)


def _sentence(error: BaseException) -> str:
    """An error in one line that ends with a full stop, its kind in front where nothing else says what it is."""
    said = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {said}." if said else f"{type(error).__name__}."
