"""Edits: what the rest of the model goes on with, in which tokens of which text."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import make_model, make_spec, make_weights
from numpy.typing import NDArray
from oracle import decoder as oracle
from probing import Place, Tokens, assert_same, places_of, sessions_of, tokens_of, width_of

from pythia_rt import _core

SPEC = make_spec(max_positions=640)
MODEL = make_model(SPEC, "q8", threads=2)
PLACES = places_of(MODEL)


def drawn_edits(seed: int, n: int, length: int) -> list[tuple[Any, ...]]:
    """Sums and functions, at any places and positions, some beyond the text."""
    random = np.random.default_rng(seed)
    items: list[tuple[Any, ...]] = []
    for _ in range(n):
        place = PLACES[random.integers(len(PLACES))]
        width = width_of(MODEL, place[0])
        chosen = np.flatnonzero(random.random(length + 3) < 0.3) if random.random() < 0.7 else None
        scale = random.choice([0, 1, -0.5, 2], width).astype(np.float32)
        by_position = chosen is not None and random.random() < 0.5
        shape = (len(chosen), width) if chosen is not None and by_position else (width,)
        shift = (random.standard_normal(shape) * random.integers(0, 2)).astype(np.float32)
        if random.random() < 0.4:

            def function(
                rows: NDArray[np.float32],
                at: NDArray[np.int64],
                factor: NDArray[np.float32] = scale,
            ) -> None:
                rows *= factor
                rows += at[:, None] % 3

            items.append((*place, chosen, function))
        else:
            items.append((*place, chosen, scale, shift))
    return items


def with_numpy(items: list[tuple[Any, ...]]) -> oracle.At:
    """The same of the oracle's values."""

    def at(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        for item in items:
            if item[:2] != (point, layer):
                continue
            values = values.copy()
            every = np.arange(len(values)) if item[2] is None else item[2]
            inside = every < len(values)
            own = every[inside]
            if len(item) == 4:
                rows = values[own]
                item[3](rows, own)
                values[own] = rows
            else:
                scale, shift = item[3], item[4]
                values[own] = values[own] * scale + (shift[inside] if shift.ndim == 2 else shift)
        return values

    return at


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6))
@settings(deadline=None, max_examples=examples(20))
def test_edits_are_what_the_formula_goes_on_with(seed: int, n: int) -> None:
    model = make_model(SPEC)
    (tokens,) = tokens_of(SPEC["vocab_size"], (20,))
    items = drawn_edits(seed, n, 20)
    edits = [_core.Edits(model, items)]
    (logits,), captured = _core.run(
        sessions_of(_core, model, 1), [tokens], edits=edits, capture=PLACES
    )
    seen: dict[Place, NDArray[np.float64]] = {}

    def keep(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        seen[point, layer] = with_numpy(items)(point, layer, values)
        return seen[point, layer]

    expected = oracle.forward(SPEC, make_weights(SPEC), tokens, keep)
    assert np.abs(logits - expected).max() <= 5e-5 * np.abs(expected).max()
    for place, found in zip(PLACES, captured, strict=True):
        assert np.abs(found - seen[place]).max() <= 5e-5 * np.abs(seen[place]).max(), place


def compare_with_alone(module: Any, model: Any, tokens: list[Tokens], seed: int) -> None:
    """Texts with edits of their own, or none, in shared passes; some come in two runs."""
    random = np.random.default_rng(seed)
    lists = [drawn_edits(seed + i, i % 4, len(text)) for i, text in enumerate(tokens)]
    edits = [_core.Edits(MODEL, items) if items else None for items in lists]
    places = [("z", 0), ("resid_post", 1)]
    expected = [
        _core.run(sessions_of(_core, MODEL, 1), [text], edits=[own], capture=places)
        for text, own in zip(tokens, edits, strict=True)
    ]
    sessions = sessions_of(module, model, len(tokens))
    own_edits = [module.Edits(model, items) if items else None for items in lists]
    cuts = [int(random.integers(1, len(text) + 1)) for text in tokens]
    first, seen = module.run(
        sessions, [text[:cut] for text, cut in zip(tokens, cuts, strict=True)], edits=own_edits,
        capture=places,
    )  # fmt: skip
    rest = [i for i, text in enumerate(tokens) if cuts[i] < len(text)]
    then = iter(
        module.run(
            [sessions[i] for i in rest], [tokens[i][cuts[i] :] for i in rest],
            edits=[own_edits[i] for i in rest],
        )[0] if rest else ()
    )  # fmt: skip
    starts = np.cumsum([0, *cuts])
    for i, (logits, captured) in enumerate(expected):
        parts = [first[i], *([next(then)] if i in rest else [])]
        assert_same(np.concatenate(parts), logits[0])
        for found, rows in zip(seen, captured, strict=True):
            assert_same(found[starts[i] : starts[i + 1]], rows[: cuts[i]])


@given(lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=examples(20))
def test_each_text_has_its_own_edits_whatever_is_beside_it(lengths: list[int], seed: int) -> None:
    compare_with_alone(_core, MODEL, tokens_of(SPEC["vocab_size"], lengths), seed)


@pytest.mark.parametrize("gpu_layers", [1, 2])
def test_edits_on_a_device_have_the_same_bits(gpu_layers: int) -> None:
    from backends import _emulated

    model = make_model(SPEC, "q8", module=_emulated, device="cuda", gpu_layers=gpu_layers)
    for seed in range(3):
        compare_with_alone(_emulated, model, tokens_of(SPEC["vocab_size"], (17, 1, 9, 5)), seed)


def test_every_instruction_set_has_the_same_bits(isa: str) -> None:
    model = make_model(SPEC, "q8", threads=2)
    assert model.isa == isa
    compare_with_alone(_core, model, tokens_of(SPEC["vocab_size"], (40, 1, 9, 30)), 7)


def test_nothing_is_left_where_the_scale_is_0_and_zeros_keep_their_sign() -> None:
    width = SPEC["hidden_size"]
    wild = np.array([[np.inf, -np.inf, np.nan, -0.0, 0.0] * (width // 5)] * 3, np.float32)
    zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
    tokens = tokens_of(SPEC["vocab_size"], (3,))
    items = [
        ("resid_pre", 0, np.array([0]), zeros, zeros),
        ("resid_pre", 0, np.array([1]), ones, zeros),
    ]
    _, (found,) = _core.run(
        sessions_of(_core, MODEL, 1), tokens, residuals=[wild], capture=[("resid_pre", 0)],
        edits=[_core.Edits(MODEL, items)], logits="none",
    )  # fmt: skip
    assert_same(found[0], zeros)
    assert_same(found[1:], wild[1:])


def test_what_a_function_is_given_is_its_own() -> None:
    """It may keep it; and it is told the positions in the whole text, pass by pass."""
    kept: list[tuple[Any, Any]] = []
    some = np.array([0, 3, 299, 500])
    items = [("z", 0, None, lambda *given_: kept.append(given_)),
             ("z", 1, some, lambda *given_: kept.append(given_))]  # fmt: skip
    tokens = tokens_of(SPEC["vocab_size"], (300,))
    session = _core.Session(MODEL, kv_format="f32")
    session.prefill(np.arange(5, dtype=np.int32))
    before = _core.run(sessions_of(_core, MODEL, 1), tokens, capture=[("z", 0)])
    _core.run([session], tokens, edits=[_core.Edits(MODEL, items)])
    assert [at.tolist() for _, at in kept] == [[*range(5, 261)], [*range(261, 305)], [299]]
    for rows, at in kept:
        assert rows.shape == (len(at), 72)
        assert rows.flags.writeable
        rows[:] = 0
    assert before[1][0].any()


def test_what_a_function_raises_stops_the_run() -> None:
    session = _core.Session(MODEL)
    tokens = tokens_of(SPEC["vocab_size"], (300,))

    def refused(error: type[Exception], function: Any) -> str:
        edits = [_core.Edits(MODEL, [("z", 1, np.array([280]), function)])]
        session.rewind(0)
        with pytest.raises(error) as caught:
            _core.run([session], tokens, edits=edits)
        assert session.position == 256
        return str(caught.value)

    assert "no" in refused(KeyError, lambda *_: {}["no"])
    assert "returns None" in refused(ValueError, lambda rows, at: rows)
    assert "argument" in refused(TypeError, lambda rows, at, more: None)
    # Of the model itself nothing can be asked then, and nobody waits for ever.
    other = _core.Session(MODEL)
    assert "in the middle of one of its passes" in refused(
        RuntimeError, lambda *_: other.logits(tokens[0][:3])
    )
    assert "running on another thread" in refused(RuntimeError, lambda *_: session.fork())
    assert len(session.logits(tokens[0][:3])) == 3


def test_a_thread_that_waits_for_a_function_does_not_stop_it() -> None:
    """It has the interpreter's lock, which the function needs."""
    tokens = tokens_of(SPEC["vocab_size"], (30,))
    expected = _core.run(sessions_of(_core, MODEL, 1), tokens)[0][0]
    inside, found = threading.Event(), []

    def function(rows: Any, at: Any) -> None:
        inside.set()
        sum(range(10**6))

    def other() -> None:
        inside.wait()
        found.append(_core.Session(MODEL, kv_format="f32").logits(tokens[0]))

    thread = threading.Thread(target=other)
    thread.start()
    edits = [_core.Edits(MODEL, [("z", layer, None, function) for layer in range(2)])]
    logits, _ = _core.run(sessions_of(_core, MODEL, 1), tokens, edits=edits)
    thread.join()
    assert_same(logits[0], expected)
    assert_same(found[0], expected)


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones(72, np.float32)

    def refused(*item: Any) -> str:
        with pytest.raises(ValueError) as caught:
            _core.Edits(MODEL, [item])
        return str(caught.value)

    assert "there is no point 'zz'" in refused("zz", 0, None, ones, ones)
    assert "in the layers 0 to 1, not in -1" in refused("z", -1, None, ones, ones)
    assert "an edit is (point" in refused("z", 0, None)
    assert "has 72 values, not 71" in refused("z", 0, None, ones[1:], ones)
    assert "or as many for each of its positions, not 71" in refused("z", 0, None, ones, ones[1:])
    rows = np.ones((2, 72), np.float32)
    assert "not 144" in refused("z", 0, None, ones, rows)
    assert "not 144" in refused("z", 0, np.arange(3), ones, rows)
    assert "of float32" in refused("z", 0, None, ones.astype(np.float64), ones)
    assert "of float32" in refused("z", 0, None, ones, None)
    assert "is no function" in refused("z", 0, None, 3)
    for positions in ([1, 1], [2, 1], [-1]):
        assert "at least 0 and increase" in refused("z", 0, np.array(positions), ones, ones)
    assert "1 dimension of int64" in refused("z", 0, [0], ones, ones)
    assert "1 dimension of int64" in refused("z", 0, np.zeros((1, 1), np.int64), ones, ones)
    session, tokens = _core.Session(MODEL), tokens_of(SPEC["vocab_size"], (3,))
    edits = [_core.Edits(MODEL, [("z", 1, None, ones, ones)])]
    with pytest.raises(ValueError, match="layer 1 does not run"):
        _core.run([session], tokens, edits=edits, layers=[0])
    with pytest.raises(ValueError, match="Edits or None"):
        _core.run([session], tokens, edits=[3])
    with pytest.raises(ValueError, match="another model's"):
        _core.run([_core.Session(make_model(SPEC))], tokens, edits=edits)
    assert session.position == 0
