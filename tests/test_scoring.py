"""Model.score: the log-probability of every token of texts that are there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    for text, score in zip(texts, model.score(texts), strict=True):
        logits = model.logits(text)
        found = score.log_probabilities
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, truth(logits, text), rtol=2e-6, atol=1e-5)
        assert score.total == pytest.approx(found.sum(dtype=np.float64))
        likeliest = logits[:-1].max(axis=1) == logits[np.arange(len(text) - 1), text[1:]]
        np.testing.assert_array_equal(score.is_likeliest, likeliest)


def test_greedy_text_is_the_likeliest(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q8"))
    tokens = model.generate([5, 6], temperature=0, max_new_tokens=20).tokens
    greedy, other = model.score([[5, 6, *tokens], [5, 6, *tokens[:9], (tokens[9] + 1) % 4096]])
    assert greedy.is_likeliest[1:].all()
    assert not other.is_likeliest[10]
    assert not other.is_greedy


@settings(max_examples=examples(10), deadline=None)
@given(lengths=st.lists(st.integers(1, 150), min_size=1, max_size=3), count=st.integers(1, 9))
def test_the_top_is_that_of_the_logits(
    demo_file: Callable[[str], Path], lengths: list[int], count: int
) -> None:
    model = Model.load(demo_file("q4"))
    texts = texts_of(lengths)
    for text, score in zip(texts, model.score(texts, top=count), strict=True):
        logits = model.logits(text)[:-1]
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        assert score.top_ids is not None
        assert score.top_log_probabilities is not None
        np.testing.assert_array_equal(score.top_ids, expected)
        # One token has one log-probability, whoever asks for it.
        rows, columns = np.nonzero(score.top_ids == text[1:, None])
        np.testing.assert_array_equal(
            score.top_log_probabilities[rows, columns], score.log_probabilities[rows]
        )
        np.testing.assert_array_equal(score.top_ids[:, 0] == text[1:], score.is_likeliest)


def test_of_equals_the_lower_id_comes_first() -> None:
    logits = np.array([[1.0, 3.0, 3.0, -np.inf, 2.0]], np.float32)
    ids, log_probabilities = _core.top(logits, 5)
    assert ids.tolist() == [[1, 2, 4, 0, 3]]
    weights = np.exp(np.array([3.0, 3.0, 2.0, 1.0]))
    np.testing.assert_allclose(log_probabilities[0, :4], np.log(weights / weights.sum()), 1e-6)
    assert log_probabilities[0, 4] == -np.inf


@pytest.mark.parametrize("count", [0, 6, -1])
def test_a_top_of_no_tokens_or_too_many(count: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 5 likeliest tokens"):
        _core.top(np.zeros((1, 5), np.float32), count)


def test_a_top_of_what_is_no_number() -> None:
    with pytest.raises(RuntimeError, match="not a number"):
        _core.top(np.array([[1.0, np.nan]], np.float32), 1)


def test_scores_are_those_of_generation(demo_file: Callable[[str], Path]) -> None:
    """To the bit: a token has one log-probability, however it came about."""
    model = Model.load(demo_file("q4"))
    result = model.generate("The kernel", max_new_tokens=30, seed=1, logit_bias={0: -1e9})
    assert model.tokenizer is not None
    prompt = model.tokenizer.encode("The kernel")
    (scores,) = model.score([[*prompt, *result.tokens]])
    assert scores.log_probabilities[len(prompt) - 1 :].tolist() == result.logprobs


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
    for text, (scores, is_likeliest) in zip(texts, together, strict=True):
        (expected,) = alone.score([text])
        np.testing.assert_array_equal(scores, expected.log_probabilities)
        np.testing.assert_array_equal(is_likeliest, expected.is_likeliest)


def test_instruction_sets_change_no_bit(
    demo_file: Callable[[str], Path], isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = texts_of(LENGTHS)
    found = Model.load(demo_file("q4")).score(texts)
    monkeypatch.setenv("PYTHIA_RT_ISA", "scalar")
    for scores, expected in zip(found, Model.load(demo_file("q4")).score(texts), strict=True):
        np.testing.assert_array_equal(
            scores.log_probabilities, expected.log_probabilities, err_msg=isa
        )


def test_a_vocabulary_that_is_no_multiple_of_anything(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "odd", make_config(vocab_size=1043))
    model = Model.load(convert(folder, tmp_path / "odd.q8", format="q8"))
    (text,) = texts_of([60], 1043)
    text[1], text[2], text[3] = 0, 1042, 511
    np.testing.assert_allclose(
        model.score([text])[0].log_probabilities,
        truth(model.logits(text), text),
        rtol=2e-6,
        atol=1e-5,
    )


def test_a_session_goes_on_after_scoring(demo_file: Callable[[str], Path]) -> None:
    """A token that was sampled but not run yet comes first; there are no kept logits after."""
    file = FlatFile(demo_file("q4"))
    core = _core.Model(dict(file.spec), file.formats, file.tensors)
    session, other = (_core.Session(core, capacity=64) for _ in range(2))
    text = texts_of([20])[0]
    session.prefill(text[:5])
    pending, _ = session.step(_core.Sampler(n_tokens=4096, temperature=0))
    ((scores, _),) = _core.score([session], [text[5:]])
    whole = np.concatenate([text[:5], np.array([pending], np.int32), text[5:]])
    ((expected, _),) = _core.score([other], [whole])
    np.testing.assert_array_equal(scores, expected[6:])
    assert session.position == 21
    with pytest.raises(ValueError, match="no logits to continue from"):
        _ = session.last_logits
    np.testing.assert_array_equal(session.logits(text[:1]), other.logits(text[:1]))


@settings(max_examples=examples(15), deadline=None)
@given(st.integers(2, 200), st.integers(1, 70), st.integers(1, 70))
def test_windows_are_texts_of_their_own(
    demo_file: Callable[[str], Path], n_tokens: int, window: int, stride: int
) -> None:
    """By the definition of lm-evaluation-harness, whose prefix is the first token."""
    model = Model.load(demo_file("q8"))
    stride = min(stride, window)
    (text,) = texts_of([n_tokens])
    (found,) = model.score([text], window=window, stride=stride, top=1)
    expected: list[np.float32] = []
    top: list[np.float32] = []
    while len(expected) < n_tokens - 1:
        new = min(stride if expected else window, n_tokens - 1 - len(expected))
        end = len(expected) + 1 + new  # of what is predicted
        part = text[max(end - 1 - window, 0) : end]
        (alone,) = model.score([part], top=1)
        assert alone.top_log_probabilities is not None
        expected += alone.log_probabilities[-new:].tolist()
        top += alone.top_log_probabilities[-new:, 0].tolist()
    assert found.log_probabilities.tolist() == expected
    assert found.top_log_probabilities is not None
    assert found.top_log_probabilities[:, 0].tolist() == top


def test_a_text_longer_than_the_context(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "short", make_config(max_position_embeddings=32))
    model = Model.load(convert(folder, tmp_path / "short.q8", format="q8"))
    full, long = (text % model.spec["vocab_size"] for text in texts_of([33, 90]))
    # The last token is judged, and never read.
    rows = model.logits(full[:-1])
    expected = truth(np.concatenate([rows, rows[:1]]), full)
    (found,) = model.score([full])
    np.testing.assert_allclose(found.log_probabilities, expected, rtol=2e-6, atol=1e-5)
    assert len(model.score([long])[0]) == 89
    assert model.score([long, full])[1].total == found.total


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window": 0}, "window must be from 1 to 2048 tokens, not 0"),
        ({"window": 2049}, "window must be from 1 to 2048 tokens, not 2049"),
        ({"window": 8, "stride": 9}, "stride must be from 1 to 8 tokens, not 9"),
        ({"stride": 1.5}, "stride must be from 1 to 2048 tokens, not 1.5"),
    ],
)
def test_windows_that_cannot_be(
    demo_file: Callable[[str], Path], options: dict[str, Any], sentence: str
) -> None:
    model = Model.load(demo_file("q4"))
    with pytest.raises(ValueError, match=sentence):
        model.score(["a text"], **options)
    with pytest.raises(ValueError, match=sentence):
        model.perplexity("a text", **options)


def test_perplexity(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q8"))
    text = "The kernel is a program. \u00e9"
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(text)
    found = model.perplexity(text, window=4)
    (score,) = model.score([[0, *ids]], window=4)  # 0 is its BOS token
    assert (found.total, found.tokens, found.bytes) == (score.total, len(ids), len(text) + 1)
    assert found.perplexity == pytest.approx(np.exp(-score.total / len(ids)))
    assert found.bits_per_byte == pytest.approx(-score.total / np.log(2) / (len(text) + 1))
    assert found.byte_perplexity == pytest.approx(2**found.bits_per_byte)
    of_ids = model.perplexity([0, *ids], window=4)
    assert (of_ids.total, of_ids.bytes, of_ids.bits_per_byte) == (score.total, None, None)
    with pytest.raises(ValueError, match="needs at least two tokens"):
        model.perplexity([5])
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.perplexity("")


def test_a_last_token_that_is_not_run(demo_file: Callable[[str], Path]) -> None:
    file = FlatFile(demo_file("q4"))
    core = _core.Model(dict(file.spec), file.formats, file.tensors)
    text = texts_of([300])[0]
    ((expected, likeliest),) = _core.score([_core.Session(core)], [text])
    for waiting in (0, 100, 297):
        session = _core.Session(core, capacity=299)
        if waiting:
            session.append(text[:waiting])
        ((found, found_likeliest),) = _core.score([session], [text[waiting:]], run_last=False)
        np.testing.assert_array_equal(found, expected[waiting:])
        np.testing.assert_array_equal(found_likeliest, likeliest[waiting:])
        assert (session.position, session.is_ready) == (299, False)
    with pytest.raises(ValueError, match="give at least one"):
        _core.score([_core.Session(core)], [text[:1]], run_last=False)
    with pytest.raises(ValueError, match=r"token 4096 \(at index 1\) is not in the vocabulary"):
        _core.score([_core.Session(core)], [np.array([1, 4096], np.int32)], run_last=False)


def test_what_might_follow_a_row(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q8"))
    text = texts_of([20])[0]
    logits = model.logits(text[:10])[-1]
    found, likeliest = _core.judge(logits, [*range(4096)])
    for token in [0, int(logits.argmax()), 4095]:
        (score,) = model.score([[*text[:10], token]])
        assert found[token] == score.log_probabilities[-1]
        assert likeliest[token] == score.is_likeliest[-1]
    for bad in (4096, -1):
        with pytest.raises(ValueError, match="is not in the vocabulary of 4096"):
            _core.judge(logits, [0, bad])
    with pytest.raises(ValueError, match=r"logits must be an array \[vocab_size\]"):
        _core.judge(logits[None], [0])


def test_nothing_to_score(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q4"))
    assert [len(score) for score in model.score(["a", [3]], top=2)] == [0, 0]
    with pytest.raises(ValueError, match="top must be from 0 to 4096 tokens, not 4097"):
        model.score(["a b"], top=4097)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("a text", "score takes a list of texts"),
        (np.arange(4), "score takes a list of texts"),
        ([], "there is nothing to score: give at least one text"),
        (["fine", ""], "text 2 of 2: the prompt is empty"),
        ([[1, 4096]], "text 1 of 1: token id 4096 is not in the vocabulary"),
        ([3], "text 1 of 1: the prompt must be a str or a sequence of token ids, not int"),
    ],
    ids=["a string", "an array", "no text", "an empty text", "an unknown id", "a number"],
)
def test_what_cannot_be_scored(
    demo_file: Callable[[str], Path], texts: object, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Model.load(demo_file("q4")).score(texts)  # type: ignore[arg-type]
