"""What not every system has, and what is done where it is missing: Linux and macOS have it all."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator

_seeking = threading.Lock()  # where reading and writing move a file's place


def open_flags(*names: str) -> int:
    """The flags of os.open of these names that there are, and that bytes are read as they are."""
    found = getattr(os, "O_BINARY", 0)
    for name in names:
        found |= getattr(os, name, 0)
    return found


@contextlib.contextmanager
def _standing_at(descriptor: int, place: int) -> Iterator[None]:
    """Have a file stand at a place, for one thread alone, and then again where it stood."""
    with _seeking:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, place, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def read_into(descriptor: int, destination: memoryview, place: int) -> int:
    """Read at a place in a file, from any thread; how many bytes, 0 at the end."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [destination], place)
    piece = read_at(descriptor, len(destination), place)
    destination[: len(piece)] = piece
    return len(piece)


def read_at(descriptor: int, length: int, place: int) -> bytes:
    """At most `length` bytes at a place; where the file stands does not change."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, place)
    with _standing_at(descriptor, place):
        return os.read(descriptor, length)


def write_at(descriptor: int, content: memoryview, place: int) -> int:
    """Write at a place, and return how much; where the file stands does not change."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, place)
    with _standing_at(descriptor, place):
        return os.write(descriptor, content)


def lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed, or the process ends.

    False when another process holds the lock, None where the system or its file system has none.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def user_id() -> int:
    """Whose files this process makes; 0, as `os.stat` says of all, where they have no number."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def machine_name() -> str:
    """What this machine is called."""
    return platform.node()


def total_memory() -> int:
    """Bytes of the machine's memory; sys.maxsize where the system does not say."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def private_memory(size: int) -> mmap.mmap:
    """Zeros of this process alone, in pages of 2 MiB where the system has them. Raises OSError."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def block_interrupts() -> None:
    """Keep Ctrl-C from this thread and the processes that it starts, where the system can."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
