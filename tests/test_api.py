"""The Python API on the demo model: prompts, options, streams, the context, threads, interrupts."""

from __future__ import annotations

import _thread
import gc
import threading
import typing
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from demo import GREEDY, PROMPT, ids_of

import pythia_rt
from pythia_rt import Generation, Loading, Model, Sampling
from pythia_rt.sampling import SamplingOptions

# The package


def test_every_public_name_is_there() -> None:
    assert set(pythia_rt.__all__) == set(dir(pythia_rt))
    for name in pythia_rt.__all__:
        assert getattr(pythia_rt, name) is not None
    assert pythia_rt.convert.convert is not None
    with pytest.raises(AttributeError, match="no attribute 'Modell'"):
        pythia_rt.Modell  # noqa: B018


# Prompts


def test_every_form_of_a_prompt(model: Model) -> None:
    ids = ids_of(model, PROMPT)
    expected = model.generate(PROMPT, **GREEDY)
    assert expected.timing.prompt_tokens == len(ids)
    forms = [ids, tuple(ids), iter(ids), np.array(ids), np.array(ids, np.uint16), np.int32(ids)]
    for form in forms:
        assert model.generate(form, **GREEDY).tokens == expected.tokens


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        (np.array([], np.int32), "the prompt is empty"),
        ([1, 2.0], r"must be whole numbers, not 2\.0"),
        ([1, True], "must be whole numbers, not True"),
        ([1, "2"], "must be whole numbers, not '2'"),
        ([1, [2]], r"must be whole numbers, not \[2\]"),
        (np.array([1.0, 2.0]), "an integer type, not shape .* float64"),
        (np.array([[1, 2]]), "one dimension"),
        (np.array(5), "one dimension"),
        (np.array([True]), "an integer type"),
        ([1, -1], "token id -1 is not in the vocabulary: ids go from 0 to 4095"),
        ([4096], "token id 4096 is not in the vocabulary"),
        ([2**70], f"token id {2**70} is not in the vocabulary"),
        (np.array([2**63], np.uint64), f"token id {2**63} is not"),
        (b"bytes", "must be a str or a sequence of token ids, not bytes"),
        (None, "must be a str or a sequence of token ids, not NoneType"),
        (7, "must be a str or a sequence of token ids, not int"),
        ({1, 2}, "must be a str or a sequence of token ids, not set"),
        ({"input_ids": [1]}, "must be a str or a sequence of token ids, not dict"),
        (np.ma.masked_array([1, 2], mask=[False, True]), "token ids must all be there"),
        ("ab\udcff", "lone surrogate"),
        ([5] * 2049, "2049 tokens do not fit into the context of 2048"),
    ],
)
def test_bad_prompts(model: Model, prompt: Any, sentence: str) -> None:
    for call in (model.generate, model.stream, model.logits):
        with pytest.raises(ValueError, match=sentence) as caught:
            call(prompt)
        assert "\n" not in str(caught.value)


# What comes back


def test_a_generation_agrees_with_the_logits(model: Model) -> None:
    ids = ids_of(model, PROMPT)
    result = model.generate(PROMPT, **GREEDY)
    logits = model.logits([*ids, *result.tokens])
    assert logits.shape == (len(ids) + 24, 4096)
    assert logits.dtype == np.float32
    before = logits[len(ids) - 1 : -1].astype(np.float64)
    assert result.tokens == before.argmax(axis=1).tolist()
    normaliser = np.log(np.exp(before - before.max(axis=1, keepdims=True)).sum(axis=1))
    expected = -normaliser  # the chosen logit is the largest
    np.testing.assert_allclose(result.logprobs, expected, rtol=1e-5, atol=1e-5)


def test_a_generation_is_complete(model: Model) -> None:
    result = model.generate(PROMPT, max_new_tokens=9, seed=5)
    assert isinstance(result, Generation)
    assert len(result.tokens) == len(result.logprobs) == result.timing.new_tokens == 9
    assert all(logprob <= 0 for logprob in result.logprobs)
    assert model.tokenizer is not None
    assert result.text == model.tokenizer.decode(result.tokens)
    assert (result.finish_reason, result.seed) == ("length", 5)
    assert result.timing.prefill_tokens_per_second > 0
    assert result.timing.decode_tokens_per_second > 0


