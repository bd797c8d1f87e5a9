"""A session goes on, whatever way it came to its tokens, as if it had been given them at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt import Model, Session, SessionFileError

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 5}


def goes_on(session: Session, model: Model) -> None:
    """It writes what the model writes after the same tokens, and its logits are the model's."""
    tokens = session.tokens
    np.testing.assert_array_equal(session.logits(), model.logits(tokens)[-1])
    ours, expected = session.generate(seed=4), model.generate(tokens, seed=4)
    assert (ours.tokens, ours.logprobs) == (expected.tokens, expected.logprobs)
    assert session.tokens == [*tokens, *ours.tokens]


def ids(count: int, seed: int = 0) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, 4096, count).tolist()
    return drawn


def test_reading_and_writing_in_turns(model: Model) -> None:
    session = model.session()
    session.append("The kernel")
    first = session.generate(**GREEDY)
    assert first.tokens == model.generate("The kernel", **GREEDY).tokens
    before = session.tokens
    session.append([7, 8, 9])
    assert session.tokens == [*before, 7, 8, 9]
    assert len(session) == len(before) + 3
    second = session.generate(**GREEDY)
    # The last token that it wrote was not read yet.
    assert (second.timing.cached_tokens, second.timing.prompt_tokens) == (
        len(before) - 1,
        len(before) + 3,
    )
    assert first.timing.cached_tokens == 0
    goes_on(session, model)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 200)),
        st.tuples(st.just("generate"), st.integers(1, 4)),
        st.tuples(st.just("rewind"), st.floats(0, 1)),
        st.tuples(st.just("fork"), st.booleans()),
        st.tuples(st.just("save"), st.booleans()),
        st.tuples(st.just("stream"), st.integers(0, 3)),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=examples(15))
@given(todo=operations)
def test_any_way_to_its_tokens(
    model: Model, todo: list[tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    session = model.session()
    session.append(ids(3))
    tokens = ids(3)
    others: list[tuple[Session, list[int]]] = []
    for number, (what, how) in enumerate(todo):
        if what == "append":
            session.append(ids(how, number))
            tokens += ids(how, number)
        elif what == "generate":
            tokens += session.generate(max_new_tokens=how, seed=number).tokens
        elif what == "rewind":
            length = 1 + int(how * (len(tokens) - 1))
            session.rewind(length)
            del tokens[length:]
        elif what == "fork":
            fork = session.fork()
            others.append((fork if how else session, list(tokens)))
            session = session if how else fork
        elif what == "save":
            path = tmp_path_factory.mktemp("sessions") / "session"
            session.save(path)
            session = model.load_session(path)
        else:
            stream = session.stream(max_new_tokens=9, seed=number)
            for _ in range(how):
                next(stream, None)
            tokens = session.tokens
        assert session.tokens == tokens
    goes_on(session, model)
    for other, of_other in others:
        assert other.tokens == of_other
        goes_on(other, model)


def test_strs_after_the_first_have_no_prefix(model: Model) -> None:
    session = model.session()
    session.append("The kernel")
    session.append(" is free")
    assert model.tokenizer is not None
    assert session.tokens == [
        *model.tokenizer.encode("The kernel"),
        *model.tokenizer.encode(" is free", add_special_tokens=False),
    ]


def test_a_stream_ends_where_something_else_begins(model: Model) -> None:
    session = model.session()
    session.append(ids(4))
    stream = session.stream(max_new_tokens=50, seed=1)
    next(stream)
    written = session.tokens
    assert len(written) > 4
    session.append([5])
    assert list(stream) == []
    assert session.tokens == [*written, 5]
    goes_on(session, model)


def test_forks_share_their_prompt(model: Model) -> None:
    session = model.session()
    session.append(ids(300))
    session.logits()
    pages = model._core.cache_pages
    forks = [session.fork() for _ in range(10)]
    assert model._core.cache_pages == pages
    texts = [fork.generate(max_new_tokens=3, seed=seed) for seed, fork in enumerate(forks)]
    assert model._core.cache_pages == pages + 10  # the last page of each is its own
    assert [text.tokens for text in texts] == [
        model.generate(ids(300), max_new_tokens=3, seed=seed).tokens for seed in range(10)
    ]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_a_fork(model: Model, copied: Callable[[Session], Session]) -> None:
    session = model.session()
    assert copied(session).tokens == []
    session.append(ids(20))
    other = copied(session)
    other.append(ids(5, seed=1))
    other.generate(**GREEDY)
    session.generate(**GREEDY)
    assert session.tokens[:20] == other.tokens[:20] == ids(20)
    assert (len(session), len(other)) == (25, 30)
    goes_on(session, model)
    goes_on(other, model)


@pytest.mark.parametrize("kv", ["f16", "f32", "q8"])
def test_a_saved_session_goes_on_to_the_bit(
    demo_file: Callable[[str], Path], kv: str, tmp_path: Path
) -> None:
    model = Model.load(demo_file("q8"), kv_format=kv)
    session = model.session(capacity=400)
    session.append(ids(270))
    session.generate(**GREEDY)
    session.save(tmp_path / "saved")
    again = Model.load(demo_file("q8")).load_session(tmp_path / "saved")
    assert again.tokens == session.tokens
    np.testing.assert_array_equal(again.logits(), session.logits())
    assert again.capacity == 2048
    goes_on(again, Model.load(demo_file("q8"), kv_format=kv))


def test_an_empty_session_can_be_saved(model: Model, tmp_path: Path) -> None:
    model.session().save(tmp_path / "empty")
    again = model.load_session(tmp_path / "empty")
    assert again.tokens == []
    again.append([1, 2])
    goes_on(again, model)


def test_what_is_there_is_not_overwritten(model: Model, tmp_path: Path) -> None:
    session = model.session()
    session.append([1])
    (tmp_path / "there").write_text("mine")
    with pytest.raises(FileExistsError):
        session.save(tmp_path / "there")
    session.save(tmp_path / "there", force=True)
    assert model.load_session(tmp_path / "there").tokens == [1]


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    session = model.session()
    session.append(ids(200))
    session.logits()
    session.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'session.version":"1"', b'session.version":"2"', "written by another pythia_rt"),
        (b'kv_format":"f16"', b'kv_format":"f17"', "a cache format 'f17'"),
        (b'n_cached":"200"', b'n_cached":"201"', "'201' cached tokens of 200"),
        (b'n_cached":"200"', b'n_cached":"-99"', "'-99' cached tokens of 200"),
        (b'"page.1"', b'"page.2"', "no page.1"),
        (b'"I32"', b'"F32"', "no list of tokens"),
        (b'session.n_cached"', b'session.n_cachet"', "no n_cached"),
        (b'session.version"', b'session.versiom"', "no saved session"),
        (b'kv_format":"f16"', b'kv_format":"f32"', "bytes, not"),
    ],
)
def test_damaged_files_get_one_sentence(
    model: Model, saved: Path, old: bytes, new: bytes, sentence: str
) -> None:
    data = saved.read_bytes()
    assert data.count(old) == 1
    saved.write_bytes(data.replace(old, new))
    with pytest.raises(SessionFileError, match=sentence) as caught:
        model.load_session(saved)
    assert "\n" not in str(caught.value)


