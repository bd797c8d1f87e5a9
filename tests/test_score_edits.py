"""Edits of scores and patterns as data: numbers for all, for each head, and for each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray

from pythia_rt import Draft, Model
from pythia_rt.convert import convert
from pythia_rt.insides import Add, At, Mean, PerText, Replace, Scale, Zero

RANDOM = np.random.default_rng(8)
N, HEADS = 300, 4  # tokens, which take two passes
TOKENS = RANDOM.integers(0, 128, N, np.int32)
SHORT = RANDOM.integers(0, 128, 9, np.int32)


@pytest.fixture(scope="module", params=["f32", "q8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("scores")
    source = write_checkpoint(folder / "source", make_config(heads=HEADS, head_dim=16), seed=2)
    return Model.load(convert(source, folder / "flat", format=request.param), threads=2)


def normal(*shape: int) -> NDArray[np.float64]:
    return RANDOM.normal(size=shape)


SOME = [7, 299, 0, 260]
EDITS = [
    Zero("layers.0.pattern", heads=1),
    Zero("layers.1.pattern", positions=SOME),
    Scale("layers.1.scores", normal(HEADS, 1, 1)),
    Scale("layers.1.scores", normal(2, 1, 1), heads=[3, 0], positions=SOME),
    Scale("layers.1.pattern", np.round(np.abs(normal(N)))),  # of each key
    Scale("layers.0.scores", normal(2, N), heads=2, positions=[3, 1]),
    Add("layers.0.scores", np.where(np.eye(N), -np.inf, 0)),
    Add("layers.0.pattern", normal(HEADS, N, 1), heads=[2]),  # of all heads the chosen one
    Add("layers.0.pattern", normal(1, 4, N), heads=[1, 2], positions=SOME),
    Replace("layers.1.pattern", np.abs(normal(HEADS, N, N))),
    Replace("layers.1.scores", normal(4, N), positions=SOME, heads=-1),
    Replace("layers.1.pattern", 0.125, heads=[0, 2]),
    Mean("layers.0.pattern", np.abs(normal(2, 1, N)), heads=[2, 1]),
]


def as_function(edit: Any) -> Any:
    """The same of [rows, heads, keys], row by row and head by head."""

    def change(rows: NDArray[np.float32], at: At) -> None:
        heads = np.arange(HEADS) if edit.heads is None else np.atleast_1d(edit.heads) % HEADS
        positions = list(range(N)) if edit.positions is None else list(edit.positions)
        given: Any = getattr(edit, {Scale: "by", Add: "vector", Replace: "values",
                                    Mean: "mean"}.get(type(edit), ""), 0)  # fmt: skip
        values = np.asarray(given, np.float32)
        if values.ndim == 3 and len(values) == HEADS != len(heads):
            values = values[heads]
        values = np.broadcast_to(values, (len(heads), len(positions), N))
        keys = rows.shape[2]
        for row, position in enumerate(at.positions):
            if position not in positions:
                continue
            for number, head in enumerate(heads):
                own = values[number, positions.index(position), :keys]
                for key in range(position + 1):
                    if isinstance(edit, Scale):
                        rows[row, head, key] *= own[key]
                    elif isinstance(edit, Add):
                        rows[row, head, key] += own[key]
                    else:
                        rows[row, head, key] = own[key]

    return change


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_a_data_form_is_what_a_function_does(model: Model, number: int) -> None:
    edit = EDITS[number]
    point = str(edit.point)
    names = [point, point.replace("scores", "pattern"), "layers.*.resid_post"]
    found = model.run(TOKENS, names, edits=edit)
    expected = model.run(TOKENS, names, edits=[(point, as_function(edit))])
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(found.logits, expected.logits)
    clean = model.run(TOKENS)
    assert np.abs(found.logits - clean.logits).max() > 1e-3


def test_what_was_captured_fits_as_it_is(model: Model) -> None:
    """A pattern of one text put into another, of each text its own."""
    other = [np.roll(TOKENS, 5), np.roll(SHORT, 2)]
    clean = model.run(other, ["layers.1.pattern", "layers.0.scores"], logits=None)
    for point in clean:
        edits = PerText([[Replace(point, each)] for each in clean[point]])
        run = model.run([TOKENS, SHORT], point, edits=edits)
        for found, expected in zip(run[point], clean[point], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_head_that_looks_at_no_key_adds_nothing(model: Model) -> None:
    run = model.run(SHORT, "layers.1.*", edits=Replace("layers.1.scores", -np.inf, heads=1))
    assert not run["layers.1.pattern"][1].any()
    clean = model.run(SHORT, "layers.1.z")["layers.1.z"]
    assert np.abs(run["layers.1.z"][:, 1]).max() < 1e-6 * np.abs(clean).max()
    np.testing.assert_allclose(run["layers.1.pattern"][0].sum(axis=1), 1, atol=1e-6)


def at_least(least: float) -> Any:
    """What it does to scores depends on their values themselves, not on their differences."""

    def change(rows: NDArray[np.float32], at: At) -> None:
        np.maximum(rows, least, out=rows)

    return change


@pytest.mark.parametrize("edit", [
    ("layers.1.scores", at_least(0.1)),
    Scale("layers.0.scores", [[[-2.0]], [[1.0]], [[0.0]], [[3.0]]]),
    Zero("layers.1.pattern", heads=2, positions=[3, 5]),
])  # fmt: skip
def test_scores_while_writing_are_those_of_a_run(model: Model, edit: Any) -> None:
    """Every token is the one that a run with the edit finds likeliest; the keys' bias is in them
    there too."""
    text = model.generate(SHORT, edits=[edit], max_new_tokens=8, temperature=0)
    ids = np.concatenate([SHORT, np.array(text.tokens, np.int32)])
    logits = model.run(ids[:-1], edits=edit).logits[len(SHORT) - 1 :]
    np.testing.assert_array_equal(logits.argmax(axis=1), text.tokens)
    top = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(text.logprobs, top.max(axis=1), atol=1e-5)
    drafted = model.generate(
        SHORT, edits=[edit], draft=Draft.model(model), max_new_tokens=8, temperature=0
    )
    assert (drafted.tokens, drafted.logprobs) == (text.tokens, text.logprobs)


def test_to_look_at_scores_changes_no_bit_of_a_pattern(model: Model) -> None:
    edit = Scale("layers.1.pattern", 0.5, heads=0)
    alone = model.run(TOKENS, "layers.1.pattern", edits=edit)
    both = model.run(TOKENS, ["layers.1.pattern", "layers.1.scores"], edits=edit)
    np.testing.assert_array_equal(both["layers.1.pattern"], alone["layers.1.pattern"])
    np.testing.assert_array_equal(both.logits, alone.logits)
    beside = model.run([TOKENS, SHORT], edits=PerText([[edit], [("layers.1.scores", at_least(0))]]))
    np.testing.assert_array_equal(beside.logits[0], alone.logits)


@pytest.mark.parametrize(("edit", "sentence"), [
    (Scale("layers.0.pattern", np.ones(3)), r"shape \[3\] where \[4, 9, 9\] is needed, heads"),
    (Scale("layers.0.pattern", np.ones(HEADS)), r"shape \[4\] where \[4, 9, 9\] is needed"),
    (Add("layers.0.scores", np.ones((3, 1, 1)), heads=[0, 1]), r"\[3, 1, 1\] where \[2, 9, 9\]"),
    (Add("layers.0.scores", np.ones((9, 1)), positions=[1, 2]), r"\[9, 1\] where \[4, 2, 9\]"),
    (Replace("layers.0.scores", np.ones((1, 4, 9, 9))), r"\[1, 4, 9, 9\] where \[4, 9, 9\]"),
    (Scale("layers.0.scores", None), "the edit of layers.0.scores needs numbers, not None"),
    (Scale("layers.0.z", "5"), "the edit of layers.0.z needs numbers, not '5'"),
    (Scale("layers.0.z", [[1], [1, 2]]), "needs numbers"),
    (Zero("layers.0.scores", heads=[0, -4]), "layers.0.scores names one of its heads twice"),
    (Zero("layers.0.z", neurons=[5, 5]), "layers.0.z names one of its neurons twice"),
    (Zero("layers.0.pattern", neurons=1), "has no neurons: choose heads and positions"),
])  # fmt: skip
def test_what_does_not_fit_is_said(model: Model, edit: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        model.run(SHORT, edits=edit)


def test_a_text_that_is_written_has_no_array_of_keys(model: Model) -> None:
    for values in (np.ones(9), np.ones((HEADS, 9, 9)), np.ones((2, 1))):
        with pytest.raises(ValueError, match="the keys of a text that is written grow"):
            model.generate(SHORT, edits=Scale("layers.0.scores", values), max_new_tokens=2)


def test_patterns_need_no_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of an older version patterns are there, and scores not."""
    config = make_config(heads=HEADS, head_dim=16)
    source = write_checkpoint(tmp_path / "source", config, seed=2)
    model = Model.load(convert(source, tmp_path / "flat", format="q8"), threads=2)
    expected = model.run(SHORT, "layers.1.pattern")["layers.1.pattern"]
    monkeypatch.setattr(type(model.file), "basis", {})
    old = Model.load(model.file.path, threads=2)
    found = old.run(SHORT, "layers.1.pattern")["layers.1.pattern"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for point, lacking in (("scores", "scores"), ("pattern", "v")):
        with pytest.raises(ValueError, match=f"{lacking} of layer 1 back to the checkpoint's"):
            old.run(SHORT, edits=Zero(f"layers.1.{point}"))
    with pytest.raises(ValueError, match="scores of layer 1 back to the checkpoint's"):
        old.run(SHORT, "layers.1.scores")
    assert model.run(SHORT, "layers.1.scores")["layers.1.scores"].shape == (HEADS, 9, 9)
