"""Every kernel of every ISA against numpy in double precision, and bit for bit among the ISAs.

Needs the test extension `_testing`, which no wheel contains: the environment variable
PYTHIA_RT_TESTING_DIR names the folder it was built in (scripts/test builds it).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from drawn import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import formats as format_oracle
from oracle import kernels as oracle
from oracle import kv_formats as kv_oracle

from bench import testing_extension

Floats = NDArray[np.float32]


if not os.environ.get(testing_extension.VARIABLE):
    pytest.skip("PYTHIA_RT_TESTING_DIR does not name a build of _testing", allow_module_level=True)
_testing = testing_extension.load()
ISAS: list[str] = _testing.isa_names()
FORMATS: list[str] = _testing.format_names()
KV_FORMATS: list[str] = _testing.kv_format_names()
LINEAR_EPILOGUES = sorted(oracle.EPILOGUES)

sizes = st.integers(1, 200)
counts = st.integers(1, 40)
head_dims = st.one_of(st.integers(1, 140), st.sampled_from([20, 40, 64, 72, 80, 128, 256]))
seeds = st.integers(0, 2**32 - 1)
# Ordinary magnitudes, and those near the ends of what f16 scales can hold.
magnitudes = st.sampled_from([1.0, 1.0, 1e-3, 1e-6, 30.0])

thorough = settings(max_examples=examples(60), deadline=None)


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


def append(
    isa: str, form: str, keys: Floats, values: Floats, *, capacity: int, first: int = 0,
    parts: list[NDArray[np.uint8]] | None = None,
) -> list[NDArray[np.uint8]]:  # fmt: skip
    """A head's cache with keys and values from position `first` on; `parts` are changed."""
    result: list[NDArray[np.uint8]] = _testing.append(
        isa, form, keys, values, first=first, capacity=capacity, parts=parts
    )
    return result


def attend(
    isa: str, form: str, queries: Floats, parts: list[NDArray[np.uint8]], **changes: Any
) -> Floats:
    """Queries [positions, heads of a group, head_dim]."""
    scale = float(np.float32(queries.shape[2] ** -0.5))
    result: Floats = _testing.attention(isa, form, queries, parts, **({"scale": scale} | changes))
    return result


