"""A tensor of a delta, with what it is a delta of added as it is read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .tensor import SourceTensor

_NUMPY = {"F16": "<f2", "F32": "<f4"}
DTYPES = tuple(_NUMPY)  # of deltas
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class SummedTensor(SourceTensor):
    """delta + base in the delta's dtype, to which the base is rounded first.

    `beyond` [columns] takes the base's place in rows that only the delta has.
    """

    base: SourceTensor = field(kw_only=True)
    delta: SourceTensor = field(kw_only=True)
    beyond: NDArray[np.float32] | None = field(default=None, kw_only=True)

    def read_rows(self, start: int, stop: int, destination: memoryview) -> None:
        """See `SourceTensor.read_rows`."""
        self.delta.read_rows(start, stop, destination)
        values = np.frombuffer(destination, _NUMPY[self.dtype]).reshape(stop - start, -1)
        shared = max(0, min(stop, self.base.shape[0]) - start)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            if shared:
                values[:shared] += read_as(self.base, start, start + shared, self.dtype)
            if shared < len(values) and self.beyond is not None:
                values[shared:] += self.beyond.astype(values.dtype)

    def transposed(self) -> SourceTensor:
        """See `SourceTensor.transposed`."""
        return add(self.delta.transposed(), self.base.transposed())


def add(
    delta: SourceTensor, base: SourceTensor, beyond: NDArray[np.float32] | None = None
) -> SummedTensor:
    """Return the sum of two tensors, of which `delta`, in one of DTYPES, may have more rows."""
    # Strides, as of a view: only read_rows knows what this tensor holds.
    strides = (delta.shape[1], 1) if len(delta.shape) == 2 else (1,)
    return SummedTensor(
        delta.name, delta.dtype, delta.shape, delta.file, delta.offset, strides,
        base=base, delta=delta, beyond=beyond,
    )  # fmt: skip


def read_as(tensor: SourceTensor, start: int, stop: int, dtype: str) -> NDArray[np.floating]:
    """Return rows [start, stop) [rows, entries] of an F32, F16 or BF16 tensor in one of DTYPES."""
    data = np.empty((stop - start) * tensor.row_bytes, np.uint8)
    tensor.read_rows(start, stop, data.data)
    if tensor.dtype == "BF16":
        values = (data.view("<u2").astype("<u4") << 16).view("<f4")
    else:
        values = data.view(_NUMPY[tensor.dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        return values.reshape(stop - start, -1).astype(_NUMPY[dtype], copy=False)


def mean_row(tensor: SourceTensor) -> NDArray[np.float32]:
    """Return the mean of all rows [entries]; memory is for a few of them."""
    step = max(1, _BLOCK_BYTES // max(1, tensor.row_bytes))
    total = np.zeros(max(1, tensor.row_bytes // (4 if tensor.dtype == "F32" else 2)))
    for start in range(0, tensor.shape[0], step):
        stop = min(start + step, tensor.shape[0])
        total += read_as(tensor, start, stop, "F32").sum(axis=0, dtype=np.float64)
    return (total / tensor.shape[0]).astype(np.float32)
