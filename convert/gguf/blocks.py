"""What the types of GGUF's tensors are, and how blocks of quantised values become floats.

Each type stores `values` neighbours of a row in a block of `nbytes`. Decoding gives the bits that
ggml's own gives: the operations in f32, in its order. Source: ggml-org/ggml, src/ggml-common.h
(layouts), src/ggml-quants.c (`dequantize_row_*`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Type(NamedTuple):
    """One type of tensors.

    `dtype` is safetensors' name of it; else `decode` makes floats [blocks, values] of blocks
    [blocks, nbytes].
    """

    name: str
    values: int
    nbytes: int
    decode: Callable[[Bytes], Floats] | None
    dtype: str = "F32"


def _halves(blocks: Bytes, at: int) -> Floats:
    """Return the f16 at byte `at` of every block [blocks, 1]."""
    halves: Floats = blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)
    return halves


def _nibbles(codes: Bytes, run: int) -> Bytes:
    """Return the low nibbles of each `run` bytes, then their high ones [blocks, 2 * bytes]."""
    runs = codes.reshape(len(codes), -1, 1, run)
    shifts = np.array([0, 4], np.uint8).reshape(2, 1)
    low: Bytes = (runs >> shifts) & np.uint8(15)
    return low.reshape(len(codes), -1)


def _fifth_bits(words: Bytes) -> Bytes:
    """Return the bits of 4 bytes, the lowest first, each as 16 or 0 [blocks, 32]."""
    bits: Bytes = np.unpackbits(words, axis=1, bitorder="little") << np.uint8(4)
    return bits


def _q8_0(blocks: Bytes) -> Floats:
    values: Floats = _halves(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)
    return values


def _q4_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 2:], 16).astype(np.int8) - np.int8(8)
    values: Floats = _halves(blocks, 0) * codes.astype(np.float32)
    return values


def _q4_1(blocks: Bytes) -> Floats:
    codes: Floats = _nibbles(blocks[:, 4:], 16).astype(np.float32)
    return _halves(blocks, 0) * codes + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    values: Floats = (codes.astype(np.int8) - np.int8(16)).astype(np.float32)
    return _halves(blocks, 0) * values


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    values: Floats = codes.astype(np.float32)
    return _halves(blocks, 0) * values + _halves(blocks, 2)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Return the 8 scales and 8 minima of 6 bits in 12 bytes, [blocks, 8] each.

    The first four of both are the low bits of a byte each; the others have their low four bits in
    the last four bytes and their high two above the first ones.
    """
    scales, minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    four, six, mask = np.uint8(4), np.uint8(6), np.uint8(63)
    more_scales = (rest & np.uint8(15)) | (scales >> six << four)
    more_minima = (rest >> four) | (minima >> six << four)
    return np.hstack([scales & mask, more_scales]), np.hstack([minima & mask, more_minima])


def _scaled(blocks: Bytes, codes: Bytes) -> Floats:
    """Return codes [blocks, 256] by scale and minimum of each 32, whose own scales come first."""
    scales, minima = _six_bits(blocks[:, 4:16])
    factors = _halves(blocks, 0) * scales.astype(np.float32)
    offsets = _halves(blocks, 2) * minima.astype(np.float32)
    groups = codes.reshape(len(blocks), 8, 32).astype(np.float32)
    values: Floats = factors[..., None] * groups - offsets[..., None]
    return values.reshape(len(blocks), -1)


def _q4_k(blocks: Bytes) -> Floats:
    return _scaled(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: Bytes) -> Floats:
    # Bit i of 32 bytes is the fifth bit of the values of group i.
    high = blocks[:, 16:48].reshape(len(blocks), 1, 32) >> np.arange(8, dtype=np.uint8)[:, None]
    fifth: Bytes = ((high & np.uint8(1)) << np.uint8(4)).reshape(len(blocks), -1)
    codes = _nibbles(blocks[:, 48:], 32) | fifth
    return _scaled(blocks, codes)


def _q6_k(blocks: Bytes) -> Floats:
    # Two halves of 128 values: 64 bytes of nibbles and 32 of four pairs of high bits.
    low = _nibbles(blocks[:, :128], 64)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    pairs = blocks[:, 128:192].reshape(len(blocks), 2, 1, 32) >> shifts
    high: Bytes = (pairs & np.uint8(3)) << np.uint8(4)
    codes = (low | high.reshape(len(blocks), -1)).astype(np.int8) - np.int8(32)
    factors = _halves(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    groups = codes.reshape(len(blocks), 16, 16).astype(np.float32)
    values: Floats = factors[..., None] * groups
    return values.reshape(len(blocks), -1)


TYPES = {
    0: Type("F32", 1, 4, None, "F32"),
    1: Type("F16", 1, 2, None, "F16"),
    30: Type("BF16", 1, 2, None, "BF16"),
    8: Type("Q8_0", 32, 34, _q8_0),
    2: Type("Q4_0", 32, 18, _q4_0),
    3: Type("Q4_1", 32, 20, _q4_1),
    6: Type("Q5_0", 32, 22, _q5_0),
    7: Type("Q5_1", 32, 24, _q5_1),
    12: Type("Q4_K", 256, 144, _q4_k),
    13: Type("Q5_K", 256, 176, _q5_k),
    14: Type("Q6_K", 256, 210, _q6_k),
}
BY_NAME = {kind.name: kind for kind in TYPES.values()}
# Those that are not read, for a sentence.
_OTHERS = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4",
    32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip


def type_name(number: int) -> str:
    """Return what people call the type of this number."""
    return TYPES[number].name if number in TYPES else _OTHERS.get(number, f"type {number}")
