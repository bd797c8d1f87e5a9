"""How many threads somebody may ask for."""

from __future__ import annotations

import os
from numbers import Integral

from .errors import Sentence, shown


def usable_processors() -> int:
    """Processors of this process's affinity mask, those that share a core counted each."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def checked_threads(threads: int | None) -> int:
    """Return the core's number of threads: 0, which stands for its default, for None.

    Raises ValueError for anything but None and whole numbers from 1 to usable_processors().
    """
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, Integral) or threads < 1:
        wanted = "threads must be a whole number of at least 1"
        raise ValueError(
            Sentence(
                f"{wanted}, or None for one per core, not {shown(threads)}",
                f"{wanted}, not {shown(threads)}: leave it out for one per core",
            )
        )
    if threads > (most := usable_processors()):
        raise ValueError(
            f"threads must be at most {most}, the processors that this process may use, not "
            f"{threads}: more would wait for each other"
        )
    return int(threads)
