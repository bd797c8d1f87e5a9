"""How far the weights of a flat file are from those of its reference, matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.layout import Linear, linears
from pythia_rt.convert.safetensors_header import DTYPE_BYTES

_ROW_BLOCK = 16  # rows of a packed block; whole blocks can be unpacked alone
_CHUNK_VALUES = 1 << 17  # of one chunk of rows: bounds the memory whatever the matrix


def relative_errors(file: FlatFile, reference: FlatFile) -> dict[str, float]:
    """{matrix: sqrt(sum (w - w_ref)^2 / sum w_ref^2)} in the order of the file.

    The two files must have the same matrices. Raises ValueError where the reference's matrix is
    all zeros and the file's is not.
    """
    return {matrix.name: _relative_error(file, reference, matrix) for matrix in linears(file.spec)}


def _relative_error(file: FlatFile, reference: FlatFile, matrix: Linear) -> float:
    squares, error = 0.0, 0.0
    for ours, theirs in zip(_rows(file, matrix), _rows(reference, matrix), strict=True):
        truth = theirs.astype(np.float64).ravel()
        difference = ours.astype(np.float64).ravel() - truth
        # Not "@": the threads of numpy's BLAS would compete with whatever else runs.
        squares += float(np.einsum("i,i", truth, truth))
        error += float(np.einsum("i,i", difference, difference))
    if error == 0:
        return 0.0
    if squares == 0:
        raise ValueError(
            f"the reference's matrix {matrix.name} is all zeros and the file's is not: compare "
            "files of the same model"
        )
    return math.sqrt(error / squares)


def _rows(file: FlatFile, matrix: Linear) -> Iterator[NDArray[np.float32]]:
    """The matrix's values, [rows, columns] of some rows at a time."""
    form = file.formats[matrix.name]
    step = max(1, _CHUNK_VALUES // matrix.cols // _ROW_BLOCK) * _ROW_BLOCK
    for start in range(0, matrix.rows, step):
        rows = min(step, matrix.rows - start)
        begins = _part_bytes(form, start, matrix.cols)
        ends = _part_bytes(form, start + rows, matrix.cols)
        parts = [
            file.tensors[f"{matrix.name}.{part}"][begins.get(part, 0) : end]
            for part, end in ends.items()
        ]
        yield _core.unpack(form, parts, rows, matrix.cols)


def _part_bytes(form: str, rows: int, columns: int) -> dict[str, int]:
    """{part: bytes} that the first `rows` rows of a packed matrix take; {} for none."""
    if rows == 0:
        return {}
    layout = _core.packed_layout(form, rows, columns)
    return {part: math.prod(shape) * DTYPE_BYTES[dtype] for part, dtype, shape in layout}