def test_log_probabilities_are_those_of_the_raw_model(model: Model) -> None:
    plain = model.generate(PROMPT, temperature=0, max_new_tokens=1)
    forced = {plain.tokens[0]: 3.0}
    biased = model.generate(PROMPT, temperature=0, max_new_tokens=1, logit_bias=forced)
    assert biased.logprobs == plain.logprobs


def test_one_token_has_no_decode_speed(model: Model) -> None:
    timing = model.generate(PROMPT, max_new_tokens=1).timing
    assert (timing.new_tokens, timing.decode_seconds) == (1, 0)
    assert timing.decode_tokens_per_second == 0


def test_the_end_of_text_token_ends_the_text(model: Model) -> None:
    result = model.generate(PROMPT, logit_bias={0: 1000.0})
    assert (result.text, result.tokens, result.finish_reason) == ("", [0], "eos")


# Options: each changes something that can be seen


@pytest.mark.parametrize(
    "option", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}], ids=str
)
def test_four_ways_to_the_likeliest_token(model: Model, option: dict[str, Any]) -> None:
    result = model.generate(PROMPT, max_new_tokens=24, seed=3, **option)
    assert result.tokens == model.generate(PROMPT, **GREEDY).tokens


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 1.6},
        {"top_k": 3},
        {"top_p": 0.3},
        {"min_p": 0.4},
        {"typical_p": 0.1},
        {"repetition_penalty": 1.9},
        {"presence_penalty": 5.0},
        {"frequency_penalty": 5.0},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_option_changes_the_text(model: Model, option: dict[str, Any]) -> None:
    common: dict[str, Any] = {"max_new_tokens": 64, "seed": 0}
    plain = model.generate(PROMPT, **common)
    assert model.generate(PROMPT, **common).tokens == plain.tokens
    assert model.generate(PROMPT, **common | option).tokens != plain.tokens


def test_a_bias_forces_and_forbids(model: Model) -> None:
    word = ids_of(model, " the")[0]
    assert set(model.generate(PROMPT, max_new_tokens=5, logit_bias={word: 1000}).tokens) == {word}
    greedy = model.generate(PROMPT, **GREEDY).tokens
    banned = dict.fromkeys(greedy, -np.inf)
    assert not set(model.generate(PROMPT, **GREEDY, logit_bias=banned).tokens) & set(greedy)


def test_a_bias_outside_the_vocabulary(model: Model) -> None:
    with pytest.raises(ValueError, match="logit_bias names token 4096"):
        model.generate(PROMPT, logit_bias={4096: 1.0})


@pytest.mark.parametrize("options", [{}, {"seed": None}, {"sampling": Sampling()}], ids=str)
def test_no_seed_is_a_fresh_seed_that_can_be_used_again(
    model: Model, options: dict[str, Any]
) -> None:
    first, second = (model.generate(PROMPT, **options) for _ in range(2))
    assert first.seed != second.seed
    assert first.tokens != second.tokens
    assert model.generate(PROMPT, seed=first.seed).tokens == first.tokens
    stream = model.stream(PROMPT, **options)
    assert stream.seed == drained(stream).seed
    assert model.generate(PROMPT, seed=stream.seed).tokens == stream.result.tokens


def test_none_is_the_default_of_every_option(model: Model) -> None:
    """As clients send it for what they were not given; even where a Sampling says otherwise."""
    nothing: Any = dict.fromkeys(typing.get_type_hints(SamplingOptions)) | {"seed": 3}
    expected = model.generate(PROMPT, seed=3).tokens
    assert model.generate(PROMPT, **nothing).tokens == expected
    other = Sampling(temperature=0, top_k=1, stop="e", max_new_tokens=2)
    assert model.generate(PROMPT, other, **nothing).tokens == expected


