"""Files that this process fetched and verified: until somebody writes them, their digest is known.

A conversion that follows a download need not read gigabytes again to learn it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_State = tuple[int, ...]  # of a file: which it is, its size, and when it was written and changed

_known: dict[_State, str] = {}


def give_name(part: Path, place: Path, sha256: str | None) -> None:
    """Rename the file `part`, which has just been verified, to `place`; remember its `sha256`.

    Times come in steps, and a writer in the same step would leave none of its own. So the file's
    time is set back a little, which sets the time of its last change to now, and whoever writes
    from then on leaves a later one.
    """
    with suppress(OSError):  # a file system that keeps no such times: then nothing is remembered
        status = part.stat()
        os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    part.replace(place)
    status = place.stat()
    if sha256 is not None and status.st_mtime_ns < status.st_ctime_ns:
        _known[_state(status)] = sha256


def known_sha256(path: Path) -> str | None:
    """The SHA-256 of a file that was verified when it came, and is as it was then; else None.

    Raises OSError where there is no such file.
    """
    return _known.get(_state(path.stat()))


def _state(status: os.stat_result) -> _State:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
