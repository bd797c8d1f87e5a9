"""Reads the pieces of a plan from a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, quote
from ..files.safetensors_header import DTYPE_BYTES
from ..plan import Alternating, Computed, Constant, Leaf, Piece, Product, Rows, source_of
from ..source.tensor import SourceTensor

# Of a transposed tensor that are in memory at a time. Its rows are columns in the file, of which
# a few alone would be as many reads as a row has entries.
BAND_BYTES = 16 << 20


class RowType(NamedTuple):
    """What the rows of a neutral tensor are as they are read."""

    entries: int
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return self.entries * DTYPE_BYTES[self.dtype]


@final
class PieceReader:
    """Reads leaves of a plan. Memory: one band of a transposed tensor, the factor of a product."""

    def __init__(self, tensors: Mapping[str, SourceTensor]) -> None:
        self._tensors = tensors
        self._band: tuple[str, int, NDArray[np.uint8]] = ("", 0, np.empty((0, 0), np.uint8))
        self._factor: tuple[str, NDArray[np.float64]] = ("", np.empty((0, 0)))

    def row_type(self, pieces: Sequence[Piece]) -> RowType:
        """Return what the rows of `pieces` are: of the tensors' dtype if they have one, else F32.

        Raises CheckpointError when their lengths differ.
        """
        types = {kind for piece in pieces for kind in self._types(piece)}
        if len({kind.entries for kind in types}) > 1:
            raise CheckpointError(
                f"the rows of tensor {quote(source_of(pieces))} and of those beside it have "
                "different lengths: fetch the checkpoint again"
            )
        if not types:
            return RowType(1, "F32")
        dtypes = {kind.dtype for kind in types}
        return RowType(next(iter(types)).entries, dtypes.pop() if len(dtypes) == 1 else "F32")

    def read(self, leaf: Leaf, row: RowType, target: memoryview) -> None:
        """Read `leaf` into `target`, size * row.nbytes bytes, as `row` says."""
        values: NDArray[Any]
        if isinstance(leaf, Rows):
            plain = not (leaf.transposed or leaf.padding) and leaf.step == 1
            if plain and self._tensors[leaf.tensor].dtype == row.dtype:
                self._tensors[leaf.tensor].read_rows(leaf.start, leaf.stop, target)
                return
            values, dtype = self._rows(leaf), self._tensors[leaf.tensor].dtype
        elif isinstance(leaf, Constant):
            values, dtype = np.full((leaf.size, row.entries), leaf.value, "<f4"), "F32"
        elif isinstance(leaf, Computed):
            values, dtype = leaf.values.reshape(leaf.size, -1), "F32"
        else:
            values, dtype = self._product(leaf), "F32"
        size = DTYPE_BYTES[row.dtype]
        cells = np.frombuffer(target, f"<u{size}").reshape(leaf.size, row.entries)
        if dtype != row.dtype:
            values = _cast(values, dtype, row.dtype)
        cells[:, : values.shape[1]] = np.ascontiguousarray(values).view(f"<u{size}")
        cells[:, values.shape[1] :] = 0

    def _types(self, piece: Piece) -> list[RowType]:
        if isinstance(piece, Rows):
            tensor = self._tensors[piece.tensor]
            shape = (*tensor.shape, 1) if len(tensor.shape) == 1 else tensor.shape
            return [RowType(shape[0 if piece.transposed else 1] + piece.padding, tensor.dtype)]
        if isinstance(piece, Alternating):
            return [kind for source in piece.sources for kind in self._types(source)]
        if isinstance(piece, Computed):
            return [RowType(piece.values.size // piece.size, "F32")]
        if isinstance(piece, Product):
            shape = self._tensors[piece.factor].shape
            return [RowType(shape[0 if piece.transposed else 1], "F32")]
        return []

    def _rows(self, rows: Rows) -> NDArray[np.unsignedinteger]:
        """Return the rows as they are stored [count, entries]."""
        tensor = self._tensors[rows.tensor]
        size = DTYPE_BYTES[tensor.dtype]
        if rows.transposed:
            data = self._transposed_rows(tensor, rows.start, rows.stop)
        else:
            data = np.empty((rows.stop - rows.start, tensor.row_bytes), np.uint8)
            tensor.read_rows(rows.start, rows.stop, data.reshape(-1).data)
        values: NDArray[np.unsignedinteger] = data.view(f"<u{size}")[:: rows.step]
        return values

    def _transposed_rows(self, tensor: SourceTensor, start: int, stop: int) -> NDArray[np.uint8]:
        turned = tensor.transposed()
        step = max(1, BAND_BYTES // max(1, turned.row_bytes))
        pieces = []
        while start < stop:
            band = start // step * step
            end = min(band + step, turned.shape[0])
            if self._band[:2] != (tensor.name, band):
                data = np.empty((end - band, turned.row_bytes), np.uint8)
                turned.read_rows(band, end, data.reshape(-1).data)
                self._band = (tensor.name, band, data)
            pieces.append(self._band[2][start - band : min(stop, end) - band])
            start = end
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _product(self, product: Product) -> NDArray[np.float32]:
        if self._factor[0] != product.factor:
            tensor = self._tensors[product.factor]
            whole = Rows(product.factor, 0, tensor.shape[0])
            values = _floats(self._rows(whole), tensor.dtype).astype(np.float64)
            self._factor = (product.factor, values)
        factor = self._factor[1].T if product.transposed else self._factor[1]
        dtype = self._tensors[product.rows.tensor].dtype
        result: NDArray[np.float64] = _floats(self._rows(product.rows), dtype) @ factor
        return result.astype(np.float32)


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


def _floats(values: NDArray[np.unsignedinteger], dtype: str) -> NDArray[np.float32]:
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return to_float32(raw, dtype).reshape(values.shape)


def _cast(values: NDArray[Any], dtype: str, wanted: str) -> NDArray[Any]:
    """Return `values` in another dtype; to a smaller one only what it holds exactly, constants."""
    if wanted == "F32":
        return _floats(values, dtype)
    floats = np.ascontiguousarray(values).view(np.float32)
    if wanted == "F16":
        return floats.astype("<f2")
    bits: NDArray[np.unsignedinteger] = (floats.view("<u4") >> 16).astype("<u2")
    return bits
