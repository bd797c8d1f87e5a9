"""Streams the weights of a plan: rows gathered from the checkpoint, chunk by chunk, and packed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..errors import CheckpointError, quote
from ..flatfile.layout import Linear
from ..plan import Rows
from ..source.checkpoint import Checkpoint
from ..source.tensor import same

# Of source per chunk: long enough to keep every core packing, short enough for any memory.
CHUNK_BYTES = 16 << 20
ROW_BLOCK = 16  # rows of a packed block; chunks of whole blocks can be joined


class Chunk(NamedTuple):
    """`rows` rows of a matrix from `first` on, as raw bytes of `dtype`."""

    first: int
    rows: int
    dtype: str
    data: NDArray[np.uint8]


class WeightReader:
    """Reads rows of the plan from a checkpoint into one buffer that it reuses."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._buffer = np.empty(0, np.uint8)

    def matrix(self, ranges: Sequence[Rows], step: int | None = None) -> Iterator[Chunk]:
        """Yield the rows of `ranges` in chunks of `step` rows, by default of about CHUNK_BYTES.

        The data of a chunk is valid until the next one.
        """
        row_bytes, dtype = self._row(ranges)
        total = sum(rows.stop - rows.start for rows in ranges)
        if step is None:
            step = max(ROW_BLOCK, CHUNK_BYTES // row_bytes // ROW_BLOCK * ROW_BLOCK)
        if self._buffer.size < min(step, total) * row_bytes:
            self._buffer = np.empty(min(step, total) * row_bytes, np.uint8)
        for first in range(0, total, step):
            count = min(step, total - first)
            data = self._buffer[: count * row_bytes]
            position = 0
            for rows in slice_ranges(ranges, first, first + count):
                size = (rows.stop - rows.start) * row_bytes
                target = data.data[position : position + size]
                self._checkpoint.read_rows(rows.tensor, rows.start, rows.stop, target)
                position += size
            yield Chunk(first, count, dtype, data)

    def vector(self, ranges: Sequence[Rows], multiple: int) -> NDArray[np.float32]:
        """Return the entries of `ranges` as float32, zero-padded to a multiple of `multiple`.

        Raises CheckpointError, naming the tensor, when an entry is NaN or infinite.
        """
        values = np.concatenate([to_float32(c.data, c.dtype) for c in self.matrix(ranges)])
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise not_finite(ranges, int(bad[0]))
        return np.pad(values, (0, -values.size % multiple))

    def equal(self, first: str, second: str) -> bool:
        """Whether two tensors have the same dtype, shape and bytes."""
        return same(self._checkpoint.tensors[first], self._checkpoint.tensors[second])

    def size(self, ranges: Sequence[Rows]) -> int:
        """Return the bytes of source that `ranges` cover."""
        return sum(rows.stop - rows.start for rows in ranges) * self._row(ranges)[0]

    def _row(self, ranges: Sequence[Rows]) -> tuple[int, str]:
        """Return the bytes of a row and the dtype, which all of `ranges` share."""
        tensors = {rows.tensor: self._checkpoint.tensors[rows.tensor] for rows in ranges}
        kinds = {(tensor.row_bytes, tensor.dtype) for tensor in tensors.values()}
        if len(kinds) != 1:
            raise CheckpointError(
                f"tensors {', '.join(map(quote, tensors))} have different types: save them alike"
            )
        return kinds.pop()


def pack_chunk(
    form: str, chunk: Chunk, matrix: Linear, ranges: Sequence[Rows], threads: int
) -> list[NDArray[np.uint8]]:
    """Return the parts of a packed chunk (see `_core.packed_layout`).

    Raises CheckpointError, naming the source tensor, when a value is NaN or infinite or does not
    fit the format.
    """
    try:
        return _core.pack(form, chunk.data, chunk.dtype, chunk.rows, matrix.columns, threads)
    except ValueError as reason:
        # Only now is it worth looking where; the core counts rows from the chunk's first.
        values = to_float32(chunk.data, chunk.dtype)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise not_finite(ranges, chunk.first + int(bad[0]) // matrix.columns) from None
        raise CheckpointError(
            f"tensor {quote(ranges[0].tensor)} does not fit the format {form} ({reason}): "
            "choose another format"
        ) from None


def slice_ranges(ranges: Sequence[Rows], start: int, stop: int) -> Iterator[Rows]:
    """Yield the parts of `ranges` that hold the rows [start, stop) of their concatenation."""
    position = 0
    for rows in ranges:
        length = rows.stop - rows.start
        first, last = max(start - position, 0), min(stop - position, length)
        if first < last:
            yield Rows(rows.tensor, rows.start + first, rows.start + last)
        position += length


def to_float32(data: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Return raw little-endian bytes of F32, F16 or BF16 as float32; exact."""
    if dtype == "BF16":
        # BF16 is the upper half of a float32.
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return _from_halves(data)
    return data.view({"F32": "<f4"}[dtype]).astype(np.float32)


def _from_halves(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same as numpy's astype, two to three times as fast: that takes one value at a time.

    The sign, exponent and mantissa of a half move to their places in a float. Its exponent is then
    too small by 112, the difference of the two biases, which a multiplication makes good, for
    subnormal numbers as well.
    """
    halves = data.view("<i2")
    if halves.size and (halves & 0x7FFF).max() >= 0x7C00:  # Inf or NaN
        return data.view("<f2").astype(np.float32)
    bits = halves.astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # clears copies of the sign
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def not_finite(ranges: Sequence[Rows], row: int) -> CheckpointError:
    """Return the exception for a NaN or Inf in row `row` of the rows of `ranges`."""
    rows = next(slice_ranges(ranges, row, row + 1))
    return CheckpointError(
        f"tensor {quote(rows.tensor)} has a value that is not finite (NaN or Inf) in row "
        f"{rows.start}: the checkpoint is damaged or its training failed, fetch it again"
    )
