"""What conversion asks of the core: values of a checkpoint, their factors, and sums over them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import formats as oracle

from pythia_rt import _core

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SHAPES = [(1, 64), (63, 7), (64, 96), (65, 512), (130, 300), (70, 1030), (3, 128 * 141 + 64)]
DTYPES = ["F32", "F16", "BF16"]
FORMATS = ["f32", "f16", "bf16", "q8", "q6", "q5", "q4"]


def raw(rows: int, columns: int, dtype: str, seed: int = 0) -> NDArray[np.uint8]:
    """Values of many sizes, some zeros, and of halves subnormal ones: bytes of a checkpoint."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, columns)) * np.exp(random.normal(0, 3, (rows, columns)))
    values = np.clip(values, -6e4, 6e4).astype(np.float32)
    values[random.random((rows, columns)) < 0.01] = 0
    values[rows // 2] *= 1e-6
    if rows > 2:
        values[2] = -0.0
    if dtype == "F16":
        return values.astype(np.float16).reshape(-1).view(np.uint8)
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).reshape(-1).view(np.uint8)
    return values.reshape(-1).view(np.uint8)


def decoded(data: NDArray[np.uint8], dtype: str, rows: int) -> Floats:
    return oracle.to_float32(data.tobytes(), dtype).reshape(rows, -1)


def dots(values: Floats, vector: Floats) -> Doubles:
    """values @ vector, in the order of additions that files depend on."""
    segment = math.gcd(len(vector), 128)
    products = (values * vector).reshape(len(values), -1, segment)
    lanes = np.zeros((*products.shape[:2], 4), np.float32)
    place = 0
    while segment - place >= 16:
        for vector_of_four in (3, 2, 1, 0):
            start = place + 4 * vector_of_four
            lanes += products[..., start : start + 4]
        place += 16
    for i in range(place, segment):
        lanes[..., i % 4] += products[..., i]
    pieces = (lanes[..., 0] + lanes[..., 1]) + (lanes[..., 2] + lanes[..., 3])
    return np.array([pairwise(row) for row in pieces.astype(np.float64)])


def pairwise(values: Doubles) -> float:
    if len(values) > 128:
        half = len(values) // 2 // 8 * 8
        return pairwise(values[:half]) + pairwise(values[half:])
    whole = len(values) // 8 * 8
    lanes = [0.0] * 8
    for i in range(whole):
        lanes[i % 8] += float(values[i])
    first, second = ((a + b) + (c + d) for a, b, c, d in (lanes[:4], lanes[4:]))
    total = first + second
    for value in values[whole:]:
        total += float(value)
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relative", [False, True])
def test_sums_are_added_up_in_one_order(shape: tuple[int, int], dtype: str, relative: bool) -> None:
    rows, columns = shape
    random = np.random.default_rng(1)
    data = raw(rows, columns, dtype)
    gain = np.exp(random.normal(size=columns)).astype(np.float32)
    shift = random.normal(size=columns).astype(np.float32)
    squares, moved, parts = _core.add_up(data, dtype, gain, shift, relative=relative)
    values = decoded(data, dtype, rows)
    np.testing.assert_array_equal(squares, dots(values * values, gain))
    assert moved is not None
    np.testing.assert_array_equal(moved, dots(values, shift))
    weights = np.ones(rows)
    if relative:
        weights = np.divide(1, squares, out=np.zeros(rows), where=squares > 1e-30)
    assert parts.shape == (-(-rows // _core.SUM_ROWS), columns)
    for i, part in enumerate(parts):
        expected = np.zeros(columns, np.float32)
        for row in range(i * _core.SUM_ROWS, min((i + 1) * _core.SUM_ROWS, rows)):
            expected += values[row] * values[row] * np.float32(weights[row])
        np.testing.assert_array_equal(part, expected)
    without = _core.add_up(data, dtype, gain, relative=relative)
    np.testing.assert_array_equal(without[0], squares)
    assert without[1] is None


def test_sums_of_what_is_no_matrix_are_refused() -> None:
    gain = np.ones(8, np.float32)
    data = raw(4, 8, "F16")
    with pytest.raises(ValueError, match="has 48 bytes, not 50"):
        _core.add_up(data[:50], "F16", gain)
    with pytest.raises(ValueError, match="gain must be an array"):
        _core.add_up(data, "F16", np.ones(0, np.float32))
    with pytest.raises(ValueError, match="shift must be an array"):
        _core.add_up(data, "F16", gain, gain[:4])
    with pytest.raises(ValueError, match="there are F32, F16, BF16"):
        _core.add_up(data, "F64", gain)


def test_every_half_is_read_as_numpy_reads_it() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    finite = halves[np.isfinite(halves.view(np.float16))].reshape(-1, 64)
    (packed,) = _core.pack("f32", finite, "F16", *finite.shape)
    values = _core.unpack("f32", [packed], *finite.shape)
    expected = finite.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMATS)
def test_factors_are_those_of_the_values(form: str, dtype: str) -> None:
    rows, columns = 37, 150
    random = np.random.default_rng(2)
    data = raw(rows, columns, dtype)
    values = decoded(data, dtype, rows)
    of_rows, of_columns = (random.uniform(-1, 1, n).astype(np.float32) for n in (rows, columns))
    cases: list[tuple[dict[str, Any], Floats]] = [
        ({"row_factors": of_rows}, values * of_rows[:, None]),
        ({"column_factors": of_columns}, values * of_columns),
        (
            {"row_factors": of_rows, "column_factors": of_columns},
            values * of_columns * of_rows[:, None],
        ),
    ]
    for factors, expected in cases:
        found = _core.pack(form, data, dtype, rows, columns, **factors)
        for part, wanted in zip(
            found, _core.pack(form, expected, "F32", rows, columns), strict=True
        ):
            np.testing.assert_array_equal(part, wanted)


def test_factors_that_do_not_fit_are_refused() -> None:
    data = np.full((16, 64), 1e30, np.float32)
    with pytest.raises(ValueError, match="one factor for each row, 16 of them"):
        _core.pack("q8", data, "F32", 16, 64, row_factors=np.ones(64, np.float32))
    with pytest.raises(ValueError, match="one factor for each column, 64 of them"):
        _core.pack("q8", data, "F32", 16, 64, column_factors=np.ones(16, np.float32))
    factors = np.ones(64, np.float32)
    factors[5] = 1e30
    with pytest.raises(ValueError, match="not finite at row 0, column 5"):
        _core.pack("q8", data, "F32", 16, 64, column_factors=factors)
