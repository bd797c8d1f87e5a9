"""What is merged into a source as it is opened: adapters and task vectors, each with a weight."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .errors import quote

ADAPTER, TASK_VECTOR = "adapter", "task vector"
Weighted = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]


class Merge(NamedTuple):
    """Of `kind` ADAPTER, or TASK_VECTOR: a fine-tuned model less the source; `weight` times it."""

    kind: str
    path: Path
    weight: float
    number: int  # from 1 on, of its kind

    @property
    def label(self) -> str:
        """What it is called in a flat file's metadata."""
        return f"{self.kind} {self.number}"


def read_merges(kind: str, given: Iterable[Weighted]) -> tuple[Merge, ...]:
    """Return what was given to a caller's option: paths, or pairs of a path and a weight.

    Raises ValueError for anything else, and for a weight that is not finite.
    """
    what = f"{kind}s are a list of folders, or of pairs of a folder and a weight"
    if isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Iterable):
        raise ValueError(f"{what}: for a single one, a list of that one")
    merges = []
    for number, item in enumerate(given, 1):
        path, weight = item if isinstance(item, tuple) and len(item) == 2 else (item, 1.0)
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"{what}, not {quote(repr(item))}")
        number_like = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number_like or not math.isfinite(weight):
            raise ValueError(
                f"the weight of {kind} {os.fspath(path)} is {weight!r}: give a finite number"
            )
        merges.append(Merge(kind, Path(path).expanduser(), float(weight), number))
    return tuple(merges)
