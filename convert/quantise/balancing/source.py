"""Where balancing reads a model: its vectors whole, its matrices some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...flatfile.layout import Linear


class Rows(NamedTuple):
    """Rows of a matrix as raw bytes of a dtype by its safetensors name: F32, F16 or BF16."""

    dtype: str
    data: NDArray[np.uint8]


class Source(Protocol):
    """A model before balancing."""

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return the entries of a norm or bias by its neutral name, without padding."""
        ...

    def rows(self, matrix: Linear, step: int) -> Iterator[Rows]:
        """Yield the rows one after the other, a multiple of `step` at a time but for the last.

        `step` is a multiple of 16. The data may be overwritten once the next is asked for.
        """
        ...

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        """Return the exception for a row of `matrix` that has a NaN or Inf."""
        ...
