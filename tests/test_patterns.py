"""Scores and patterns of attention: as transformers has them, and as edits change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
import transformers
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import covering_specs, make_model, make_spec, make_weights, some_tokens
from numpy.typing import NDArray
from oracle import decoder as oracle
from probing import Floats, Place, Tokens, assert_same, load, sessions_of, tokens_of

from pythia_rt import _core
from pythia_rt.convert import convert
from pythia_rt.convert.flatfile.spec import Spec

SPEC = make_spec(max_positions=640, windows=[0, 7], score_bias=True, rotary_dim=0)
MODEL = make_model(SPEC, "f32", threads=2)
PLACES: list[Place] = [("scores", 0), ("pattern", 0), ("pattern", 1), ("scores", 1)]
LENGTHS = (270, 1, 9)


def truth_of(
    spec: Spec, tokens: Tokens, at: oracle.At = lambda point, layer, values: values
) -> tuple[NDArray[np.float64], dict[Place, NDArray[np.float64]]]:
    """The logits, and what is at every place, of the formula."""
    seen: dict[Place, NDArray[np.float64]] = {}

    def keep(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        seen[point, layer] = at(point, layer, values)
        return seen[point, layer]

    return oracle.forward(spec, make_weights(spec), tokens, keep), seen


def assert_close(found: NDArray[Any], expected: NDArray[Any], most: float = 2e-5) -> None:
    """Both -inf at the same places, the rest near."""
    assert found.shape == expected.shape
    hidden = np.isinf(expected)
    np.testing.assert_array_equal(np.isinf(found), hidden)
    rest = expected[~hidden]
    if rest.size == 0:
        return
    assert np.abs(found[~hidden] - rest).max() <= most * np.abs(rest).max()


@pytest.mark.parametrize("spec", covering_specs(), ids=str)
def test_scores_and_patterns_are_those_of_the_formula(spec: Spec) -> None:
    tokens = some_tokens(spec)
    _, truth = truth_of(spec, tokens)
    model = make_model(spec)
    places = [(point, layer) for point in ("scores", "pattern") for layer in range(2)]
    expected = _core.Session(model, kv_format="f32").logits(tokens)
    (logits,), captured = _core.run(sessions_of(_core, model, 1), [tokens], capture=places)
    assert_same(logits, expected)
    for place, (found,) in zip(places, captured, strict=True):
        assert_close(found, truth[place])


@torch.inference_mode()
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("name", ["GPT-NeoX", "LLaMA", "Phi", "OPT"])
def test_patterns_are_those_of_transformers(name: str, number: int, tmp_path: Path) -> None:
    if (name, number) not in families.CASES:
        pytest.skip("the family has fewer variants")
    folder = families.save(families.make_model(name, number), tmp_path / "source", number)
    maker: Any = transformers.AutoModelForCausalLM
    theirs = maker.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    (tokens,) = tokens_of(families.VOCAB, (40,))
    model = load(_core, convert(folder, tmp_path / "f32", format="f32"))
    places = [("pattern", layer) for layer in range(model.spec["n_layers"])]
    given_ = torch.from_numpy(tokens.astype(np.int64))[None]
    expected = theirs(given_, output_attentions=True).attentions
    _, captured = _core.run(sessions_of(_core, model, 1), [tokens], capture=places)
    for (found,), pattern in zip(captured, expected, strict=True):
        assert_close(found, pattern[0].numpy(), 1e-4)


def edited(
    module: Any, model: Any, tokens: list[Tokens], items: list[Any], **options: Any
) -> tuple[Floats, list[Any]]:
    edits = [module.Edits(model, items)] * len(tokens)
    sessions = sessions_of(module, model, len(tokens))
    logits, captured = module.run(sessions, tokens, edits=edits, **options)
    return np.concatenate(logits or [np.zeros(0, np.float32)]), captured


def at_scores(rows: Floats, positions: NDArray[np.int64]) -> None:
    """Something of each row, head and key; what is hidden is written too, and stays hidden."""
    heads, keys = rows.shape[1:]
    rows += np.sin(np.arange(keys) + np.arange(heads)[:, None] + positions[:, None, None])
    rows[:, :, 0] = -np.inf
    rows[np.isnan(rows)] = 3


def at_pattern(rows: Floats, positions: NDArray[np.int64]) -> None:
    rows *= np.cos(np.arange(rows.shape[2]))
    rows[:, 1] = 0.25


def with_numpy(
    function: Any, values: NDArray[np.float64], positions: NDArray[np.int64], hidden: float
) -> NDArray[np.float64]:
    """The same of the oracle's [heads, queries, keys]."""
    rows = np.ascontiguousarray(values.transpose(1, 0, 2))
    chosen = rows[positions].astype(np.float64)
    function(chosen, positions)
    rows[positions] = chosen
    keys = np.arange(rows.shape[2])
    rows = np.where(keys > np.arange(len(rows))[:, None, None], hidden, rows)
    return rows.transpose(1, 0, 2)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_edits_of_scores_and_patterns_are_what_the_formula_goes_on_with(device: str) -> None:
    from backends import _emulated

    module = _core if device == "cpu" else _emulated
    spec = make_spec(max_positions=640)
    model = make_model(spec, "f32", module=module, device=device)
    lengths = LENGTHS if device == "cpu" else (20, 9)
    tokens = tokens_of(spec["vocab_size"], lengths)
    some = np.array([0, 2, 5, 261], np.int64)
    half = np.full(1, 0.5, np.float32)
    heads = np.linspace(-1, 1, 6, dtype=np.float32)
    items = [
        ("scores", 0, some, at_scores),
        ("scores", 0, None, half, heads),
        ("pattern", 1, some, heads, half),
        ("pattern", 1, None, at_pattern),
    ]

    def at(point: str, layer: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if (point, layer) not in (("scores", 0), ("pattern", 1)):
            return values
        n = values.shape[1]
        own = some[some < n]
        every = np.arange(n)
        visible = np.tril(np.ones((n, n), bool))
        if point == "scores":
            values = with_numpy(at_scores, values, own, -np.inf)
            return np.where(visible, 0.5 * values + heads[:, None, None], -np.inf)
        values = values.copy()
        values[:, own] = values[:, own] * heads[:, None, None] + 0.5
        values = np.where(visible, values, 0)
        return with_numpy(at_pattern, values, every, 0)

    places = [("scores", 0), ("pattern", 0), ("pattern", 1), ("z", 1)]
    logits, captured = edited(module, model, tokens, items, capture=places)
    ends = np.cumsum(lengths)
    for i, (text, found) in enumerate(zip(tokens, np.split(logits, ends[:-1]), strict=True)):
        expected, truth = truth_of(spec, text, at)
        assert_close(found, expected, 1e-4)
        for place, values in zip(places[:3], captured, strict=False):
            assert_close(values[i], truth[place], 1e-4)
        assert_close(captured[3][ends[i] - len(text) : ends[i]], truth["z", 1], 1e-4)


def test_an_edit_that_changes_nothing_changes_little() -> None:
    """The values are mixed anew, in another order."""
    tokens = tokens_of(SPEC["vocab_size"], LENGTHS)
    expected = np.concatenate(_core.run(sessions_of(_core, MODEL, 3), tokens)[0])
    items = [(point, 1, None, lambda rows, at: None) for point in ("scores", "pattern")]
    found, _ = edited(_core, MODEL, tokens, items)
    assert_close(found, expected)


@given(
    cuts=st.lists(st.integers(1, 140), min_size=1, max_size=3),
    wanted=st.integers(0, 2**16),
    half=st.booleans(),
    edits=st.booleans(),
)
@settings(deadline=None, max_examples=examples(12))
def test_neither_batch_nor_passes_nor_a_sink_change_what_is_seen(
    cuts: list[int], wanted: int, half: bool, edits: bool
) -> None:
    tokens = tokens_of(SPEC["vocab_size"], (sum(cuts), *cuts))
    items = [("pattern", 0, None, at_pattern)] if edits else []
    random = np.random.default_rng(wanted)
    indices = [np.flatnonzero(random.random(len(part)) < 0.4) for part in tokens]
    _, captured = edited(_core, MODEL, tokens, items, capture=PLACES, positions=indices, half=half)
    sunk = [[np.zeros(0)] * len(tokens) for _ in PLACES]

    def take(capture: int, text: int, positions: NDArray[np.int64], rows: Any) -> None:
        n = len(tokens[text])
        fill = -np.inf if PLACES[capture][0] == "scores" else 0
        wide = np.full((*rows.shape[:2], n), fill, rows.dtype)
        wide[:, :, : rows.shape[2]] = rows
        before = sunk[capture][text]
        sunk[capture][text] = np.concatenate([before, wide], axis=1) if before.size else wide
        assert set(positions) <= set(indices[text])

    edited(
        _core, MODEL, tokens, items, capture=PLACES, positions=indices, half=half, sink=take,
        logits="none",
    )  # fmt: skip
    for text, part in enumerate(tokens):
        _, alone = edited(_core, MODEL, [part], items, capture=PLACES)
        for number, (whole,) in enumerate(alone):
            expected = whole[:, indices[text]].astype(np.float16 if half else np.float32)
            assert_same(captured[number][text], expected)
            if len(indices[text]):
                assert_same(sunk[number][text], expected)


def test_sums_of_a_pattern() -> None:
    """Over two passes, of keys that come twice, of queries without any."""
    tokens = tokens_of(SPEC["vocab_size"], LENGTHS)
    random = np.random.default_rng(2)
    targets, expected = [], []
    _, (patterns,) = _core.run(sessions_of(_core, MODEL, 3), tokens, capture=[("pattern", 0)])
    for pattern in patterns:
        n = pattern.shape[1]
        keys = [random.integers(0, n, random.integers(0, 4)) for _ in range(n)]
        starts = np.cumsum([0, *map(len, keys)])
        targets.append((starts, np.concatenate([np.zeros(0, np.int64), *keys])))
        expected.append(
            np.stack([pattern[:, i, own].sum(axis=1) for i, own in enumerate(keys)], axis=1)
        )
    _, (found, z) = _core.run(
        sessions_of(_core, MODEL, 3), tokens, capture=[("attention_to", 0), ("z", 0)],
        targets=targets, logits="none",
    )  # fmt: skip
    assert_close(found, np.concatenate(expected, axis=1))
    assert z.shape == (sum(LENGTHS), 72)


def test_what_the_runtime_leaves_out_of_keys_comes_back() -> None:
    """Scores as the bias of keys makes them; the pattern is the same without."""
    spec = make_spec()
    models, weights = [make_model(spec), make_model(spec)], make_weights(spec)
    tokens = some_tokens(spec)
    constants = {}
    for layer in range(2):
        bias = weights[f"layers.{layer}.qkv.bias"][72:96].reshape(2, 12).copy()
        bias[:, : spec["rotary_dim"]] = 0
        constants[layer] = bias.reshape(-1)
    models[1].set_left_out(constants, {})
    places = [("q", 1), ("scores", 1), ("pattern", 1)]
    runs = [
        _core.run(sessions_of(_core, model, 1), [tokens], capture=places)[1] for model in models
    ]
    q = runs[0][0].reshape(-1, 6, 12)
    added = np.einsum("nhd,hd->hn", q, np.repeat(constants[1].reshape(2, 12), 3, axis=0))
    expected = runs[0][1][0] + spec["score_scale"] * added[:, :, None]
    assert_close(runs[1][1][0], expected)
    assert_close(runs[1][2][0], runs[0][2][0])
    assert (runs[1][2][0] != runs[0][2][0]).any()
    targets = [(np.arange(len(tokens) + 1), np.arange(len(tokens)))]
    sums = [
        _core.run(
            sessions_of(_core, model, 1), [tokens], capture=[("attention_to", 1)], targets=targets
        )[1][0]
        for model in models
    ]
    np.testing.assert_array_equal(sums[1], sums[0])


def test_what_the_runtime_leaves_out_of_values_is_mixed_by_edited_patterns() -> None:
    """A row that sums to s mixes s - 1 of it more."""
    spec = make_spec()
    models, random = [make_model(spec), make_model(spec)], np.random.default_rng(4)
    constant = random.normal(size=24).astype(np.float32)
    models[1].set_left_out({}, {1: constant})
    by = np.array([0, 0.5, 1, 1.5, 2, -1], np.float32)
    tokens = some_tokens(spec)
    zs = []
    for model in models:
        edits = _core.Edits(model, [("pattern", 1, None, by, np.zeros(6, np.float32))])
        _, (z,) = _core.run(
            sessions_of(_core, model, 1), [tokens], capture=[("z", 1)], edits=[edits]
        )
        zs.append(z.reshape(-1, 6, 12))
    of_heads = np.repeat(constant.reshape(2, 12), 3, axis=0)
    assert_close(zs[1], zs[0] + (by - 1)[:, None] * of_heads)


def test_what_does_not_fit_is_refused() -> None:
    session = _core.Session(MODEL)
    tokens = [np.arange(4, dtype=np.int32)]

    def refused(**options: Any) -> str:
        with pytest.raises(ValueError) as caught:
            _core.run([session], tokens, **options)
        return str(caught.value)

    sums = [("attention_to", 0)]
    starts, keys = np.array([0, 0, 1, 1, 2]), np.array([0, 2])
    assert refused(capture=sums) == "'attention_to' needs targets"
    assert "in the layers 0 to 1" in refused(
        capture=[("attention_to", 2)], targets=[(starts, keys)]
    )
    for bad in ((starts[1:], keys), (starts + 1, keys), (starts, keys[:1]), (starts, keys - 1)):
        assert "the targets of 4 queries are starts [5]" in refused(capture=sums, targets=[bad])
    assert "of 0 texts for 1 sessions" in refused(capture=sums, targets=[])
    for layer, size in ((0, 23), (2, 24), (-1, 24)):
        for number in range(2):
            given: list[Any] = [{}, {}]
            given[number][layer] = np.zeros(size, np.float32)
            with pytest.raises(ValueError, match=r"array \[24\] of float32"):
                MODEL.set_left_out(*given)
    one, two = np.ones(1, np.float32), np.ones(2, np.float32)
    with pytest.raises(ValueError, match="scale of an edit of 'scores' has 6 values, not 2"):
        _core.Edits(MODEL, [("scores", 0, None, two, one)])
    with pytest.raises(ValueError, match="shift of an edit of 'pattern' has 6 values"):
        _core.Edits(MODEL, [("pattern", 0, None, one, two)])
    session.prefill(tokens[0])
    assert "has read 4 tokens before" in refused(capture=[("scores", 0)])
    assert "4 tokens were read before" in refused(
        edits=[_core.Edits(MODEL, [("pattern", 0, None, one, one)])]
    )
