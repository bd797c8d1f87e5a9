"""Files read by position. Not mapped: mapped pages would count as resident memory."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import with_sentence
from .lfs import MAX_POINTER_BYTES, refuse_pointer
from .system import open_flags, read_into

_OPENING = open_flags("O_CLOEXEC", "O_NONBLOCK")


class PositionalFile:
    """An open, read-only file with thread-safe reads at absolute offsets.

    Raises `error` (a ValueError with a sentence) when the path is not a regular file, when the file
    is a Git LFS pointer or ends before a read does, and OSError with a sentence when the system
    refuses.
    """

    def __init__(self, path: Path, error: type[ValueError]) -> None:
        self.path = path
        self._error = error
        # O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
        try:
            self._descriptor = os.open(path, os.O_RDONLY | _OPENING)
        except OSError as reason:
            raise self._unreadable(reason) from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise error(f"{path} is not a regular file: give a file with tensors in it")
        self.size: int = status.st_size  # bytes
        self._modified = status.st_mtime_ns
        try:
            if self.size < MAX_POINTER_BYTES:
                refuse_pointer(self.read(0, self.size), str(path), error)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for mapping."""
        return self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes that start at `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self._truncated()
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, destination: memoryview) -> None:
        """Fill `destination` (bytes, writable) from `offset` on."""
        done = 0
        while done < len(destination):
            try:
                count = read_into(self._descriptor, destination[done:], offset + done)
            except OSError as reason:
                raise self._unreadable(reason) from None
            if count == 0:
                raise self._truncated()
            done += count

    def stream(self) -> BinaryIO:
        """Return a new stream of the whole file, for what reads no positions; it is buffered."""
        return io.BufferedReader(_Stream(self))

    def has_changed(self) -> bool:
        """Return whether somebody has written into the file, or cut it short, since it was opened.

        A file that was renamed, deleted or replaced by another one is still as it was.
        """
        status = os.fstat(self._descriptor)
        return (status.st_size, status.st_mtime_ns) != (self.size, self._modified)

    def changed(self) -> ValueError:
        """Return the error for a file that has changed while it was in use."""
        return self._error(
            f"{self.path} was written to or cut short while it was in use: load it again, and "
            "replace such a file by renaming a new one, not in place"
        )

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _unreadable(self, reason: OSError) -> OSError:
        return with_sentence(
            reason, f"cannot read {self.path} ({reason.strerror}): check its permissions and disk"
        )

    def _truncated(self) -> ValueError:
        return self._error(f"{self.path} ends too early: it is truncated, fetch or write it again")


class _Stream(io.RawIOBase):
    """Reads a PositionalFile from where it stands; closing it closes nothing else."""

    def __init__(self, file: PositionalFile) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the beginning")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._place))
        self._file.read_into(self._place, view[:count])
        self._place += count
        return count
