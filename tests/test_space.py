"""Every choice of the spec with every other one: what a model computes, and what balancing keeps.

The models are random, with biases and gains that are neither 0 nor 1; the truth is
oracle/decoder.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from models import covering_specs, make_model, make_spec, make_weights, some_tokens
from numpy.typing import NDArray
from oracle import decoder as oracle

from pythia_rt import _core
from pythia_rt.convert.flatfile.layout import Linear, linears
from pythia_rt.convert.flatfile.spec import CHOICES, FIELDS, Spec
from pythia_rt.convert.quantise.balancing import rewrites, solve

Floats = NDArray[np.float32]

SPECS = covering_specs()
spaces = pytest.mark.parametrize("spec", SPECS, ids=[str(i) for i in range(len(SPECS))])


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = logits - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
    return result


@spaces
def test_logits_are_those_of_the_formula(spec: Spec, isa: str) -> None:
    tokens = some_tokens(spec)
    expected = oracle.forward(spec, make_weights(spec), tokens)
    model = make_model(spec)
    assert model.isa == isa
    found = _core.Session(model, kv_format="f32").logits(tokens)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@spaces
def test_scores_are_those_of_the_formula(spec: Spec) -> None:
    tokens = some_tokens(spec)
    expected = log_softmax(oracle.forward(spec, make_weights(spec), tokens[:-1]))
    session = _core.Session(make_model(spec), kv_format="f32")
    ((found, _),) = _core.score([session], [tokens])
    assert np.abs(found - expected[np.arange(39), tokens[1:]]).max() <= 1e-4


def in_pieces(module: Any, model: Any, cuts: Sequence[int]) -> Floats:
    """The logits of 40 tokens that are given piece by piece."""
    session = module.Session(model)
    pieces = np.split(some_tokens(model.spec), cuts)
    return np.concatenate([session.logits(piece) for piece in pieces])


def scores_of(module: Any, model: Any) -> Floats:
    ((scores, _),) = module.score([module.Session(model)], [some_tokens(model.spec)])
    found: Floats = scores
    return found


@spaces
@pytest.mark.parametrize("form", ["q4", "bf16"])
def test_neither_device_nor_isa_nor_threads_nor_pieces_change_a_bit(
    spec: Spec, form: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_model(spec, form, threads=3)
    assert found.isa == isa
    monkeypatch.setenv("PYTHIA_RT_ISA", "scalar")
    reference = make_model(spec, form, threads=1)
    compare(reference, _core, found)
    if isa == "scalar":
        from backends import _emulated

        compare(reference, _emulated, make_model(spec, form, module=_emulated, device="cuda"))


def compare(reference: Any, module: Any, model: Any) -> None:
    expected = in_pieces(_core, reference, ())
    for cuts in ((), (5, 29), range(30, 40)):
        assert_same(in_pieces(module, model, cuts), expected)
    assert_same(scores_of(module, model), scores_of(_core, reference))


def assert_same(found: Floats, expected: Floats) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


class Weights:
    """The weights of a model as `balancing.Source` wants them."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights

    def vector(self, name: str) -> Floats:
        return self._weights[name]

    def rows(self, matrix: Linear, step: int) -> Iterator[Floats]:
        values = self._weights[matrix.name]
        for first in range(0, len(values), step):
            yield values[first : first + step].copy()

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        return ValueError(f"{matrix.name} {row}")


@spaces
def test_balancing_keeps_the_function(spec: Spec) -> None:
    weights = make_weights(spec)
    formats = {matrix.name: "q8" for matrix in linears(spec)}
    balance = solve(spec, rewrites(spec, formats), Weights(weights))
    balanced: dict[str, Floats] = weights | balance.vectors
    for matrix in linears(spec):
        balanced[matrix.name] = balanced[matrix.name].copy()
        balance.scale(matrix.name, 0, balanced[matrix.name])
    # What is rewritten whatever the choices are.
    changed = {name for name in weights if not np.array_equal(weights[name], balanced[name])}
    assert {f"layers.1.{role}" for role in ("qkv", "attn_out")} <= changed
    # A bias leaves the norm, or the values, where the next matrix has one of its own to take it.
    matrices = {matrix.name: matrix for matrix in linears(spec)}
    for matrix in matrices.values():
        if matrix.bias and f"{matrix.reads}.bias" in weights and "norm" in matrix.reads:
            assert not balanced[f"{matrix.reads}.bias"].any(), matrix.name
        if matrix.role == "attn_out" and matrices[matrix.reads].bias:
            values = balanced[f"{matrix.reads}.bias"][-spec["n_kv_heads"] * spec["head_dim"] :]
            assert values.any() != matrix.bias
    tokens = some_tokens(spec)
    truth, found = (oracle.forward(spec, found, tokens) for found in (weights, balanced))
    assert np.abs(found - truth).max() <= 1e-5 * np.abs(truth).max()


def test_choices_stand_beside_each_other() -> None:
    """The specs above have all pairs of choices but those that the core refuses."""
    for (a, x), (b, y) in itertools.combinations(choices(), 2):
        pair = {a: x, b: y}
        if a != b and not any(pair.items() <= spec.items() for spec in SPECS):
            with pytest.raises(ValueError, match=f"{a}|{b}"):
                make_spec(**pair)


def choices() -> list[tuple[str, Any]]:
    """Every value of every field that has a few."""
    flags = {name: [False, True] for name, field in FIELDS.items() if field.type == "bool"}
    return [(name, value) for name, values in (CHOICES | flags).items() for value in values]
