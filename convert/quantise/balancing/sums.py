"""One pass over a matrix for what balancing must know of it: sums over its rows and columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ...flatfile.layout import Linear
from ..pieces import to_float32
from .source import Rows, Source

Doubles = NDArray[np.float64]


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
    first = 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squared_gain = np.ones(matrix.columns, np.float32) if gain is None else _float(gain * gain)
        addend = None if shift is None or not shift.any() else _float(shift)
        for found in source.rows(matrix, _core.SUM_ROWS):
            squares, moved, parts = _core.add_up(
                found.data, found.dtype, squared_gain, addend, relative=relative
            )
            if not np.isfinite(squares).all():
                bad = _first_not_finite(found, squares, matrix.columns)
                if bad is not None:
                    raise source.not_finite(matrix, first + bad)
                return None
            here = slice(first, first + len(squares))
            rows[here] = squares
            if moved is not None:
                shifted[here] = moved
            for part in parts:
                columns += part
            first += len(squares)
        columns *= squared_gain
    good = all(np.isfinite(sums).all() for sums in (columns, shifted))
    return Sums(rows, columns, shifted) if good else None


def reciprocal(values: Doubles) -> Doubles:
    """1 / values, and 0 where a value is 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


def _first_not_finite(rows: Rows, squares: Doubles, columns: int) -> int | None:
    """The first row with a NaN or Inf, of as many as have their columns added up together.

    None where the first of these with a sum that is neither finite has values that all are.
    """
    start = int(np.flatnonzero(~np.isfinite(squares))[0]) // _core.SUM_ROWS * _core.SUM_ROWS
    values = to_float32(rows.data, rows.dtype).reshape(-1, columns)[start : start + _core.SUM_ROWS]
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    return start + int(bad[0]) if bad.size else None


def _float(values: Doubles) -> NDArray[np.float32]:
    return values.astype(np.float32)
