"""What a balanced file records of its source's basis (flatfile/basis.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..flatfile.basis import (
    KEY_CONSTANT,
    KEYS,
    MLP,
    VALUE_CONSTANT,
    VALUES,
    basis_shapes,
    encode,
    smallest_dtype,
    source_name,
)
from ..flatfile.layout import Stored, linears, norms
from ..plan import Plan, source_rows
from ..source.tensor import TensorSource
from .balancing import Balance, bias_parts, rewrites
from .balancing.rewrites import mlp_of, scores_of, values_of
from .weights import WeightReader

Floats = NDArray[np.float32]


@final
class SourceBasis:
    """The tensors that a file in `formats` gets. Memory: the longest vector of the source.

    Raises CheckpointError where one of those that are kept has a NaN or Inf.
    """

    def __init__(self, source: TensorSource, plan: Plan, formats: Mapping[str, str]) -> None:
        self._plan, self._reader = plan, WeightReader(source)
        self._shapes = basis_shapes(plan.spec)
        done = rewrites(plan.spec, formats)
        names = [norm.name for norm in norms(plan.spec) if norm.name in done]
        kept = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
        kept += self._changed_biases(bias_parts(plan.spec, done))
        # Of the source, in the order of the layers.
        self._vectors: dict[str, list[str]] = {}
        for vector in kept:
            if vector in plan.vectors:
                role, part = vector.split(".")[-2:]
                self._vectors.setdefault(source_name(role, part), []).append(vector)
        self._dtypes = {
            name: smallest_dtype(map(self._read, found)) for name, found in self._vectors.items()
        }
        for matrix in linears(plan.spec):
            if matrix.layer != 0:
                continue
            if scores_of(matrix) in done and matrix.role == "qkv":
                rotates_all = plan.spec["rotary_dim"] == plan.spec["head_dim"]
                constant = matrix.bias and not rotates_all
                self._dtypes |= dict.fromkeys([KEYS, KEY_CONSTANT] if constant else [KEYS], "F32")
            if values_of(matrix) in done and matrix.role == "attn_out":
                constant = matrix.bias and plan.spec["qkv_bias"]
                found = [VALUES, VALUE_CONSTANT] if constant else [VALUES]
                self._dtypes |= dict.fromkeys(found, "F32")
            if mlp_of(matrix) in done and matrix.role == "mlp_down":
                self._dtypes[MLP] = "F32"

    def stored(self) -> dict[str, Stored]:
        """Return how each is stored, in the order of the file."""
        return {
            name: Stored(self._dtypes[name], shape)
            for name, shape in self._shapes.items()
            if name in self._dtypes
        }

    def tensors(self, balance: Balance) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield name and bytes of each, in the order of the file, once `balance` is known."""
        for name, (dtype, shape) in self.stored().items():
            if name in self._vectors:
                yield name, (encode(self._read(vector), dtype) for vector in self._vectors[name])
                continue
            # Layers that balancing left alone have weights no format takes; they are not written.
            is_factor = name in (KEYS, VALUES, MLP)
            values = np.full(shape, 1 if is_factor else 0, np.float32)
            for layer in range(len(values)):
                if (name, layer) in balance.basis:
                    values[layer] = balance.basis[name, layer]
            yield name, [encode(values, dtype)]

    def _changed_biases(self, parts: Mapping[str, Iterable[str]]) -> Iterator[str]:
        """Yield the biases, {matrix: what its bias is made of}, that are others in the file.

        Of all layers where one is: they are stored together.
        """
        changed = {
            matrix.rpartition(".")[2]
            for matrix, vectors in parts.items()
            if any(self._read(vector).view(np.uint32).any() for vector in vectors)
        }
        for matrix in parts:
            if matrix.rpartition(".")[2] in changed:
                yield f"{matrix}.bias"

    def _read(self, vector: str) -> Floats:
        return self._reader.vector(self._plan.vectors[vector], 1)


def source_mlp_size(plan: Plan) -> int:
    """Return the width of the MLP's inside in the source, which a gated one may fill up."""
    rows = sum(rows.size for rows in source_rows(plan.linears["layers.0.mlp_up"]))
    return rows // {"plain": 1, "gated": 2}[plan.spec["mlp"]]
