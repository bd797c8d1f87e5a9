"""How large keys and values can become, whatever the model reads: does a cache of halves do?

A norm makes of any d numbers a vector of length sqrt(d) at most, multiplies it by its weights g and
adds its bias b. So a row w of the matrix of keys or values, with its bias c, gives at most
|w g| sqrt(d) + |w.b + c|, by Cauchy and Schwarz. A rotation mixes two dimensions of a key, which
can make one of them sqrt(2) times as large.
"""

from __future__ import annotations

import math

import numpy as np

from ..flatfile.layout import linears, norms
from ..flatfile.spec import Spec
from .balanced import BalancedWeights


def bound_keys_and_values(spec: Spec, weights: BalancedWeights) -> float:
    """Return a bound of all entries of keys and values, infinite where float32 has none.

    Reads the matrices of queries, keys and values once, chunk by chunk.
    """
    width = spec["hidden_size"]
    first_key = spec["n_heads"] * spec["head_dim"]
    first_value = first_key + spec["n_kv_heads"] * spec["head_dim"]
    has_bias = {norm.name: norm.bias for norm in norms(spec)}
    largest = 0.0
    for matrix in linears(spec):
        if matrix.role != "qkv":
            continue
        gain = weights.vector(f"{matrix.reads}.weight")[:width]
        shift = np.zeros(width, np.float32)
        if has_bias[matrix.reads]:
            shift = weights.vector(f"{matrix.reads}.bias")[:width]
        bias = weights.vector(f"{matrix.name}.bias") if matrix.bias else np.zeros(matrix.rows)
        for chunk in weights.chunks(matrix):
            skipped = max(0, min(first_key - chunk.first, chunk.rows))
            if skipped == chunk.rows:
                continue
            rows = weights.decode(matrix, chunk)[skipped:]
            first = chunk.first + skipped
            with np.errstate(over="ignore", invalid="ignore"):
                fixed = np.abs(rows @ shift + bias[first : first + len(rows)])
                scaled = rows * gain
                bounds = np.sqrt(np.einsum("ij,ij->i", scaled, scaled) * width) + fixed
            bounds[: max(0, first_value - first)] *= math.sqrt(2)
            largest = max(
                largest, float(np.nan_to_num(bounds, nan=math.inf, posinf=math.inf).max())
            )
    return largest
