"""A file of the hub that is read where it is, in ranges, as `PositionalFile` reads one here."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import final

import httpx2

from ..errors import CheckpointError
from ..files.positional import PositionalFile
from .ranges import read_ranges

# What is asked for in pieces smaller than a block comes from whole blocks, the last of which are
# kept: a header of safetensors is one request, and so are the first rows of a tensor.
BLOCK_BYTES = 256 << 10
_KEPT = 16


@final
class RangedFile(PositionalFile):
    """The file `path` of a commit of the model `name`, `size` bytes long.

    Raises CheckpointError when it ends before a read does, ConnectionError and what else
    `read_ranges` raises when the hub does not send it.
    """

    def __init__(self, name: str, commit: str, path: str, size: int, client: httpx2.Client) -> None:
        # Nothing of a file here is opened, so the other constructor has nothing to do.
        self.path = Path(path)
        self.size = size
        self._name = name
        self._commit = commit
        self._client = client
        self._error = CheckpointError
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def fileno(self) -> int:
        """There is none."""
        raise OSError(f"{self.path} of {self._name} is on the hub: it has no descriptor")

    def read_into(self, offset: int, destination: memoryview) -> None:
        """Fill `destination` (bytes, writable) from `offset` on."""
        length = len(destination)
        if offset < 0 or offset + length > self.size:
            raise self._truncated()
        if length >= BLOCK_BYTES:
            destination[:] = self._fetch(offset, offset + length)
            return
        done = 0
        while done < length:
            start, inside = divmod(offset + done, BLOCK_BYTES)
            piece = self._block(start * BLOCK_BYTES)[inside : inside + length - done]
            destination[done : done + len(piece)] = piece
            done += len(piece)

    def has_changed(self) -> bool:
        """A commit never changes."""
        return False

    def close(self) -> None:
        """Forget the blocks."""
        self._blocks.clear()

    def _block(self, start: int) -> bytes:
        if start not in self._blocks:
            self._blocks[start] = self._fetch(start, min(start + BLOCK_BYTES, self.size))
            if len(self._blocks) > _KEPT:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(start)
        return self._blocks[start]

    def _fetch(self, begin: int, end: int) -> bytes:
        path = self.path.as_posix()
        return read_ranges(self._name, self._commit, path, [(begin, end)], client=self._client)[0]
