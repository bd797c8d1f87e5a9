"""The converter's plan: which rows of which source tensors become which neutral tensor.

A neutral tensor is a tuple of pieces, whose rows follow each other (entries, when it is a vector).
Each has `size` rows and `slice(first, last)`, its rows [first, last) as leaves, that is as pieces
which are read at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .flatfile.spec import Spec

TILE = 16  # rows of gate and of up that alternate in a gated MLP's first matrix


class Rows(NamedTuple):
    """The rows start, start + step ... before stop of one source tensor.

    `transposed`: of its transpose, so columns of what is stored (GPT-2 stores [in, out]).
    `padding`: zeros after the entries of each row.
    """

    tensor: str
    start: int
    stop: int
    step: int = 1
    transposed: bool = False
    padding: int = 0

    @property
    def size(self) -> int:
        """How many rows it has."""
        return len(range(self.start, self.stop, self.step))

    def slice(self, first: int, last: int) -> Iterator[Leaf]:
        """Yield the rows [first, last)."""
        start = self.start + first * self.step
        yield self._replace(start=start, stop=start + (last - first - 1) * self.step + 1)


class Constant(NamedTuple):
    """`size` rows whose entries are all `value`: what a source leaves out, or padding."""

    value: float
    size: int

    def slice(self, first: int, last: int) -> Iterator[Leaf]:
        """Yield the rows [first, last)."""
        yield Constant(self.value, last - first)


@dataclass(frozen=True, eq=False)
class Computed:
    """Values that follow from the config alone: float32 [rows] or [rows, columns]."""

    values: NDArray[np.float32]

    @property
    def size(self) -> int:
        """How many rows it has."""
        return len(self.values)

    def slice(self, first: int, last: int) -> Iterator[Leaf]:
        """Yield the rows [first, last)."""
        yield Computed(self.values[first:last])


class Product(NamedTuple):
    """`rows`, each multiplied by the matrix `factor` [columns of `rows`, columns], in float64.

    `transposed`: by its transpose.
    """

    rows: Rows
    factor: str
    transposed: bool = False

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.rows.size

    def slice(self, first: int, last: int) -> Iterator[Leaf]:
        """Yield the rows [first, last)."""
        start = self.rows.start + first * self.rows.step
        stop = start + (last - first - 1) * self.rows.step + 1
        yield self._replace(rows=self.rows._replace(start=start, stop=stop))


class Alternating(NamedTuple):
    """TILE rows of the first source, TILE of the second, and so on: a gated MLP's gate and up.

    All sources have as many rows, a multiple of TILE; `alternate` makes them so.
    """

    sources: tuple[Rows, ...]

    @property
    def size(self) -> int:
        """How many rows it has."""
        return sum(source.size for source in self.sources)

    def slice(self, first: int, last: int) -> Iterator[Leaf]:
        """Yield the rows [first, last), at most TILE at a time."""
        while first < last:
            tile, row = divmod(first, TILE)
            end = min(TILE, row + last - first)
            group, index = divmod(tile, len(self.sources))
            yield from self.sources[index].slice(group * TILE + row, group * TILE + end)
            first += end - row


Leaf = Rows | Constant | Computed | Product
Piece = Leaf | Alternating
Pieces = tuple[Piece, ...]


def alternate(*sources: Rows) -> Pieces:
    """Return `sources`, as many rows each, alternating by TILE rows; zeros fill the last tiles."""
    size = sources[0].size
    whole = size // TILE * TILE
    pieces: list[Piece] = []
    if whole:
        pieces.append(Alternating(tuple(first_rows(source, whole) for source in sources)))
    if whole < size:
        for source in sources:
            pieces += [*source.slice(whole, size), Constant(0, whole + TILE - size)]
    return tuple(pieces)


def first_rows(rows: Rows, size: int) -> Rows:
    """Return the first `size` of `rows`."""
    return rows._replace(stop=rows.start + (size - 1) * rows.step + 1)


def count_rows(pieces: Sequence[Piece]) -> int:
    """Return how many rows `pieces` have together."""
    return sum(piece.size for piece in pieces)


def slice_pieces(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[Leaf]:
    """Yield the leaves that hold the rows [start, stop) of the concatenation of `pieces`."""
    position = 0
    for piece in pieces:
        first, last = max(start - position, 0), min(stop - position, piece.size)
        if first < last:
            yield from piece.slice(first, last)
        position += piece.size


def source_rows(pieces: Sequence[Piece]) -> Iterator[Rows]:
    """Yield what `pieces` read of source tensors, without the factors of products."""
    for piece in pieces:
        if isinstance(piece, Rows):
            yield piece
        elif isinstance(piece, Product):
            yield piece.rows
        elif isinstance(piece, Alternating):
            yield from piece.sources


def source_of(pieces: Sequence[Piece]) -> str:
    """Return the first source tensor of `pieces`, for people; "none" if they are computed."""
    return next((rows.tensor for rows in source_rows(pieces)), "none")


class Plan(NamedTuple):
    """What an architecture makes of a checkpoint.

    `linears`, `vectors` and `tables` map every neutral name of the layout to its pieces, in order;
    together they have exactly as many rows as the neutral tensor. The two tensors of each pair in
    `equal` must hold the same bytes, or the checkpoint contradicts its config.
    """

    spec: Spec
    linears: dict[str, Pieces]
    vectors: dict[str, Pieces]
    tables: dict[str, Pieces]
    equal: tuple[tuple[str, str], ...]
