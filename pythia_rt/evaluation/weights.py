"""How far the weights of a flat file are from those of its reference, matrix by matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.files.safetensors_header import DTYPE_BYTES
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.flatfile.layout import Linear, linears, norms, vectors
from pythia_rt.convert.quantise.balancing import Rows, rewrites, solve

_ROW_BLOCK = 16  # rows of a packed block; whole blocks can be unpacked alone
_CHUNK_VALUES = 1 << 17  # of one chunk of rows: bounds the memory whatever the matrix


def relative_errors(file: FlatFile, reference: FlatFile) -> dict[str, float]:
    """{matrix: sqrt(sum (w - w_ref)^2 / sum w_ref^2)} in the order of the file.

    The two files must have the same matrices. Quantised matrices are balanced (see
    `convert.balancing`), so what is balanced in one of the files is compared in that form. Raises
    ValueError where the reference's matrix is all zeros and the file's is not.
    """
    wanted = rewrites(file.spec, file.formats) | rewrites(reference.spec, reference.formats)
    ours, theirs = (_BalancedFile(side, wanted) for side in (file, reference))
    for norm in norms(file.spec):
        if norm.name in wanted:
            theirs.divide_as(ours, norm.name)
    return {matrix.name: _relative_error(ours, theirs, matrix) for matrix in linears(file.spec)}


def _relative_error(file: _BalancedFile, reference: _BalancedFile, matrix: Linear) -> float:
    squares, error = 0.0, 0.0
    for ours, theirs in zip(file.rows(matrix), reference.rows(matrix), strict=True):
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


class _BalancedFile:
    """A flat file's matrices with those rewrites of `wanted` that its conversion left out."""

    def __init__(self, file: FlatFile, wanted: frozenset[str]) -> None:
        self._file = file
        missing = wanted - rewrites(file.spec, file.formats)
        self._source = _FlatFileSource(file)
        self._balance = solve(file.spec, missing, self._source)

    def divide_as(self, other: _BalancedFile, norm: str) -> None:
        """Divide a norm's scale with its readers as another file does: calibration chose its own.

        The norm is left as it is, its readers' columns become what they are behind the other's.
        """
        ours, theirs = (side.vector(f"{norm}.weight").astype(np.float64) for side in (self, other))
        live = (ours != 0) & (theirs != 0)
        ratio = np.divide(ours, theirs, out=np.ones_like(ours), where=live)
        for matrix in linears(self._file.spec):
            if matrix.reads == norm:
                _, columns = self._balance.factors(matrix.name)
                before = np.ones_like(ratio) if columns is None else columns.astype(np.float64)
                self._balance.set_factors(matrix.name, columns=before * ratio)

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's or bias's entries, without padding."""
        found = self._balance.vectors.get(name)
        return self._source.vector(name) if found is None else found

    def rows(self, matrix: Linear) -> Iterator[NDArray[np.float32]]:
        """The matrix's values, [rows, columns] of some rows at a time."""
        step = max(1, _CHUNK_VALUES // matrix.columns // _ROW_BLOCK) * _ROW_BLOCK
        first = 0
        for values in _rows(self._file, matrix, step):
            self._balance.scale(matrix.name, first, values)
            first += len(values)
            yield values


class _FlatFileSource:
    """A flat file as `convert.balancing.Source` wants it."""

    def __init__(self, file: FlatFile) -> None:
        self._file = file
        self._sizes = vectors(file.spec)

    def vector(self, name: str) -> NDArray[np.float32]:
        return self._file.tensors[name].view(np.float32)[: self._sizes[name]]

    def rows(self, matrix: Linear, step: int) -> Iterator[Rows]:
        for values in _rows(self._file, matrix, step):
            yield Rows("F32", values.reshape(-1).view(np.uint8))

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        return ValueError(
            f"{self._file.path} has a value that is not finite (NaN or Inf) in row {row} of "
            f"{matrix.name}: convert its source again"
        )


def _rows(file: FlatFile, matrix: Linear, step: int) -> Iterator[NDArray[np.float32]]:
    """The matrix as it is stored, [rows, columns] of `step` rows, whole blocks, at a time."""
    form = file.formats[matrix.name]
    for start in range(0, matrix.rows, step):
        rows = min(step, matrix.rows - start)
        begins = _part_bytes(form, start, matrix.columns)
        ends = _part_bytes(form, start + rows, matrix.columns)
        parts = [
            file.tensors[f"{matrix.name}.{part}"][begins.get(part, 0) : end]
            for part, end in ends.items()
        ]
        yield _core.unpack(form, parts, rows, matrix.columns)


def _part_bytes(form: str, rows: int, columns: int) -> dict[str, int]:
    """{part: bytes} that the first `rows` rows of a packed matrix take; {} for none."""
    if rows == 0:
        return {}
    layout = _core.packed_layout(form, rows, columns)
    return {part: math.prod(shape) * DTYPE_BYTES[dtype] for part, dtype, shape in layout}
