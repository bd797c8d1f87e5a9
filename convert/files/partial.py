"""Hidden files and folders that are being written, and what killed processes left of them.

Whoever writes one holds a lock on it, which the system drops with the process. A lock counts on the
running system alone: a network's file system may not pass it on. So the name holds a mark of the
system, and what another one left, perhaps before a restart, is removed only once it is old.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path

from .destination import unwritable
from .system import lock, machine_name, open_flags, user_id

_NAME = re.compile(r"\.pythia_rt-([0-9a-f]{8})-[0-9a-f]{12}\.partial")
_ABANDONED_ELSEWHERE = 24 * 3600  # seconds without a change
_CLOSED = open_flags("O_CLOEXEC")
_LOOKING = open_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def create(folder: Path, *, is_folder: bool = False) -> tuple[Path, int]:
    """Create a hidden file, or folder, in `folder` and lock it; return it and its descriptor.

    Raises OSError with a sentence when the folder cannot be written.
    """
    while True:
        path = folder / f".pythia_rt-{_system()}-{secrets.token_hex(6)}.partial"
        try:
            descriptor = _open_new_folder(path) if is_folder else _open_new_file(path)
        except OSError as reason:
            raise unwritable(folder, reason) from None
        # Before it was locked, another process may have taken it for abandoned.
        if descriptor >= 0:
            if lock(descriptor) is not False and _stands(path, descriptor):
                return path, descriptor
            os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this user left in `folder`, and nothing else.

    What cannot be locked, looked at or removed stays.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if found := _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(folder / entry.name, found[1] == _system())


def _remove_if_abandoned(path: Path, is_of_this_system: bool) -> None:
    # O_NONBLOCK: opening a named pipe must not wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | _LOOKING)
    try:
        status = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(status.st_mode)
        if status.st_uid != user_id() or not (is_folder or stat.S_ISREG(status.st_mode)):
            return
        if not is_of_this_system and time.time() - status.st_mtime < _ABANDONED_ELSEWHERE:
            return
        if lock(descriptor):
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
    finally:
        os.close(descriptor)


def _open_new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOSED, 0o666)


def _open_new_folder(path: Path) -> int:
    """-1 when another process has removed it already."""
    path.mkdir()
    try:
        return os.open(path, os.O_RDONLY | open_flags("O_DIRECTORY", "O_CLOEXEC"))
    except FileNotFoundError:
        return -1


def _stands(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@functools.cache
def _system() -> str:
    """A mark of the running system, which containers share: that is how far a lock is seen."""
    try:
        name = _BOOT_ID.read_bytes()
    except OSError:
        name = machine_name().encode()
    return hashlib.sha256(name).hexdigest()[:8]
