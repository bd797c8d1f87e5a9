"""Where balancing reads a model: its vectors whole, its matrices a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...flatfile.layout import Linear


class Source(Protocol):
    """A model before balancing."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return the entries of a norm or bias by its neutral name, without padding."""
        ...

    def rows(self, matrix: Linear, step: int) -> Iterator[NDArray[np.float32]]:
        """Yield the values [n, columns] of `step` rows after the other; the last may be fewer.

        `step` is a multiple of 16. An array may be overwritten, by its reader as well as by the
        source, once the next is asked for.
        """
        ...

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        """Return the exception for a row of `matrix` that has a NaN or Inf."""
        ...
