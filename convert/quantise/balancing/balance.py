"""What balancing changes in a model's weights: new vectors, and factors of rows and columns."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@final
class Balance:
    """The balanced model in terms of its source; an empty one changes nothing.

    `vectors` has the new values of the norms and biases that change, by neutral name, without
    padding. A matrix W becomes rows[:, None] * W * columns. `basis` has, by the name of a tensor of
    the source's basis (flatfile/basis.py) and by layer, what else takes the rewrites back.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, Floats] = {}
        self.basis: dict[tuple[str, int], Floats] = {}
        self._rows: dict[str, Floats] = {}
        self._columns: dict[str, Floats] = {}

    def set_factors(
        self,
        matrix: str,
        *,
        rows: NDArray[np.float64] | None = None,
        columns: NDArray[np.float64] | None = None,
    ) -> None:
        """Record factors of `matrix`; those of the other side stay as they are."""
        if rows is not None:
            self._rows[matrix] = rows.astype(np.float32)
        if columns is not None:
            self._columns[matrix] = columns.astype(np.float32)

    def factors(self, matrix: str) -> tuple[Floats | None, Floats | None]:
        """The factors of the rows and of the columns of `matrix`; None where all are 1."""
        return self._rows.get(matrix), self._columns.get(matrix)

    def scale(self, matrix: str, first: int, values: Floats, out: Floats | None = None) -> None:
        """Multiply `values`, the rows of `matrix` from `first` on, by their factors.

        The result goes to `out`, of the same shape, or back into `values`.
        """
        target = values if out is None else out
        rows, columns = self.factors(matrix)
        # What overflows is refused when it is packed.
        with np.errstate(over="ignore", invalid="ignore"):
            if columns is not None:
                np.multiply(values, columns, out=target)
                values = target
            if rows is not None:
                np.multiply(values, rows[first : first + len(values), None], out=target)
                values = target
        if values is not target:
            target[...] = values