@pytest.mark.parametrize("form", KV_FORMATS)
@thorough
@given(
    head_dim=head_dims,
    count=counts,
    exponents=st.tuples(st.integers(-46, 38), st.integers(-46, 38)),
    seed=seeds,
)
def test_append(
    form: str, head_dim: int, count: int, exponents: tuple[int, int], seed: int
) -> None:
    """Groups of any magnitude side by side, subnormals, zeros and the largest floats among them."""
    rows = [normal(seed + i, count, head_dim).clip(-3, 3) for i in range(2)]
    for array, exponent in zip(rows, exponents, strict=True):
        array[:, head_dim // 3 :] *= np.float32(10.0**exponent)
        array[:, head_dim // 3 :] *= np.float32(10.0**exponent if exponent < -37 else 1)
        array[count // 2, : head_dim // 2] = 0
    reference = append("scalar", form, *rows, capacity=count)
    for found, array in zip(kv_oracle.read(form, reference, head_dim, count), rows, strict=True):
        truth = kv_oracle.stored(form, array)
        np.testing.assert_array_equal(found, truth)
        if form == "q8":
            _, scales = kv_oracle.quantise(array)
            steps = np.repeat(scales.astype(np.float64), kv_oracle.GROUP, axis=1)[:, :head_dim]
            smallest = 64 * 2.0**-149  # below it the scale is zero
            half_step = np.maximum(0.5 * (1 + 256 * oracle.UNIT) * steps, smallest)
            assert (np.abs(found - array) <= half_step).all()
    for isa in ISAS[:-1]:
        for ours, theirs in zip(append(isa, form, *rows, capacity=count), reference, strict=True):
            assert_same_bits(ours, theirs, isa)


@pytest.mark.parametrize("form", KV_FORMATS)
@thorough
@given(
    head_dim=head_dims,
    earlier=st.one_of(st.integers(0, 150), st.sampled_from([126, 250, 380, 700, 2040])),
    count=st.integers(1, 20),
    together=st.integers(1, 20),
    sharpness=st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    magnitude=st.sampled_from([1.0, 1.0, 1e-30, 1e30]),
    offset=st.sampled_from([0.0, 0.0, 300.0, -3e5]),
    group=st.sampled_from([1, 1, 1, 3, 4, 5, 7, 8, 16, 29, 71]),
    window=st.sampled_from([0, 0, 1, 2, 100, 128, 129, 256, 2000]),
    scale=st.sampled_from([None, 1.0]),
    slope=st.sampled_from([0.0, 0.0, 0.01, 30.0]),
    seed=seeds,
)
def test_attention(
    form: str,
    head_dim: int,
    earlier: int,
    count: int,
    together: int,
    sharpness: float,
    magnitude: float,
    offset: float,
    group: int,
    window: int,
    scale: float | None,
    slope: float,
    seed: int,
) -> None:
    """Also over keys with a constant part far larger than the rest, and scores beyond -1e5."""
    if form == "f16":
        magnitude, offset = min(max(magnitude, 1e-3), 1e3), max(offset, -3e4)
    count = min(count, 1 + 40 // group)
    queries = normal(seed, count, group, head_dim, magnitude=sharpness)
    keys, values = (normal(seed + i, earlier + count, head_dim) for i in (1, 2))
    keys[:, head_dim // 2 : head_dim // 2 + 3] += np.float32(offset)
    values *= np.float32(magnitude)
    capacity = earlier + count
    scale = float(np.float32(head_dim**-0.5)) if scale is None else scale
    # As ALiBi, and a table that has more positions than the cache, or just as many.
    steps = np.arange(capacity + seed % 3 * 7, dtype=np.float32)
    bias = np.float32(slope) * normal(seed + 3, group)[:, None] * steps

    def run(isa: str, at_once: int) -> Floats:
        parts = append(isa, form, keys, values, capacity=capacity)
        return attend(
            isa, form, queries, parts,
            positions=capacity, capacity=capacity, together=at_once,
            scale=scale, window=window, bias=bias if slope else None,
        )  # fmt: skip

    reference = run("scalar", count * group)
    for head in range(group):
        truth, bound = oracle.attention(
            queries[:, head].astype(np.float64),
            kv_oracle.stored(form, keys),
            kv_oracle.stored(form, values),
            scale,
            window,
            bias[head, :capacity].astype(np.float64),
        )
        assert_within(reference[:, head], truth, bound)
    for isa in ISAS:
        assert_same_bits(run(isa, together), reference, isa)


@pytest.mark.parametrize("form", KV_FORMATS)
@thorough
@given(
    head_dim=head_dims,
    before=st.integers(1, 60),
    kept=st.integers(0, 60),
    after=st.integers(1, 60),
    seed=seeds,
)
def test_a_rewound_cache_is_like_a_fresh_one(
    form: str, head_dim: int, before: int, kept: int, after: int, seed: int
) -> None:
    kept = min(kept, before)
    old = [normal(seed + i, before, head_dim, magnitude=1e20) for i in range(2)]
    new = [normal(seed + i, after, head_dim) for i in (2, 3)]
    for array in old:
        array[:kept] = normal(seed + 4, kept, head_dim)
    queries = normal(seed + 5, after, 1, head_dim)
    capacity = max(before, kept + after)
    for isa in ISAS:
        rewound = append(isa, form, *old, capacity=capacity)
        fresh = append(isa, form, old[0][:kept], old[1][:kept], capacity=capacity)
        found = []
        for parts in (rewound, fresh):
            append(isa, form, *new, capacity=capacity, first=kept, parts=parts)
            found.append(
                attend(
                    isa, form, queries, parts,
                    positions=kept + after, capacity=capacity, together=after,
                )
            )  # fmt: skip
        assert np.isfinite(found[0]).all()
        assert_same_bits(found[0], found[1], isa)


@pytest.mark.parametrize("form", KV_FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("place", [20, 128])  # the latter is the first of a block
def test_values_that_are_not_finite_harm_nobody(
    form: str, bad: float, isa: str, place: int
) -> None:
    """They may spread, but only to who sees their position: earlier queries do not."""
    count = place + 20
    rows = [normal(i, count, 72) for i in range(3)]
    before = attend(
        isa, form, rows[0][:, None], append(isa, form, *rows[1:], capacity=count),
        positions=count, capacity=count, together=5,
    )  # fmt: skip
    for array in rows[1:]:
        array[place, 3] = bad
    after = attend(
        isa, form, rows[0][:, None], append(isa, form, *rows[1:], capacity=count),
        positions=count, capacity=count, together=5,
    )  # fmt: skip
    assert_same_bits(after[:place], before[:place], isa)


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


@pytest.mark.parametrize("form", ["q4", "q5", "q6"])
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
    options = {
        "table": (levels + 64).astype(np.uint8) if form == "q4" else None,
        "offset": 64 if form == "q4" else -int(levels[0]),
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
