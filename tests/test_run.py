"""Runs that are looked into: what is kept of them, where they begin and end, in what pieces."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import make_model, make_spec, make_weights
from numpy.typing import NDArray
from oracle import decoder as oracle
from probing import Floats, Place, Tokens, assert_same, places_of, sessions_of, tokens_of

from pythia_rt import _core

PLACES: list[Place] = [("embed", -1), ("z", 1), ("resid_post", 0), ("mlp_pre", 2), ("q", 2)]
SPEC = make_spec(n_layers=3, max_positions=640)
MODEL = make_model(SPEC, "q8", threads=2)


def alone(
    tokens: list[Tokens], places: list[Place] = PLACES, **options: Any
) -> tuple[list[Floats], list[list[Floats]]]:
    """Of each text by itself: its logits, and what is at each place."""
    runs = [
        _core.run(sessions_of(_core, MODEL, 1), [text], capture=places, **options)
        for text in tokens
    ]
    return [logits[0] for logits, _ in runs], [captured for _, captured in runs]


pieces = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@given(
    texts=st.lists(pieces, min_size=1, max_size=5),
    wanted=st.integers(0, 2**16),
    half=st.booleans(),
    sunk=st.booleans(),
)
@settings(deadline=None, max_examples=examples(25))
def test_neither_batch_nor_pieces_nor_a_sink_change_what_is_seen(
    texts: list[list[int]], wanted: int, half: bool, sunk: bool
) -> None:
    """Each text comes in its pieces, in whatever runs; of some of its tokens nobody asks."""
    tokens = tokens_of(SPEC["vocab_size"], [sum(cuts) for cuts in texts])
    _, expected = alone(tokens)
    random = np.random.default_rng(wanted)
    sessions = sessions_of(_core, MODEL, len(tokens))
    seen: list[list[list[NDArray[Any]]]] = [[[] for _ in PLACES] for _ in tokens]
    kept: list[list[int]] = [[] for _ in tokens]
    starts = [0] * len(tokens)
    for step in range(max(map(len, texts))):
        chosen = [i for i, cuts in enumerate(texts) if step < len(cuts)]
        given_ = [tokens[i][starts[i] : starts[i] + texts[i][step]] for i in chosen]
        indices = [np.flatnonzero(random.random(len(part)) < 0.6) for part in given_]

        def take(capture: int, text: int, positions: NDArray[np.int64], rows: Any) -> None:
            i = chosen[text]  # noqa: B023
            seen[i][capture].append(rows)
            if capture == 0:
                kept[i] += positions.tolist()

        _, captured = _core.run(
            [sessions[i] for i in chosen], given_, capture=PLACES, positions=indices, half=half,
            logits="none", sink=take if sunk else None,
        )  # fmt: skip
        ends = np.cumsum([len(part) for part in indices])
        for number, rows in enumerate(captured):
            for i, part in zip(chosen, np.split(rows, ends[:-1]), strict=True):
                seen[i][number].append(part)
        for i, part, own in zip(chosen, given_, indices, strict=True):
            if not sunk:
                kept[i] += (starts[i] + own).tolist()
            starts[i] += len(part)
    for i, number in itertools.product(range(len(tokens)), range(len(PLACES))):
        rows = expected[i][number][kept[i]]
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float16 if half else np.float32)
        parts = [part for part in seen[i][number] if len(part)]
        assert_same(np.concatenate(parts) if parts else rows[:0], rows)


def test_halves_are_rounded_as_numpy_rounds_them() -> None:
    """Whatever stands in the stream: small ones, ties, what is too large, no numbers."""
    random = np.random.default_rng(0)
    width = SPEC["hidden_size"]
    bits = random.integers(0, 2**32, (200, width), np.uint32)
    values = bits.view(np.float32)
    values[0, :6] = [65519.996, 65520, -65520, 2**-25, np.nextafter(np.float32(2**-25), 1), np.nan]
    tokens = tokens_of(SPEC["vocab_size"], (len(values),))
    _, (found,) = _core.run(
        sessions_of(_core, MODEL, 1), tokens, capture=[("resid_pre", 0)], residuals=[values],
        half=True, logits="none",
    )  # fmt: skip
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(found, expected)


def test_logits_of_all_of_the_last_and_of_none() -> None:
    tokens = tokens_of(SPEC["vocab_size"])
    expected, _ = alone(tokens)
    sessions = sessions_of(_core, MODEL, 3)
    logits, captured = _core.run(sessions, tokens)
    assert captured == []
    for found, rows in zip(logits, expected, strict=True):
        assert_same(found, rows)
    sessions = sessions_of(_core, MODEL, 3)
    logits, _ = _core.run(sessions, tokens, logits="last")
    for session, found, rows in zip(sessions, logits, expected, strict=True):
        assert_same(found, rows[-1:])
        assert_same(session.last_logits, rows[-1])
    sessions = sessions_of(_core, MODEL, 3)
    logits, (seen,) = _core.run(sessions, tokens, logits="none", capture=[("final_norm", -1)])
    assert logits is None
    _, theirs = alone(tokens, [("final_norm", -1)])
    assert_same(seen, np.concatenate([rows for (rows,) in theirs]))
    with pytest.raises(ValueError, match="no logits"):
        _ = sessions[0].last_logits


def test_a_run_goes_on_where_another_stopped() -> None:
    """From the stream before a layer, or before the head; and what it captures is the same."""
    tokens = tokens_of(SPEC["vocab_size"])
    expected, _ = alone(tokens)
    places = places_of(MODEL)
    whole = dict(zip(places, zip(*alone(tokens, places)[1], strict=True), strict=True))
    for layer in range(SPEC["n_layers"] + 1):
        before = [p for p in places if p[1] < layer and p[0] != "final_norm"]
        after = [p for p in places if p[1] >= layer or p[0] == "final_norm"]
        sessions = sessions_of(_core, MODEL, 3)
        logits, captured = _core.run(
            sessions, tokens, capture=before, logits="none", end_layer=layer
        )
        assert logits is None
        for place, found in zip(before, captured, strict=True):
            assert_same(found, np.concatenate(whole[place]))
        residuals = whole["resid_pre", layer] if layer < 3 else whole["resid_post", 2]
        logits, captured = _core.run(
            sessions_of(_core, MODEL, 3), tokens, capture=after, first_layer=layer,
            residuals=list(residuals),
        )  # fmt: skip
        for place, found in zip(after, captured, strict=True):
            assert_same(found, np.concatenate(whole[place]))
        for found, rows in zip(logits, expected, strict=True):
            assert_same(found, rows)


@pytest.mark.parametrize("layers", [[0, 2], [2, 1, 0], [1], []], ids=str)
@pytest.mark.parametrize("gpu_layers", [None, 1, 2], ids=str)
def test_layers_in_another_order(layers: list[int], gpu_layers: int | None) -> None:
    """On one device, and where they are divided among two."""
    from backends import _emulated

    module = _core if gpu_layers is None else _emulated
    device = {} if gpu_layers is None else {"device": "cuda", "gpu_layers": gpu_layers}
    model = make_model(SPEC, "f32", module=module, **device)
    weights = make_weights(SPEC)
    chosen = {
        f"layers.{new}.{name.split('.', 2)[2]}": values
        for new, old in enumerate(layers)
        for name, values in weights.items()
        if name.startswith(f"layers.{old}.")
    } | {name: values for name, values in weights.items() if not name.startswith("layers.")}
    tokens = tokens_of(SPEC["vocab_size"], (21, 5))
    sessions = sessions_of(module, model, 2)
    places = [("resid_post", layer) for layer in layers]
    logits, captured = module.run(sessions, tokens, layers=layers, capture=places)
    spec = {**SPEC, "n_layers": len(layers)}
    seen: dict[Place, list[NDArray[np.float64]]] = {}

    def keep(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        seen.setdefault((point, layer), []).append(values)
        return values

    for found, text in zip(logits, tokens, strict=True):
        expected = oracle.forward(spec, chosen, text, keep)
        assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
    for number, found in enumerate(captured):
        truth = np.concatenate(seen["resid_post", number])
        assert np.abs(found - truth).max() <= 2e-5 * np.abs(truth).max()


def test_a_session_goes_on_with_the_layers_that_it_has_gone_through() -> None:
    tokens = tokens_of(SPEC["vocab_size"], (40,))
    whole, (expected,) = _core.run(
        sessions_of(_core, MODEL, 1), tokens, layers=[0, 2], capture=[("z", 2)]
    )
    session = _core.Session(MODEL, kv_format="f32")
    _core.run([session], [tokens[0][:30]], layers=[0, 2])
    for other in ({"layers": [2, 0]}, {}):
        with pytest.raises(ValueError, match="through some of the layers: rewind it to 0"):
            _core.run([session], [tokens[0][30:]], **other)
    with pytest.raises(ValueError, match="through some of the layers"):
        session.logits(tokens[0][30:])
    prefixes = _core.Prefixes(MODEL, "f32", 10**9)
    with pytest.raises(ValueError, match="through some of the layers"):
        prefixes.keep(session, tokens[0][:30])
    logits, (found,) = _core.run([session], [tokens[0][30:]], layers=[0, 2], capture=[("z", 2)])
    assert_same(found, expected[30:])
    assert_same(logits[0], whole[0][30:])
    session.rewind(0)
    assert_same(session.logits(tokens[0]), alone(tokens)[0][0])
    with pytest.raises(ValueError, match="through all layers in order"):
        _core.run([session], [tokens[0][:3]], end_layer=1, logits="none")


def test_what_does_not_fit_is_refused() -> None:
    session = _core.Session(MODEL)
    tokens = [np.arange(4, dtype=np.int32)]
    rows = np.zeros((4, SPEC["hidden_size"]), np.float32)

    def refused(**options: Any) -> str:
        with pytest.raises(ValueError) as caught:
            _core.run([session], tokens, **options)
        assert session.position == 0
        return str(caught.value)

    assert "no point 'residual'; there are embed, pos_embed, embed_norm, resid_pre" in refused(
        capture=[("residual", 0)]
    )
    assert refused(capture=[("pos_embed", -1)]) == "this model has no point 'pos_embed'"
    assert "in the layers 0 to 2, not in 3" in refused(capture=[("q", 3)])
    assert "in no layer: its layer is -1" in refused(capture=[("embed", 0)])
    assert refused(capture=[("q", 0), ("q", 0)]) == "the point 'q' is named twice"
    assert "'all', 'last' or 'none', not 'some'" in refused(logits="some")
    for numbers in ([4], [1, 1], [2, 1], [-1]):
        found = refused(positions=[np.array(numbers)], capture=[("q", 0)])
        assert found.startswith("positions are below 4 and increase")
    assert "of 2 texts for 1 sessions" in refused(positions=[None, None])
    assert "of 0 texts for 1 sessions" in refused(residuals=[])
    assert "of 0 texts for 1 sessions" in refused(edits=[])
    assert "needs the residuals there" in refused(first_layer=1)
    assert "array [4, 40] of float32" in refused(first_layer=1, residuals=[rows[:3]])
    assert "array [4, 40] of float32" in refused(first_layer=1, residuals=[rows[:, :5]])
    assert "cannot go from 2 to before 1" in refused(
        first_layer=2, end_layer=1, residuals=[rows], logits="none"
    )
    assert "cannot go from 0 to before 4" in refused(end_layer=4, logits="none")
    assert "no logits: ask for 'none'" in refused(end_layer=2)
    assert "only once" in refused(layers=[1, 1])
    assert "none of number 3" in refused(layers=[3])
    assert "where a run begins and ends" in refused(layers=[1], end_layer=2, logits="none")
    assert "layer 1 does not run: nothing is at its point 'q'" in refused(
        layers=[0], capture=[("q", 1)]
    )
    assert "does not come to the point 'embed'" in refused(
        residuals=[rows], capture=[("embed", -1)]
    )
    assert "does not come to the point 'final_norm'" in refused(
        end_layer=1, logits="none", capture=[("final_norm", -1)]
    )
    assert "the sink is no function" in refused(sink=3)
    with pytest.raises(ValueError, match="no session"):
        _core.run([], [])
    with pytest.raises(ValueError, match="1 sessions for 2 token arrays"):
        _core.run([session], tokens * 2)
    with pytest.raises(ValueError, match="same session twice"):
        _core.run([session, session], tokens * 2)
    session.prefill(tokens[0])
    session.append(tokens[0])
    with pytest.raises(ValueError, match="of which there are no residuals"):
        _core.run([session], tokens, residuals=[rows])


def test_what_a_sink_raises_stops_the_run() -> None:
    session = _core.Session(MODEL)

    def take(*_: Any) -> None:
        raise KeyError("full")

    with pytest.raises(KeyError, match="full"):
        _core.run([session], tokens_of(SPEC["vocab_size"], (300,)), capture=[("z", 1)], sink=take)
    assert session.position == 0
    assert len(session.logits(np.arange(3, dtype=np.int32))) == 3
