"""The bytes of a file in memory: mapped, shared with every process, or copied into huge pages."""

from __future__ import annotations

import mmap
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..errors import Sentence
from ..files.positional import PositionalFile
from ..files.system import private_memory

_CHUNK = 64 << 20  # bytes that one thread reads at a time


class MappedFile:
    """A file's bytes as they are on the disk: nothing is read before it is needed.

    Whoever writes into the file meanwhile, or cuts it short, changes what is mapped. `check` finds
    that out afterwards; a read of bytes that are gone gives zeros instead of ending the process.
    """

    def __init__(self, file: PositionalFile) -> None:
        """Map `file`, which this closes when it goes."""
        self._file = file
        # Not at the end of the process, where what runs last may still `check`; nor by __del__, for
        # which there may be no `os` any more by then. The system closes it.
        weakref.finalize(self, file.close).atexit = False
        self._mapping = _Mapping(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._mapping.watch()
        self.data: NDArray[np.uint8] = np.frombuffer(self._mapping, np.uint8)

    def check(self) -> None:
        """Raise the file's error, with a sentence, when it is not as it was when it was opened."""
        if self._file.has_changed() or self._mapping.is_damaged():
            raise self._file.changed()


class _Mapping(mmap.mmap):
    """Arrays keep it alive, and with it the watch over its pages."""

    _range: _core.MappedRange

    def watch(self) -> None:
        self._range = _core.MappedRange(self)

    def is_damaged(self) -> bool:
        return self._range.is_damaged


def copy_file(file: PositionalFile) -> NDArray[np.uint8]:
    """Return a copy of the file's bytes, read-only, in pages of 2 MiB where the system has them.

    They are read faster than a mapping's pages of 4 KiB, but are this process's own. Raises
    MemoryError with a sentence when they cannot be had.
    """
    try:
        memory = private_memory(file.size)
    except OSError:
        lacking = f"there is no memory for a copy of {file.path} ({file.size / 1e6:.0f} MB)"
        raise MemoryError(
            Sentence(f"{lacking}: load it with copy=False", f"{lacking}: leave --copy out")
        ) from None
    view = memoryview(memory)

    def read(start: int) -> None:
        file.read_into(start, view[start : min(start + _CHUNK, file.size)])

    # The pages are made as they are written: that too is work for every core.
    with ThreadPoolExecutor(_core.default_threads()) as pool:
        list(pool.map(read, range(0, file.size, _CHUNK)))
    data: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    data.flags.writeable = False
    return data
