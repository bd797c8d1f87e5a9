"""How many bits a file spends on a weight, from the sizes of its tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.flatfile.layout import TEXT_FILES, linears

Kind = Literal["layer", "head", "embedding", "vector"]


class Tensor(NamedTuple):
    """A tensor of a file: what it is, how many values it has and the bytes that they take."""

    kind: Kind
    values: int
    bytes: int


@dataclass(frozen=True)
class WeightBits:
    """Bits per weight of three selections; the embedding, of which a token reads one row, is in
    none of them, unless it is the head too.

    `layers` is over the layers' matrices and `matrices` has the head besides. `tensors` spreads all
    bytes, those of norms and biases included, over the weights of `matrices`.
    """

    layers: float
    matrices: float
    tensors: float


def weight_bits(tensors: Iterable[Tensor]) -> WeightBits:
    """Add up the tensors of a file."""
    found = list(tensors)
    layers = [t for t in found if t.kind == "layer"]
    # A tied model has no head of its own: its embedding is read whole.
    head: Kind = "head" if any(t.kind == "head" for t in found) else "embedding"
    matrices = [*layers, *(t for t in found if t.kind == head)]
    vectors = [t for t in found if t.kind == "vector"]
    return WeightBits(
        layers=_bits(layers) / _values(layers),
        matrices=_bits(matrices) / _values(matrices),
        tensors=(_bits(matrices) + _bits(vectors)) / _values(matrices),
    )


def flat_tensors(file: FlatFile) -> Iterable[Tensor]:
    """The tensors of a flat file; a packed matrix, which is stored in parts, is one."""
    matrices = {matrix.name: matrix for matrix in linears(file.spec)}
    sizes = dict.fromkeys(matrices, 0)
    for name, values in file.tensors.items():
        owner, _, part = name.rpartition(".")
        if owner in matrices and part != "bias":
            sizes[owner] += values.nbytes
        elif name not in TEXT_FILES:
            yield Tensor("vector", values.size, values.nbytes)
    kinds: dict[str, Kind] = {"embed": "embedding", "head": "head"}
    for name, matrix in matrices.items():
        yield Tensor(kinds.get(name, "layer"), matrix.rows * matrix.columns, sizes[name])


def gguf_tensors(path: Path) -> Iterable[Tensor]:
    """The tensors of a GGUF file; needs the package gguf."""
    from gguf import GGUFReader

    kinds: dict[str, Kind] = {"token_embd.weight": "embedding", "output.weight": "head"}
    for tensor in GGUFReader(path).tensors:
        matrix = len(tensor.shape) > 1
        kind = kinds.get(tensor.name, "layer") if matrix else "vector"
        yield Tensor(kind, int(tensor.n_elements), int(tensor.n_bytes))


def _bits(tensors: list[Tensor]) -> int:
    return 8 * sum(tensor.bytes for tensor in tensors)


def _values(tensors: list[Tensor]) -> int:
    return sum(tensor.values for tensor in tensors)
