"""Norms of every backend against the scalar one, bit for bit; see test_backends.py."""

from __future__ import annotations

import numpy as np
import pytest
from backends import ORDERS, SUBJECTS, Subject, assert_same_bits, make_reference, normal, set_order
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

REFERENCE = make_reference()

thorough = settings(max_examples=examples(12), deadline=None)
every_backend = pytest.mark.parametrize("subject", SUBJECTS)
seeds = st.integers(0, 2**32 - 1)
orders = st.tuples(st.sampled_from(ORDERS), st.integers(1, 2**30))
widths = st.one_of(
    st.integers(1, 200), st.sampled_from([63, 64, 65, 127, 256, 320, 512, 520, 1088, 2120, 4160])
)
counts = st.one_of(st.integers(1, 20), st.sampled_from([1, 2, 7, 8, 9, 31, 64, 65, 100]))


@every_backend
@thorough
@given(
    count=counts,
    width=st.one_of(widths, st.sampled_from([2048, 5120, 20480])),
    offset=st.sampled_from([0.0, 100.0]),
    has_bias=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_norm(
    subject: Subject, count: int, width: int, offset: float, has_bias: bool, seed: int,
    order: tuple[str, int],
) -> None:  # fmt: skip
    set_order(order)
    count = min(count, 3) if width > 2000 else count
    rows = normal(seed, count, width) + np.float32(offset)
    # A layer norm has a bias, an RMS norm has none.
    vectors = [normal(seed + i, width) if i % 2 or has_bias else None for i in range(1, 5)]
    backend = subject.make()
    single = REFERENCE.norm(rows, *vectors[:2], 1e-5)
    for in_place in (False, True):
        assert_same_bits(backend.norm(rows, *vectors[:2], 1e-5, in_place), single)
    pair = REFERENCE.norm_pair(rows, *vectors, 1e-5)
    assert_same_bits(backend.norm_pair(rows, *vectors, 1e-5), pair)


@every_backend
@thorough
@given(
    count=counts,
    n_parts=st.integers(1, 9),
    width=st.one_of(st.integers(1, 80), st.sampled_from([128, 255, 256, 1500])),
    beside=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    offset=st.sampled_from([0.0, 100.0]),
    has_bias=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_norm_of_parts(
    subject: Subject, count: int, n_parts: int, width: int, beside: tuple[int, int],
    offset: float, has_bias: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    """What the norm gives of rows of their own; what is beside them stays."""
    set_order(order)
    first, size = beside[0], n_parts * width
    rows = normal(seed, count, first + size + beside[1]) + np.float32(offset)
    weight = 1 + normal(seed + 1, size)
    bias = normal(seed + 2, size) if has_bias else None
    expected = rows.copy()
    for i in range(0, size, width):
        part, own = slice(first + i, first + i + width), slice(i, i + width)
        vectors = weight[own], None if bias is None else bias[own]
        expected[:, part] = REFERENCE.norm(rows[:, part], *vectors, 1e-5)
    found = subject.make().norm_parts(rows, first, size, n_parts, weight, bias, 1e-5)
    assert_same_bits(found, expected)
