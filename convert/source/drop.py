"""Drops the weights of a downloaded checkpoint that has been converted."""

from __future__ import annotations

from pathlib import Path

from ..errors import Sentence
from .checkpoint import SHARD_SUFFIXES
from .hub import identify


def check_droppable(source: str | Path) -> None:
    """Raise ValueError for a local source: what a user put there is never deleted."""
    if Path(source).expanduser().exists():
        why = f"{source} is yours, only what was downloaded is dropped"
        raise ValueError(
            Sentence(f"{why}: leave keep_source on", f"{why}: leave --drop-source out")
        )


def drop_weights(snapshot: Path) -> int:
    """Remove the files of weights of a snapshot in the hub's cache; the small files stay.

    A content that another snapshot has too stays for that. Returns the bytes that are free again.
    """
    from .store import Store  # with the library of its locks, which folders do without

    name, commit = identify(snapshot)
    weights = [
        path.relative_to(snapshot).as_posix()
        for path in sorted(snapshot.rglob("*"))
        if path.suffix in SHARD_SUFFIXES
    ]
    return Store(snapshot.parent.parent.parent, name).drop(commit, weights)
