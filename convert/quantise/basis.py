"""What a balanced file records of its source's basis (flatfile/basis.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    norm_name,
    smallest_dtype,
)
from ..flatfile.layout import Stored, linears, norms
from ..plan import Plan, source_rows
from ..source.tensor import TensorSource
from .balancing import Balance, rewrites
from .balancing.rewrites import mlp_of, scores_of, values_of
from .weights import WeightReader

Floats = NDArray[np.float32]


@final
class SourceBasis:
    """The tensors that a file in `formats` gets. The source's norms are read at once.

    Raises CheckpointError where one of them has a NaN or Inf.
    """

    def __init__(self, source: TensorSource, plan: Plan, formats: Mapping[str, str]) -> None:
        self._spec = plan.spec
        done = rewrites(plan.spec, formats)
        reader = WeightReader(source)
        self._norms: dict[str, Floats] = {}
        for norm in norms(plan.spec):
            if norm.name in done and norm.layer <= 0:
                names = [other.name for other in norms(plan.spec) if other.role == norm.role]
                for part in ("weight", "bias")[: 1 + norm.bias]:
                    found = [reader.vector(plan.vectors[f"{name}.{part}"], 1) for name in names]
                    values = np.stack(found) if norm.layer == 0 else found[0]
                    self._norms[norm_name(norm.role, part)] = values
        self._others: list[str] = []
        for matrix in linears(plan.spec):
            if matrix.layer != 0:
                continue
            if scores_of(matrix) in done and matrix.role == "qkv":
                rotates_all = plan.spec["rotary_dim"] == plan.spec["head_dim"]
                constant = matrix.bias and not rotates_all
                self._others += [KEYS, KEY_CONSTANT] if constant else [KEYS]
            if values_of(matrix) in done and matrix.role == "attn_out":
                constant = matrix.bias and plan.spec["qkv_bias"]
                self._others += [VALUES, VALUE_CONSTANT] if constant else [VALUES]
            if mlp_of(matrix) in done and matrix.role == "mlp_down":
                self._others.append(MLP)

    def stored(self) -> dict[str, Stored]:
        """Return how each is stored, in the order of the file."""
        dtypes = {name: smallest_dtype(values) for name, values in self._norms.items()}
        dtypes |= dict.fromkeys(self._others, "F32")
        shapes = basis_shapes(self._spec)
        return {name: Stored(dtypes[name], shapes[name]) for name in shapes if name in dtypes}

    def tensors(self, balance: Balance) -> Iterator[tuple[str, bytes]]:
        """Yield name and bytes of each, in the order of the file, once `balance` is known."""
        for name, (dtype, shape) in self.stored().items():
            if name in self._norms:
                yield name, encode(self._norms[name], dtype)
                continue
            # Layers that balancing left alone have weights no format takes; they are not written.
            is_factor = name in (KEYS, VALUES, MLP)
            values = np.full(shape, 1 if is_factor else 0, np.float32)
            for layer in range(len(values)):
                if (name, layer) in balance.basis:
                    values[layer] = balance.basis[name, layer]
            yield name, encode(values, dtype)


def source_mlp_size(plan: Plan) -> int:
    """Return the width of the MLP's inside in the source, which a gated one may fill up."""
    rows = sum(rows.size for rows in source_rows(plan.linears["layers.0.mlp_up"]))
    return rows // {"plain": 1, "gated": 2}[plan.spec["mlp"]]
