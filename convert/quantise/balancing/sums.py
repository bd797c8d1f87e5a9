"""One pass over a matrix for what balancing must know of it: sums over its rows and columns."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...flatfile.layout import Linear
from .source import Source

Doubles = NDArray[np.float64]

# Rows at a time: small enough for the second-level cache. Not a matter of speed alone, the sums
# depend on it in their last bits, so it is the same for every source.
_STEP = 64
_SEGMENT = 128  # values whose sum is taken in f32
_LEAST = 1e-30  # of a row's sum of squares: one below it counts as zeros


class Sums(NamedTuple):
    """Sums over a matrix W [rows, columns], with G the gain of its columns, all in float64.

    `rows`: sum over columns of (W G)^2. `columns`: sum over rows of (W G)^2, where each row was
    first divided by its own norm if asked for. `shifted`: W @ shift, zeros without one.
    """

    rows: Doubles
    columns: Doubles
    shifted: Doubles


def add_up(
    source: Source,
    matrix: Linear,
    *,
    gain: Doubles | None = None,
    shift: Doubles | None = None,
    relative: bool = False,
) -> Sums | None:
    """Read `matrix` once; `relative` counts every row alike, whatever its norm.

    None where the sums are too large for float32: such a model does not run either. Raises what
    `source.not_finite` returns for the first row with a NaN or Inf.
    """
    rows, shifted, columns = np.zeros(matrix.rows), np.zeros(matrix.rows), np.zeros(matrix.columns)
    ones = np.ones(_STEP, np.float32)
    scratch = np.empty((min(_STEP, matrix.rows), matrix.columns), np.float32)
    first = 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared_gain = np.ones(matrix.columns, np.float32) if gain is None else _float(gain * gain)
        addend = None if shift is None or not shift.any() else _float(shift)
        for values in source.rows(matrix, _STEP):
            here = slice(first, first + len(values))
            squares = np.multiply(values, values, out=scratch[: len(values)])
            rows[here] = _dot_rows(squares, squared_gain)
            if not np.isfinite(rows[here]).all():
                bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
                if bad.size:
                    raise source.not_finite(matrix, first + int(bad[0]))
                return None
            if addend is not None:
                shifted[here] = _dot_rows(values, addend)
            weights = ones[: len(values)]
            if relative:
                weights = _float(reciprocal(np.where(rows[here] > _LEAST, rows[here], 0)))
            columns += np.einsum("ij,i->j", squares, weights)
            first += len(values)
        columns *= squared_gain
    good = all(np.isfinite(sums).all() for sums in (columns, shifted))
    return Sums(rows, columns, shifted) if good else None


def reciprocal(values: Doubles) -> Doubles:
    """1 / values, and 0 where a value is 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


def _dot_rows(values: NDArray[np.float32], vector: NDArray[np.float32]) -> Doubles:
    """values @ vector: f32 within segments, their sums in f64."""
    segment = math.gcd(len(vector), _SEGMENT)
    pieces = np.einsum(
        "rsi,si->rs",
        values.reshape(len(values), -1, segment),
        vector.reshape(-1, segment),
    )
    sums: Doubles = np.add.reduce(pieces, axis=1, dtype=np.float64)
    return sums


def _float(values: Doubles) -> NDArray[np.float32]:
    return values.astype(np.float32)
