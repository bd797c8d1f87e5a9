"""The bytes of a file in memory: mapped, shared with every process, or copied into huge pages."""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from .errors import Sentence
from .files import PositionalFile

_CHUNK = 64 << 20  # bytes that one thread reads at a time


def map_file(file: PositionalFile) -> NDArray[np.uint8]:
    """Return the file's bytes, read-only. Nothing is read yet; closing the file does not matter."""
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def copy_file(file: PositionalFile) -> NDArray[np.uint8]:
    """Return a copy of the file's bytes, read-only, in pages of 2 MiB where the system has them.

    They are read faster than a mapping's pages of 4 KiB, but are this process's own. Raises
    MemoryError with a sentence when they cannot be had.
    """
    try:
        memory = mmap.mmap(-1, file.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        lacking = f"there is no memory for a copy of {file.path} ({file.size / 1e6:.0f} MB)"
        raise MemoryError(
            Sentence(f"{lacking}: load it with copy=False", f"{lacking}: leave --copy out")
        ) from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)

    def read(start: int) -> None:
        file.read_into(start, view[start : min(start + _CHUNK, file.size)])

    # The pages are made as they are written: that too is work for every core.
    with ThreadPoolExecutor(_core.default_threads()) as pool:
        list(pool.map(read, range(0, file.size, _CHUNK)))
    data: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    data.flags.writeable = False
    return data
