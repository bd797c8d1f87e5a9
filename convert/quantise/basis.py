"""What a balanced file records of its source's basis (flatfile/basis.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
    source_name,
    store,
)
from ..flatfile.layout import Linear, Stored, linears, norms
from ..plan import Plan, source_rows
from ..source.tensor import TensorSource
from .balancing import Balance, rewrites
from .balancing.rewrites import mlp_of, scores_of, values_of
from .weights import WeightReader

Floats = NDArray[np.float32]


@final
class SourceBasis:
    """The tensors that a file in `formats` gets whose weights are given `balance`.

    They are made at once, and held as they are stored. Raises CheckpointError where a vector of the
    source that is kept has a NaN or Inf.
    """

    def __init__(
        self, source: TensorSource, plan: Plan, formats: Mapping[str, str], balance: Balance
    ) -> None:
        self._plan, self._reader, self._balance = plan, WeightReader(source), balance
        self._vectors: dict[str, Floats] = {}  # what was read of the source, until all is made
        done = rewrites(plan.spec, formats)
        names = [norm.name for norm in norms(plan.spec) if norm.name in done]
        kept = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
        # Of all layers where one is another: they are stored together.
        changed = {matrix.role for matrix in linears(plan.spec) if self._has_other_bias(matrix)}
        kept += [f"{matrix.name}.bias" for matrix in linears(plan.spec) if matrix.role in changed]
        vectors: dict[str, list[str]] = {}
        for vector in kept:
            if vector in plan.vectors:
                role, part = vector.split(".")[-2:]
                vectors.setdefault(source_name(role, part), []).append(vector)
        recorded = set(self._recorded(done))
        self._made: dict[str, tuple[Stored, bytes]] = {}
        for name, shape in basis_shapes(plan.spec).items():
            if name in vectors:
                values = np.stack([self._read(vector) for vector in vectors[name]])
                self._made[name] = store(values.reshape(shape))
            elif name in recorded:
                self._made[name] = store(self._record(name, shape))
        self._vectors.clear()

    def stored(self) -> dict[str, Stored]:
        """Return how each is stored, in the order of the file."""
        return {name: stored for name, (stored, _) in self._made.items()}

    def tensors(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of each, in the order of the file."""
        for name in self.stored():
            yield name, self._made[name][1]

    def _has_other_bias(self, matrix: Linear) -> bool:
        name = f"{matrix.name}.bias"
        ours = self._balance.vectors.get(name)
        return ours is not None and ours.tobytes() != self._read(name).tobytes()

    def _read(self, vector: str) -> Floats:
        """A bias is compared first, and then may be kept: it is read once."""
        if vector not in self._vectors:
            self._vectors[vector] = self._reader.vector(self._plan.vectors[vector], 1)
        return self._vectors[vector]

    def _recorded(self, done: Collection[str]) -> Iterator[str]:
        """Yield the names of what balancing records of the rewrites `done`."""
        spec = self._plan.spec
        for matrix in linears(spec):
            if matrix.layer != 0:
                continue
            if scores_of(matrix) in done and matrix.role == "qkv":
                yield KEYS
                if matrix.bias and spec["rotary_dim"] != spec["head_dim"]:
                    yield KEY_CONSTANT
            if values_of(matrix) in done and matrix.role == "attn_out":
                yield VALUES
                if matrix.bias and spec["qkv_bias"]:
                    yield VALUE_CONSTANT
            if mlp_of(matrix) in done and matrix.role == "mlp_down":
                yield MLP

    def _record(self, name: str, shape: tuple[int, ...]) -> Floats:
        # Layers that balancing left alone have weights no format takes; they are not written.
        values = np.full(shape, 1 if name in (KEYS, VALUES, MLP) else 0, np.float32)
        for layer in range(len(values)):
            if (name, layer) in self._balance.basis:
                values[layer] = self._balance.basis[name, layer]
        return values


def source_mlp_size(plan: Plan) -> int:
    """Return the width of the MLP's inside in the source, which a gated one may fill up."""
    rows = sum(rows.size for rows in source_rows(plan.linears["layers.0.mlp_up"]))
    return rows // {"plain": 1, "gated": 2}[plan.spec["mlp"]]
