"""Any order of operations on an index of prefixes: what a list of texts says, no bit changed."""

from __future__ import annotations

from typing import Any

import pytest
from drawn import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from oracle.prefixes import Prefixes, Tokens
from shared_prefixes import (
    CAPACITY,
    SUBJECTS,
    ids,
    is_as_fresh,
    model_of,
    prefixes_of,
    read,
    session_of,
    text_of,
)

lengths = st.one_of(
    st.integers(1, 20), st.sampled_from([100, 126, 127, 128, 129, 130, 255, 256, 257, 300])
)
texts = st.builds(
    # One of two texts, that may go on as another one from somewhere on.
    lambda seed, length, turn, other: text_of(length, seed)[:turn] + text_of(length, other)[turn:],
    st.integers(0, 1), lengths, lengths, st.integers(2, 4),
)  # fmt: skip
spaces = st.sampled_from(["", "", "other"])
numbers = st.integers(0, 99)


class Sharing(RuleBasedStateMachine):
    """Sessions that come and go, and an index that they are found in."""

    subject = "cpu"
    kv_format = "f16"

    @initialize(budget=st.sampled_from([1, 3, 5, 8, 1000, 1000]))
    def begin(self, budget: int) -> None:
        self.model = model_of(self.subject)
        self.index = prefixes_of(self.model, self.kv_format, budget)
        self.oracle = Prefixes(budget)
        self.sessions: list[tuple[Any, str, Tokens]] = []

    @rule(tokens=texts, space=spaces, is_kept=st.sampled_from([True, True, True, False]))
    def read_text(self, tokens: Tokens, space: str, is_kept: bool) -> None:
        session = session_of(self.model, self.kv_format)
        known = self.index.adopt(session, ids(tokens), space.encode())
        assert known == session.position == self.oracle.find(space, tokens[:-1]) < len(tokens)
        read(session, self.kv_format, tokens, known)
        if is_kept:
            self.index.keep(session, ids(tokens), space.encode())
            self.oracle.keep(space, tokens)
        self.sessions.append((session, space, tokens))

    @precondition(lambda self: self.sessions)
    @rule(number=numbers, most=st.one_of(st.just(CAPACITY), lengths))
    def keep(self, number: int, most: int) -> None:
        session, space, tokens = self.sessions[number % len(self.sessions)]
        self.index.keep(session, ids(tokens[:most]), space.encode())
        self.oracle.keep(space, tokens[:most])

    @precondition(lambda self: self.sessions)
    @rule(number=numbers, count=lengths, seed=st.integers(0, 4), is_fork=st.booleans())
    def go_on(self, number: int, count: int, seed: int, is_fork: bool) -> None:
        number %= len(self.sessions)
        session, space, tokens = self.sessions[number]
        more = tokens + text_of(CAPACITY, seed)[len(tokens) :][:count]
        if len(more) == len(tokens):
            return
        if is_fork:
            session = session.fork()
            self.sessions.append((session, space, more))
        else:
            self.sessions[number] = session, space, more
        read(session, self.kv_format, more, len(tokens))

    @precondition(lambda self: self.sessions)
    @rule(number=numbers, part=st.floats(0, 1))
    def rewind(self, number: int, part: float) -> None:
        number %= len(self.sessions)
        session, space, tokens = self.sessions[number]
        tokens = tokens[: int(part * len(tokens))]
        session.rewind(len(tokens))
        self.sessions[number] = session, space, tokens

    @precondition(lambda self: len(self.oracle.pages) > 4)
    @rule(count=st.integers(1, 4))
    def drop(self, count: int) -> None:
        self.check_sessions()
        self.sessions.clear()
        bytes_before = self.index.bytes
        wanted = count * session_of(self.model, self.kv_format).page_bytes - 1
        assert self.index.drop(wanted) == bytes_before - self.index.bytes
        self.oracle.drop(count)

    @precondition(lambda self: len(self.oracle.pages) > 6)
    @rule()
    def clear(self) -> None:
        self.index.clear()
        self.oracle.pages.clear()

    @invariant()
    def holds_the_pages(self) -> None:
        if not hasattr(self, "oracle"):
            return
        page_bytes = session_of(self.model, self.kv_format).page_bytes
        count = len(self.oracle.pages)
        assert (self.index.n_pages, self.index.bytes) == (count, count * page_bytes)
        assert self.index.bytes <= self.oracle.budget * page_bytes
        held = [session.pages for session, _, _ in self.sessions]
        assert max([count, *held]) <= self.model.cache_pages <= count + sum(held)

    def check_sessions(self) -> None:
        for session, _, tokens in self.sessions:
            is_as_fresh(session, self.kv_format, tokens)

    def check_known(self, space: str, text: Tokens) -> None:
        session = session_of(self.model, self.kv_format)
        assert self.index.adopt(session, ids((*text, 0)), space.encode()) == len(text)
        is_as_fresh(session, self.kv_format, text)

    def teardown(self) -> None:
        if not hasattr(self, "oracle"):
            return
        self.check_sessions()
        self.sessions.clear()
        for space, text in self.oracle.pages:
            self.check_known(space, text)
        self.index.clear()
        assert self.model.cache_pages == 0


@pytest.mark.parametrize("subject", SUBJECTS)
def test_any_order_of_operations(subject: str, kv_format: str) -> None:
    class Here(Sharing):
        pass

    Here.subject, Here.kv_format = subject, kv_format
    few = settings(
        max_examples=examples(25 if subject == "cpu" else 4),
        stateful_step_count=30,
        deadline=None,
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(Here, settings=few)
