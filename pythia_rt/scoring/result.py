"""What scoring finds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class _Judged:
    log_probabilities: NDArray[np.float32]
    is_likeliest: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.log_probabilities)

    @property
    def total(self) -> float:
        """ln of the probability of all of them, one after another: the sum, in float64."""
        return float(self.log_probabilities.sum(dtype=np.float64))

    @property
    def is_greedy(self) -> bool:
        """Whether each of its tokens was the likeliest."""
        return bool(self.is_likeliest.all())


@dataclass(frozen=True, eq=False)
class Score(_Judged):
    """What a model thinks of the n - 1 tokens of a text of n that have something before them.

    `log_probabilities`, float32 [n - 1], are ln of each one's probability given those before it, as
    far as its window goes; `is_likeliest`, bool [n - 1], says whether no other token was likelier.
    Where the `top` likeliest tokens were asked for, `top_ids`, int32 [n - 1, top], names them, the
    likeliest first and of equals the lower id, and `top_log_probabilities` has theirs.
    """

    top_ids: NDArray[np.int32] | None = None
    top_log_probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class PairScore(_Judged):
    """What a model thinks of a continuation of k tokens, given its context.

    `log_probabilities`, float32 [k], are ln of the probability of each of its `tokens`, int32 [k],
    given the context and those before it; `is_likeliest`, bool [k], says whether no other token was
    likelier.
    """

    tokens: NDArray[np.int32]


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: `total` is ln of the probability of `tokens` tokens.

    `bytes` is the length of what they spell, in UTF-8; None where token ids were given.
    """

    total: float
    tokens: int
    bytes: int | None

    @property
    def nats_per_token(self) -> float:
        """-ln of a token's probability, on average."""
        return -self.total / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the power of `nats_per_token`; infinite where that is no float."""
        return _exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float | None:
        """-log2 of a byte's probability, on average, which compares tokenizers; None without a
        text."""
        return None if self.bytes is None else -self.total / self.bytes / math.log(2)

    @property
    def byte_perplexity(self) -> float | None:
        """2 to the power of `bits_per_byte`; None without a text."""
        return None if self.bytes is None else _exp(-self.total / self.bytes)


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
