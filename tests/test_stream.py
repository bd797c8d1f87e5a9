"""Text decoded token by token equals text decoded at once, and no character is ever split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.detokenizer import Detokenizer
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.stream import Stream
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


# The whole stream, with a script in place of the model


class Script:
    """Stands in for the core's session and sampler: it "samples" the given tokens in order."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = iter(tokens)
        self.prompt: list[int] = []

    def accept_prompt(self, tokens: Any) -> None:
        self.prompt += tokens.tolist()

    def step(self, sampler: Script) -> tuple[int, float]:
        assert sampler is self
        assert self.prompt == [5, 6]
        return next(self.tokens), -1.5


def scripted(tokenizer: Tokenizer, tokens: list[int], *stops: str, eos: int = 4095) -> Stream:
    script: Any = Script(tokens)
    writing = Writing(
        np.array([5, 6], np.int32),
        script,
        tokenizer=tokenizer,
        stops=stops,
        eos_ids=frozenset([eos]),
        max_new_tokens=len(tokens),
        seed=7,
    )
    return Stream(script, writing)


@given(
    tokens=st.lists(st.integers(2, 4094), min_size=1, max_size=40),
    stops=st.lists(st.text(" aeit\ufffd", min_size=1, max_size=3), max_size=3),
)
@settings(deadline=None)
def test_any_tokens_with_any_stops(
    tokenizer: Tokenizer, tokens: list[int], stops: list[str]
) -> None:
    text = tokenizer.decode(tokens)
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[0] + min(ends)[1]] if ends else text
    stream = scripted(tokenizer, tokens, *stops)
    assert "".join(stream) == expected == stream.result.text
    assert stream.result.finish_reason == ("stop" if ends else "length")
    assert stream.result.tokens == tokens[: len(stream.result.tokens)]


def test_characters_of_several_tokens_come_whole(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("🦜 é")
    assert len(tokens) > 4
    assert next(scripted(tokenizer, tokens)) == "🦜"


@pytest.mark.parametrize("held", ["🦜", "ab"])
def test_the_end_of_text_token_brings_out_what_was_held_back(
    tokenizer: Tokenizer, held: str
) -> None:
    start = tokenizer.encode(held)[:-1] if held == "🦜" else tokenizer.encode(held)
    stream = scripted(tokenizer, [*start, 4095, 9], "abc")
    assert "".join(stream) == tokenizer.decode(start)
    result = stream.result
    assert (result.finish_reason, result.tokens) == ("eos", [*start, 4095])
    assert (result.logprobs, result.seed) == ([-1.5] * len(result.tokens), 7)


def test_held_back_bytes_may_complete_a_stop_string(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("ab🦜")[:-1]
    stream = scripted(tokenizer, tokens, "b\ufffd")
    assert "".join(stream) == "a"
    assert stream.result.finish_reason == "stop"
