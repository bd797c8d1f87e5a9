"""The rows of queries, keys and values by head, and which of them may only be scaled together."""

from __future__ import annotations

from typing import final

import numpy as np

from ...flatfile.spec import Spec
from .gains import share_evenly
from .sums import Doubles


@final
class Heads:
    """Views of the rows of qkv: all queries, then all keys, then all values, head by head.

    Several heads of queries may share one of keys and values: they share its factors.
    """

    def __init__(self, spec: Spec) -> None:
        self._kv_heads, self._dim = spec["n_kv_heads"], spec["head_dim"]
        self._group = spec["n_heads"] // spec["n_kv_heads"]
        self._rotary_dim = spec["rotary_dim"]
        self._queries = spec["n_heads"] * spec["head_dim"]
        self._keys = spec["n_kv_heads"] * spec["head_dim"]

    def values(self, rows: Doubles) -> Doubles:
        """The part of `rows` [rows of qkv] that belongs to the values, as a view."""
        return rows[self._queries + self._keys :]

    def spread_values(self, values: Doubles) -> Doubles:
        """What attn_out's columns see of something per row of the values."""
        heads = values.reshape(self._kv_heads, 1, self._dim)
        spread: Doubles = np.repeat(heads, self._group, axis=1).reshape(-1)
        return spread

    def gather_values(self, columns: Doubles) -> Doubles:
        """The mean, per row of the values, over attn_out's columns that read it."""
        heads = columns.reshape(self._kv_heads, self._group, self._dim)
        mean: Doubles = heads.mean(axis=1)
        return mean.reshape(-1)

    def keys(self, rows: Doubles) -> Doubles:
        """The part of `rows` [rows of qkv] that belongs to the keys, as a view."""
        return rows[self._queries : self._queries + self._keys]

    def take_constant_keys(self, bias: Doubles) -> Doubles:
        """Set what the bias [rows of qkv] adds to the keys' unrotated dimensions to 0, in place.

        It moves all scores of a query alike; the runtime leaves it out as well. Returns what it was
        [kv_heads * unrotated dimensions].
        """
        unrotated = self.keys(bias).reshape(self._kv_heads, self._dim)[:, self._rotary_dim :]
        constant: Doubles = unrotated.reshape(-1).copy()
        unrotated[:] = 0
        return constant

    def score_factors(self, squares: Doubles) -> Doubles:
        """Factors of the rows of qkv that make queries and keys equally large, and keep q . k.

        `squares` are the rows' mean squares. A rotation mixes dimension i with i + rotary_dim / 2,
        so the two share a factor; the values keep 1.
        """
        shape = (self._kv_heads, -1, self._dim)
        queries = self._pairs(squares[: self._queries].reshape(shape).mean(axis=1))
        keys = squares[self._queries : self._queries + self._keys]
        shares = share_evenly(
            np.sqrt(self._pairs(keys.reshape(self._kv_heads, self._dim))).ravel(),
            np.sqrt(queries).ravel(),
        )
        factors = np.ones_like(squares)
        factors[: self._queries] = 1 / self.spread_values(shares)
        factors[self._queries : self._queries + self._keys] = shares
        return factors

    def _pairs(self, squares: Doubles) -> Doubles:
        """[heads, dimensions] with both dimensions of each rotated pair at their mean."""
        half = self._rotary_dim // 2
        result: Doubles = squares.copy()
        mean = (squares[:, :half] + squares[:, half : self._rotary_dim]) / 2
        result[:, :half] = mean
        result[:, half : self._rotary_dim] = mean
        return result
