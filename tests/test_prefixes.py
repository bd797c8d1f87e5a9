"""Prefixes that sessions share: what is counted, dropped and refused, on threads and in a child."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import numpy as np
import pytest
from oracle.prefixes import Tokens
from shared_prefixes import (
    fresh,
    ids,
    is_as_fresh,
    model_of,
    prefixes_of,
    read,
    same,
    session_of,
    text_of,
)

from pythia_rt import _core


def kept(model: Any, index: Any, tokens: Tokens) -> Any:
    session = session_of(model)
    index.adopt(session, ids(tokens), b"")
    session.prefill(ids(tokens[session.position :]))
    index.keep(session, ids(tokens), b"")
    return session


def known(index: Any, model: Any, tokens: Tokens, space: bytes = b"") -> int:
    length: int = index.adopt(session_of(model), ids((*tokens, 0)), space)
    return length


def test_a_page_in_two_namespaces_is_counted_once() -> None:
    model = model_of()
    index = prefixes_of(model)
    session = kept(model, index, text_of(200))
    assert (index.n_pages, model.cache_pages, known(index, model, text_of(200), b"b")) == (2, 2, 0)
    index.keep(session, ids(text_of(200)), b"b")
    assert (index.n_pages, model.cache_pages, known(index, model, text_of(200), b"b")) == (
        2,
        2,
        200,
    )
    del session
    assert index.drop(1) > 0  # all that the one holds is held by the other too
    assert (index.n_pages, model.cache_pages) == (1, 1)
    assert [known(index, model, text_of(200), space) for space in (b"", b"b")] == [0, 128]
    index.clear()
    assert (index.n_pages, index.bytes, model.cache_pages) == (0, 0, 0)


def test_what_nobody_else_holds_is_dropped_first() -> None:
    model = model_of()
    index = prefixes_of(model)
    held = kept(model, index, text_of(300, 0))
    del_later = kept(model, index, text_of(300, 1))
    one_page = held.page_bytes
    del del_later
    assert index.drop(3 * one_page) == 3 * one_page
    assert known(index, model, text_of(300, 0)) == 300
    assert known(index, model, text_of(300, 1)) == 0
    assert index.drop(one_page) == one_page  # then what a session holds, of a text the last
    assert known(index, model, text_of(300, 0)) == 256
    assert model.cache_pages == 3
    assert index.drop(1 << 60) == 2 * one_page
    assert index.drop(1 << 60) == 0
    is_as_fresh(held, "f16", text_of(300, 0))


def test_what_is_adopted_outlives_the_index_and_the_session() -> None:
    model = model_of()
    index = prefixes_of(model)
    kept(model, index, text_of(300))
    session = session_of(model)
    assert index.adopt(session, ids(text_of(300))) == 299
    del index
    gc.collect()
    assert model.cache_pages == 3
    read(session, "f16", text_of(310), 299)
    is_as_fresh(session, "f16", text_of(310))
    del session
    assert model.cache_pages == 0


def test_the_index_keeps_its_model() -> None:
    model = model_of()
    index = prefixes_of(model)
    kept(model, index, text_of(300))
    del model
    gc.collect()
    assert index.n_pages == 3
    index.clear()
    assert index.n_pages == 0


def test_a_session_of_less_capacity() -> None:
    model = model_of()
    index = prefixes_of(model)
    kept(model, index, text_of(300))
    session = session_of(model, capacity=150)
    assert index.adopt(session, ids(text_of(300))) == 150
    is_as_fresh(session, "f16", text_of(150))


def test_what_stands_elsewhere_in_a_text_is_not_known() -> None:
    model = model_of()
    index = prefixes_of(model)
    text = text_of(300)
    kept(model, index, text)
    assert known(index, model, text[:60] + text[128:]) == 60  # after which the next page would do
    assert known(index, model, text[128:]) == 0


def test_what_waits_is_not_kept() -> None:
    model = model_of()
    index = prefixes_of(model)
    session = kept(model, index, text_of(100))
    session.append(ids(text_of(120)[100:]))
    index.keep(session, ids(text_of(120)))
    assert known(index, model, text_of(120)) == 100
    session.run()
    index.keep(session, ids(text_of(120)))
    assert (known(index, model, text_of(120)), index.n_pages) == (120, 1)


def test_little_is_read_of_an_empty_text() -> None:
    index = prefixes_of(model := model_of())
    kept(model, index, text_of(100))
    for tokens in ((), text_of(1)):
        session = session_of(model)
        assert index.adopt(session, ids(tokens)) == 0
        index.keep(session, ids(tokens))
    assert index.n_pages == 1


def test_room_is_made_by_dropping() -> None:
    model = model_of()
    index = prefixes_of(model)
    running = kept(model, index, text_of(100))
    kept(model, index, text_of(300, 1))
    model.cache_budget = model.cache_bytes
    with pytest.raises(MemoryError, match="the cache has a budget of"):
        running.prefill(ids(text_of(200)[100:]))
    assert running.position == 100
    while True:  # its own page, which the index holds as well, it needs another one for
        try:
            running.prefill(ids(text_of(200)[100:]))
            break
        except MemoryError:
            assert index.drop(running.page_bytes) > 0
    is_as_fresh(running, "f16", text_of(200))
    model.cache_budget = running.page_bytes * 2  # nothing but the text itself has room
    index.clear()
    index.keep(running, ids(text_of(200)))
    running.rewind(150)
    with pytest.raises(MemoryError):
        running.prefill(ids(text_of(160, 3)[150:]))
    assert index.drop(1) > 0
    running.prefill(ids(text_of(160, 3)[150:]))
    is_as_fresh(running, "f16", text_of(150) + text_of(160, 3)[150:])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda model: session_of(model_of()), "the session is another model's"),
        (lambda model: session_of(model, "q8"), "has another format than these prefixes"),
    ],
)
def test_sessions_that_do_not_fit(make: Any, sentence: str) -> None:
    model = model_of()
    index = prefixes_of(model)
    for method in (index.adopt, index.keep):
        with pytest.raises(ValueError, match=sentence):
            method(make(model), ids(text_of(10)))


def test_bad_arguments() -> None:
    model = model_of()
    index = prefixes_of(model)
    session = kept(model, index, text_of(10))
    with pytest.raises(ValueError, match="a session of 10 tokens cannot adopt others"):
        index.adopt(session, ids(text_of(10)))
    with pytest.raises(ValueError, match="one-dimensional"):
        index.adopt(session_of(model), np.zeros((2, 2), np.int32))
    with pytest.raises(ValueError, match="a budget cannot be -1 bytes"):
        _core.Prefixes(model, "f16", -1)
    with pytest.raises(ValueError, match="f11"):
        _core.Prefixes(model, "f11", 1)
    assert (session.position, index.n_pages) == (10, 1)


def test_threads_share_an_index() -> None:
    """Texts are adopted, read, kept and dropped on threads of their own."""
    model = model_of()
    index = prefixes_of(model, pages=5)
    wanted = {(seed, n): fresh("f16", text_of(n, seed))[0] for seed in range(3) for n in (150, 290)}
    problems: list[BaseException] = []

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        try:
            for _ in range(12):
                seed, n = int(random.integers(3)), int(random.choice([150, 290]))
                session = session_of(model)
                begin = index.adopt(session, ids(text_of(n, seed)))
                same(session.logits(ids(text_of(n, seed)[begin:])), wanted[seed, n][begin:])
                index.keep(session, ids(text_of(n, seed)))
                if random.random() < 0.3:
                    index.drop(session.page_bytes)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert index.n_pages <= 5
    index.clear()
    gc.collect()
    assert model.cache_pages == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_goes_on_with_the_index(recwarn: pytest.WarningsRecorder) -> None:
    """Forked off at any moment of another thread's changes."""
    model = model_of()
    index = prefixes_of(model, pages=4)
    expected = fresh("f16", text_of(300))[0]
    is_done = threading.Event()

    def change() -> None:
        sessions = [kept(model, prefixes_of(model), text_of(300, seed)) for seed in range(3)]
        while not is_done.is_set():
            for seed, session in enumerate(sessions):
                index.keep(session, ids(text_of(300, seed)))
                index.adopt(session_of(model), ids(text_of(300, seed)))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for _ in range(2):
                        session = session_of(model)
                        begin = index.adopt(session, ids(text_of(300)))
                        same(session.logits(ids(text_of(300)[begin:])), expected[begin:])
                        index.keep(session, ids(text_of(300)))
                    index.clear()
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        is_done.set()
        thread.join()
    assert index.n_pages <= 4
