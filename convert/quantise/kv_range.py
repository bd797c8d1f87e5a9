"""How large keys and values can become, whatever the model reads: does a cache of halves do?

A norm makes of any d numbers a vector of length sqrt(d) at most, multiplies it by its weights g and
adds its bias b. So a row w of the matrix of keys or values, with its bias c, gives at most
|w g| sqrt(d) + |w.b + c|, by Cauchy and Schwarz. A rotation mixes two dimensions of a key, which
can make one of them sqrt(2) times as large, and multiplies them by rope_factor. Where the first
layer reads the embedding as it is, the longest row takes the place of sqrt(d).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..flatfile.layout import Linear, Norm, linears, norms
from ..flatfile.spec import Spec
from .balanced import BalancedWeights


def bound_keys_and_values(spec: Spec, weights: BalancedWeights) -> float:
    """Return a bound of all entries of keys and values, infinite where float32 has none.

    Reads the matrices of queries, keys and values once, chunk by chunk.
    """
    width = spec["hidden_size"]
    first_key = spec["n_heads"] * spec["head_dim"]
    first_value = first_key + spec["n_kv_heads"] * spec["head_dim"]
    largest = 0.0
    for matrix in linears(spec):
        if matrix.role != "qkv":
            continue
        norm = _norm_before(spec, matrix)
        gain, shift = np.ones(width, np.float32), np.zeros(width, np.float32)
        length_squared = width if norm is not None else _longest_embedding(spec, weights) ** 2
        if norm is not None:
            gain = weights.vector(f"{norm.name}.weight")[:width]
            shift = weights.vector(f"{norm.name}.bias")[:width] if norm.bias else shift
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
                bounds = np.sqrt(np.einsum("ij,ij->i", scaled, scaled) * length_squared) + fixed
            if spec["rotary_dim"] > 0:
                turned = math.sqrt(2) * max(1.0, spec["rope_factor"])  # what does not rotate stays
                bounds[: max(0, first_value - first)] *= turned
            largest = max(
                largest, float(np.nan_to_num(bounds, nan=math.inf, posinf=math.inf).max())
            )
    return largest


def _norm_before(spec: Spec, qkv: Linear) -> Norm | None:
    """The norm whose results `qkv` multiplies: its own, or what made the residual stream."""
    named = {norm.name: norm for norm in norms(spec)}
    if qkv.reads:
        return named[qkv.reads]
    return named.get(f"layers.{qkv.layer - 1}.mlp_norm" if qkv.layer > 0 else "embed_norm")


def _longest_embedding(spec: Spec, weights: BalancedWeights) -> float:
    """What no row of the embedding and of a position together exceeds."""
    (embed,) = (matrix for matrix in linears(spec) if matrix.role == "embed")
    longest = max(_longest(weights.decode(embed, chunk)) for chunk in weights.chunks(embed))
    if spec["learned_positions"]:
        longest += max(map(_longest, weights.table("embed_positions")))
    return longest


def _longest(rows: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max()))
