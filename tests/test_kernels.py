"""Every kernel of every ISA against numpy in double precision, and bit for bit among the ISAs.

Needs the test extension `_testing`, which no wheel contains: the environment variable
PYTHIA_RT_TESTING_DIR names the folder it was built in (scripts/test builds it).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_cases import (
    FORMATS,
    ISAS,
    LINEAR_EPILOGUES,
    Floats,
    _testing,
    assert_same_bits,
    assert_within,
    counts,
    magnitudes,
    normal,
    seeds,
    sizes,
    thorough,
)
from oracle import formats as format_oracle
from oracle import kernels as oracle


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


@pytest.mark.parametrize("form", format_oracle.BITS)
@given(sign=st.sampled_from([1, -1]), alternating=st.booleans(), columns=sizes)
@settings(deadline=None, max_examples=examples(20))
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
    reference = _testing.norm("scalar", rows, weight, bias, epsilon)
    x, gain, shift = (array.astype(np.float64) for array in (rows, weight, bias))
    assert_within(reference, *oracle.layer_norm(x, gain, shift, epsilon))
    for isa in ISAS[:-1]:
        assert_same_bits(_testing.norm(isa, rows, weight, bias, epsilon), reference, isa)


@thorough
@given(
    count=counts, width=sizes, magnitude=st.sampled_from([1.0, 1e-3, 1e3, 1e-20, 0.0]), seed=seeds
)
def test_rms_norm(count: int, width: int, magnitude: float, seed: int) -> None:
    rows = normal(seed, count, width, magnitude=magnitude)
    weight = 1 + normal(seed + 1, width)
    epsilon = float(np.float32(1e-5))
    reference = _testing.norm("scalar", rows, weight, None, epsilon)
    truth = oracle.rms_norm(rows.astype(np.float64), weight.astype(np.float64), epsilon)
    assert_within(reference, *truth)
    for isa in ISAS[:-1]:
        assert_same_bits(_testing.norm(isa, rows, weight, None, epsilon), reference, isa)


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


@pytest.mark.parametrize("base", [1e4, 5e5])
@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_angles_are_rounded_as_transformers_rounds_them(base: float, factor: float) -> None:
    """Up to 131,072 positions, where an angle that is not rounded to f32 is another one."""
    frequencies = (base ** -(np.arange(0, 128, 2) / 128)).astype(np.float32)
    positions = np.r_[0:300, 4090:4100, 131000:131072]
    found = _testing.rope_table(frequencies, factor, positions)
    angles = (torch.from_numpy(positions).float()[:, None] * torch.from_numpy(frequencies)).double()
    for ours, theirs in zip(found, (angles.cos(), angles.sin()), strict=True):
        expected = theirs.float() * factor
        assert np.abs(ours - expected.numpy()).max() <= 2.0**-24 * factor
    exact = np.cos(positions[-1] * frequencies.astype(np.float64)) * factor
    assert np.abs(found[0][-1] - exact).max() > 1e-4


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


@pytest.mark.parametrize("form", [f for f, bits in format_oracle.BITS.items() if bits < 8])
@settings(max_examples=examples(8), deadline=None)  # the oracle's search is slow
@given(
    seed=seeds,
    magnitude=st.sampled_from([1.0, 1e-4, 1e3]),
    outlier=st.sampled_from([1.0, 5.0, 50.0]),
    weighted=st.booleans(),
)
@example(seed=504, magnitude=1.0, outlier=5.0, weighted=True)  # the best scale lies far outside
def test_fit_scales(form: str, seed: int, magnitude: float, outlier: float, weighted: bool) -> None:
    values = normal(seed, 16, 64, magnitude=magnitude)
    values[::3, seed % 64] *= np.float32(outlier)
    values[5] = 0
    levels = format_oracle.LEVELS[form]
    importance = np.random.default_rng(seed).random(64, np.float32) if weighted else None
    factors = (0.85, 1.05)
    is_table = format_oracle.BITS[form] == 4
    options = {
        "table": (levels + 64).astype(np.uint8) if is_table else None,
        "offset": 64 if is_table else -int(levels[0]),
        "importance": importance,
        "first_factor": factors[0],
        "last_factor": factors[1],
    }
    reference = _testing.fit_scales("scalar", values, **options)
    assert reference[5] == 0
    rows, grid = values.astype(np.float64), levels.astype(np.float64)
    weights = np.ones(64) if importance is None else importance.astype(np.float64)
    pairs = zip(rows, reference, strict=True)
    found_error = np.array(
        [oracle.squared_error(row, float(scale), grid, weights) for row, scale in pairs]
    )
    best_error = np.array(
        [
            oracle.squared_error(row, oracle.fit_scale(row, grid, weights, *factors), grid, weights)
            for row in rows
        ]
    )
    # In the same range, the search tries 16 candidates where the oracle tries 400.
    assert (found_error <= 1.5 * best_error).all()
    assert found_error.sum() <= 1.2 * best_error.sum()
    for isa in ISAS[:-1]:
        assert_same_bits(_testing.fit_scales(isa, values, **options), reference, isa)
