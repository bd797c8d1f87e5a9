"""Files and folders that appear under their names complete, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import partial
from .destination import check_folder, find_place, unwritten
from .system import open_flags, read_at, write_at

_PIECE = 1 << 20  # bytes read at a time


class AtomicFile:
    """A file being written, hidden beside where it will stand; `publish` gives it its name.

    A killed process leaves the hidden file; the next one that writes in the folder removes it.
    """

    def __init__(self, destination: Path, *, force: bool) -> None:
        """Create the hidden file. Raises what `find_place` raises."""
        self.destination = destination
        self._force = force
        self._place = find_place(destination, force=force)
        partial.remove_abandoned(self.folder)
        self._hidden, self.descriptor = partial.create(self.folder)

    @property
    def folder(self) -> Path:
        """The folder that it is in: where the destination is a link, its target's."""
        return self._place.parent

    @property
    def hidden(self) -> Path:
        """Where it stands until it has its name."""
        return self._hidden

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes. Raises OSError with a sentence when the system refuses."""
        left = memoryview(content).cast("B")
        with explained(self.destination):
            while left:
                left = left[os.write(self.descriptor, left) :]

    def write_at(self, place: int, content: bytes | memoryview) -> None:
        """Replace bytes, and append after them as before. Raises what `write` raises."""
        left = memoryview(content).cast("B")
        with explained(self.destination):
            while left:
                written = write_at(self.descriptor, left, place)
                left, place = left[written:], place + written

    def digest(self, place: int) -> hashlib._Hash:
        """The SHA-256 of everything from `place` on, read again."""
        found = hashlib.sha256()
        with explained(self.destination):
            while piece := read_at(self.descriptor, _PIECE, place):
                found.update(piece)
                place += len(piece)
        return found

    def publish(self) -> None:
        """Flush to the disk, give the file its name, close it.

        Raises FileExistsError when the destination has appeared meanwhile and `force` is false, and
        OSError when it has become what may not be replaced.
        """
        with explained(self.destination):
            os.fsync(self.descriptor)
            if find_place(self.destination, force=self._force) != self._place:
                raise OSError(f"{self.destination} was changed meanwhile: nothing is written")
            if self._force or not self._link():
                self._hidden.replace(self._place)
        self.discard()
        _flush(self.folder)

    def discard(self) -> None:
        """Close the file; unless it was published, nothing of it remains. May be called twice."""
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):  # what went wrong before is the news
                self._hidden.unlink(missing_ok=True)
            os.close(self.descriptor)
            self.descriptor = -1

    def _link(self) -> bool:
        """Give it its name unless that exists; whether the file system can do this in one step."""
        try:
            os.link(self._hidden, self._place)
        except FileExistsError:
            find_place(self.destination, force=False)  # which says so
            raise
        except OSError:  # one without hard links
            return False
        return True


@contextlib.contextmanager
def explained(destination: Path) -> Iterator[None]:
    """Say what was to be written when the system refuses."""
    try:
        yield
    except OSError as reason:
        if reason.strerror is None:  # a sentence already
            raise
        raise unwritten(destination, reason) from None


def write_file(destination: Path, content: bytes | memoryview, *, force: bool = True) -> None:
    """Write a whole file, which appears complete or not at all. Raises what AtomicFile raises."""
    file = AtomicFile(destination, force=force)
    try:
        file.write(content)
        file.publish()
    finally:
        file.discard()


@contextlib.contextmanager
def new_folder(destination: Path) -> Iterator[Path]:
    """A hidden folder to fill, which becomes `destination` at the end of the block.

    After any exception nothing of it remains. Raises FileExistsError when `destination` exists and
    is no empty folder, OSError when the folder around it is missing or not writable.
    """
    is_folder = destination.is_dir() and not destination.is_symlink()
    if os.path.lexists(destination) and not (is_folder and not any(destination.iterdir())):
        raise FileExistsError(f"{destination} exists: choose another folder, or delete it")
    check_folder(destination.parent)
    partial.remove_abandoned(destination.parent)
    hidden, descriptor = partial.create(destination.parent, is_folder=True)
    try:
        yield hidden
        hidden.rename(destination)
        _flush(destination.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(descriptor)


def _flush(folder: Path) -> None:
    """A new name is durable only once its folder is; the file is whole without that."""
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY | open_flags("O_CLOEXEC"))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
