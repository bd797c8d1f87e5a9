"""Repeated timings and their summary: medians, because the machines that measure are shared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rate:
    """Work per second over several repetitions."""

    median: float
    lowest: float
    highest: float
    repetitions: int

    @classmethod
    def of(cls, rates: Sequence[float]) -> Rate:
        return cls(statistics.median(rates), min(rates), max(rates), len(rates))

    def __str__(self) -> str:
        return f"{self.median:8.1f} ({self.lowest:.1f} to {self.highest:.1f})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
