"""What a kind of measurement needs to know and what it tells."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.measure import alternate
from pythia_rt import Model, Sampling


@dataclass(frozen=True)
class Sizes:
    """What there is to do. Lengths are in tokens."""

    prompts: int = 64
    lengths: tuple[int, int] = (16, 512)  # of the prompts of `mixed`
    new: int = 64
    arriving: int = 1500  # the prompt that a running text meets
    written: int = 256  # by each text whose Python is timed
    rows: int = 16
    seen: int = 900
    prompt: int = 1000  # that begins with them
    samples: int = 8
    sampled: int = 500  # their prompt
    context: int = 300
    continuations: int = 4


@dataclass(frozen=True)
class Setting:
    """A model, how often to measure it, and what for."""

    path: Path
    model: Model
    threads: int
    repetitions: int
    sizes: Sizes
    checkpoint: Path | None = None  # of the model, for peers
    peers: tuple[str, ...] = ()
    pair: tuple[str, str] = ("1.4b", "70m")  # shapes: of a model and of its draft
    format: str = "q4"  # of these two

    def tokens(self, count: int, seed: int = 0) -> list[int]:
        """Random ids, none of which ends a text."""
        random = np.random.default_rng(seed)
        drawn: list[int] = random.integers(1, int(self.model.spec["n_tokens"]), count).tolist()
        return drawn


@dataclass(frozen=True)
class Figure:
    """What repetitions of one measurement came to."""

    kind: str
    runner: str
    values: list[float]
    unit: str
    tokens: int = 0
    context: int = 0
    sequences: int = 1

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def line(self) -> str:
        """For people, with the quartiles."""
        low, high = np.quantile(self.values, [0.25, 0.75])
        return f"{self.median:10.3f} ({low:.3f} to {high:.3f}) {self.unit}"


def in_turn(
    setting: Setting,
    kind: str,
    measurements: Mapping[str, Callable[[], float]],
    unit: str,
    **facts: int,
) -> list[Figure]:
    """A figure of each, measured in turn after a warm-up."""
    found = alternate(measurements, setting.repetitions)
    return [Figure(kind, name, rates.values, unit, **facts) for name, rates in found.items()]


def greedy(count: int) -> Sampling:
    """So many tokens, the likeliest each time."""
    return Sampling(max_new_tokens=count, temperature=0)
