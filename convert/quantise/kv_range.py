"""How large keys and values can become, whatever the model reads: does a cache of halves do?

A norm makes of any d numbers a vector of length sqrt(d) at most, multiplies it by its weights g and
adds its bias b. So a row w of the matrix of keys or values, with its bias c, gives at most
|w g| sqrt(d) + |w.b + c|, by Cauchy and Schwarz. The residual stream itself may be a sum of n such
vectors: then g^2 is the sum of theirs, times n. A row of the embedding counts as one whose g is the
longest row's length by sqrt(d). A norm of keys leaves at most sqrt(n) g + |b| of a vector of n. A
rotation mixes two dimensions of a key, which can make one of them sqrt(2) times as large, and
multiplies them by rope_factor.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..flatfile.layout import Linear, linears, norms
from ..flatfile.spec import Spec
from .balanced import BalancedWeights


def bound_keys_and_values(spec: Spec, weights: BalancedWeights) -> float:
    """Return a bound of all entries of keys and values, infinite where float32 has none.

    Reads the matrices of queries, keys and values once, chunk by chunk.
    """
    width = spec["hidden_size"]
    first_key = spec["n_heads"] * spec["head_dim"]
    first_value = first_key + spec["n_kv_heads"] * spec["head_dim"]
    turned = math.sqrt(2) * max(1.0, spec["rope_factor"]) if spec["rotary_dim"] > 0 else 1.0
    normed = spec["qk_norm"] != "none"
    largest = 0.0
    for matrix in linears(spec):
        if matrix.role != "qkv":
            continue
        gain, shift = _read_by(spec, matrix, weights)
        if normed:
            largest = max(largest, turned * _normed_keys(spec, matrix.layer, weights))
        start = first_value if normed else first_key  # of what the matrix bounds
        bias = weights.vector(f"{matrix.name}.bias") if matrix.bias else np.zeros(matrix.rows)
        for chunk in weights.chunks(matrix):
            skipped = max(0, min(start - chunk.first, chunk.rows))
            if skipped == chunk.rows:
                continue
            rows = weights.decode(matrix, chunk)[skipped:]
            first = chunk.first + skipped
            lengths, shifted = _lengths(rows, gain, shift if shift.any() else None)
            fixed = bias[first : first + len(rows)]
            with np.errstate(over="ignore", invalid="ignore"):
                bounds = lengths * math.sqrt(width)
                bounds += np.abs(fixed if shifted is None else shifted + fixed)
            bounds[: max(0, first_value - first)] *= turned  # what does not rotate stays
            largest = max(
                largest, float(np.nan_to_num(bounds, nan=math.inf, posinf=math.inf).max())
            )
    return largest


def _read_by(
    spec: Spec, qkv: Linear, weights: BalancedWeights
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The gain and the shift of what `qkv` multiplies: a norm's, or those of the stream."""
    width = spec["hidden_size"]
    named = {norm.name: norm for norm in norms(spec)}
    before, adds_embedding = [qkv.reads], False
    if not qkv.reads:  # the stream itself
        match spec["block"]:
            case "post":
                before = [f"layers.{qkv.layer - 1}.mlp_norm"] if qkv.layer > 0 else []
                adds_embedding = qkv.layer == 0
            case "output":
                roles = ("attn_norm", "mlp_norm")
                before = [f"layers.{i}.{role}" for i in range(qkv.layer) for role in roles]
                adds_embedding = True
            case block:
                raise ValueError(f"nobody has said what the stream is in a block {block!r}")
    gains = [weights.vector(f"{name}.weight")[:width] for name in before]
    shift = np.zeros(width, np.float32)
    for name in before:
        if named[name].bias:
            shift += weights.vector(f"{name}.bias")[:width]
    if adds_embedding:
        if spec["embed_norm"]:
            gains.append(weights.vector("embed_norm.weight")[:width])
            shift += weights.vector("embed_norm.bias")[:width] if named["embed_norm"].bias else 0
        else:
            longest = _longest_embedding(spec, weights) / math.sqrt(width)
            gains.append(np.full(width, longest, np.float32))
    with np.errstate(over="ignore"):
        gain: NDArray[np.float32] = np.sqrt(len(gains) * np.square(gains).sum(axis=0))
    return gain, shift


def _normed_keys(spec: Spec, layer: int, weights: BalancedWeights) -> float:
    """What no entry of the normed keys of a layer exceeds."""
    heads = {"head": 1, "row": spec["n_kv_heads"]}[spec["qk_norm"]]
    name = f"layers.{layer}.k_norm"
    largest = np.abs(weights.vector(f"{name}.weight")) * math.sqrt(heads * spec["head_dim"])
    if next(norm for norm in norms(spec) if norm.name == name).bias:
        largest = largest + np.abs(weights.vector(f"{name}.bias"))
    return float(largest.max())


def _longest_embedding(spec: Spec, weights: BalancedWeights) -> float:
    """What no row of the embedding and of a position together exceeds."""
    (embed,) = (matrix for matrix in linears(spec) if matrix.role == "embed")
    longest = max(_longest(weights.decode(embed, chunk)) for chunk in weights.chunks(embed))
    if spec["learned_positions"]:
        longest += max(map(_longest, weights.table("embed_positions")))
    return longest


def _longest(rows: NDArray[np.float32]) -> float:
    return float(_lengths(rows, np.ones(rows.shape[1], np.float32))[0].max())


def _lengths(
    rows: NDArray[np.float32], gain: NDArray[np.float32], shift: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """|row gain| and row.shift of each of `rows` [n, columns]; the core's, the same everywhere."""
    with np.errstate(over="ignore"):
        squares, shifted, _ = _core.add_up(rows, "F32", np.square(gain), shift)
    return np.sqrt(squares), shifted
