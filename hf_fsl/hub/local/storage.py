"""Files of a local Hub on disk: content under its sha256, everything else written whole or not at all.

Whatever is written goes to a temporary name in ``incoming/``, is synced and renamed. A kill at any moment leaves at
worst a file in ``incoming/``, which the next start removes once it is a day old.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hf_fsl.hub.local.rules import HubError

_LEFT_OVER_SECONDS = 24 * 3600.0


class Storage:
    """The folder of a Hub: ``blobs/``, ``incoming/`` and the server's ``secret``."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).resolve()
        self.temporary = self.root / "incoming"
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        self._sweep()
        self.secret = self._secret()

    def blob(self, sha256: object) -> Path:
        """Where the content of that digest is, or would be. Raises HubError 400 for what is no sha256."""
        if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise HubError(400, f"A sha256 is 64 hexadecimal digits. Got {sha256!r:.100}.")
        return self.root / "blobs" / sha256[:2] / sha256

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """A file being received; gone afterwards unless it was kept."""
        upload = Incoming(self)
        try:
            yield upload
        finally:
            upload.close()

    def write(self, path: Path, text: str) -> None:
        """Writes a small file, atomically."""
        with self.incoming() as upload:
            upload.write(text.encode())
            upload.move_to(path)

    def discard(self, folder: Path) -> None:
        """Removes a folder; it disappears at once, whatever happens while it is being emptied."""
        doomed = self.temporary / f"deleted-{secrets.token_hex(8)}"
        os.replace(folder, doomed)
        _sync(folder.parent)
        shutil.rmtree(doomed, ignore_errors=True)

    def _secret(self) -> bytes:
        path = self.root / "secret"
        if not path.is_file():
            with self.incoming() as upload:
                upload.write(secrets.token_hex(32).encode())
                upload.sync()
                # link, unlike rename, leaves the secret of another server that was faster
                with contextlib.suppress(FileExistsError):
                    os.link(upload.path, path)
        return path.read_bytes()

    def _sweep(self) -> None:
        limit = time.time() - _LEFT_OVER_SECONDS
        for path in self.temporary.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime > limit:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


class Incoming:
    """Content on its way in, hashed as it is written."""

    def __init__(self, storage: Storage) -> None:
        handle, name = tempfile.mkstemp(dir=storage.temporary)
        self.path, self.size, self._storage = Path(name), 0, storage
        self._file = os.fdopen(handle, "wb")
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def keep(self, sha256: str | None = None, size: int | None = None) -> str:
        """Moves the content to its place among the blobs.

        Args:
            sha256: what the content must have as digest, if that was announced.
            size: likewise its length in bytes.

        Returns:
            The content's sha256.

        Raises:
            HubError: 422, it is not what was announced; nothing is kept.
        """
        found = self._digest.hexdigest()
        if sha256 not in (None, found) or size not in (None, self.size):
            raise HubError(
                422,
                f"Announced: sha256 {sha256}, {size} bytes. Received: sha256 {found}, {self.size} bytes. "
                "Nothing was stored; upload the file again.",
            )
        self.move_to(self._storage.blob(found))
        return found

    def move_to(self, path: Path) -> None:
        self.sync()
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.path, path)
        _sync(path.parent)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Makes a rename inside the folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
