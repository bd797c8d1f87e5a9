"""Where a command may write: which destinations are refused, and where a link leads.

Only a regular file is ever replaced, and only with force. A link stays a link: its target is
written, also when that does not exist yet.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import with_sentence

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def named_file(destination: str | os.PathLike[str]) -> Path:
    """Return the path that a user named for a file.

    Raises IsADirectoryError for a name that only a folder can have, as "new/", which a Path no
    longer tells from "new", and ValueError for one that no file can have.
    """
    text = os.fspath(destination)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no file name: choose another one")
    if os.path.basename(text) in ("", ".", ".."):  # noqa: PTH119
        raise _folder(text)
    return Path(text).expanduser()


def find_place(destination: Path, *, force: bool) -> Path:
    """Return where a file for `destination` is written: there, or where it links to.

    Raises an OSError with a sentence when it must not or cannot be written: FileExistsError without
    `force` for whatever exists, a link to nothing included; with and without `force` for a folder,
    a named pipe, a socket, a device, a loop of links, and a folder that is missing or not writable.
    """
    named = _status(destination, destination, follow=False)
    is_link = named is not None and stat.S_ISLNK(named.st_mode)
    found = _status(destination, destination, follow=True) if is_link else named
    place = Path(os.path.realpath(destination)) if is_link else destination
    if found is not None:
        if stat.S_ISDIR(found.st_mode):
            raise _folder(destination)
        if not stat.S_ISREG(found.st_mode):
            kind = _SPECIAL.get(stat.S_IFMT(found.st_mode), "a special file")
            raise OSError(
                f"{destination} is {kind}, and only a regular file is ever replaced: "
                "choose another name"
            )
        # What /proc shows as a link, to a file that has been deleted, leads to another place.
        there = _status(place, destination, follow=False)
        if there is None or not os.path.samestat(there, found):
            raise OSError(f"{destination} links to a file without a name: choose another name")
    if named is not None and not force:
        link = f" (a link to {place})" if is_link else ""
        raise FileExistsError(f"{destination}{link} exists: choose another name or pass force=True")
    check_folder(place.parent)
    return place


def _status(path: Path, destination: Path, *, follow: bool) -> os.stat_result | None:
    """What is there, None for nothing."""
    try:
        return path.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as reason:
        raise with_sentence(
            reason, f"cannot write {destination} ({reason.strerror}): choose another name"
        ) from None


def check_folder(folder: Path) -> None:
    """Raise an OSError with a sentence when nothing can be created in `folder`."""
    if not os.path.isdir(folder):  # noqa: PTH112, which raises nothing
        raise FileNotFoundError(f"{folder} is not a folder: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise unwritable(folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def check_new_folder(folder: Path) -> None:
    """Raise an OSError with a sentence when nothing can be created in `folder`, which need not be
    there, nor the folders above it."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):  # noqa: PTH112, which raises nothing
        if place == folder:
            raise FileExistsError(f"{folder} is a file: choose another folder")
        raise unwritable(folder, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
    if not os.access(place, os.W_OK | os.X_OK):
        raise unwritable(folder, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it where they are not there; raises as `check_new_folder`."""
    check_new_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise unwritable(folder, reason) from None


def unwritable(folder: Path, reason: OSError) -> OSError:
    """The error for a folder in which the system refuses, for `reason`, to create anything."""
    return with_sentence(
        reason, f"cannot write in {folder} ({reason.strerror}): choose another folder"
    )


def unwritten(destination: Path, reason: OSError) -> OSError:
    """The error for a file that the system, for `reason`, does not write to its end."""
    return with_sentence(
        reason,
        f"cannot write {destination} ({reason.strerror}): free some space or choose another disk",
    )


def _folder(destination: str | Path) -> IsADirectoryError:
    return IsADirectoryError(f"{destination} is a folder: name a file in it")
