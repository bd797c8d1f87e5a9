"""What the tests of kernels share: the test extension, what is drawn, and comparisons."""

from __future__ import annotations

import os

import numpy as np
import pytest
from drawn import examples
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle import kernels as oracle

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
