"""A file that appears under its name complete, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from pathlib import Path

from .errors import with_sentence

_SUFFIX = ".partial"
# A file younger than this may belong to a process that has not locked it yet.
_ABANDONED_SECONDS = 10


class AtomicFile:
    """A file being written, hidden beside `destination`; `publish` gives it its name.

    A killed process leaves the hidden file behind; the next one with this destination removes it,
    which it recognises by the missing lock.
    """

    def __init__(self, destination: Path, *, force: bool) -> None:
        """Create the file.

        Raises FileExistsError when `destination` exists and `force` is false, and OSError with a
        sentence when its folder is missing or not writable.
        """
        check_destination(destination, force=force)
        self.destination = destination
        self._force = force
        _remove_abandoned(destination)
        name = f".{destination.name[:200]}.{secrets.token_hex(6)}{_SUFFIX}"
        self._hidden = destination.with_name(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self.descriptor = os.open(self._hidden, flags, 0o666)
        except OSError as reason:
            raise with_sentence(
                reason,
                f"cannot write in {destination.parent} ({reason.strerror}): choose another folder",
            ) from None
        _lock(self.descriptor)

    @property
    def hidden(self) -> Path:
        """Where it stands until it has its name."""
        return self._hidden

    def publish(self) -> None:
        """Flush to the disk, give the file its name, close it.

        Raises FileExistsError when the destination has appeared meanwhile and `force` is false.
        """
        os.fsync(self.descriptor)
        check_destination(self.destination, force=self._force)
        self._hidden.replace(self.destination)
        self.discard()
        # The new name is durable only once the folder is.
        folder = os.open(self.destination.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # not every file system can; the file is whole anyway
            os.fsync(folder)
        os.close(folder)

    def discard(self) -> None:
        """Close the file; unless it was published, nothing of it remains. May be called twice."""
        if self.descriptor >= 0:
            self._hidden.unlink(missing_ok=True)
            os.close(self.descriptor)
            self.descriptor = -1


def check_destination(destination: Path, *, force: bool) -> None:
    """Raise an OSError with a sentence when `destination` must not or cannot be written."""
    if destination.is_dir():
        raise IsADirectoryError(f"{destination} is a folder: name a file in it")
    if not force and os.path.lexists(destination):
        raise FileExistsError(
            f"{destination} exists: choose another name or pass --force (force=True)"
        )
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"{destination.parent} is not a folder: create it first")


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed, or the process ends; return whether that worked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(destination: Path) -> None:
    start = f".{destination.name[:200]}."
    try:
        beside = list(destination.parent.iterdir())
    except OSError:  # a folder that may be written but not listed
        return
    for path in beside:
        if not (path.name.startswith(start) and path.name.endswith(_SUFFIX)):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # gone, or somebody else's: not ours to remove
            continue
        try:
            age = time.time() - os.fstat(descriptor).st_mtime
            if age > _ABANDONED_SECONDS and _lock(descriptor):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
