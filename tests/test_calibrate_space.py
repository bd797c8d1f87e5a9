"""Calibration at every point of the space: each matrix is quantised for what it will see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from models import covering_specs, make_spec, make_weights, some_tokens
from numpy.typing import NDArray
from oracle import decoder

from pythia_rt import _core
from pythia_rt.convert.flatfile.layout import VECTOR_MULTIPLE, Linear, Norm, linears
from pythia_rt.convert.flatfile.spec import Spec
from pythia_rt.convert.plan import Plan
from pythia_rt.convert.quantise import calibrator
from pythia_rt.convert.quantise.weights import Chunk

Floats = NDArray[np.float32]
SPECS = [*covering_specs(), make_spec(windows=[3, 0], mlp="gated"), make_spec(n_kv_heads=1)]


class Given:
    """Weights as the calibrator reads them."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = weights

    def vector(self, name: str) -> Floats:
        values = self.weights[name]
        return np.pad(values, (0, -len(values) % VECTOR_MULTIPLE))

    def table(self, name: str) -> Iterator[Floats]:
        for first in range(0, len(self.weights[name]), 7):
            yield self.weights[name][first : first + 7]

    def rows(self, matrix: Linear, indices: Iterable[int]) -> Floats:
        return self.weights[matrix.name][list(indices)]

    def values(self, matrix: Linear) -> Floats:
        return self.weights[matrix.name].copy()

    def chunks(self, matrix: Linear) -> Iterator[Chunk]:
        values = self.weights[matrix.name]
        for first in range(0, len(values), 48):
            part = np.ascontiguousarray(values[first : first + 48])
            yield Chunk(first, len(part), "F32", part.reshape(-1).view(np.uint8))

    def decode(self, matrix: Linear, chunk: Chunk) -> Floats:
        return chunk.data.view(np.float32).reshape(chunk.rows, -1)

    def rescale(self, norm: Norm, readers: Iterable[Linear], scales: Floats) -> None:
        for name in (f"{norm.name}.weight", f"{norm.name}.bias"):
            if name in self.weights:
                self.weights[name] = self.weights[name] * scales
        for matrix in readers:
            self.weights[matrix.name] = self.weights[matrix.name] / scales

    def size(self, name: str) -> int:
        return self.weights[name].nbytes


def calibrated(
    spec: Spec, form: str, sequences: list[NDArray[np.int32]]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """What a quantised model's matrices are, and what the exact model's were seen to multiply."""
    weights = make_weights(spec)
    names = [matrix.name for matrix in linears(spec) if matrix.name != "embed"]
    seen: dict[str, list[Floats]] = {}

    class Watched(calibrator.Inputs):
        def __init__(self, columns: int) -> None:
            super().__init__(columns)
            self.kept = seen.setdefault(names[len(seen)], [])

        def add(self, seen: Floats, exact: Floats) -> None:
            self.kept.append(exact.copy())
            super().add(seen, exact)

    given: Any = Given(weights)
    plan = Plan(spec, dict.fromkeys(weights, ()), {}, {}, ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrator, "Inputs", Watched)
        formats = {matrix.name: form for matrix in linears(spec)}
        it = calibrator.Calibrator(plan, formats, given, sequences, threads=1)
        for matrix in linears(spec):
            if it.packs(matrix.name):
                chunks = [
                    _core.unpack(form, parts, len(rows), matrix.columns)
                    for parts, rows in zip(
                        it.pack(matrix.name, lambda _: None),
                        [weights[matrix.name]]
                        if matrix.layer >= 0
                        else np.split(weights[matrix.name], range(48, matrix.rows, 48)),
                        strict=True,
                    )
                ]
                weights[matrix.name] = np.concatenate(chunks)
    return weights, {name: np.concatenate(kept) for name, kept in seen.items()}


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_inputs_are_what_the_matrices_see(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the oracle multiplies them, which knows nothing of layers that run alone."""
    sequences = [some_tokens(spec), some_tokens(spec)[::-3]]
    expected: dict[str, list[NDArray[np.float64]]] = {}
    product = decoder._Decoder.linear

    def watched(self: Any, name: str, x: NDArray[np.float64]) -> Any:
        expected.setdefault(name, []).append(x)
        return product(self, name, x)

    monkeypatch.setattr(decoder._Decoder, "linear", watched)
    weights = make_weights(spec)
    for tokens in sequences:
        decoder.forward(spec, weights, tokens)
    _, found = calibrated(spec, "q8", sequences)
    assert set(found) == {m.name for m in linears(spec)} - {"embed"} == set(expected)
    for name, inputs in found.items():
        truth = np.concatenate(expected[name])
        assert np.abs(inputs - truth).max() <= 2e-5 * np.abs(truth).max(), name


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_the_calibrated_model_is_nearer_on_its_text(spec: Spec) -> None:
    random = np.random.default_rng(2)
    sequences = [random.integers(0, spec["n_tokens"], 64, np.int32) for _ in range(6)]
    weights = make_weights(spec)
    plain = dict(weights)
    for matrix in linears(spec):
        shape = (matrix.rows, matrix.columns)
        parts = _core.pack("q4", weights[matrix.name], "F32", *shape)
        if matrix.name != "embed":
            plain[matrix.name] = _core.unpack("q4", parts, *shape)
    fitted, _ = calibrated(spec, "q4", sequences)

    def error(changed: dict[str, Floats]) -> float:
        both = [
            (decoder.forward(spec, changed, tokens), decoder.forward(spec, weights, tokens))
            for tokens in sequences
        ]
        return float(sum(np.square(ours - truth).sum() for ours, truth in both))

    assert error(fitted) < error(plain)
