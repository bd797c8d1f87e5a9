"""The numpy truth of the weight formats: slow, obvious, one loop per idea.

A packed matrix has blocks of 16 rows and columns padded to whole groups. `pack` and `unpack` take
and return the parts as flat uint8 arrays, in the order of `packed_layout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

ROW_BLOCK = 16
GROUP = 64  # columns that share a scale; every format is padded to it
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
Q4_TABLE = np.array([-63, -45, -35, -27, -20, -14, -9, -4, 1, 6, 12, 18, 25, 33, 43, 56])
LEVELS = {
    "q8": np.arange(-128, 128),
    "q6": np.arange(-32, 32),
    "q5": np.arange(-16, 16),
    "q4": Q4_TABLE,
}
BITS = {form: len(levels).bit_length() - 1 for form, levels in LEVELS.items()}


def packed_layout(form: str, rows: int, columns: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return [(part, safetensors dtype, shape)]."""
    blocks, groups = -(-rows // ROW_BLOCK), -(-columns // GROUP)
    if form not in BITS:
        return [("weight", DTYPES[form], (blocks, groups * GROUP, ROW_BLOCK))]
    weight = ("weight", "U8", (blocks, groups, ROW_BLOCK * GROUP * BITS[form] // 8 // 64, 64))
    if form == "q8":
        return [weight, ("scales", "F16", (blocks, groups, ROW_BLOCK))]
    return [weight, ("scales", "I8", (blocks, groups, ROW_BLOCK)), ("units", "F32", (blocks,))]


def to_float32(data: bytes | memoryview, dtype: str) -> Floats:
    """Return the raw bytes of F32, F16 or BF16 as float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32)


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """Return float32 as the bits of bf16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def pack(form: str, data: bytes | memoryview, dtype: str, rows: int, columns: int) -> list[Bytes]:
    """Return the parts of a matrix given as raw bytes [rows, columns]."""
    values = to_float32(data, dtype).reshape(rows, columns)
    if not np.isfinite(values).all():
        row, col = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"a value that is not finite at row {row}, column {col}")
    padded = np.zeros((-(-rows // ROW_BLOCK) * ROW_BLOCK, -(-columns // GROUP) * GROUP), np.float32)
    padded[:rows, :columns] = values
    blocks = padded.reshape(-1, ROW_BLOCK, padded.shape[1])
    if form == "q8":
        codes, scales = _quantise_q8(blocks)
        return [
            _bytes_of_codes(form, codes),
            scales.transpose(0, 2, 1).copy().view(np.uint8).ravel(),
        ]
    if form in BITS:
        codes, scale_codes, units = _quantise_below_8(form, blocks)
        stored_scales = scale_codes.transpose(0, 2, 1).copy().view(np.uint8).ravel()
        return [_bytes_of_codes(form, codes), stored_scales, units.view(np.uint8)]
    by_column = blocks.transpose(0, 2, 1)
    if form == "bf16":
        stored = to_bf16(by_column)
    else:
        with np.errstate(over="ignore"):
            stored = by_column.astype(np.float32 if form == "f32" else np.float16)
        if not np.isfinite(stored).all():
            raise ValueError("a value is too large for f16")
    return [np.ascontiguousarray(stored).view(np.uint8).ravel()]


def unpack(form: str, parts: Sequence[Bytes], rows: int, columns: int) -> Floats:
    """Return float32 [rows, columns]."""
    shapes = [shape for _, _, shape in packed_layout(form, rows, columns)]
    if form not in BITS:
        values = to_float32(bytes(parts[0]), DTYPES[form]).reshape(shapes[0]).transpose(0, 2, 1)
    else:
        codes = codes_of_bytes(form, np.frombuffer(bytes(parts[0]), np.uint8).reshape(shapes[0]))
        if form == "q8":
            scales = np.frombuffer(bytes(parts[1]), np.float16).astype(np.float32)
            scales = scales.reshape(shapes[1])
        else:
            stored = np.frombuffer(bytes(parts[1]), np.int8).astype(np.float32).reshape(shapes[1])
            units = np.frombuffer(bytes(parts[2]), np.float32)
            scales = stored * np.abs(stored) * units[:, None, None]
        spread = np.repeat(scales.transpose(0, 2, 1), GROUP, axis=2)
        values = LEVELS[form].astype(np.float32)[codes] * spread
    return np.ascontiguousarray(values.reshape(-1, values.shape[2])[:rows, :columns])


def codes_of_bytes(form: str, stored: Bytes) -> Bytes:
    """Return the codes [blocks, 16, columns] of a stored weight [blocks, groups, pieces, 64]."""
    blocks, groups = stored.shape[:2]
    codes = np.zeros((blocks, ROW_BLOCK, groups, GROUP), np.uint8)
    for column in range(GROUP):
        for row in range(ROW_BLOCK):
            codes[:, row, :, column] = _read_code(form, stored, row, column)
    return codes.reshape(blocks, ROW_BLOCK, groups * GROUP)


def _read_code(form: str, stored: Bytes, row: int, column: int) -> Bytes:
    if form == "q8":
        return stored[:, :, column // 4, 4 * row + column % 4]
    byte = 4 * row + column % 4
    nibble = stored[:, :, column // 8, byte] >> (4 if column % 8 >= 4 else 0) & 15
    n_high = BITS[form] - 4
    if n_high == 0:
        return nibble
    piece, bit = _place_of_high_bits(n_high, column // 4)
    high = stored[:, :, 8 + piece, byte] >> bit & ((1 << n_high) - 1)
    return nibble | high << 4


def _place_of_high_bits(n_high: int, tile: int) -> tuple[int, int]:
    """Return the piece after the nibbles, and the lowest bit, of a tile of 4 columns.

    A half byte serves 4 / n_high tiles, from its lowest bit up; the upper half comes first.
    """
    half, within = divmod(tile, 4 // n_high)
    return half // 2, (4 if half % 2 == 0 else 0) + within * n_high


def _bytes_of_codes(form: str, codes: Bytes) -> Bytes:
    """The inverse of `codes_of_bytes`, flat."""
    blocks, groups = len(codes), codes.shape[2] // GROUP
    stored = np.zeros((blocks, groups, ROW_BLOCK * GROUP * BITS[form] // 8 // 64, 64), np.uint8)
    by_group = codes.reshape(blocks, ROW_BLOCK, groups, GROUP)
    for column in range(GROUP):
        for row in range(ROW_BLOCK):
            code, byte = by_group[:, row, :, column], 4 * row + column % 4
            if form == "q8":
                stored[:, :, column // 4, byte] = code
                continue
            stored[:, :, column // 8, byte] |= (code & 15) << (4 if column % 8 >= 4 else 0)
            if BITS[form] > 4:
                piece, bit = _place_of_high_bits(BITS[form] - 4, column // 4)
                stored[:, :, 8 + piece, byte] |= code >> 4 << bit
    return stored.ravel()


def _groups(blocks: Floats) -> Floats:
    return blocks.reshape(blocks.shape[0], ROW_BLOCK, -1, GROUP)


def _quantise_q8(blocks: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    groups = _groups(blocks)
    scales = (np.abs(groups).max(axis=3) / 127).astype(np.float16)
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    codes = np.clip(np.rint(groups / divisor), -127, 127)
    return (codes.reshape(blocks.shape) + 128).astype(np.uint8), scales


def _quantise_below_8(
    form: str, blocks: Floats
) -> tuple[Bytes, NDArray[np.int8], NDArray[np.float32]]:
    # Not the search of the core: the largest value meets an end of the grid. Only `unpack` of these
    # formats is a truth.
    groups = _groups(blocks)
    wanted = np.abs(groups).max(axis=3) / LEVELS[form][-1]
    units = (wanted.max(axis=(1, 2)) / 127**2).astype(np.float32)
    divisor = np.where(units == 0, 1, units)[:, None, None]
    scale_codes = np.rint(np.sqrt(wanted / divisor)).astype(np.int8)
    scales = scale_codes.astype(np.float32) ** 2 * divisor
    divided = groups / np.where(scales == 0, 1, scales)[..., None]
    codes = np.abs(divided[..., None] - LEVELS[form]).argmin(axis=-1)
    return codes.reshape(blocks.shape).astype(np.uint8), scale_codes, units
