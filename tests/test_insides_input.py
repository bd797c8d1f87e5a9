"""What `Model.run` and its helpers cannot do is said in one sentence, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from suite import SUITE

from pythia_rt import Model
from pythia_rt.insides import (
    Add,
    PerText,
    Replace,
    Zero,
    ablate_grid,
    logit_lens,
    moments,
    patch_grid,
    unembed,
)

TEXT = " When Anna and Ben went to the park, Ben gave a ball to"
SHORT = " Anna and Ben"
N = 14


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained(SUITE, step=2048, format="f32", progress=False)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


STREAM = np.zeros((N, 64), np.float32)


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"positions": [True, False]}, "positions must be whole numbers, a slice or a list, not [True"),
    ({"positions": np.ones(N, bool)}, "must be whole numbers, a slice or a list, not array"),
    ({"positions": slice("a", None)}, "positions must be a slice of whole numbers"),
    ({"positions": slice(0, 9, 0)}, "positions must be a slice of whole numbers"),
    ({"capture": "layers.2.*", "stop_after_layer": 0}, "not come to layers.2.resid_pre: it stops"),
    ({"capture": "final_norm*", "stop_after_layer": 0}, "not come to final_norm.input: it stops"),
    ({"stop_after_layer": True}, "stop_after_layer must name layers by whole numbers, not True"),
    ({"layers": [False]}, "layers must name layers by whole numbers, not False"),
    ({"layers": 1}, "layers must be a list of whole numbers, not 1"),
    ({"start_at": (True, STREAM)}, "start_at must name layers by whole numbers, not True"),
    ({"start_at": (1, "abc")}, "start_at needs numbers, not 'abc'"),
    ({"start_at": (1, np.full((N, 64), 1e300))}, "start_at needs numbers that float32 can hold"),
    ({"edits": Add("embed", -1e39)}, "the edit of embed needs numbers that float32 can hold"),
    ({"start_at": (1, None)}, "start_at needs numbers, not None"),
    ({"start_at": [1, STREAM]}, "start_at must be a tuple of a layer and the residual stream"),
    ({"edits": [("embed", lambda v, at: v * 1j)]}, "returned an array of complex64 where one of"),
    ({"edits": [("embed", lambda v, at: v.astype(str))]}, "returned an array of <U32 where one of"),
    ({"edits": [("embed", lambda v, at: np.full(v.shape, None))]}, "returned an array of object"),
    ({"edits": Add("embed", np.zeros(64), positions=slice(1.5, 3))}, "a slice of whole numbers"),
    ({"edits": Zero("layers.0.z", heads=[True])}, "heads must be whole numbers, not [True]"),
    ({"sink": 3}, "sink must be a function, not 3"),
])  # fmt: skip
def test_what_a_run_cannot_be(model: Model, arguments: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(lambda: model.run(TEXT, **arguments))


def test_a_run_of_one_text_does_not_start_a_batch(model: Model) -> None:
    one = model.run(TEXT, "layers.1.resid_pre", logits=None)
    several = model.run([TEXT, SHORT], "layers.1.resid_pre", logits=None)
    sentence = "start_at has a run of a batch of texts for one text"
    assert refused(lambda: model.run(TEXT, start_at=(1, several))) == sentence
    sentence = "start_at has a run of one text for a batch of texts"
    assert refused(lambda: model.run([TEXT], start_at=(1, one))) == sentence
    assert "the stream of each text, not 7" in refused(lambda: model.run([TEXT], start_at=(1, 7)))


def test_what_helpers_cannot_do(model: Model) -> None:
    nothing = {"layers": []}
    assert refused(lambda: ablate_grid(model, [TEXT], len, **nothing)) == "layers names none"
    assert refused(lambda: patch_grid(model, [TEXT], [TEXT], len, **nothing)) == "layers names none"
    assert "the metric returned None where numbers" in refused(
        lambda: patch_grid(model, [TEXT], [TEXT], lambda logits: None)
    )
    assert refused(lambda: unembed(model, "a")) == "unembed needs numbers, not 'a'"  # type: ignore[arg-type]
    assert "each Request of an Engine has edits of its own" in refused(
        lambda: model.generate([TEXT], edits=PerText([[]]))  # type: ignore[arg-type]
    )
    assert "PerText needs a list" in refused(lambda: PerText(3))  # type: ignore[arg-type]


def test_nothing_is_something(model: Model) -> None:
    """Of no tokens there are arrays of none."""
    run = model.run([TEXT, SHORT], ["layers.*.*", "final_norm*"], positions=[])
    assert all(0 in each.shape for name in run for each in run[name])
    assert moments(model, TEXT, "layers.0.z", positions=[]).count == 0
    assert unembed(model, np.zeros((3, 0, 64), np.float32)).shape == (3, 0, 640)
    assert logit_lens(model, TEXT, positions=[]).shape == (3, 0, 640)
    clean = model.run(TEXT).logits
    for edit in (
        Replace("embed", np.zeros((0, 64)), positions=[]), Zero("layers.0.z", heads=[]),
        Zero("layers.0.scores", positions=slice(3, 3)),
    ):  # fmt: skip
        assert np.abs(model.run(TEXT, edits=edit).logits - clean).max() < 1e-5


def test_positions_that_come_one_by_one_are_those_of_every_text(model: Model) -> None:
    run = model.run([TEXT, SHORT], "embed", positions=iter([0, 2]))
    assert [at.tolist() for at in run.positions] == [[0, 2], [0, 2]]


def test_slices_of_positions_in_edits(model: Model) -> None:
    point = "layers.1.resid_post"
    for chosen, listed in ((slice(2, 9, 3), [2, 5, 8]), (slice(-2, None), [12, 13])):
        values = np.random.default_rng(1).normal(size=(len(listed), 64))
        sliced, named = (
            model.run(TEXT, edits=Replace(point, values, positions=at)) for at in (chosen, listed)
        )
        np.testing.assert_array_equal(sliced.logits, named.logits)
    # In a text that grows it reaches what is not there yet.
    new = slice(N, None)
    vector = np.linspace(-9, 9, 64)
    steered, plain = (
        model.generate(TEXT, edits=edits, max_new_tokens=6, temperature=0).tokens
        for edits in ([Add(point, vector, positions=new)], [])
    )
    assert steered[0] == plain[0] and steered != plain
    ids = np.concatenate([model.run(TEXT, logits=None).tokens, np.array(steered[:-1], np.int32)])
    logits = model.run(ids, edits=Add(point, vector, positions=new)).logits
    assert logits[N - 1 :].argmax(axis=1).tolist() == steered
    assert "counts positions from the end of a text that grows" in refused(
        lambda: model.generate(TEXT, edits=[Zero(point, positions=slice(-3, None))])
    )
