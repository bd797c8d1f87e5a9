"""How near a measurement comes to what bounds it (Williams, Waterman and Patterson 2009)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Roof:
    """Limits, one figure for each repetition; None for one that does not bind."""

    read: Sequence[float] | None  # bytes/s
    multiply: Sequence[float] | None  # operations/s


def of_limits(
    passes: Sequence[float], size: float, operations: float, roof: Roof
) -> tuple[float | None, float | None, float | None]:
    """Return which part of the read limit, the multiply limit and the roof is reached.

    `passes` a second were measured, of `size` bytes and `operations` each. Every repetition is
    compared with limits of its own round, since a machine's speed changes; medians are returned.
    The roof is the limit that is reached most of.
    """
    parts = [
        [rate * work / most for rate, most in zip(passes, limit, strict=True)]
        for limit, work in ((roof.read, size), (roof.multiply, operations))
        if limit is not None
    ]
    nearest = [max(each) for each in zip(*parts, strict=True)]
    medians = iter([statistics.median(part) for part in parts])
    return (
        None if roof.read is None else next(medians),
        None if roof.multiply is None else next(medians),
        statistics.median(nearest) if nearest else None,
    )
