"""The hub's own cache of a model's files, so that other tools find what was fetched here.

    models--OWNER--NAME/blobs/DIGEST               contents, each once
    models--OWNER--NAME/snapshots/COMMIT/PATH      links to them
    models--OWNER--NAME/refs/REVISION              the commit of a branch
    .locks/models--OWNER--NAME/DIGEST.lock         held by whoever writes or drops a blob

Source: the hub's documentation, "Hub Local Cache".
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from filelock import FileLock

from ..errors import CheckpointError, quote

if TYPE_CHECKING:
    from .listing import RemoteFile

_COMMIT = re.compile(r"[0-9a-f]{40}")


class Store:
    """One model's files in the cache `cache`."""

    def __init__(self, cache: Path, name: str) -> None:
        key = f"models--{name.replace('/', '--')}"
        self.cache = cache
        self.folder = cache / key
        self._locks = cache / ".locks" / key

    def blob(self, digest: str) -> Path:
        """Where the content with this digest is, or will be."""
        return self.folder / "blobs" / digest

    def snapshot(self, commit: str) -> Path:
        """The folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def lock(self, digest: str) -> FileLock:
        """The lock of a blob; the hub's library takes the same."""
        self._locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self._locks / f"{digest}.lock")

    def commit_of(self, revision: str) -> str | None:
        """The commit that `revision` was when it was last asked for, None if it never was."""
        if _COMMIT.fullmatch(revision):
            return revision
        if not _is_inside(revision):
            return None
        try:
            commit = (self.folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def set_ref(self, revision: str, commit: str) -> None:
        """Note what `revision` points at; a cache that cannot be written needs no note."""
        if revision == commit or self.commit_of(revision) == commit or not _is_inside(revision):
            return
        try:
            path = self.folder / "refs" / revision
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            written.write_text(commit, encoding="utf-8")
            written.replace(path)
        except OSError:
            return

    def holds(self, path: Path, file: RemoteFile) -> bool:
        """Whether `path` is there and, of weights, has the file's size: what a crash left has not.

        Small files are taken as they are, for people edit them there; conversion compares digests.
        """
        try:
            return path.stat().st_size == file.size or file.sha256 is None
        except OSError:
            return False

    def place(self, commit: str, path: str) -> Path:
        """Where the file `path` of a commit is, or will be; CheckpointError for a path outside."""
        if not _is_inside(path):
            raise CheckpointError(f"the hub lists {quote(path)}, which is no path: not fetched")
        return self.snapshot(commit).joinpath(*PurePosixPath(path).parts)

    def link(self, commit: str, file: RemoteFile) -> Path:
        """Give the blob its name in the snapshot; hold its lock, so that nobody drops it."""
        place, blob = self.place(commit, file.path), self.blob(file.digest)
        if self.holds(place, file):
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_name(f"{place.name}.{os.getpid()}.tmp")
        made.unlink(missing_ok=True)
        try:
            made.symlink_to(os.path.relpath(blob, place.parent))
        except OSError:  # a file system without links
            shutil.copyfile(blob, made)
        made.replace(place)
        return place

    def drop(self, commit: str, paths: Iterable[str]) -> int:
        """Remove these files of a commit, and their blobs where no other snapshot has them.

        Returns the number of bytes that are free again.
        """
        freed = 0
        for path in paths:
            place = self.place(commit, path)
            if not place.is_symlink():
                freed += place.stat().st_size if place.is_file() else 0
                place.unlink(missing_ok=True)
                continue
            blob = place.resolve()
            if blob.parent != self.blob("x").parent.resolve():
                continue  # not ours
            with self.lock(blob.name):
                place.unlink(missing_ok=True)
                if blob.is_file() and not self._is_used(blob):
                    freed += blob.stat().st_size
                    blob.unlink()
        return freed

    def _is_used(self, blob: Path) -> bool:
        return any(
            place.is_symlink() and place.resolve() == blob
            for place in (self.folder / "snapshots").rglob("*")
        )


def _is_inside(path: str) -> bool:
    """Whether `path`, which a server or user says, stays inside of the folder that it is put in."""
    inner = PurePosixPath(path)
    if inner.is_absolute() or not inner.parts or ".." in inner.parts:
        return False
    return path.isprintable() and not {"\\", ":"} & set(path)
