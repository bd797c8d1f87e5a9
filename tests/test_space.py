"""Every choice of the spec with every other one: what a model computes, and what balancing keeps.

The models are random, with biases and gains that are neither 0 nor 1; the truth is
oracle/decoder.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from models import covering_specs, make_model, make_spec, make_tensors, make_weights, some_tokens
from numpy.typing import NDArray
from oracle import decoder as oracle
from probing import places_of, replacing, width_of

from pythia_rt import _core
from pythia_rt.convert.flatfile.layout import VECTOR_MULTIPLE, Linear, Norm, linears, norms
from pythia_rt.convert.flatfile.spec import CHOICES, FIELDS, Spec
from pythia_rt.convert.quantise.balancing import Rows, rewrites, solve
from pythia_rt.convert.quantise.calibrator import Calibrator
from pythia_rt.convert.quantise.kv_range import bound_keys_and_values
from pythia_rt.convert.quantise.weights import Chunk

Floats = NDArray[np.float32]

# And numbers that are choices too: heads that share keys and values, their scores, windows.
SPECS = [
    *covering_specs(),
    make_spec(n_kv_heads=1, windows=[7, 0], score_scale=1.0),
    make_spec(n_heads=5, n_kv_heads=5, windows=[1, 33], block="sequential"),
    make_spec(n_heads=14, n_kv_heads=2, windows=[0, 12], rotary_dim=0),
]
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


@spaces
def test_points_are_those_of_the_formula_and_seeing_them_changes_no_bit(spec: Spec) -> None:
    tokens = some_tokens(spec)
    truth: dict[tuple[str, int], NDArray[np.float64]] = {}

    def keep(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        truth[point, layer] = values.copy()
        return values

    oracle.forward(spec, make_weights(spec), tokens, keep)
    model = make_model(spec)
    places = places_of(model)
    assert {*places, *places_of(model, of_keys=True)} == set(truth)
    expected = _core.Session(model, kv_format="f32").logits(tokens)
    for chosen in (places, *([place] for place in places)):
        session = _core.Session(model, kv_format="f32")
        (logits,), captured = _core.run([session], [tokens], capture=chosen)
        assert_same(logits, expected)
        for place, found in zip(chosen, captured, strict=True):
            error = np.abs(found - truth[place]).max()
            assert error <= 2e-5 * np.abs(truth[place]).max(), place


@spaces
def test_replaced_values_are_what_the_formula_goes_on_with(spec: Spec) -> None:
    tokens, numbers = some_tokens(spec), [0, 3, 17, 39]
    model = make_model(spec)
    random = np.random.default_rng(4)
    for place in places_of(model):
        width = width_of(model, place[0])
        rows = random.standard_normal((len(numbers), width)).astype(np.float32)

        def at(
            point: str, layer: int, values: NDArray[np.float64],
            place: tuple[str, int] = place, rows: Floats = rows,
        ) -> NDArray[np.float64]:  # fmt: skip
            if (point, layer) == place:
                values = values.copy()
                values[numbers] = rows
            return values

        expected = oracle.forward(spec, make_weights(spec), tokens, at)
        session = _core.Session(model, kv_format="f32")
        edits = replacing(_core, model, [(*place, numbers, rows)], [len(tokens)])
        (found,), _ = _core.run([session], [tokens], edits=edits)
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max(), place


def in_pieces(module: Any, model: Any, cuts: Sequence[int]) -> Floats:
    """The logits of 40 tokens that are given piece by piece."""
    session = module.Session(model)
    pieces = np.split(some_tokens(model.spec), cuts)
    return np.concatenate([session.logits(piece) for piece in pieces])


def scores_of(module: Any, model: Any) -> Floats:
    tokens = [some_tokens(model.spec)]
    ((scores, _),) = module.score([module.Session(model)], tokens)
    ((same, _),) = module.score([module.Session(model)], tokens, run_last=False)
    assert_same(same, scores)
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


@spaces
@pytest.mark.parametrize("cuts", [(), (31,)], ids=str)
def test_what_is_forked_or_rewound_goes_on_at_its_positions(
    spec: Spec, cuts: tuple[int, ...]
) -> None:
    """Learned ones above all: they are in what a row begins with, not in how it attends."""
    model, tokens = make_model(spec), some_tokens(spec)
    expected = in_pieces(_core, model, ())
    session = _core.Session(model)
    session.prefill(tokens[:20])
    fork, other = session.fork(), session.fork()
    session.rewind(7)
    fork.rewind(19)
    for first, goes_on in ((7, session), (19, fork), (20, other)):
        pieces = np.split(tokens, [first, *cuts])[1:]
        assert_same(np.concatenate([goes_on.logits(piece) for piece in pieces]), expected[first:])
    begins = (3, 12, 20)
    for first, goes_on in zip(begins, (session, fork, other), strict=True):
        goes_on.rewind(first)
    together = _core.forward([session, fork, other], [tokens[first:] for first in begins])
    for first, found in zip(begins, together, strict=True):
        assert_same(found, expected[first:])


@pytest.mark.parametrize(("attention", "mlp"), [("q4", "q8"), ("f16", "q4"), ("q5", "bf16")])
def test_one_norm_is_read_in_two_formats(attention: str, mlp: str, isa: str) -> None:
    from backends import _emulated

    spec = make_spec(block="parallel_shared")
    form = {"embed": "f16", "attention": attention, "mlp": mlp, "head": "q6"}
    found = make_model(spec, form, threads=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHIA_RT_ISA", "scalar")
        reference = make_model(spec, form, threads=1)
    compare(reference, _core, found)
    if isa == "scalar":
        compare(reference, _emulated, make_model(spec, form, module=_emulated, device="cuda"))


def compare(reference: Any, module: Any, model: Any) -> None:
    expected = in_pieces(_core, reference, ())
    session, places = module.Session(model), places_of(model)
    (probed,), _ = module.run([session], [some_tokens(model.spec)], capture=places)
    assert_same(probed, expected)
    for cuts in ((), (5, 29), range(30, 40)):
        assert_same(in_pieces(module, model, cuts), expected)
    assert_same(scores_of(module, model), scores_of(_core, reference))


def assert_same(found: Floats, expected: Floats) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


class Weights:
    """The weights of a model as balancing reads them, and as what comes after it does."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._weights = weights

    def vector(self, name: str) -> Floats:
        return self._weights[name]

    def rows(self, matrix: Linear, step: int) -> Iterator[Rows]:
        values = self._weights[matrix.name]
        for first in range(0, len(values), step):
            yield Rows("F32", values[first : first + step].reshape(-1).view(np.uint8))

    def chunks(self, matrix: Linear) -> Iterator[Chunk]:
        for first, rows in zip(itertools.count(0, 32), self.rows(matrix, 32), strict=False):
            yield Chunk(first, rows.data.size // matrix.columns // 4, *rows)

    def decode(self, matrix: Linear, chunk: Chunk) -> Floats:
        values: Floats = chunk.data.view(np.float32).reshape(chunk.rows, matrix.columns)
        return values

    def table(self, name: str) -> Iterator[Floats]:
        yield from np.array_split(self._weights[name], 1 + len(self._weights[name]) // 16)

    def not_finite(self, matrix: Linear, row: int) -> ValueError:
        return ValueError(f"{matrix.name} {row}")


def balance(spec: Spec, weights: dict[str, Floats]) -> dict[str, Floats]:
    """The same model as it would be quantised."""
    formats = {matrix.name: "q8" for matrix in linears(spec)}
    found = solve(spec, rewrites(spec, formats), Weights(weights))
    balanced: dict[str, Floats] = weights | found.vectors
    for matrix in linears(spec):
        balanced[matrix.name] = balanced[matrix.name].copy()
        found.scale(matrix.name, 0, balanced[matrix.name])
    return balanced


@spaces
def test_balancing_forgets_how_gains_were_divided(spec: Spec) -> None:
    """Between a norm and all that reads it."""
    weights = make_weights(spec)
    other = {name: values.copy() for name, values in weights.items()}
    random = np.random.default_rng(2)
    for norm in norms(spec):
        readers = [matrix for matrix in linears(spec) if matrix.reads == norm.name]
        factors = np.exp(random.standard_normal(norm.size)).astype(np.float32)
        if not readers:
            continue
        other[f"{norm.name}.weight"] *= factors
        if norm.bias:
            other[f"{norm.name}.bias"] *= factors
        for matrix in readers:
            other[matrix.name] /= factors
    expected, found = balance(spec, weights), balance(spec, other)
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= 1e-4 * np.abs(values).max(), name


@spaces
def test_balancing_keeps_the_function(spec: Spec) -> None:
    weights = make_weights(spec)
    balanced = balance(spec, weights)
    # What is rewritten whatever the choices are.
    changed = {name for name in weights if not np.array_equal(weights[name], balanced[name])}
    assert {f"layers.1.{role}" for role in ("qkv", "attn_out")} <= changed
    # A bias leaves the norm where all that reads it has one of its own to take it, and the values
    # where the next matrix has.
    matrices = {matrix.name: matrix for matrix in linears(spec)}
    for norm in {matrix.reads for matrix in matrices.values() if "norm" in matrix.reads}:
        readers = [matrix for matrix in matrices.values() if matrix.reads == norm]
        if f"{norm}.bias" in weights and all(matrix.bias for matrix in readers):
            assert not balanced[f"{norm}.bias"].any(), norm
    for matrix in matrices.values():
        if matrix.role == "attn_out" and matrices[matrix.reads].bias:
            values = balanced[f"{matrix.reads}.bias"][-spec["n_kv_heads"] * spec["head_dim"] :]
            assert values.any() != matrix.bias
    tokens = some_tokens(spec)
    truth, found = (oracle.forward(spec, found, tokens) for found in (weights, balanced))
    assert np.abs(found - truth).max() <= 1e-5 * np.abs(truth).max()


class WholeWeights(Weights):
    """As calibration reads them, and changes norms with their readers."""

    def rescale(self, norm: Norm, readers: Iterable[Linear], scales: Floats) -> None:
        changed = {f"{norm.name}.{part}": scales for part in ("weight", "bias")}
        changed |= {matrix.name: 1 / scales for matrix in readers}
        for name in changed.keys() & self._weights.keys():
            self._weights[name] = self._weights[name] * changed[name]

    def vector(self, name: str) -> Floats:
        values = self._weights[name]
        padded: Floats = np.pad(values, (0, -len(values) % VECTOR_MULTIPLE))
        return padded

    def rows(self, matrix: Linear, indices: Any) -> Any:
        return self._weights[matrix.name][indices]

    def chunks(self, matrix: Linear) -> Iterator[Chunk]:
        values = self._weights[matrix.name]
        yield Chunk(0, len(values), "F32", values.reshape(-1).view(np.uint8))

    def values(self, matrix: Linear) -> Floats:
        values: Floats = self._weights[matrix.name].copy()
        return values

    def size(self, name: str) -> int:
        return self._weights[name].nbytes


@spaces
def test_calibration_helps(spec: Spec) -> None:
    """On the text that it was calibrated on, and at every layer: each is given what it will see."""
    weights = make_weights(spec)
    formats = {
        matrix.name: "f32" if matrix.component == "embed" else "q4" for matrix in linears(spec)
    }
    tokens = [some_tokens(spec), some_tokens(spec)[::-1].copy()]
    plan: Any = SimpleNamespace(spec=spec)
    whole = WholeWeights(dict(weights))
    calibrator = Calibrator(plan, formats, cast(Any, whole), tokens, 1)

    def error(calibrated: bool) -> float:
        tensors = make_tensors(spec)
        for matrix in linears(spec):
            form, size = formats[matrix.name], (matrix.rows, matrix.columns)
            del tensors[f"{matrix.name}.{_core.packed_layout('f32', *size)[0][0]}"]
            if calibrated and calibrator.packs(matrix.name):
                (parts,) = calibrator.pack(matrix.name, lambda _: None)
            else:
                parts = _core.pack(form, weights[matrix.name], "F32", *size)
            layout = _core.packed_layout(form, *size)
            for (part, _, _), data in zip(layout, parts, strict=True):
                tensors[f"{matrix.name}.{part}"] = data
        for norm in norms(spec) if calibrated else ():
            tensors[f"{norm.name}.weight"] = whole.vector(f"{norm.name}.weight")
            if norm.bias:
                tensors[f"{norm.name}.bias"] = whole.vector(f"{norm.name}.bias")
        model = _core.Model(dict(spec), formats, tensors)
        truth = oracle.forward(spec, weights, tokens[0])
        found = _core.Session(model, kv_format="f32").logits(tokens[0])
        return float(np.square(found - truth).mean())

    assert error(calibrated=True) < 0.5 * error(calibrated=False)


@spaces
def test_keys_and_values_stay_within_their_bound(spec: Spec) -> None:
    weights = make_weights(spec)
    found: list[float] = []

    def measure(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if point in ("v", "norm_k" if spec["qk_norm"] != "none" else "k", "rot_k"):
            found.append(float(np.abs(values).max()))
        return values

    oracle.forward(spec, weights, some_tokens(spec), measure)
    bound = bound_keys_and_values(spec, cast(Any, Weights(weights)))
    assert max(found) <= bound <= 20 * max(found)


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
