"""Model.score: the log-probability of every token of texts that are there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pythia_rt import Model, _core
from pythia_rt.convert import FlatFile, convert

LENGTHS = [1, 2, 300, 17, 256, 3, 40]  # a pass takes 256 tokens


def texts_of(lengths: list[int], vocab_size: int = 4096) -> list[NDArray[np.int32]]:
    draw = np.random.default_rng(len(lengths))
    return [draw.integers(0, vocab_size, length, np.int32) for length in lengths]


def truth(logits: NDArray[np.float32], text: NDArray[np.int32]) -> NDArray[np.float64]:
    """The oracle: a softmax of every row, in float64."""
    rows = logits[:-1].astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    normaliser = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
    return rows[np.arange(len(rows)), text[1:]] - normaliser


def test_scores_are_those_of_the_logits(
    demo_file: Callable[[str], Path], weight_format: str
) -> None:
    model = Model.load(demo_file(weight_format))
    texts = texts_of(LENGTHS)
    for text, scores in zip(texts, model.score(texts), strict=True):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, truth(model.logits(text), text), rtol=2e-6, atol=1e-5)


def test_scores_are_those_of_generation(demo_file: Callable[[str], Path]) -> None:
    """To the bit: a token has one log-probability, however it came about."""
    model = Model.load(demo_file("q4"))
    result = model.generate("The kernel", max_new_tokens=30, seed=1, logit_bias={0: -1e9})
    assert model.tokenizer is not None
    prompt = model.tokenizer.encode("The kernel")
    (scores,) = model.score([[*prompt, *result.tokens]])
    assert scores[len(prompt) - 1 :].tolist() == result.logprobs


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6), st.sampled_from([1, 2, 3, 8]))
def test_company_and_threads_change_no_bit(
    demo_file: Callable[[str], Path], lengths: list[int], threads: int
) -> None:
    file = FlatFile(demo_file("q4"))
    core = _core.Model(dict(file.spec), file.formats, file.tensors, threads=threads)
    texts = texts_of(lengths)
    sessions = [_core.Session(core, capacity=max(lengths)) for _ in texts]
    together = _core.score(sessions, texts)
    alone = Model.load(demo_file("q4"), threads=1)
    for text, scores in zip(texts, together, strict=True):
        np.testing.assert_array_equal(scores, alone.score([text])[0])


def test_instruction_sets_change_no_bit(
    demo_file: Callable[[str], Path], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of(LENGTHS)
    found = Model.load(demo_file("q4")).score(texts)
    monkeypatch.setenv("PYTHIA_RT_ISA", "scalar")
    for scores, expected in zip(found, Model.load(demo_file("q4")).score(texts), strict=True):
        np.testing.assert_array_equal(scores, expected, err_msg=isa)


def test_a_vocabulary_that_is_no_multiple_of_anything(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "odd", make_config(vocab_size=1043))
    model = Model.load(convert(folder, tmp_path / "odd.q8", format="q8"))
    (text,) = texts_of([60], 1043)
    text[1], text[2], text[3] = 0, 1042, 511
    np.testing.assert_allclose(
        model.score([text])[0], truth(model.logits(text), text), rtol=2e-6, atol=1e-5
    )


def test_a_session_goes_on_after_scoring(demo_file: Callable[[str], Path]) -> None:
    """A token that was sampled but not run yet comes first; there are no kept logits after."""
    file = FlatFile(demo_file("q4"))
    core = _core.Model(dict(file.spec), file.formats, file.tensors)
    session, other = (_core.Session(core, capacity=64) for _ in range(2))
    text = texts_of([20])[0]
    session.prefill(text[:5])
    pending, _ = session.step(_core.Sampler(n_tokens=4096, temperature=0))
    (scores,) = _core.score([session], [text[5:]])
    whole = np.concatenate([text[:5], np.array([pending], np.int32), text[5:]])
    (expected,) = _core.score([other], [whole])
    np.testing.assert_array_equal(scores, expected[6:])
    assert session.position == 21
    with pytest.raises(ValueError, match="no logits to continue from"):
        _ = session.last_logits
    np.testing.assert_array_equal(session.logits(text[:1]), other.logits(text[:1]))


def test_nothing_to_score(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q4"))
    assert model.score([]) == []
    assert [scores.shape for scores in model.score(["a", [3]])] == [(0,), (0,)]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("a text", "score takes a list of texts"),
        (np.arange(4), "score takes a list of texts"),
        (["fine", ""], "the prompt is empty"),
        ([[1, 4096]], "token id 4096 is not in the vocabulary"),
        ([[1] * 2049], "2049 tokens do not fit into the context of 2048"),
    ],
    ids=["a string", "an array", "an empty text", "an unknown id", "a long text"],
)
def test_what_cannot_be_scored(
    demo_file: Callable[[str], Path], texts: object, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Model.load(demo_file("q4")).score(texts)  # type: ignore[arg-type]
