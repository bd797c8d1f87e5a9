"""The numpy truth of the KV cache formats: what they make of keys and values, and the layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

GROUP = 16  # dimensions of a head that share a scale
DTYPES = {"f16": np.float16, "f32": np.float32, "q8": np.int8}
LARGEST = {"q8": 127}  # code of the formats that have scales


def bfloat_up(x: Floats) -> Floats:
    """Return the smallest bf16 that is not less, of values that are not negative."""
    return ((x.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def quantise(form: str, rows: Floats) -> tuple[Floats, Floats]:
    """Return codes [n, groups, 16] and scales [n, groups] of rows [n, head_dim]."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % GROUP)))
    groups = padded.reshape(len(rows), -1, GROUP)
    scales = bfloat_up(np.abs(groups).max(axis=2) / np.float32(LARGEST[form]))
    codes = np.rint(groups / np.where(scales == 0, np.float32(1), scales)[..., None])
    return codes, scales


def stored(form: str, rows: Floats) -> Doubles:
    """Return what a cache makes of keys or values [n, head_dim]."""
    if form not in LARGEST:
        with np.errstate(over="ignore"):  # to infinity, in f16
            return rows.astype(DTYPES[form]).astype(np.float64)
    codes, scales = quantise(form, rows)
    values = codes.astype(np.float64) * scales[..., None]
    return values.reshape(len(rows), -1)[:, : rows.shape[1]]


def read(form: str, parts: Sequence[Bytes], head_dim: int, n: int) -> tuple[Doubles, Doubles]:
    """Return the first n keys and values [n, head_dim] that a cache's four parts hold."""
    n_groups = -(-head_dim // GROUP)
    keys = parts[0].view(DTYPES[form]).reshape(-1, head_dim, 16)
    values = parts[1].view(DTYPES[form]).reshape(-1, n_groups * GROUP)
    found = [keys.transpose(0, 2, 1).reshape(-1, head_dim)[:n], values[:n, :head_dim]]
    doubles = [array.astype(np.float64) for array in found]
    if form in LARGEST:
        for array, part in zip(doubles, parts[2:], strict=True):
            bits = part.view(np.uint16).reshape(-1, n_groups, 16).transpose(0, 2, 1)
            scales = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, n_groups)[:n]
            array *= np.repeat(scales.astype(np.float64), GROUP, axis=1)[:, :head_dim]
    return doubles[0], doubles[1]
