"""Attention and its caches on every ISA against numpy in double precision, and bit for bit.

Needs the test extension `_testing` in PYTHIA_RT_TESTING_DIR, see test_kernels.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    ISAS,
    KV_FORMATS,
    Floats,
    _testing,
    assert_same_bits,
    assert_within,
    counts,
    head_dims,
    normal,
    seeds,
    thorough,
)
from numpy.typing import NDArray
from oracle import kernels as oracle
from oracle import kv_formats as kv_oracle


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
            _, scales = kv_oracle.quantise(form, array)
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
