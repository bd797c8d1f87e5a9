"""A tensor with what trainings made of it added as it is read: adapters and task vectors.

All of it is done in float64 and rounded once, to float32, whatever the rows that are read together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from .summed import read_as
from .tensor import SourceTensor

Doubles = NDArray[np.float64]
_BLOCK_BYTES = 4 << 20
_HELD = 4  # matrices: a gated MLP reads two halves, a few rows of each in turn


class Change(Protocol):
    """What is added to a tensor."""

    def added(self, base: SourceTensor, values: Doubles, start: int) -> Doubles:
        """Return what is added to `values`, the rows of `base` from `start` on, in a new array."""
        ...

    def transposed(self) -> Change:
        """What is added to the transposed tensor."""
        ...


@final
class Held:
    """The matrices of one file that were read last."""

    def __init__(self) -> None:
        self._matrices: OrderedDict[tuple[str, tuple[int, ...]], Doubles] = OrderedDict()

    def read(self, tensor: SourceTensor) -> Doubles:
        """Return all of a matrix."""
        key = tensor.name, tensor.strides or ()
        if key not in self._matrices:
            self._matrices[key] = read_rows(tensor, 0, tensor.shape[0])
            if len(self._matrices) > _HELD:
                self._matrices.popitem(last=False)
        self._matrices.move_to_end(key)
        return self._matrices[key]


@dataclass(frozen=True)
class Replacement:
    """weight * (tensor - base): the tensor itself where the weight is 1."""

    tensor: SourceTensor
    weight: float

    def added(self, base: SourceTensor, values: Doubles, start: int) -> Doubles:
        """See `Change`."""
        return self.weight * (read_rows(self.tensor, start, start + len(values)) - values)

    def transposed(self) -> Replacement:
        """See `Change`."""
        return replace(self, tensor=self.tensor.transposed())


@dataclass(frozen=True)
class Addition:
    """factor * tensor."""

    tensor: SourceTensor
    factor: float

    def added(self, base: SourceTensor, values: Doubles, start: int) -> Doubles:
        """See `Change`."""
        return self.factor * read_rows(self.tensor, start, start + len(values))

    def transposed(self) -> Addition:
        """See `Change`."""
        return replace(self, tensor=self.tensor.transposed())


@dataclass(frozen=True)
class LowRank:
    """factor * left @ right, of [rows, rank] and [rank, columns]."""

    left: SourceTensor
    right: SourceTensor
    factor: float
    held: Held

    def added(self, base: SourceTensor, values: Doubles, start: int) -> Doubles:
        """See `Change`."""
        left = read_rows(self.left, start, start + len(values))
        product: Doubles = self.factor * (left @ self.held.read(self.right))
        return product

    def transposed(self) -> LowRank:
        """See `Change`."""
        return replace(self, left=self.right.transposed(), right=self.left.transposed())


@dataclass(frozen=True)
class Directed:
    """weight * (D - base), where D is base + low with its outputs' norms those of `magnitude`.

    DoRA: an output is a row of the matrix, or `by_columns` a column.
    """

    low: LowRank
    magnitude: SourceTensor  # [outputs]
    weight: float
    by_columns: bool
    scales: list[Doubles] = field(default_factory=list, compare=False)  # of columns, once known

    def added(self, base: SourceTensor, values: Doubles, start: int) -> Doubles:
        """See `Change`."""
        whole = values + self.low.added(base, values, start)
        if self.by_columns:
            scales = self._column_scales(base)
        else:
            squares = np.square(whole).sum(axis=1)
            scales = _ratio(self._magnitudes()[start : start + len(values)], squares)[:, None]
        return self.weight * (whole * scales - values)

    def transposed(self) -> Directed:
        """See `Change`."""
        return replace(self, low=self.low.transposed(), by_columns=not self.by_columns, scales=[])

    def _magnitudes(self) -> Doubles:
        return read_rows(self.magnitude, 0, self.magnitude.shape[0]).reshape(-1)

    def _column_scales(self, base: SourceTensor) -> Doubles:
        if not self.scales:
            squares = np.zeros(base.shape[1])
            step = max(1, _BLOCK_BYTES // max(1, base.row_bytes))
            for start in range(0, base.shape[0], step):
                values = read_rows(base, start, min(start + step, base.shape[0]))
                squares += np.square(values + self.low.added(base, values, start)).sum(axis=0)
            self.scales.append(_ratio(self._magnitudes(), squares))
        return self.scales[0]


@dataclass(frozen=True)
class MergedTensor(SourceTensor):
    """base and all `changes` of it."""

    base: SourceTensor = field(kw_only=True)
    changes: tuple[Change, ...] = field(kw_only=True)

    def read_rows(self, start: int, stop: int, destination: memoryview) -> None:
        """See `SourceTensor.read_rows`."""
        values = read_rows(self.base, start, stop)
        total = values
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            for change in self.changes:
                total = total + change.added(self.base, values, start)
            np.frombuffer(destination, "<f4")[:] = total.reshape(-1)

    def transposed(self) -> SourceTensor:
        """See `SourceTensor.transposed`."""
        return _merged(self.base.transposed(), [change.transposed() for change in self.changes])


def merge(base: SourceTensor, changes: Sequence[Change], name: str | None = None) -> SourceTensor:
    """Return `base` with `changes`, in F32; or what takes its place, as it is.

    It is called `name`, by default as `base` is.
    """
    found = base
    if len(changes) == 1 and isinstance(only := changes[0], Replacement) and only.weight == 1:
        found = only.tensor
    elif changes:
        found = _merged(base, changes)
    return replace(found, name=base.name if name is None else name)


def read_rows(tensor: SourceTensor, start: int, stop: int) -> Doubles:
    """Return rows [start, stop) [rows, entries] of an F32, F16 or BF16 tensor."""
    return read_as(tensor, start, stop, "F32").astype(np.float64)


def _merged(base: SourceTensor, changes: Sequence[Change]) -> MergedTensor:
    # Strides, as of a view: only read_rows knows what this tensor holds.
    strides = (base.shape[1], 1) if len(base.shape) == 2 else (1,)
    return MergedTensor(
        base.name, "F32", base.shape, base.file, base.offset, strides,
        base=base, changes=tuple(changes),
    )  # fmt: skip


def _ratio(magnitudes: Doubles, squares: Doubles) -> Doubles:
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused later
        ratio: Doubles = magnitudes / np.sqrt(squares)
    return ratio
