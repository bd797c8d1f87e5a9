"""SHA-256 of the source files, in the background while the weights are packed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import final

from ..files.closing import Closing

BLOCK_BYTES = 4 << 20


@final
class SourceDigests(Closing):
    """Hashes files of `folder` in a thread of its own; hashlib and reading release the GIL.

    Use it as a context manager: leaving it stops the thread.
    """

    def __init__(
        self,
        folder: Path,
        paths: Iterable[Path],
        base: Path | None = None,
        merged: Mapping[str, Iterable[Path]] | None = None,
    ) -> None:
        """Paths beside `folder`, in `base`, have "base/" before their names, `merged` their key."""
        self._paths: dict[str, Path] = {}
        for path in paths:
            if base is None or path.is_relative_to(folder):
                self._paths[path.relative_to(folder).as_posix()] = path
            else:
                self._paths[f"base/{path.relative_to(base).as_posix()}"] = path
        for label, others in (merged or {}).items():
            self._paths |= {f"{label}/{path.name}": path for path in others}
        self._digests: dict[str, str] = {}
        self._failure: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source digests", daemon=True)

    @property
    def names(self) -> list[str]:
        """The files, in order, as paths relative to their folder."""
        return list(self._paths)

    def result(self) -> dict[str, str]:
        """Wait, then return {name: digest in hexadecimal}; OSError when reading failed."""
        # Short waits keep Ctrl-C alive.
        while self._thread.is_alive():
            self._thread.join(0.1)
        if self._failure is not None:
            raise self._failure
        return dict(self._digests)

    def __enter__(self) -> SourceDigests:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for name, path in self._paths.items():
                self._digests[name] = self._hash(path)
        except OSError as reason:
            self._failure = reason

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK_BYTES))
        with path.open("rb", buffering=0) as stream:
            while not self._stop.is_set() and (count := stream.readinto(buffer)):
                digest.update(buffer[:count])
        return digest.hexdigest()
