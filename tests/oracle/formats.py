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
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8": "U8", "q4": "U8"}
TILE_COLUMNS = {"q8": 4, "q4": 8}  # columns in 64 bytes
Q4_TABLE = np.array([-63, -45, -35, -27, -20, -14, -9, -4, 1, 6, 12, 18, 25, 33, 43, 56])


def packed_layout(form: str, rows: int, cols: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return [(part, safetensors dtype, shape)]."""
    blocks, groups = -(-rows // ROW_BLOCK), -(-cols // GROUP)
    if form not in TILE_COLUMNS:
        return [("weight", DTYPES[form], (blocks, groups * GROUP, ROW_BLOCK))]
    return [
        ("weight", "U8", (blocks, groups * GROUP // TILE_COLUMNS[form], 64)),
        ("scales", "F16", (blocks, groups, ROW_BLOCK)),
    ]


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


def pack(form: str, data: bytes | memoryview, dtype: str, rows: int, cols: int) -> list[Bytes]:
    """Return the parts of a matrix given as raw bytes [rows, cols]."""
    values = to_float32(data, dtype).reshape(rows, cols)
    if not np.isfinite(values).all():
        row, col = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"a value that is not finite at row {row}, column {col}")
    padded = np.zeros((-(-rows // ROW_BLOCK) * ROW_BLOCK, -(-cols // GROUP) * GROUP), np.float32)
    padded[:rows, :cols] = values
    blocks = padded.reshape(-1, ROW_BLOCK, padded.shape[1])
    if form in TILE_COLUMNS:
        codes, scales = (_quantise_q8 if form == "q8" else _quantise_q4)(blocks)
        return [_tiles(form, codes), scales.transpose(0, 2, 1).copy().view(np.uint8).ravel()]
    by_column = blocks.transpose(0, 2, 1)
    if form == "bf16":
        stored = to_bf16(by_column)
    else:
        with np.errstate(over="ignore"):
            stored = by_column.astype(np.float32 if form == "f32" else np.float16)
        if not np.isfinite(stored).all():
            raise ValueError("a value is too large for f16")
    return [np.ascontiguousarray(stored).view(np.uint8).ravel()]


def unpack(form: str, parts: Sequence[Bytes], rows: int, cols: int) -> Floats:
    """Return float32 [rows, cols]."""
    shapes = [shape for _, _, shape in packed_layout(form, rows, cols)]
    if form not in TILE_COLUMNS:
        values = to_float32(bytes(parts[0]), DTYPES[form]).reshape(shapes[0]).transpose(0, 2, 1)
    else:
        tiles = np.frombuffer(bytes(parts[0]), np.uint8).reshape(*shapes[0][:2], ROW_BLOCK, 4)
        scales = np.frombuffer(bytes(parts[1]), np.float16).reshape(shapes[1]).transpose(0, 2, 1)
        if form == "q8":
            levels = tiles.astype(np.float32) - 128
        else:
            table = Q4_TABLE.astype(np.float32)
            levels = np.concatenate([table[tiles & 15], table[tiles >> 4]], axis=3)
        # [block, tile, row, column of the tile] -> [block, row, column]
        levels = levels.transpose(0, 2, 1, 3).reshape(shapes[0][0], ROW_BLOCK, -1)
        values = levels * np.repeat(scales.astype(np.float32), GROUP, axis=2)
    return np.ascontiguousarray(values.reshape(-1, values.shape[2])[:rows, :cols])


def _groups(blocks: Floats) -> Floats:
    return blocks.reshape(blocks.shape[0], ROW_BLOCK, -1, GROUP)


def _quantise_q8(blocks: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    groups = _groups(blocks)
    scales = (np.abs(groups).max(axis=3) / 127).astype(np.float16)
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    codes = np.clip(np.rint(groups / divisor), -127, 127)
    return (codes.reshape(blocks.shape) + 128).astype(np.uint8), scales


def _quantise_q4(blocks: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    # Not the search of the core: the largest value meets an end of the table. Only `unpack` of q4
    # is a truth.
    groups = _groups(blocks)
    scales = (np.abs(groups).max(axis=3) / 56).astype(np.float16)
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    distance = np.abs((groups / divisor)[..., None] - Q4_TABLE)
    return distance.argmin(axis=-1).reshape(blocks.shape).astype(np.uint8), scales


def _tiles(form: str, codes: NDArray[np.uint8]) -> Bytes:
    tiles = codes.reshape(codes.shape[0], ROW_BLOCK, -1, TILE_COLUMNS[form])
    tiles = tiles.transpose(0, 2, 1, 3)
    if form == "q4":
        tiles = tiles[..., :4] | tiles[..., 4:] << 4
    return np.ascontiguousarray(tiles).ravel()
