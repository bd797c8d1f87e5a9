"""A tensor whose parts lie in several files, as model-parallel training saves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import CheckpointError, quote
from .tensor import SourceTensor


@dataclass(frozen=True)
class JoinedTensor(SourceTensor):
    """A matrix of parts, below each other or side by side."""

    parts: tuple[SourceTensor, ...] = field(kw_only=True)
    side_by_side: bool = field(kw_only=True)

    def read_rows(self, start: int, stop: int, destination: memoryview) -> None:
        """See `SourceTensor.read_rows`."""
        if not self.side_by_side:
            position = first = 0
            for part in self.parts:
                begin, end = max(start - first, 0), min(stop - first, part.shape[0])
                if begin < end:
                    size = (end - begin) * part.row_bytes
                    part.read_rows(begin, end, destination[position : position + size])
                    position += size
                first += part.shape[0]
            return
        rows = np.frombuffer(destination, np.uint8).reshape(stop - start, self.row_bytes)
        column = 0
        for part in self.parts:
            data = np.empty((stop - start, part.row_bytes), np.uint8)
            part.read_rows(start, stop, data.reshape(-1).data)
            rows[:, column : column + part.row_bytes] = data
            column += part.row_bytes

    def transposed(self) -> SourceTensor:
        """See `SourceTensor.transposed`."""
        return join(self.name, [p.transposed() for p in self.parts], not self.side_by_side)


def join(name: str, parts: Sequence[SourceTensor], side_by_side: bool) -> SourceTensor:
    """Return one matrix, called `name`, of the parts; CheckpointError where they do not fit."""
    first, *others = parts
    if not others:
        return replace(first, name=name)
    for part in others:
        if (part.dtype, part.shape) != (first.dtype, first.shape) or len(part.shape) != 2:
            raise CheckpointError(
                f"tensor {quote(part.name)} is {part.dtype} {list(part.shape)} in "
                f"{part.file.path.name} and {first.dtype} {list(first.shape)} in "
                f"{first.file.path.name}, which are parts of one: fetch them again"
            )
    rows, columns = first.shape
    shape = (rows, columns * len(parts)) if side_by_side else (rows * len(parts), columns)
    # Strides, as of a view: only read_rows knows where the elements lie.
    return JoinedTensor(
        name, first.dtype, shape, first.file, first.offset, (shape[1], 1),
        parts=tuple(parts), side_by_side=side_by_side,
    )  # fmt: skip
