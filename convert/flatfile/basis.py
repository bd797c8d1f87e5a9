"""What a flat file says of the basis of its source: tensors that running the model never reads.

Balancing divides scales between neighbours anew and moves constants (quantise/balancing), so what
is between two matrices of a quantised file is not what it is in the source. These tensors say what
takes it back; pythia_rt/insides/basis.py applies them. A file has those of the rewrites that it
got, so float files have none. Each is F16 or BF16 where that loses nothing, else F32.

    basis.attn_norm.weight      [n_layers, hidden_size]  the source's gain; .bias where it has one
    basis.mlp_norm.weight, basis.final_norm.weight ([hidden_size]), likewise
    basis.keys                  [n_layers, key_value_size]  what keys, before they rotate, were
                                multiplied by, and the queries that read them divided by
    basis.key_constant          [n_layers, n_kv_heads * (head_dim - rotary_dim)]  what was left out
                                of the keys' dimensions that do not rotate, in the source's basis
    basis.values                [n_layers, key_value_size]  what values were multiplied by
    basis.value_constant        [n_layers, key_value_size]  what was left out of them, likewise
    basis.mlp                   [n_layers, mlp_size]  what the MLP's inside was multiplied by
    basis.qkv.bias              [n_layers, rows]  the source's bias, where the file's is another,
                                in the file's order of rows
    basis.attn_out.bias, basis.mlp_up.bias, basis.head.bias ([rows]), likewise

A constant that was left out is the source's bias and what came to it of the norm before, by weights
that the file has rounded, so neither of the two follows from the other.

Sources of a gated MLP may have a narrower inside than the file, which fills it up with zeros: the
entry MLP_SIZE of the metadata says what they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import Stored, linears, norms
from .spec import Spec

BASIS_PREFIX = "basis."
KEYS, KEY_CONSTANT = "basis.keys", "basis.key_constant"
VALUES, VALUE_CONSTANT = "basis.values", "basis.value_constant"
MLP = "basis.mlp"
# What balancing multiplies a norm's channel by that no matrix reads: it can still be seen, and is
# so small beside its neighbours that it gets none of the 8 bits of their group. A power of two, so
# that nothing is rounded.
UNREAD = 2.0**-24
# The smaller first; BF16 is the upper half of an F32.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
}


def basis_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every such tensor that a file of `spec` may have, in their order."""
    shapes: dict[str, tuple[int, ...]] = {}
    layers, keys = spec["n_layers"], spec["n_kv_heads"] * spec["head_dim"]
    read = {matrix.reads for matrix in linears(spec)}
    for norm in norms(spec):
        if norm.name in read and norm.layer <= 0:
            lead = () if norm.layer < 0 else (layers,)
            for part in ("weight", "bias")[: 1 + norm.bias]:
                shapes[source_name(norm.role, part)] = (*lead, norm.size)
    shapes[KEYS] = (layers, keys)
    shapes[KEY_CONSTANT] = (layers, spec["n_kv_heads"] * (spec["head_dim"] - spec["rotary_dim"]))
    shapes[VALUES] = shapes[VALUE_CONSTANT] = (layers, keys)
    shapes[MLP] = (layers, spec["mlp_size"])
    for matrix in linears(spec):
        if matrix.bias and matrix.layer <= 0:
            lead = () if matrix.layer < 0 else (layers,)
            shapes[source_name(matrix.role, "bias")] = (*lead, matrix.rows)
    return shapes


def source_name(role: str, part: str) -> str:
    """Return the name of the source's gain ("weight") or "bias" of norms or matrices of `role`."""
    return f"{BASIS_PREFIX}{role}.{part}"


def smallest_dtype(vectors: Iterable[NDArray[np.float32]]) -> str:
    """Return the first dtype in which all of the finite `vectors` lose nothing."""
    left = list(_DTYPES)
    for values in vectors:
        left = [dtype for dtype in left if np.array_equal(_rounded(values, dtype), values)]
    return left[0]


def encode(values: NDArray[np.float32], dtype: str) -> bytes:
    """Return the bytes of `values` in `dtype`."""
    if dtype == "BF16":
        return (values.view("<u4") >> 16).astype(_DTYPES[dtype]).tobytes()
    with np.errstate(over="ignore"):
        return values.astype(_DTYPES[dtype]).tobytes()


def decode(data: NDArray[np.uint8], stored: Stored) -> NDArray[np.float32]:
    """Return what `encode` was given, float32."""
    values = data.view(_DTYPES[stored.dtype]).reshape(stored.shape)
    if stored.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    data = np.frombuffer(encode(values, dtype), np.uint8)
    return decode(data, Stored(dtype, values.shape))


def found_basis(spec: Spec, dtypes: Mapping[str, str]) -> dict[str, Stored]:
    """Return how those are to be stored that are among the tensors of `dtypes`, {name: dtype}."""
    return {
        name: Stored(dtypes[name] if dtypes[name] in _DTYPES else "F32", shape)
        for name, shape in basis_shapes(spec).items()
        if name in dtypes
    }
