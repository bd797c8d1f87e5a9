"""What a flat file says of the basis of its source: tensors that running the model never reads.

Balancing divides scales between neighbours anew and moves constants (quantise/balancing), so what
is between two matrices of a quantised file is not what it is in the source. These tensors say what
takes it back; pythia_rt/insides/basis.py applies them. A file has those of the rewrites that it
got, so float files have none. Each is F16 or BF16 where that loses nothing, else F32; and it is
written more compactly than that (compact.py) where this takes less room.

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

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compact import compress, expand
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
# Of the file; the first in which values lose nothing is theirs. BF16 is the upper half of an F32.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
}
COMPACT = "U8"  # one of these, its place among them first, then as compact.py has it


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


def store(values: NDArray[np.float32]) -> tuple[Stored, bytes]:
    """Return how finite `values` are stored, in the fewest bytes that lose nothing, and these."""
    dtype = next(dtype for dtype in _DTYPES if np.array_equal(_of(_as(values, dtype)), values))
    words = _as(values, dtype)
    compact = bytes([list(_DTYPES).index(dtype)]) + compress(words.view(f"<u{words.itemsize}"))
    if len(compact) < words.nbytes:
        return Stored(COMPACT, (len(compact),)), compact
    return Stored(dtype, values.shape), words.tobytes()


def load(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the float32 values of `shape` that `store` stored as `dtype`.

    Raises ValueError where compact ones are damaged.
    """
    if dtype != COMPACT:
        return _of(data.view(_DTYPES[dtype])).reshape(shape)
    if not data.size or data[0] >= len(_DTYPES):
        raise ValueError("it has a type that is none of this format")
    words = list(_DTYPES.values())[data[0]]
    found = expand(data[1:], np.dtype(f"<u{words.itemsize}"), math.prod(shape))
    return _of(found.view(words)).reshape(shape)


def _as(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":
        return (values.view("<u4") >> 16).astype(_DTYPES[dtype])
    with np.errstate(over="ignore"):
        return values.astype(_DTYPES[dtype])


def _of(stored: NDArray[Any]) -> NDArray[np.float32]:
    if stored.dtype == _DTYPES["BF16"]:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def found_basis(spec: Spec, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return how those are to be stored that are among `tensors`, as they are."""
    found = {}
    for name, shape in basis_shapes(spec).items():
        if name in tensors:
            dtype, own = tensors[name]
            is_compact = dtype == COMPACT and len(own) == 1
            known = dtype if dtype in _DTYPES else "F32"
            found[name] = Stored(dtype, own) if is_compact else Stored(known, shape)
    return found
