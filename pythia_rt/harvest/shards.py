"""Shards of a harvest, which a thread writes while the rows that follow are computed."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import AtomicFile
from pythia_rt.convert.files.closing import Closing
from pythia_rt.harvest.capture import DTYPES
from pythia_rt.harvest.folder import header, shard_name, write_meta

_MOST_WAITING = 1 << 28  # bytes of rows: computing goes on while a disk takes its time


@final
class ShardWriter(Closing):
    """Writes one shard after another, and names each in meta.json once all its files are there.

    Its methods raise what went wrong in the thread, later than it happened.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], n_shards: int) -> None:
        """`meta` is what meta.json says, and is kept to what it says."""
        self._folder = folder
        self._meta = meta
        self._n_shards = n_shards
        self._thread = ThreadPoolExecutor(1, "pythia_rt harvest")
        self._waiting: deque[tuple[int, Future[None]]] = deque()  # and their bytes
        # The thread's own.
        self._failed = False
        self._files: dict[str, AtomicFile] = {}
        self._digests: dict[str, Any] = {}

    def begin(self, number: int, n_tokens: int) -> None:
        """Begin a shard of so many rows."""
        self._do(0, lambda: self._begin(number, n_tokens))

    def add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Append rows of each point [tokens, width], by its name."""
        self._do(sum(part.nbytes for part in rows.values()), lambda: self._add(rows))

    def end(self, number: int, n_tokens: int) -> None:
        """Give the shard's files their names."""
        self._do(0, lambda: self._end(number, n_tokens))

    def finish(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._waiting.popleft()[1].result()

    def close(self) -> None:
        """Give up what waits; of a shard that has not ended nothing remains."""
        self._thread.shutdown(cancel_futures=True)
        self._discard()

    def _do(self, size: int, action: Callable[[], None]) -> None:
        while self._waiting and (
            self._waiting[0][1].done()
            or sum(waiting for waiting, _ in self._waiting) + size > _MOST_WAITING
        ):
            self._waiting.popleft()[1].result()
        self._waiting.append((size, self._thread.submit(self._unless_failed, action)))

    def _unless_failed(self, action: Callable[[], None]) -> None:
        """Do it; nothing after what went wrong, for a shard without some rows is none."""
        if self._failed:
            return
        self._failed = True
        action()
        self._failed = False

    def _begin(self, number: int, n_tokens: int) -> None:
        for point, width in self._meta["points"].items():
            (self._folder / point).mkdir(exist_ok=True)
            file = AtomicFile(self._folder / shard_name(point, number), force=True)
            self._files[point] = file
            start = header((n_tokens, width), DTYPES[self._meta["dtype"]])
            file.write(start)
            self._digests[point] = hashlib.sha256(start)

    def _add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        for point, file in self._files.items():
            content = rows[point].data.cast("B")
            file.write(content)
            self._digests[point].update(content)

    def _end(self, number: int, n_tokens: int) -> None:
        for file in self._files.values():
            file.publish()
        self._discard()
        digests = {point: digest.hexdigest() for point, digest in self._digests.items()}
        before = self._meta["shards"]
        there = [
            *before[:number], {"tokens": n_tokens, "sha256": digests}, *before[number + 1 :]
        ]  # fmt: skip
        complete = len(there) == self._n_shards
        write_meta(self._folder, {**self._meta, "shards": there, "complete": complete})
        self._meta["shards"] = there

    def _discard(self) -> None:
        for file in self._files.values():
            file.discard()
        self._files = {}


def is_whole(folder: Path, meta: dict[str, Any], number: int) -> bool:
    """Whether meta.json names a shard whose files are there, of their sizes."""
    if number >= len(meta["shards"]):
        return False
    n_tokens, dtype = meta["shards"][number]["tokens"], np.dtype(DTYPES[meta["dtype"]])
    for point, width in meta["points"].items():
        path = folder / shard_name(point, number)
        size = len(header((n_tokens, width), dtype)) + n_tokens * width * dtype.itemsize
        if not path.is_file() or path.stat().st_size != size:
            return False
    return True
