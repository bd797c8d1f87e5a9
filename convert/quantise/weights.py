"""Streams the weights of a plan: rows gathered from the checkpoint, chunk by chunk, and packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..errors import CheckpointError, quote
from ..flatfile.layout import Linear
from ..plan import Piece, count_rows, slice_pieces, source_of, source_rows
from ..source.tensor import TensorSource, same
from ..stopping import check_stop
from .pieces import PieceReader, to_float32

# Of source per chunk: long enough to keep every core packing, short enough for any memory.
CHUNK_BYTES = 16 << 20
ROW_BLOCK = 16  # rows of a packed block; chunks of whole blocks can be joined


class Chunk(NamedTuple):
    """`rows` rows of a matrix from `first` on, as raw bytes of `dtype`.

    The values are those bytes times the factors of their column and then of their row, float32
    [columns] and [rows], where there are any.
    """

    first: int
    rows: int
    dtype: str
    data: NDArray[np.uint8]
    row_factors: NDArray[np.float32] | None = None
    column_factors: NDArray[np.float32] | None = None

    def values(self) -> NDArray[np.float32]:
        """Return the values, [rows, columns]; those that are not finite as well."""
        values = to_float32(self.data, self.dtype).reshape(self.rows, -1)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.column_factors is not None:
                values *= self.column_factors
            if self.row_factors is not None:
                values *= self.row_factors[:, None]
        return values


class WeightReader:
    """Reads rows of the plan from a checkpoint into one buffer that it reuses."""

    def __init__(self, checkpoint: TensorSource) -> None:
        self._checkpoint = checkpoint
        self._reader = PieceReader(checkpoint.tensors)
        self._buffer = np.empty(0, np.uint8)

    def matrix(self, pieces: Sequence[Piece], step: int | None = None) -> Iterator[Chunk]:
        """Yield the rows of `pieces` in chunks of `step` rows, by default of about CHUNK_BYTES.

        The data of a chunk is valid until the next one.
        """
        row, total = self._reader.row_type(pieces), count_rows(pieces)
        if step is None:
            step = max(ROW_BLOCK, CHUNK_BYTES // row.nbytes // ROW_BLOCK * ROW_BLOCK)
        if self._buffer.size < min(step, total) * row.nbytes:
            self._buffer = np.empty(min(step, total) * row.nbytes, np.uint8)
        for first in range(0, total, step):
            check_stop()
            count = min(step, total - first)
            data = self._buffer[: count * row.nbytes]
            position = 0
            for leaf in slice_pieces(pieces, first, first + count):
                size = leaf.size * row.nbytes
                self._reader.read(leaf, row, data.data[position : position + size])
                position += size
            yield Chunk(first, count, row.dtype, data)

    def vector(self, pieces: Sequence[Piece], multiple: int) -> NDArray[np.float32]:
        """Return the entries of `pieces` as float32, zero-padded to a multiple of `multiple`.

        Raises CheckpointError, naming the tensor, when an entry is NaN or infinite.
        """
        chunks = list(self._floats(pieces))
        values = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise not_finite(pieces, int(bad[0]) // (values.size // count_rows(pieces)))
        return np.pad(values, (0, -values.size % multiple))

    def _floats(self, pieces: Sequence[Piece]) -> Iterator[NDArray[np.float32]]:
        for chunk in self.matrix(pieces):
            yield to_float32(chunk.data, chunk.dtype)

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors have the same dtype, shape and bytes."""
        return same(self._checkpoint.tensors[first], self._checkpoint.tensors[second])

    def size(self, pieces: Sequence[Piece]) -> int:
        """Return the bytes that `pieces` have as they are read."""
        return count_rows(pieces) * self._reader.row_type(pieces).nbytes

    def dtype(self, pieces: Sequence[Piece]) -> str:
        """Return the dtype in which `pieces` are read."""
        return self._reader.row_type(pieces).dtype


def pack_chunk(
    form: str, chunk: Chunk, matrix: Linear, pieces: Sequence[Piece], threads: int
) -> list[NDArray[np.uint8]]:
    """Return the parts of a packed chunk (see `_core.packed_layout`).

    Raises CheckpointError, naming the source tensor, when a value is NaN or infinite or does not
    fit the format.
    """
    try:
        return _core.pack(
            form,
            chunk.data,
            chunk.dtype,
            chunk.rows,
            matrix.columns,
            threads,
            row_factors=chunk.row_factors,
            column_factors=chunk.column_factors,
        )
    except ValueError as reason:
        # Only now is it worth looking where; the core counts rows from the chunk's first.
        bad = np.flatnonzero(~np.isfinite(chunk.values()))
        if bad.size:
            raise not_finite(pieces, chunk.first + int(bad[0]) // matrix.columns) from None
        raise CheckpointError(
            f"tensor {quote(source_of(pieces))} does not fit the format {form} ({reason}): "
            "choose another format"
        ) from None


def not_finite(pieces: Sequence[Piece], row: int) -> CheckpointError:
    """Return the exception for a NaN or Inf in row `row` of `pieces`."""
    found = next(source_rows(list(slice_pieces(pieces, row, row + 1))), None)
    if found is None:
        return CheckpointError(
            "config.json asks for values that are not finite (NaN or Inf): fetch it again"
        )
    where = "column" if found.transposed else "row"
    return CheckpointError(
        f"tensor {quote(found.tensor)} has a value that is not finite (NaN or Inf) in {where} "
        f"{found.start}: the checkpoint is damaged or its training failed, fetch it again"
    )
