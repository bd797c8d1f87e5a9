"""One tensor of a checkpoint's file: what it is, where it lies, and how its rows are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ..errors import CheckpointError, quote
from ..files.positional import PositionalFile
from ..files.safetensors_header import DTYPE_BYTES

BLOCK_BYTES = 1 << 20  # of each tensor at a time, when two are compared
MAX_RUN_BYTES = 64 << 20  # the longest stretch of a file that is read for one run of a view


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint: `dtype` by its safetensors name, `offset` in bytes in `file`.

    `strides`, in elements, are None where the elements lie in row-major order without gaps, as
    safetensors always store them; a pickle may hold any view of a storage, say a transposed one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: PositionalFile
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def transposed(self) -> SourceTensor:
        """The same matrix with its columns as rows; reading few of these at a time is slow."""
        rows, columns = self.strides or (self.shape[1], 1)
        return replace(self, shape=self.shape[::-1], strides=(columns, rows))

    def flattened(self) -> SourceTensor:
        """The same entries in one dimension, where they lie in row-major order."""
        if self.strides is not None and len(self.shape) != 1:
            raise self._scattered()
        return replace(self, shape=(math.prod(self.shape),))

    def read_rows(self, start: int, stop: int, destination: memoryview) -> None:
        """Read rows [start, stop) into `destination`: raw little-endian bytes in row-major order.

        `destination` has exactly (stop - start) * row_bytes bytes. Raises CheckpointError when the
        file has become shorter, and for views that are neither vectors nor matrices or that are
        spread too far.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} are not in tensor {quote(self.name)}")
        if self.strides is None:
            self.file.read_into(self.offset + start * self.row_bytes, destination)
        else:
            self._read_view(self.strides, start, stop, destination)

    def _read_view(
        self, strides: tuple[int, ...], start: int, stop: int, destination: memoryview
    ) -> None:
        """Read rows of a view run by run; a run goes along the axis with the smaller stride."""
        # A view can repeat its storage without end; what is larger than its file is no weight.
        if len(self.shape) > 2 or self.nbytes > self.file.size or self.row_bytes > MAX_RUN_BYTES:
            raise self._scattered()
        size = DTYPE_BYTES[self.dtype]
        values = np.frombuffer(destination, f"<u{size}")
        first = self.offset + start * strides[0] * size
        if len(self.shape) == 1:
            runs, run_stride, stride = values[None], 0, strides[0]
        else:
            runs, (run_stride, stride) = values.reshape(stop - start, self.shape[1]), strides
            if run_stride < stride:
                runs, run_stride, stride = runs.T, stride, run_stride
        if not runs.size:
            return
        span = (runs.shape[1] - 1) * stride + 1
        if span * size > MAX_RUN_BYTES:
            raise self._scattered()
        buffer = np.empty(span, values.dtype)
        raw = buffer.view(np.uint8).data
        for i, run in enumerate(runs):
            self.file.read_into(first + i * run_stride * size, raw)
            run[:] = buffer[::stride] if stride else buffer[0]

    def _scattered(self) -> CheckpointError:
        return CheckpointError(
            f"tensor {quote(self.name)} is not stored row by row: save {self.file.path.name} "
            "again with every tensor made contiguous()"
        )


class TensorSource(Protocol):
    """Whatever has tensors by name."""

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """The tensors, which are open."""
        ...


def same(first: SourceTensor, second: SourceTensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes; takes memory for blocks only."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    if first.strides is None and second.strides is None:
        total = first.nbytes
        for start in range(0, total, BLOCK_BYTES):
            length = min(BLOCK_BYTES, total - start)
            if first.file.read(first.offset + start, length) != second.file.read(
                second.offset + start, length
            ):
                return False
        return True
    step = max(1, BLOCK_BYTES // max(1, first.row_bytes))
    return all(
        _rows(first, start, min(start + step, first.shape[0]))
        == _rows(second, start, min(start + step, first.shape[0]))
        for start in range(0, first.shape[0], step)
    )


def _rows(tensor: SourceTensor, start: int, stop: int) -> bytes:
    if tensor.row_bytes > MAX_RUN_BYTES:
        raise tensor._scattered()
    data = bytearray((stop - start) * tensor.row_bytes)
    tensor.read_rows(start, stop, memoryview(data))
    return bytes(data)
