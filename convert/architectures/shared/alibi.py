"""ALiBi: what is added to a score for the position of its key, as BLOOM and Falcon have it.

Source: huggingface/transformers, models/bloom/modeling_bloom.py, models/falcon/modeling_falcon.py.
Other families order the slopes of heads otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def slopes(n_heads: int) -> Floats:
    """Return a slope per head: powers of 2, as many as there are below, then those between."""
    whole = 1 << (n_heads.bit_length() - 1)
    exponents = [-8 * h / whole for h in range(1, whole + 1)]
    exponents += [-4 * (2 * k - 1) / whole for k in range(1, n_heads - whole + 1)]
    return np.exp2(np.array(exponents, np.float64)).astype(np.float32)


def alibi(n_heads: int, positions: int) -> Floats:
    """Return BLOOM's table [n_heads, positions]: slope times position, whatever the query's."""
    table = slopes(n_heads)[:, None] * np.arange(positions, dtype=np.float32)
    return table.astype(np.float32)


def scaled_bfloat16_alibi(n_heads: int, positions: int, scale: float) -> Floats:
    """Return Falcon's: slope, position and product are rounded to bfloat16, then scaled as scores.

    Its models were trained with these roundings, which reach 1/256 of the product.
    """
    steps = round_bfloat16(np.arange(positions, dtype=np.float32))
    table = round_bfloat16(round_bfloat16(slopes(n_heads))[:, None] * steps)
    scaled: Floats = table * np.float32(scale)
    return scaled


def round_bfloat16(values: Floats) -> Floats:
    """Round finite float32 to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> 16) & 1
    rounded: Floats = ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded
