"""Balancing keeps the function and forgets a model's scales at every point of the space."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pytest
from models import covering_specs, make_spec, make_tensors, make_weights, some_tokens
from numpy.typing import NDArray
from oracle import decoder, kernels

from pythia_rt import _core
from pythia_rt.convert.flatfile.layout import Linear, linears, norms
from pythia_rt.convert.flatfile.spec import CHOICES, Spec
from pythia_rt.convert.quantise.balancing import Rows, inside, rewrites, solve

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Weights = dict[str, Floats]

SPECS = [
    *covering_specs(),
    make_spec(n_heads=5, n_kv_heads=1),
    make_spec(mlp="gated", activation="silu", norm="rms", n_kv_heads=6, rotary_dim=12),
    make_spec(rotary_dim=0, learned_positions=True, activation="relu", windows=[3, 0]),
]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))


class Given:
    """Weights as balancing reads them."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def vector(self, name: str) -> Floats:
        return self.weights[name]

    def rows(self, matrix: Linear, step: int) -> Iterator[Rows]:
        values = self.weights[matrix.name]
        for first in range(0, len(values), step):
            yield Rows("F32", values[first : first + step].reshape(-1).view(np.uint8))

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        return ValueError(f"{matrix.name} {row}")


def everything(spec: Spec) -> frozenset[str]:
    return rewrites(spec, {matrix.name: "q4" for matrix in linears(spec)})


def balanced(spec: Spec, weights: Weights, wanted: Collection[str]) -> Weights:
    balance = solve(spec, wanted, Given(weights))
    found = weights | balance.vectors
    for matrix in linears(spec):
        found[matrix.name] = weights[matrix.name].copy()
        balance.scale(matrix.name, 0, found[matrix.name])
    return found


def uneven(spec: Spec) -> Weights:
    """Weights whose channels differ by some orders of magnitude; some gains are negative or 0."""
    weights = make_weights(spec)
    random = np.random.default_rng(0)
    for matrix in linears(spec):
        values = weights[matrix.name]
        if matrix.layer >= 0:
            values *= np.exp(random.normal(0, 1, (len(values), 1)))
            values *= np.exp(random.normal(0, 1, values.shape[1]))
            values /= np.sqrt(np.square(values).sum(axis=1).mean())
            values[::11] = 0
            values[:, 5::13] = 0
    for norm in norms(spec):
        weights[f"{norm.name}.weight"][3::7] *= -1
        if norm.name != "embed_norm":
            weights[f"{norm.name}.weight"][::9] = 0
    return weights


def few(random: np.random.Generator, *shape: int) -> Doubles:
    """Ones, but for one in ten: 30 to 300, or one over that."""
    factors = np.exp(random.uniform(np.log(30), np.log(300), shape))
    factors = np.where(random.random(shape) < 0.3, 1 / factors, factors)
    return np.where(random.random(shape) < 0.1, factors, 1.0)


