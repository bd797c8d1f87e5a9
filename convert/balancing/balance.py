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
    padding. A matrix W becomes rows[:, None] * W * columns.
    """

    def __init__(self) -> None:
        self.vectors: dict[str, Floats] = {}
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

    def changes(self, matrix: str) -> bool:
        """Whether any factor of `matrix` is recorded."""
        return matrix in self._rows or matrix in self._columns

    def scale(self, matrix: str, first: int, values: Floats) -> None:
        """Multiply `values`, the rows of `matrix` from `first` on, by their factors, in place."""
        rows, columns = self.factors(matrix)
        if columns is not None:
            values *= columns
        if rows is not None:
            values *= rows[first : first + len(values), None]
