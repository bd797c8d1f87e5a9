"""Stop strings against the obvious truth: read the whole text, find the stop that ends first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia_rt.stops import StopMatcher


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.feed(piece) for piece in pieces)
    return text + matcher.flush(), matcher.matched


def truth(stops: list[str], text: str) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


# Two letters only: overlaps, self-overlaps and false starts are then the rule.
WORDS = st.text("ab", min_size=1, max_size=5)


@given(st.lists(WORDS, max_size=4), st.lists(st.text("ab", max_size=6), max_size=12))
def test_any_pieces_and_stops(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == truth(stops, "".join(pieces))


@given(st.lists(WORDS, min_size=1, max_size=4), st.text("ab", max_size=40))
def test_nothing_of_a_stop_is_shown_early(stops: list[str], text: str) -> None:
    shown = ""
    matcher = StopMatcher(stops)
    for character in text:
        shown += matcher.feed(character)
        assert truth(stops, text)[0].startswith(shown)


def test_text_that_cannot_be_a_stop_is_passed_on_at_once() -> None:
    matcher = StopMatcher(["\n\nHuman:"])
    assert matcher.feed("one\n") == "one"
    assert matcher.feed("two") == "\ntwo"
    assert matcher.feed("\n\nHum") == ""
    assert matcher.flush() == "\n\nHum"


def test_a_stop_over_several_pieces() -> None:
    assert run(["### End"], ["Yes.", "\n#", "##", " E", "nd", " more"]) == ("Yes.\n", "### End")


@pytest.mark.parametrize("stops", [["b", "abc"], ["abc", "b"]])
def test_the_first_to_be_complete_wins_whatever_the_order(stops: list[str]) -> None:
    assert run(stops, ["abc"]) == run(stops, ["a", "b", "c"]) == ("a", "b")


def test_of_two_that_end_together_the_longer_wins() -> None:
    assert run(["c", "abc"], ["xabc"]) == ("x", "abc")


def test_after_a_match_nothing_more_comes() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("a.b") == "a"
    assert matcher.feed("c") == ""
    assert matcher.flush() == ""


def test_a_very_long_false_start_stays_cheap() -> None:
    stop = "a" * 5000 + "b"
    assert run([stop], ["a" * 1000] * 100) == ("a" * 100_000, None)
