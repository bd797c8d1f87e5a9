"""What rows of logits say of tokens, and how far they are apart, against numpy in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import ISAS, _testing, normal, seeds, thorough
from numpy.typing import NDArray

from pythia_rt import _core

Doubles = NDArray[np.float64]


def softmax(logits: NDArray[Any]) -> tuple[Doubles, Doubles]:
    """Probabilities and their logarithms [n, vocabulary]."""
    with np.errstate(divide="ignore"):
        values = logits.astype(np.float64)
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return np.exp(values), values


def kl(p: Doubles, log_p: Doubles, log_q: Doubles) -> list[float]:
    return [
        math.fsum(w * (a - b) for w, a, b in zip(*row, strict=True) if w > 0)
        for row in zip(p, log_p, log_q, strict=True)
    ]


def distances(p: Doubles, log_p: Doubles, q: Doubles, log_q: Doubles) -> tuple[Any, Any, Any]:
    with np.errstate(divide="ignore"):
        middle = np.log((p + q) / 2)
    js = [(a + b) / 2 for a, b in zip(kl(p, log_p, middle), kl(q, log_q, middle), strict=True)]
    return kl(p, log_p, log_q), kl(q, log_q, log_p), js


@thorough
@given(n=st.integers(1, 1200), seed=seeds, scale=st.sampled_from([0.01, 3.0, 40.0]))
def test_token_stats(n: int, seed: int, scale: float) -> None:
    logits = normal(seed, 2, n, magnitude=scale)
    logits[1] = np.round(logits[1])  # equals among them
    tokens = np.random.default_rng(seed).integers(0, n, 2).astype(np.int32)
    own, entropy, rank, top = _core.token_stats(logits, tokens)
    p, log_p = softmax(logits)
    assert own == pytest.approx(log_p[[0, 1], tokens], rel=1e-6, abs=1e-6)
    assert entropy == pytest.approx(
        [
            -math.fsum(a * b for a, b in zip(*row, strict=True))
            for row in zip(p, log_p, strict=True)
        ],
        rel=1e-12,
        abs=1e-12,
    )
    for i in range(2):
        assert rank[i] == sum(logit > logits[i, tokens[i]] for logit in logits[i])
        assert top[i] == logits[i].argmax()
        likelihood, _ = _core.judge(logits[i], tokens[i : i + 1])
        assert own[i] == likelihood[0]
        for isa in ISAS:
            found = _testing.token_stats(isa, logits[i], tokens[i])
            assert found == (own[i], entropy[i], rank[i], top[i]), isa


@thorough
@given(n=st.integers(1, 1200), seed=seeds, apart=st.sampled_from([1e-4, 0.1, 10.0]))
def test_divergence(n: int, seed: int, apart: float) -> None:
    first = normal(seed, 3, n, magnitude=4.0)
    second = first + normal(seed + 1, 3, n, magnitude=apart)
    second[0, : n // 3] = -np.inf
    expected = distances(*softmax(first), *softmax(second))
    found = _core.divergence(first, second, n)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-11, abs=1e-14)
    assert n < 3 or found[0][0] == math.inf
    # Of a part of the vocabulary, of rows of different widths.
    part = max(1, n // 2)
    again = _core.divergence(first, np.ascontiguousarray(second[:, :part]), part)
    direct = _core.divergence(*(np.ascontiguousarray(x[:, :part]) for x in (first, second)), part)
    np.testing.assert_array_equal(again, direct)


@thorough
@given(n=st.integers(1, 1200), seed=seeds)
def test_divergence_from_shares(n: int, seed: int) -> None:
    logits = normal(seed, 2, n, magnitude=4.0)
    counts = np.random.default_rng(seed).integers(0, 3, (2, n)).astype(np.float64)
    counts[:, 0] += 1
    shares = counts / counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        expected = distances(*softmax(logits), shares, np.log(shares))
    for ours, theirs in zip(_core.divergence_from_shares(logits, counts), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-11, abs=1e-14)


def test_equal_distributions_are_not_apart() -> None:
    logits = normal(3, 4, 999, magnitude=4.0)
    kl, reverse_kl, js = _core.divergence(logits, logits, 999)
    assert not kl.any() and not reverse_kl.any() and (js >= 0).all() and js.max() < 1e-14


def test_what_is_no_distribution_is_nan() -> None:
    logits = normal(3, 3, 50)
    bad = logits.copy()
    bad[0, 7], bad[1, 7], bad[2] = np.nan, np.inf, -np.inf
    for found in (*_core.divergence(bad, logits, 50), *_core.divergence(logits, bad, 50)):
        assert np.isnan(found).all()
    nothing = np.zeros((3, 50))
    assert np.isnan(_core.divergence_from_shares(logits, nothing)).all()


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_the_threads_change_no_bit(rows: int) -> None:
    logits, others = normal(1, rows, 3000), normal(2, rows, 3000)
    tokens = np.arange(rows, dtype=np.int32)
    alone = _core.token_stats(logits, tokens, threads=1)
    apart = _core.divergence(logits, others, 3000, threads=1)
    for threads in (2, 5):
        for ours, theirs in zip(
            _core.token_stats(logits, tokens, threads=threads), alone, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(
            _core.divergence(logits, others, 3000, threads=threads), apart
        )


def test_bits_are_those_of_every_machine() -> None:
    """Of whole eighths, which numpy makes alike everywhere."""
    logits = (np.arange(3000) * 37 % 101).astype(np.float32)[None] / 8
    others = (np.arange(3000) * 11 % 97).astype(np.float32)[None] / 8
    own, entropy, rank, top = _core.token_stats(logits, np.array([5], np.int32))
    found = [float(x[0]).hex() for x in (own, entropy, *_core.divergence(logits, others, 3000))]
    assert (rank[0], top[0]) == (475, 30)
    assert found == [
        "-0x1.e224260000000p+2",
        "0x1.9e2900db27276p+2",
        "0x1.47860e3c445e3p+2",
        "0x1.53633befe0db5p+2",
        "0x1.07fc37fdebe0ep-1",
    ]


def test_what_does_not_fit_is_refused() -> None:
    logits, tokens = normal(1, 2, 9), np.array([1, 9], np.int32)
    with pytest.raises(ValueError, match=r"token 9 \(at index 1\) is not in the vocabulary of 9"):
        _core.token_stats(logits, tokens)
    with pytest.raises(ValueError, match="1 tokens for 2 rows"):
        _core.token_stats(logits, tokens[:1])
    with pytest.raises(ValueError, match=r"logits must be an array \[n, vocab_size\]"):
        _core.token_stats(logits[0], tokens[:1])
    with pytest.raises(ValueError, match="as many rows"):
        _core.divergence(logits, logits[:1], 9)
    with pytest.raises(ValueError, match="9 and 9 values, not 10"):
        _core.divergence(logits, logits, 10)
    assert [len(x) for x in _core.divergence(logits[:0], logits[:0], 9)] == [0, 0, 0]
    assert [len(x) for x in _core.token_stats(logits[:0], tokens[:0])] == [0, 0, 0, 0]
