"""The weights of a plan, balanced as they stream by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..flatfile.layout import VECTOR_MULTIPLE, Linear, Norm
from ..plan import Piece, Plan, count_rows, slice_pieces
from ..source.tensor import TensorSource
from . import weights
from .balancing import Balance, Rows, rewrites, solve
from .pieces import to_float32
from .weights import Chunk, WeightReader, not_finite


@final
class CheckpointSource:
    """A checkpoint as `balancing.Source` wants it."""

    def __init__(self, checkpoint: TensorSource, plan: Plan) -> None:
        self._reader = WeightReader(checkpoint)
        self._plan = plan

    def vector(self, name: str) -> NDArray[np.float32]:
        """See `balancing.Source`; raises CheckpointError when an entry is NaN or infinite."""
        return self._reader.vector(self._plan.vectors[name], 1)

    def rows(self, matrix: Linear, step: int) -> Iterator[Rows]:
        """See `balancing.Source`."""
        pieces = self._plan.linears[matrix.name]
        for chunk in self._reader.matrix(pieces, _some_rows(self._reader, pieces, step)):
            yield Rows(chunk.dtype, chunk.data)

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        """See `balancing.Source`."""
        return not_finite(self._plan.linears[matrix.name], row)


def balance_checkpoint(checkpoint: TensorSource, plan: Plan, formats: Mapping[str, str]) -> Balance:
    """Return the balance of a checkpoint that is to have `formats`, by matrix name.

    Reads most of the matrices once; memory is for a few rows. Raises CheckpointError for a NaN or
    Inf, naming the tensor.
    """
    source = CheckpointSource(checkpoint, plan)
    return solve(plan.spec, rewrites(plan.spec, formats), source)


@final
class BalancedWeights:
    """The weights of a checkpoint as the file will hold them, before they are quantised."""

    def __init__(self, checkpoint: TensorSource, plan: Plan, balance: Balance) -> None:
        self._reader = WeightReader(checkpoint)
        self._plan = plan
        self._balance = balance
        self.rescaled: list[str] = []  # vectors that `rescale` changed

    def rescale(self, norm: Norm, readers: Iterable[Linear], scales: NDArray[np.float32]) -> None:
        """Multiply the channels of a norm by `scales` [columns], divide the readers' columns."""
        for part in ("weight", "bias") if norm.bias else ("weight",):
            name = f"{norm.name}.{part}"
            self._balance.vectors[name] = self.vector(name)[: norm.size] * scales
            self.rescaled.append(name)
        for matrix in readers:
            _, columns = self._balance.factors(matrix.name)
            before = np.ones(matrix.columns) if columns is None else columns.astype(np.float64)
            self._balance.set_factors(matrix.name, columns=before / scales)

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a norm's or bias's vector, padded as it is stored.

        Raises CheckpointError, naming the tensor, when an entry is NaN or infinite.
        """
        values = self._balance.vectors.get(name)
        if values is None:
            values = self._reader.vector(self._plan.vectors[name], 1)
        return np.pad(values, (0, -values.size % VECTOR_MULTIPLE))

    def table(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of a table, some at a time; raises as `vector` does."""
        pieces = self._plan.tables[name]
        for chunk in self._reader.matrix(pieces):
            values = to_float32(chunk.data, chunk.dtype).reshape(chunk.rows, -1)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                raise not_finite(pieces, chunk.first + int(bad[0]))
            yield values

    def chunks(self, matrix: Linear) -> Iterator[Chunk]:
        """Yield the rows of a matrix in chunks; the data of one is valid until the next one."""
        pieces = self._plan.linears[matrix.name]
        rows, columns = self._balance.factors(matrix.name)
        is_plain = rows is None and columns is None
        step = None if is_plain else _some_rows(self._reader, pieces, weights.ROW_BLOCK)
        for chunk in self._reader.matrix(pieces, step):
            own = None if rows is None else rows[chunk.first : chunk.first + chunk.rows]
            yield chunk._replace(row_factors=own, column_factors=columns)

    def values(self, matrix: Linear) -> NDArray[np.float32]:
        """Return a whole matrix [rows, columns].

        Raises CheckpointError, naming the tensor, when a value is NaN or infinite.
        """
        values = np.empty((matrix.rows, matrix.columns), np.float32)
        for chunk in self.chunks(matrix):
            values[chunk.first : chunk.first + chunk.rows] = self.decode(matrix, chunk)
        return values

    def decode(self, matrix: Linear, chunk: Chunk) -> NDArray[np.float32]:
        """Return the values of a chunk [rows, columns]; raises as `values` does."""
        values = chunk.values()
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise not_finite(self._plan.linears[matrix.name], chunk.first + bad)
        return values

    def rows(self, matrix: Linear, indices: Iterable[int]) -> NDArray[np.float32]:
        """Return some rows of a matrix [indices, columns]; raises as `values` does."""
        source = self._plan.linears[matrix.name]
        found = []
        for index in indices:
            for chunk in self._reader.matrix(list(slice_pieces(source, index, index + 1))):
                row = self.decode(matrix, Chunk(index, 1, chunk.dtype, chunk.data))
                scaled = np.empty_like(row)
                self._balance.scale(matrix.name, index, row, out=scaled)
                found.append(scaled)
        return np.concatenate(found)

    def size(self, name: str) -> int:
        """Return the bytes of the checkpoint that a vector, table or matrix is made of."""
        plan = self._plan
        return self._reader.size((plan.vectors | plan.tables | plan.linears)[name])


def _some_rows(reader: WeightReader, pieces: Sequence[Piece], multiple: int) -> int:
    """How many rows are read at a time: few enough to be in a cache still when they are used."""
    rows = weights.CHUNK_BYTES // 4 // (reader.size(pieces) // count_rows(pieces))
    return max(1, rows // multiple) * multiple