def test_options_override_a_sampling(model: Model) -> None:
    base = Sampling(temperature=0, max_new_tokens=3)
    assert len(model.generate(PROMPT, base).tokens) == 3
    assert model.generate(PROMPT, base, max_new_tokens=5) != model.generate(PROMPT, base)
    assert len(model.generate(PROMPT, base, max_new_tokens=5).tokens) == 5
    with pytest.raises(ValueError, match="top_p must be"):
        model.generate(PROMPT, base, top_p=0)


# Stop strings


def test_a_stop_string_across_tokens(model: Model) -> None:
    text = model.generate(PROMPT, **GREEDY).text
    for begin in range(0, len(text) - 6, 3):
        stop = text[begin : begin + 6]
        for result in (
            model.generate(PROMPT, **GREEDY, stop=stop),
            drained(model.stream(PROMPT, **GREEDY, stop=["\x00never", stop])),
        ):
            assert result.text == text[: text.index(stop)]
            assert result.finish_reason == "stop"
            assert model.tokenizer is not None
            assert stop in model.tokenizer.decode(result.tokens)


def test_a_stop_string_that_only_begins_is_shown_in_the_end(model: Model) -> None:
    text = model.generate(PROMPT, **GREEDY).text
    stop = text[-3:] + "\x00"
    result = drained(model.stream(PROMPT, **GREEDY, stop=stop))
    assert (result.text, result.finish_reason) == (text, "length")


# Stop tokens


def test_a_stop_token_ends_the_text(model: Model) -> None:
    whole = model.generate(PROMPT, **GREEDY).tokens
    assert model.tokenizer is not None
    for token in set(whole):
        end = whole.index(token) + 1
        for given in (token, [token], (4095, np.int64(token)), np.array([token])):
            result = model.generate(PROMPT, **GREEDY, stop_token_ids=given)
            assert (result.tokens, result.finish_reason) == (whole[:end], "stop")
            assert len(result.logprobs) == end
            assert result.text == model.tokenizer.decode(whole[: end - 1])
        assert drained(model.stream(PROMPT, **GREEDY, stop_token_ids=token)).text == result.text


def test_an_end_token_that_is_a_stop_token_too_is_the_end(model: Model) -> None:
    result = model.generate(PROMPT, logit_bias={0: 1000.0}, stop_token_ids=[0])
    assert (result.text, result.tokens, result.finish_reason) == ("", [0], "eos")


@pytest.mark.parametrize("token", [4096, 2**40])
def test_a_stop_token_outside_the_vocabulary(model: Model, token: int) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(ValueError, match=f"stop_token_ids names token {token}, but"):
            call(PROMPT, stop_token_ids=[1, token])


# Streams


def drained(stream: pythia_rt.Stream) -> Generation:
    text = "".join(stream)
    assert stream.result.text == text
    return stream.result


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_is_the_generation_in_pieces(model: Model, seed: int) -> None:
    # Hot, so that rare bytes and broken characters come up too.
    options: dict[str, Any] = {"seed": seed, "temperature": 3.0, "top_p": 1, "max_new_tokens": 200}
    streamed, whole = drained(model.stream(PROMPT, **options)), model.generate(PROMPT, **options)
    assert (streamed.text, streamed.tokens) == (whole.text, whole.tokens)
    tokens = [token for token in whole.tokens if token != 0]
    assert model.tokenizer is not None
    assert streamed.text == model.tokenizer.decode(tokens)


def test_a_stream_comes_piece_by_piece(model: Model) -> None:
    stream = model.stream(PROMPT, **GREEDY)
    assert next(stream)
    with pytest.raises(ValueError, match="was not read to its end"):
        stream.result  # noqa: B018
    assert len(list(stream)) > 10
    assert stream.result.finish_reason == "length"
    assert list(stream) == []


def test_a_closed_stream_releases_its_cache(model: Model) -> None:
    with model.stream(PROMPT) as stream:
        next(stream)
        assert stream._scheduler is not None
        session = weakref.ref(stream._scheduler._runs[0].session)
        assert session() is not None
    gc.collect()
    assert session() is None
    assert list(stream) == []
    stream.close()
    ended = model.stream(PROMPT, max_new_tokens=1)
    list(ended)
    assert ended._scheduler is None


