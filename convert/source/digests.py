"""Digests of the source, files and tensors, in the background while the weights are packed."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, final

from ..errors import CheckpointError
from ..files.closing import Closing
from ..files.digest import sha256_of
from ..stopping import check_stop
from .tensor import SourceTensor
from .value_digests import TensorDigest, ValueDigests, combine, digest_tensor, is_buffer, undigested
from .verified import known_sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@final
class SourceDigests(Closing):
    """Hashes files of `folder` in a thread of its own, and tensors' values in another.

    But for files that this process has just fetched and verified: see verified.py.
    hashlib and reading release the GIL. Use it as a context manager: leaving it stops the threads.
    """

    def __init__(
        self,
        folder: Path,
        paths: Iterable[Path],
        base: Path | None = None,
        merged: Mapping[str, Iterable[Path]] | None = None,
        tensors: Mapping[str, SourceTensor] | None = None,
    ) -> None:
        """Paths beside `folder`, in `base`, have "base/" before their names, `merged` their key.

        `tensors` are digested by their values.
        """
        self._tensors = {n: t for n, t in (tensors or {}).items() if not is_buffer(t)}
        self._values: dict[str, TensorDigest] = {}
        self._paths: dict[str, Path] = {}
        for path in paths:
            if base is None or path.is_relative_to(folder):
                self._paths[path.relative_to(folder).as_posix()] = path
            else:
                self._paths[f"base/{path.relative_to(base).as_posix()}"] = path
        for label, others in (merged or {}).items():
            self._paths |= {f"{label}/{path.name}": path for path in others}
        self._digests: dict[str, str] = {}
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[work], name="source digests", daemon=True)
            for work in (self._hash_files, self._hash_tensors)
        ]

    @property
    def names(self) -> list[str]:
        """The files, in order, as paths relative to their folder."""
        return list(self._paths)

    def result(self) -> dict[str, str]:
        """Wait, then return {name: digest in hexadecimal}.

        Raises what reading raised, and CheckpointError for a file in the hub's cache whose name
        there is another digest: it was not verified when it came, or has changed since.
        """
        self._wait()
        for name, digest in self._digests.items():
            blob = self._paths[name].resolve()
            if blob.parent.name != "blobs":
                continue
            if _SHA256.fullmatch(blob.name) and blob.name != digest:
                raise CheckpointError(
                    f"{self._paths[name]} is damaged, its SHA-256 is not the hub's: delete {blob}, "
                    "and it is fetched again"
                )
            if _SHA1.fullmatch(blob.name) and blob.name != _git_digest(blob):
                raise CheckpointError(
                    f"{self._paths[name]} is damaged or was edited, its digest is not the hub's: "
                    f"delete {blob}, and it is fetched again; edit a copy of the folder"
                )
        return dict(self._digests)

    def values(self) -> ValueDigests:
        """Wait, then return the digests of the tensors without buffers; likewise."""
        self._wait()
        return combine(self._values)

    def no_values(self) -> dict[str, Any]:
        """Return what `values().stored()` will be, but for the digests."""
        return undigested(self._tensors)

    def _wait(self) -> None:
        check_stop()  # small files may be read before anybody looks
        # Short waits keep Ctrl-C alive.
        for thread in self._threads:
            while thread.is_alive():
                check_stop()
                thread.join(0.1)
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> SourceDigests:
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _hash_files(self) -> None:
        for name, path in self._paths.items():
            self._digests[name] = known_sha256(path) or sha256_of(path, self._stop.is_set)

    def _hash_tensors(self) -> None:
        for name, tensor in self._tensors.items():
            self._values[name] = digest_tensor(tensor, stopped=self._stop.is_set)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as reason:  # raised again where the result is asked for
            self._failure = reason


def _git_digest(path: Path) -> str:
    """The SHA-1 by which git, and the hub's cache, know a small file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
