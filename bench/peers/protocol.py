"""What a runtime must be able to do to be measured, and what it may be able to do besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Room:
    """Tokens of key-value cache: of a sequence alone, and of each of several together."""

    one: int
    each: int
    sequences: int

    def of(self, sequences: int) -> int:
        """What each of so many sequences needs."""
        return self.one if sequences == 1 else self.each


@dataclass(frozen=True)
class Source:
    """A checkpoint to convert and load, a folder for what that writes, and how to run it."""

    checkpoint: Path
    folder: Path
    threads: int
    room: Room
    device: str = "cpu"  # one of bench.peers.devices.NAMES


class Reads(NamedTuple):
    """Bytes that writing one token reads; None where they are not known."""

    weights: int | None
    position: int | None  # of the key-value cache, for each token before

    def after(self, positions: int) -> int | None:
        """With so many tokens before it."""
        if self.weights is None or self.position is None:
            return None
        return self.weights + positions * self.position


class Runner(Protocol):
    """Reads prompts. It has one of the protocols below too, to write."""

    vocab_size: int
    reads: Reads

    def start(self, *prompts: Tokens) -> None:
        """Forget everything and read prompts of a length, to the logits after each one's last."""


@runtime_checkable
class Stepper(Runner, Protocol):
    """Writes greedily, whenever it is told to."""

    def step(self) -> None:
        """Take each sequence's likeliest token and compute the logits after it."""


@runtime_checkable
class Writer(Runner, Protocol):
    """Writes greedily, in a loop of its own."""

    def write_seconds(self, prompts: Sequence[Tokens], count: int) -> float:
        """Read prompts, write `count` tokens after each; what the writing took, without reading."""


@runtime_checkable
class Scorer(Runner, Protocol):
    """Judges texts that are there already."""

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """ln of the probability of each token but the first of every text, given those before."""
