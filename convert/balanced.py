"""The weights of a plan, balanced as they stream by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from . import weights
from .balancing import Balance, rewrites, solve
from .checkpoint import Checkpoint
from .layout import Linear
from .plan import Plan, Rows
from .weights import ROW_BLOCK, Chunk, WeightReader, not_finite, to_float32

_ROWS = 64  # scaled at a time: what was just decoded is still in the cache


@final
class CheckpointSource:
    """A checkpoint as `balancing.Source` wants it."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        self._reader = WeightReader(checkpoint)
        self._plan = plan

    def vector(self, name: str) -> NDArray[np.float32]:
        """See `balancing.Source`; raises CheckpointError when an entry is NaN or infinite."""
        return self._reader.vector(self._plan.vectors[name], 1)

    def rows(self, matrix: Linear, step: int) -> Iterator[NDArray[np.float32]]:
        """See `balancing.Source`."""
        for chunk in self._reader.matrix(self._plan.linears[matrix.name], step):
            yield to_float32(chunk.data, chunk.dtype).reshape(chunk.rows, matrix.cols)

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        """See `balancing.Source`."""
        return not_finite(self._plan.linears[matrix.name], row)


def balance_checkpoint(checkpoint: Checkpoint, plan: Plan, formats: Mapping[str, str]) -> Balance:
    """Return the balance of a checkpoint that is to have `formats`, by matrix name.

    Reads most of the matrices once; memory is for a few rows. Raises CheckpointError for a NaN or
    Inf, naming the tensor.
    """
    source = CheckpointSource(checkpoint, plan)
    return solve(plan.spec, rewrites(plan.spec, formats), source)


def balanced_chunks(
    reader: WeightReader, ranges: Sequence[Rows], matrix: Linear, balance: Balance
) -> Iterator[Chunk]:
    """Yield the chunks of `matrix` with its factors applied, as F32, or as they are without any.

    The data of a chunk is valid until the next one.
    """
    if not balance.changes(matrix.name):
        yield from reader.matrix(ranges)
        return
    # A chunk also stands in memory as floats here, best in a cache: so a quarter of the usual size.
    rows = weights.CHUNK_BYTES // 4 // (reader.size(ranges) // matrix.rows)
    chunks = reader.matrix(ranges, max(1, rows // ROW_BLOCK) * ROW_BLOCK)
    buffer = np.empty((0, matrix.cols), np.float32)
    for chunk in chunks:
        if len(buffer) < chunk.rows:
            buffer = np.empty((chunk.rows, matrix.cols), np.float32)
        values = buffer[: chunk.rows]
        row_bytes = chunk.data.size // chunk.rows
        for start in range(0, chunk.rows, _ROWS):
            piece = values[start : start + _ROWS]
            raw = chunk.data[start * row_bytes : (start + len(piece)) * row_bytes]
            source = to_float32(raw, chunk.dtype).reshape(piece.shape)
            balance.scale(matrix.name, chunk.first + start, source, out=piece)
        yield Chunk(chunk.first, chunk.rows, "F32", values.reshape(-1).view(np.uint8))