def planted(spec: Spec, weights: Weights) -> Weights:
    """The same function with channels that are 30 to 300 times larger, undone in the next matrix.

    Written out for each pair of neighbours, in whatever way a model could have been trained.
    """
    found = {name: values.astype(np.float64) for name, values in weights.items()}
    random = np.random.default_rng(1)
    dim, group = spec["head_dim"], spec["n_heads"] // spec["n_kv_heads"]
    queries, keys = spec["n_heads"] * dim, spec["n_kv_heads"] * dim

    def scale(name: str, factors: Doubles) -> None:
        """Rows of a matrix and its bias, or a norm."""
        if name in found:
            found[name] *= factors[:, None]
        for part in ("weight", "bias"):
            if f"{name}.{part}" in found:
                found[f"{name}.{part}"] *= factors

    for norm in norms(spec):
        readers = [matrix for matrix in linears(spec) if matrix.reads == norm.name]
        if readers:
            factors = few(random, norm.size)
            scale(norm.name, factors)
            for matrix in readers:
                found[matrix.name] /= factors
    for layer in range(spec["n_layers"]):
        prefix = f"layers.{layer}."
        rows = np.ones(queries + 2 * keys)
        of_pairs = few(random, spec["n_kv_heads"], 1, dim)
        half = spec["rotary_dim"] // 2
        of_pairs[:, :, :half] = of_pairs[:, :, half : 2 * half]  # a rotation mixes the two
        if spec["qk_norm"] != "none":
            of_pairs[:] = 1  # a norm of all channels stands between
        rows[:queries] = np.broadcast_to(of_pairs, (len(of_pairs), group, dim)).reshape(-1)
        rows[queries : queries + keys] = 1 / of_pairs.reshape(-1)
        of_values = few(random, spec["n_kv_heads"], 1, dim)
        rows[queries + keys :] = of_values.reshape(-1)
        scale(f"{prefix}qkv", rows)
        spread = np.broadcast_to(of_values, (len(of_values), group, dim)).reshape(-1)
        found[f"{prefix}attn_out"] /= spread
        inner = few(random, spec["mlp_size"])
        if spec["mlp"] == "gated":
            tiles = np.ones((spec["mlp_size"] // 16, 2, 16))
            tiles[:, 1] = inner.reshape(-1, 16)
            scale(f"{prefix}mlp_up", tiles.reshape(-1))
            found[f"{prefix}mlp_down"] /= inner
        elif spec["activation"] == "relu":
            scale(f"{prefix}mlp_up", inner)
            found[f"{prefix}mlp_down"] /= inner
    return {name: values.astype(np.float32) for name, values in found.items()}


def error(found: NDArray[np.floating], truth: Doubles) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())


@every_spec
def test_what_is_rewritten_follows_from_the_spec(spec: Spec) -> None:
    expected = {"final_norm"} if spec["final_norm"] and not spec["tied_head"] else set()
    for layer in range(spec["n_layers"]):
        parts = {"values"}
        if spec["qk_norm"] == "none":
            parts.add("scores")
        if spec["block"] not in ("post", "output"):
            parts.add("attn_norm")
        if spec["block"] in ("sequential", "parallel"):
            parts.add("mlp_norm")
        if spec["mlp"] == "gated" or spec["activation"] == "relu":
            parts.add("mlp")
        expected |= {f"layers.{layer}.{part}" for part in parts}
    assert everything(spec) == expected
    assert not rewrites(spec, {matrix.name: "f16" for matrix in linears(spec)})


@every_spec
def test_each_rewrite_and_all_together_keep_the_function(spec: Spec) -> None:
    weights, tokens = uneven(spec), some_tokens(spec)
    truth = decoder.forward(spec, weights, tokens)
    kinds = {name.rpartition(".")[2] for name in everything(spec)}
    for kind in kinds:
        wanted = {name for name in everything(spec) if name.rpartition(".")[2] == kind}
        found = balanced(spec, weights, wanted)
        changed = {name for name in found if not np.array_equal(found[name], weights[name])}
        assert changed, kind
        assert error(decoder.forward(spec, found, tokens), truth) <= 1e-5, kind
    whole = balanced(spec, weights, everything(spec))
    assert all(np.isfinite(values).all() for values in whole.values())
    assert error(decoder.forward(spec, whole, tokens), truth) <= 1e-5
    assert error(runtime(spec, whole, tokens), truth) <= 2e-5


def runtime(spec: Spec, weights: Weights, tokens: NDArray[np.int32]) -> Floats:
    model = _core.Model(
        dict(spec),
        {matrix.name: "f32" for matrix in linears(spec)},
        make_tensors(spec, weights=weights),
        threads=1,
    )
    return _core.Session(model, kv_format="f32").logits(tokens)


@every_spec
def test_scales_of_the_source_are_forgotten(spec: Spec) -> None:
    weights, tokens = make_weights(spec), some_tokens(spec)
    hard = planted(spec, weights)
    truth = decoder.forward(spec, weights, tokens)
    assert error(decoder.forward(spec, hard, tokens), truth) <= 1e-5
    one, two = (balanced(spec, these, everything(spec)) for these in (weights, hard))
    for name, values in one.items():
        assert np.abs(two[name] - values).max() <= 1e-4 * np.abs(values).max(), name


@pytest.mark.parametrize("activation", CHOICES["activation"])
def test_scales_pass_where_the_activation_lets_them(activation: str) -> None:
    x = np.linspace(-4, 4, 101)
    function = kernels.EPILOGUES[activation]
    keeps = np.allclose(function(2 * x), 2 * function(x))
    assert keeps == (activation in inside.HOMOGENEOUS)
    for mlp in CHOICES["mlp"]:
        spec = make_spec(mlp=mlp, activation=activation)
        assert inside.Inside(spec).passes_scales == (keeps or mlp == "gated")


@pytest.mark.parametrize("activation", CHOICES["activation"])
def test_what_comes_through_an_activation_is_guessed_within_a_third(activation: str) -> None:
    means, deviations = np.meshgrid([-1.0, -0.5, 0.0, 0.5, 2.0], [0.25, 0.5, 1.0, 2.0])
    samples = means + deviations * np.random.default_rng(0).standard_normal((20_000, 1, 1))
    truth = np.sqrt(np.square(kernels.EPILOGUES[activation](samples)).mean(axis=0))
    found = np.sqrt(inside.activated(activation, means, deviations**2))
    size = np.sqrt(means**2 + deviations**2)
    assert (np.abs(found - truth) <= 0.34 * truth + size / 16).all()
