"""Text decoded token by token equals text decoded at once, and no character is ever split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.detokenizer import Detokenizer
from pythia_rt.generation import Generation
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.stops import StopMatcher
from pythia_rt.tokenizer import Tokenizer
from pythia_rt.writing import Writing


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The demo model's: every byte has a token, those that never occur in UTF-8 too."""
    return Tokenizer((DEMO_FOLDER / "tokenizer.json").read_bytes())


@pytest.fixture(scope="module")
def byte_tokens(tokenizer: Tokenizer) -> list[int]:
    tokens = {tokenizer.token_bytes(token): token for token in range(4096)}
    return [tokens[bytes([byte])] for byte in range(256)]


def pieces_of(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.feed(token) for token in tokens] + [detokenizer.flush()]


@given(tokens=st.lists(st.integers(0, 4200), max_size=60))
@settings(deadline=None)
def test_random_tokens(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(data=st.data())
@settings(deadline=None)
def test_random_bytes(tokenizer: Tokenizer, byte_tokens: list[int], data: st.DataObject) -> None:
    # Bytes one by one, with many lead and continuation bytes: every way for UTF-8 to be broken.
    tokens = data.draw(st.lists(st.sampled_from(byte_tokens), max_size=40))
    raw = b"".join(tokenizer.token_bytes(token) for token in tokens)
    assert "".join(pieces_of(tokenizer, tokens)) == raw.decode("utf-8", "replace")
    assert tokenizer.decode(tokens) == raw.decode("utf-8", "replace")


@given(text=st.text(max_size=60))
@settings(deadline=None)
def test_characters_are_never_split(tokenizer: Tokenizer, text: str) -> None:
    pieces = pieces_of(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text))
    assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


def test_a_character_comes_with_its_last_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🦜")
    assert len(tokens) > 1
    assert pieces_of(tokenizer, tokens) == [""] * (len(tokens) - 1) + ["🦜", ""]


def test_an_unfinished_character_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab🦜")
    assert pieces_of(tokenizer, tokens[:-1])[-1] == "\ufffd"


def test_a_long_text(technical_text: str, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(technical_text)
    assert "".join(pieces_of(tokenizer, tokens)) == tokenizer.decode(tokens)


# The whole text, with a script in place of the model


class Script:
    """Stands in for the core's sampler: it sees the prompt."""

    def __init__(self) -> None:
        self.prompt: list[int] = []

    def accept_prompt(self, tokens: Any) -> None:
        self.prompt += tokens.tolist()


class Delivery:
    """Stands in for the core's `Written`."""

    proposed = accepted = 0

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = np.array(tokens, np.int32)
        self.logprobs = np.full(len(tokens), -1.5, np.float32)
        self.top_ids = np.zeros((len(tokens), 0), np.int32)
        self.top_logprobs = np.zeros((len(tokens), 0), np.float32)


def written(
    tokenizer: Tokenizer, tokens: list[int], *stops: str, eos: int = 4095, at_a_time: int = 1
) -> tuple[list[str], Generation]:
    """The pieces and the result of a text whose tokens come so many at a time."""
    script: Any = Script()
    writing = Writing(
        np.array([5, 6], np.int32),
        script,
        tokenizer=tokenizer,
        stops=stops,
        eos_ids=frozenset([eos]),
        max_new_tokens=len(tokens),
        seed=7,
    )
    assert script.prompt == [5, 6]
    for start in range(0, len(tokens), at_a_time):
        if writing.finish_reason is None:
            writing.accept(Delivery(tokens[start : start + at_a_time]), 0.0)
    return writing.pieces, writing.result()


@given(
    tokens=st.lists(st.integers(2, 4094), min_size=1, max_size=40),
    stops=st.lists(st.text(" aeit\ufffd", min_size=1, max_size=3), max_size=3),
    at_a_time=st.integers(1, 7),
)
@settings(deadline=None)
def test_any_tokens_with_any_stops(
    tokenizer: Tokenizer, tokens: list[int], stops: list[str], at_a_time: int
) -> None:
    text = tokenizer.decode(tokens)
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[0] + min(ends)[1]] if ends else text
    pieces, result = written(tokenizer, tokens, *stops)
    assert "".join(pieces) == expected == result.text
    assert result.finish_reason == ("stop" if ends else "length")
    assert result.tokens == tokens[: len(result.tokens)]
    assert len(result.logprobs) == len(result.tokens)
    # What stands behind a stop in the same delivery is no part of the text.
    assert written(tokenizer, tokens, *stops, at_a_time=at_a_time)[1] == result


@given(text=st.text(" abé🦜\n", max_size=30), stop=st.text(" abé🦜\n", min_size=1, max_size=3))
@settings(deadline=None)
def test_a_stop_is_complete_with_a_watched_token(
    tokenizer: Tokenizer, text: str, stop: str
) -> None:
    tokens = tokenizer.encode(text + stop)
    matcher, detokenizer = StopMatcher([stop]), Detokenizer(tokenizer)
    watched = tokenizer.ids_completing(stop[-1])
    assert watched is not None
    for token in tokens:
        matcher.feed(detokenizer.feed(token))
        if matcher.matched is not None:
            assert token in watched
            break
    assert matcher.matched == stop


def test_characters_of_several_tokens_come_whole(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🦜 é")
    assert len(tokens) > 4
    assert written(tokenizer, tokens)[0][0] == "🦜"


@pytest.mark.parametrize("at_a_time", [1, 2, 9])
@pytest.mark.parametrize("held", ["🦜", "ab"])
def test_the_end_of_text_token_brings_out_what_was_held_back(
    tokenizer: Tokenizer, held: str, at_a_time: int
) -> None:
    start = tokenizer.encode(held)[:-1] if held == "🦜" else tokenizer.encode(held)
    pieces, result = written(tokenizer, [*start, 4095, 9], "abc", at_a_time=at_a_time)
    assert "".join(pieces) == tokenizer.decode(start)
    assert (result.finish_reason, result.tokens) == ("eos", [*start, 4095])
    assert (result.logprobs, result.seed) == ([-1.5] * len(result.tokens), 7)


def test_held_back_bytes_may_complete_a_stop_string(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab🦜")[:-1]
    pieces, result = written(tokenizer, tokens, "b\ufffd")
    assert "".join(pieces) == "a"
    assert result.finish_reason == "stop"