def test_a_stream_checks_its_arguments_at_once(model: Model) -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        model.stream(PROMPT, temperature=-1)


# The end of the context


@pytest.mark.parametrize("room", [1, 3])
def test_writing_ends_with_the_context(model: Model, room: int) -> None:
    result = model.generate([7] * (model.max_positions - room), logit_bias={0: -np.inf})
    assert (len(result.tokens), result.finish_reason) == (room, "length")


def test_a_prompt_that_leaves_no_room(model: Model) -> None:
    prompt = [7] * model.max_positions
    for call in (model.generate, model.stream):
        with pytest.raises(ValueError, match="leaves no room for new text"):
            call(prompt)
    assert model.logits(prompt).shape == (2048, 4096)


# Threads and interrupts


def test_many_threads_at_once(model: Model) -> None:
    def work(seed: int) -> tuple[list[int], str, float]:
        written = drained(model.stream(PROMPT, seed=seed, max_new_tokens=40))
        return written.tokens, written.text, float(model.logits(written.tokens).sum())

    expected = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == expected


@contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C comes soon within, and nowhere else."""
    timer = threading.Timer(0.3, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        yield
        timer.join()  # it was too late


def test_ctrl_c_stops_a_long_generation(model: Model) -> None:
    streams = []
    with interrupted():
        for _ in range(1000):
            streams.append(model.stream(PROMPT, max_new_tokens=2000, logit_bias={0: -np.inf}))
            list(streams[-1])
    # It may have come between two of them.
    begun = [stream for stream in streams if 0 < len(stream._writing.tokens) < 2000]
    assert len(begun) <= 1
    assert all(list(stream) == [] for stream in begun)
    assert model.generate(PROMPT, **GREEDY).text


def test_ctrl_c_stops_texts_that_are_written_together(model: Model) -> None:
    with interrupted():
        for _ in range(1000):
            model.generate([PROMPT] * 8, max_new_tokens=2000, logit_bias={0: -np.inf})
    assert model.generate([PROMPT], **GREEDY)[0].text


def test_ctrl_c_stops_a_long_prompt(model: Model) -> None:
    with interrupted():
        for _ in range(1000):
            model.logits([7] * 2048)
    assert model.generate(PROMPT, **GREEDY).text


@pytest.mark.parametrize("value", [True, 1.5, "x", [1], None, float("nan"), np.float32(2), 2**70])
def test_arguments_of_another_type_get_one_sentence(model: Model, value: Any) -> None:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    session = model.session()
    session.append("Some words")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("top must be from 0 to", lambda: model.score(["a"], top=value)),
        ("length must be from 0 to", lambda: session.rewind(value)),
        ("format .* is unknown", lambda: Model.demo(format=value)),
    ]
    if value is not None:  # which stands for the default
        calls.append(("capacity must be from 1 to", lambda: model.session(capacity=value)))
    if not isinstance(value, (str, list)):
        calls.append(("score takes a list of texts", lambda: model.score(value)))
        calls.append(("decode takes token ids", lambda: tokenizer.decode(value)))
    if value is not None and value is not True:
        calls.append(("copy must be True or False", lambda: Model.demo(copy=value)))
    for sentence, call in calls:
        with pytest.raises(ValueError, match=sentence):
            call()
    assert session.tokens == tokenizer.encode("Some words")


def test_whole_numbers_of_numpy_are_whole_numbers(model: Model) -> None:
    two = np.int64(2)
    assert model.session(capacity=two).capacity == 2
    (found,), (expected,) = (model.score(["a b c"], top=top) for top in (two, 2))
    np.testing.assert_array_equal(found.top_ids, expected.top_ids)
    session = model.session()
    session.append(np.array([1, 2, 3]))
    session.rewind(two)
    assert session.tokens == [1, 2]
    assert Loading(threads=np.int64(1)).threads == 1
