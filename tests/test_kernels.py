"""Every kernel of every ISA against numpy in double precision, and bit for bit among the ISAs.

Needs the test extension `_testing`, which no wheel contains: the environment variable
PYTHIA_RT_TESTING_DIR names the folder it was built in (scripts/test builds it).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import formats as format_oracle
from oracle import kernels as oracle

Floats = NDArray[np.float32]


def load_testing() -> ModuleType:
    folder = os.environ.get("PYTHIA_RT_TESTING_DIR")
    if not folder:
        pytest.skip(
            "PYTHIA_RT_TESTING_DIR does not name a build of _testing", allow_module_level=True
        )
    built = sorted(Path(folder).glob("_testing*.so"))
    if not built:
        pytest.fail(f"PYTHIA_RT_TESTING_DIR names {folder}, where there is no _testing*.so")
    spec = importlib.util.spec_from_file_location("_testing", built[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_testing = load_testing()
ISAS: list[str] = _testing.isa_names()
FORMATS: list[str] = _testing.format_names()
LINEAR_EPILOGUES = sorted(oracle.EPILOGUES)
Q4_TABLE_BYTES = (format_oracle.Q4_TABLE + 64).astype(np.uint8)

sizes = st.integers(1, 200)
counts = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
# Ordinary magnitudes, and those near the ends of what f16 scales can hold.
magnitudes = st.sampled_from([1.0, 1.0, 1e-3, 1e-6, 30.0])

thorough = settings(max_examples=60, deadline=None)


def normal(seed: int, *shape: int, magnitude: float = 1.0) -> Floats:
    values = np.random.default_rng(seed).standard_normal(shape) * magnitude
    return values.astype(np.float32)


def assert_same_bits(found: NDArray[np.generic], expected: NDArray[np.generic], isa: str) -> None:
    """Also tells the two zeros apart."""
    found_bits = np.ascontiguousarray(found).view(np.uint8)
    expected_bits = np.ascontiguousarray(expected).view(np.uint8)
    assert np.array_equal(found_bits, expected_bits), f"{isa} differs from {ISAS[-1]}"


def assert_within(found: Floats, truth: oracle.Doubles, bound: oracle.Doubles | float) -> None:
    error = np.abs(found.astype(np.float64) - truth)
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert (error <= bound).all(), f"at {worst}: {found[worst]}, truth {truth[worst]}"


def test_scalar_is_the_reference() -> None:
    assert ISAS[-1] == "scalar"


@thorough
@given(count=counts, width=sizes, seed=seeds, exponent=st.integers(-38, 36))
def test_quantise(count: int, width: int, seed: int, exponent: int) -> None:
    rows = normal(seed, count, width)
    rows[:, : width // 2] *= np.float32(10.0**exponent)
    reference = _testing.quantise("scalar", rows)
    codes, scales, sums = reference
    truth, true_scales = oracle.quantise(rows.astype(np.float64))
    assert_within(scales, true_scales, 2 * oracle.UNIT * true_scales + 1e-44)
    # Half a step, and what the rounding of the inverse scale adds.
    assert_within(codes.astype(np.float32), truth, 0.5 + 127 * 4 * oracle.UNIT)
    assert np.array_equal(sums, codes.reshape(*scales.shape, -1).sum(axis=2, dtype=np.int32))
    for isa in ISAS[:-1]:
        for found, expected in zip(_testing.quantise(isa, rows), reference, strict=True):
            assert_same_bits(found, expected, isa)


@pytest.mark.parametrize("form", FORMATS)
@thorough
@given(
    outputs=sizes,
    columns=sizes,
    count=counts,
    epilogue=st.sampled_from(LINEAR_EPILOGUES),
    has_bias=st.booleans(),
    step=st.integers(1, 13),
    magnitude=magnitudes,
    seed=seeds,
)
def test_linear(
    form: str,
    outputs: int,
    columns: int,
    count: int,
    epilogue: str,
    has_bias: bool,
    step: int,
    magnitude: float,
    seed: int,
) -> None:
    rows = normal(seed, count, columns)
    bias = normal(seed + 1, outputs) if has_bias else None
    before = normal(seed + 2, count, outputs) if epilogue == "add" else None
    parts = _testing.pack("scalar", form, normal(seed + 3, outputs, columns, magnitude=magnitude))

    def run(isa: str, values: Floats, **more: int) -> Floats:
        result: Floats = _testing.linear(
            isa, form, parts, outputs, columns, values,
            epilogue=epilogue, bias=bias, before=before, **more,
        )  # fmt: skip
        return result

    reference = run("scalar", rows)
    matrix = format_oracle.unpack(form, parts, outputs, columns).astype(np.float64)
    exact = rows.astype(np.float64)
    if len(parts) > 1:  # a quantised format: the activations are quantised as well
        codes, scales, _ = _testing.quantise("scalar", rows)
        exact = (codes * np.repeat(scales.astype(np.float64), oracle.GROUP, axis=1))[:, :columns]
    truth, bound = oracle.linear(
        exact,
        matrix,
        None if bias is None else bias.astype(np.float64),
        None if before is None else before.astype(np.float64),
        epilogue,
    )
    assert_within(reference, truth, bound)
    for isa in ISAS:
        assert_same_bits(run(isa, rows, step=step), reference, isa)
    if before is None:  # a row by itself, as in decoding
        for isa in ISAS:
            assert_same_bits(run(isa, rows[-1:]), reference[-1:], isa)


@pytest.mark.parametrize("form", ["q8", "q4"])
@given(sign=st.sampled_from([1, -1]), alternating=st.booleans(), columns=sizes)
@settings(deadline=None, max_examples=20)
def test_linear_at_the_ends_of_the_integers(
    form: str, sign: int, alternating: bool, columns: int
) -> None:
    """All weights and activations as large as they get, where 16-bit sums would saturate."""
    signs = np.where(np.arange(columns) % 2 == 1, -1, 1) if alternating else np.ones(columns)
    rows = np.tile(signs, (3, 1)).astype(np.float32)
    matrix = np.tile(sign * signs, (17, 1)).astype(np.float32)
    parts = _testing.pack("scalar", form, matrix)
    exact = format_oracle.unpack(form, parts, 17, columns).astype(np.float64)
    for isa in ISAS:
        found = _testing.linear(isa, form, parts, 17, columns, rows)
        truth, bound = oracle.linear(rows.astype(np.float64), exact, None, None, "store")
        assert_within(found, truth, bound)


@thorough
@given(
    count=counts,
    width=sizes,
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    magnitude=st.sampled_from([1.0, 1e-3, 1e3, 0.0]),
    seed=seeds,
)
def test_layer_norm(count: int, width: int, offset: float, magnitude: float, seed: int) -> None:
    rows = normal(seed, count, width, magnitude=magnitude) + np.float32(offset)
    weight, bias = 1 + normal(seed + 1, width), normal(seed + 2, width)
    epsilon = float(np.float32(1e-5))
    reference = _testing.layer_norm("scalar", rows, weight, bias, epsilon)
    x, gain, shift = (array.astype(np.float64) for array in (rows, weight, bias))
    assert_within(reference, *oracle.layer_norm(x, gain, shift, epsilon))
    for isa in ISAS[:-1]:
        assert_same_bits(_testing.layer_norm(isa, rows, weight, bias, epsilon), reference, isa)


@thorough
@given(n_heads=st.integers(1, 5), half=st.integers(0, 40), rest=st.integers(0, 90), seed=seeds)
def test_rotate(n_heads: int, half: int, rest: int, seed: int) -> None:
    if half + rest == 0:
        rest = 1
    heads, angles = normal(seed, n_heads, 2 * half + rest), normal(seed + 1, half, magnitude=10)
    cosines, sines = np.cos(angles), np.sin(angles)
    reference = _testing.rotate("scalar", heads, cosines, sines)
    doubles = [array.astype(np.float64) for array in (heads, cosines, sines)]
    truth = oracle.rotate(*doubles)
    assert_within(reference, truth, 3 * oracle.UNIT * 2 * np.abs(heads).max())
    for isa in ISAS[:-1]:
        assert_same_bits(_testing.rotate(isa, heads, cosines, sines), reference, isa)


@pytest.mark.parametrize("kv_format", ["f16", "f32"])
@thorough
@given(
    head_dim=st.one_of(st.integers(1, 140), st.sampled_from([64, 80, 128, 256])),
    earlier=st.integers(0, 150),
    count=st.integers(1, 20),
    together=st.integers(1, 20),
    sharpness=st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    seed=seeds,
)
def test_attention(
    kv_format: str,
    head_dim: int,
    earlier: int,
    count: int,
    together: int,
    sharpness: float,
    seed: int,
) -> None:
    queries = normal(seed, count, head_dim, magnitude=sharpness)
    keys, values = (normal(seed + i, earlier + count, head_dim) for i in (1, 2))
    scale = float(np.float32(head_dim**-0.5))

    def run(isa: str, at_once: int) -> Floats:
        result: Floats = _testing.attention(isa, kv_format, queries, keys, values, scale, at_once)
        return result

    reference = run("scalar", count)
    stored = np.float16 if kv_format == "f16" else np.float32
    truth, bound = oracle.attention(
        queries.astype(np.float64),
        keys.astype(stored).astype(np.float64),
        values.astype(stored).astype(np.float64),
        scale,
    )
    assert_within(reference, truth, bound)
    for isa in ISAS:
        assert_same_bits(run(isa, together), reference, isa)


@thorough
@given(n=st.integers(1, 3000), offset=st.sampled_from([0.0, 30.0, -200.0]), seed=seeds)
def test_softmax_sum(n: int, offset: float, seed: int) -> None:
    logits = normal(seed, n, magnitude=5.0) + np.float32(offset)
    reference = np.array(_testing.softmax_sum("scalar", logits), np.float32)
    largest, total, bound = oracle.softmax_sum(logits.astype(np.float64))
    assert reference[0] == largest
    assert abs(reference[1] - total) <= bound
    for isa in ISAS[:-1]:
        found = np.array(_testing.softmax_sum(isa, logits), np.float32)
        assert_same_bits(found, reference, isa)


@settings(max_examples=15, deadline=None)  # the oracle's search is slow
@given(
    seed=seeds,
    magnitude=st.sampled_from([1.0, 1e-4, 1e3]),
    outlier=st.sampled_from([1.0, 5.0, 50.0]),
)
def test_fit_scales(seed: int, magnitude: float, outlier: float) -> None:
    values = normal(seed, 16, 64, magnitude=magnitude)
    values[::3, seed % 64] *= np.float32(outlier)
    values[5] = 0
    reference = _testing.fit_scales("scalar", values, Q4_TABLE_BYTES)
    assert reference[5] == 0
    table = format_oracle.Q4_TABLE.astype(np.float64)
    rows = values.astype(np.float64)
    found_error = np.array(
        [
            oracle.squared_error(row, float(scale), table)
            for row, scale in zip(rows, reference, strict=True)
        ]
    )
    best_error = np.array(
        [oracle.squared_error(row, oracle.fit_scale(row, table), table) for row in rows]
    )
    # The search tries 16 candidates where the oracle tries 400.
    assert (found_error <= 1.3 * best_error).all()
    assert found_error.sum() <= 1.1 * best_error.sum()
    for isa in ISAS[:-1]:
        found = _testing.fit_scales(isa, values, Q4_TABLE_BYTES)
        assert_same_bits(found, reference, isa)