def test_other_damage(model: Model, saved: Path, demo_file: Callable[[str], Path]) -> None:
    data = saved.read_bytes()
    with pytest.raises(SessionFileError, match="of another model, or of one in other formats"):
        Model.load(demo_file("q6")).load_session(saved)
    with pytest.raises(SessionFileError, match="no saved session"):
        model.load_session(demo_file("q6"))
    with pytest.raises(ValueError, match="200 tokens, more than the capacity of 199"):
        model.load_session(saved, capacity=199)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        model.load_session(saved.with_name("not there"))
    saved.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(SessionFileError, match="other data than were written"):
        model.load_session(saved)
    saved.write_bytes(data[:-100])
    with pytest.raises(SessionFileError):
        model.load_session(saved)


def test_what_makes_no_sense(model: Model) -> None:
    session = model.session(capacity=8)
    for call in (session.generate, session.logits, session.stream):
        with pytest.raises(ValueError, match="the session is empty"):
            call()
    with pytest.raises(ValueError, match="not in the vocabulary"):
        session.append([1, 4096])
    session.append([1, 2, 3])
    with pytest.raises(ValueError, match="room for 5 more tokens of 8, not for 6"):
        session.append([1] * 6)
    with pytest.raises(ValueError, match="length must be from 0 to 3 tokens, not 4"):
        session.rewind(4)
    assert session.tokens == [1, 2, 3]
    assert session.generate(max_new_tokens=100, seed=1).timing.new_tokens <= 5
    session.rewind(3)
    session.append([1] * 5)
    with pytest.raises(ValueError, match="leaves no room for new text"):
        session.generate()
    for capacity in (0, 2049, -1):
        with pytest.raises(ValueError, match="capacity must be from 1 to 2048"):
            model.session(capacity=capacity)
