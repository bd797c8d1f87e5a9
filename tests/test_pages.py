"""Caches made of pages: what sessions share, what they copy, and that no bit depends on it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from backends import _emulated
from checkpoints import make_config, write_checkpoint
from drawn import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert import FlatFile, convert

PAGE = 128  # positions
CAPACITY = 400
VOCABULARY = 96
# Instruction sets; the emulated CUDA device with all layers, and with the first of two.
SUBJECTS = [*_core.isa_names(), "cuda", "cuda and cpu"]

Tokens = NDArray[np.int32]
MakeModel = Callable[[str], Any]
Schedule = list[tuple[int, tuple[str, int]]]  # the number of a session, and what to do with it
Fresh = Callable[[str, bytes], tuple[Any, list[Any]]]


@pytest.fixture(scope="module")
def flat_file(tmp_path_factory: pytest.TempPathFactory) -> FlatFile:
    folder = tmp_path_factory.mktemp("pages")
    config = make_config(heads=2, head_dim=20, vocab_size=VOCABULARY, rotary_pct=0.5)
    source = write_checkpoint(folder / "source", config, seed=4)
    return FlatFile(convert(source, folder / "flat.safetensors", format="q8"))


@pytest.fixture(scope="module")
def make_model(flat_file: FlatFile) -> MakeModel:
    """A function from one of SUBJECTS to a model of its own, with the sessions of its module."""

    def make(subject: str) -> Any:
        module = _core if subject in _core.isa_names() else _emulated
        on_device: dict[str, Any] = {} if module is _core else {"device": "cuda"}
        if subject == "cuda and cpu":
            on_device["gpu_layers"] = 1
        with pytest.MonkeyPatch.context() as patch:
            if module is _core:
                patch.setenv("PYTHIA_RT_ISA", subject)
            return module.Model(
                dict(flat_file.spec), flat_file.formats, flat_file.tensors, threads=2, **on_device
            )

    return make


def session_of(model: Any, kv_format: str = "f16", capacity: int = CAPACITY) -> Any:
    module = _core if isinstance(model, _core.Model) else _emulated
    return module.Session(model, capacity=capacity, kv_format=kv_format)


def tokens_of(count: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count, np.int32)


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


def pages_of(session: Any) -> list[Any]:
    return [session.read_page(i) for i in range(session.pages)]


@pytest.fixture(scope="module")
def fresh(make_model: MakeModel) -> Fresh:
    """A function from a cache format and tokens to a fresh session's logits and pages."""
    model = make_model("scalar")

    @lru_cache(maxsize=500)
    def find(kv_format: str, tokens: bytes) -> tuple[Any, list[Any]]:
        session = session_of(model, kv_format)
        logits = session.logits(np.frombuffer(tokens, np.int32))
        return logits, pages_of(session)

    return find


sizes = st.one_of(st.integers(1, 20), st.sampled_from([100, 126, 127, 128, 129, 130, 200]))
steps = st.tuples(st.sampled_from(["append", "append", "fork", "rewind", "load"]), sizes)


def run_schedule(model: Any, kv_format: str, fresh: Fresh, schedule: Schedule) -> None:
    running: list[tuple[Any, Tokens]] = [(session_of(model, kv_format), tokens_of(0))]
    for step, (number, (operation, size)) in enumerate(schedule):
        number %= len(running)
        session, tokens = running[number]
        if operation == "append":
            more = tokens_of(min(size, CAPACITY - len(tokens)), seed=step)
            if not len(more):
                continue
            tokens = np.concatenate([tokens, more])
            expected, _ = fresh(kv_format, tokens.tobytes())
            same(session.logits(more), expected[-len(more) :])
        elif operation == "rewind":
            tokens = tokens[: max(len(tokens) - size, 0)]
            session.rewind(len(tokens))
        else:
            other = session.fork() if operation == "fork" else session_of(model, kv_format)
            if operation == "load":
                for begin in range(0, len(tokens), PAGE):
                    page = session.read_page(begin // PAGE)
                    other.append_page(page, min(PAGE, len(tokens) - begin))
            running.append((other, tokens))
        running[number] = session, tokens
        assert session.pages == -(-len(tokens) // PAGE)
    held = [session.pages for session, _ in running]
    assert max(held) <= model.cache_pages <= sum(held)
    for session, tokens in running:
        if len(tokens):
            _, pages = fresh(kv_format, tokens.tobytes())
            for ours, theirs in zip(pages_of(session), pages, strict=True):
                same(ours, theirs)


@pytest.mark.parametrize("subject", SUBJECTS)
@settings(
    max_examples=examples(8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(schedule=st.lists(st.tuples(st.integers(0, 9), steps), min_size=2, max_size=10))
def test_any_order_of_operations_gives_the_bits_of_fresh_sessions(
    subject: str, kv_format: str, make_model: MakeModel, fresh: Fresh, schedule: Schedule
) -> None:
    model = make_model(subject)
    run_schedule(model, kv_format, fresh, schedule)
    gc.collect()
    assert (model.cache_pages, model.cache_bytes) == (0, 0)


def test_pages_are_taken_as_positions_need_them(make_model: MakeModel) -> None:
    model = make_model("scalar")
    session = session_of(model)
    held = []
    for count in (1, 126, 1, 1, 127, 1, 0):
        if count:
            session.prefill(tokens_of(count))
        else:
            session.rewind(PAGE)
        held.append(model.cache_pages)
    assert held == [1, 1, 1, 2, 2, 3, 1]
    session.rewind(0)
    assert (model.cache_pages, session.pages) == (0, 0)


def test_forks_share_the_pages_of_their_prompt(make_model: MakeModel) -> None:
    model = make_model("scalar")
    session = session_of(model)
    session.prefill(tokens_of(300))
    forks = [session.fork() for _ in range(5)]
    assert (model.cache_pages, session.pages) == (3, 3)
    page_bytes = len(session.read_page(0))
    assert model.cache_bytes == 3 * page_bytes
    for count, fork in enumerate(forks, 1):  # each gets its own of the page that is not full
        fork.prefill(tokens_of(1))
        assert model.cache_pages == 3 + count
    session.prefill(tokens_of(1))  # it is alone with its own by now
    assert model.cache_pages == 8
    del forks, fork
    assert model.cache_pages == 3
    del session
    assert model.cache_pages == 0


def test_a_full_page_is_not_copied(make_model: MakeModel) -> None:
    model = make_model("scalar")
    session = session_of(model)
    session.prefill(tokens_of(2 * PAGE))
    forks = [session.fork() for _ in range(3)]
    for fork in forks:
        fork.prefill(tokens_of(1))
    assert model.cache_pages == 2 + 3


def test_a_fork_continues_from_the_kept_logits(make_model: MakeModel) -> None:
    model = make_model("scalar")
    session = session_of(model)
    session.prefill(tokens_of(40))

    def write(session: Any, count: int) -> list[int]:
        sampler = _core.Sampler(n_tokens=VOCABULARY, temperature=0)
        return [session.step(sampler)[0] for _ in range(count)]

    expected = write(session.fork(), 10)
    assert write(session, 4) == expected[:4]
    fork = session.fork()  # the last token is not in the cache yet
    assert fork.position == 44
    assert write(fork, 6) == expected[4:] == write(session, 6)


@pytest.fixture
def page_bytes(make_model: MakeModel) -> int:
    session = session_of(make_model("scalar"))
    session.prefill(tokens_of(1))
    return len(session.read_page(0))


@pytest.mark.parametrize("subject", ["scalar", "cuda", "cuda and cpu"])
def test_a_budget_that_does_not_suffice_loses_nothing(
    subject: str, make_model: MakeModel, page_bytes: int
) -> None:
    model = make_model(subject)
    module = _core if subject == "scalar" else _emulated
    assert model.cache_budget is None
    model.cache_budget = 4 * page_bytes
    first, second = session_of(model), session_of(model)
    first.prefill(tokens_of(300))
    kept = first.last_logits
    for attempt in (
        lambda: second.prefill(tokens_of(200)),
        lambda: module.forward([first, second], [tokens_of(10), tokens_of(200)]),
        lambda: module.score([second, first], [tokens_of(100), tokens_of(85)]),
    ):
        with pytest.raises(MemoryError, match=r"the cache has a budget of \d+ MB"):
            attempt()
        assert (first.position, second.position, model.cache_pages) == (300, 0, 3)
        same(first.last_logits, kept)
    second.prefill(tokens_of(100))
    fork = first.fork()
    with pytest.raises(MemoryError):
        fork.prefill(tokens_of(1))
    del fork
    same(first.logits(tokens_of(5)), session_of(make_model(subject)).logits(
        np.concatenate([tokens_of(300), tokens_of(5)]))[-5:])  # fmt: skip
    first.rewind(PAGE)
    second.prefill(tokens_of(200))
    model.cache_budget = None
    first.prefill(tokens_of(200))
    assert (first.position, second.position, model.cache_pages) == (328, 300, 6)
    with pytest.raises(ValueError, match="a budget cannot be -1 bytes"):
        model.cache_budget = -1


def test_a_step_without_room_can_be_taken_again(make_model: MakeModel, page_bytes: int) -> None:
    model = make_model("scalar")
    sampler, other = (_core.Sampler(n_tokens=VOCABULARY, temperature=1, seed=7) for _ in "12")
    session = session_of(model)
    session.prefill(tokens_of(PAGE - 1))
    expected = session.fork()
    written = [expected.step(other)[0] for _ in range(6)]
    del expected
    model.cache_budget = page_bytes
    found = [session.step(sampler)[0] for _ in range(2)]
    for _ in range(2):
        with pytest.raises(MemoryError):
            session.step(sampler)
        assert session.position == PAGE + 1
    model.cache_budget = None
    found += [session.step(sampler)[0] for _ in range(4)]
    assert found == written


def test_a_shared_pass_without_room_can_be_taken_again(
    make_model: MakeModel, page_bytes: int
) -> None:
    model = make_model("scalar")
    sampler = _core.Sampler(n_tokens=VOCABULARY, temperature=0)
    session = session_of(model)
    session.append(tokens_of(200))
    model.cache_budget = page_bytes
    writer, pace = _core.Writer(session, sampler, max_tokens=1), _core.Pace()
    for _ in range(2):
        with pytest.raises(MemoryError):
            _core.write([writer], pace=pace)
        assert (session.position, model.cache_pages) == (200, 0)
    model.cache_budget = None
    assert _core.write([writer], pace=pace) == [0]
    expected = session_of(model).logits(tokens_of(200))[-1]
    assert writer.take().tokens.tolist() == [int(expected.argmax())]


def test_what_a_failed_pass_has_not_filled_is_given_back(make_model: MakeModel) -> None:
    model = make_model("cuda")
    session = session_of(model)
    session.prefill(tokens_of(100))
    try:
        _emulated.fail_after(3)
        with pytest.raises(RuntimeError, match="the CUDA device failed"):
            session.prefill(tokens_of(200))
    finally:
        _emulated.fail_after(-1)
    assert (session.position, model.cache_pages) == (100, 1)


def test_no_room_on_the_device(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("cuda")
    session = session_of(model)
    session.prefill(tokens_of(100))
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000")
    with pytest.raises(MemoryError, match="the CUDA device has no room for another"):
        session.prefill(tokens_of(200))
    assert (session.position, model.cache_pages) == (100, 1)
    monkeypatch.delenv("PYTHIA_RT_EMULATOR_MEMORY")
    same(session.logits(tokens_of(1)), session_of(model).logits(
        np.concatenate([tokens_of(100), tokens_of(1)]))[-1:])  # fmt: skip


def test_a_few_pages_are_kept_for_the_next_session(
    make_model: MakeModel, page_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("cuda")
    session = session_of(model)
    session.prefill(tokens_of(200))
    model.cache_budget = page_bytes
    del session
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000")  # there are no others
    model.cache_budget = None
    assert (model.cache_pages, model.cache_bytes) == (0, 0)
    session = session_of(model)
    session.prefill(tokens_of(100, 1))
    with pytest.raises(MemoryError, match="the CUDA device has no room for another"):
        session.prefill(tokens_of(100, 1))
    monkeypatch.delenv("PYTHIA_RT_EMULATOR_MEMORY")
    expected = session_of(model).logits(np.concatenate([tokens_of(100, 1), tokens_of(9)]))
    same(session.logits(tokens_of(9)), expected[-9:])
    del session
    model.cache_budget = 0
    monkeypatch.setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000")
    model.cache_budget = None
    with pytest.raises(MemoryError, match="the CUDA device has no room for another"):
        session_of(model).prefill(tokens_of(1))


def test_pages_that_do_not_fit(make_model: MakeModel) -> None:
    session, other = (session_of(make_model("scalar"), capacity=200) for _ in range(2))
    session.prefill(tokens_of(200))
    whole, part = pages_of(session)
    for page, count, sentence in (
        (whole[1:], PAGE, r"a page of this session has \d+ bytes, not \d+"),
        (whole, 0, "between 1 and 128 positions, not 0"),
        (whole, PAGE + 1, "between 1 and 128 positions, not 129"),
    ):
        with pytest.raises(ValueError, match=sentence):
            other.append_page(page, count)
    other.append_page(whole, PAGE)
    with pytest.raises(ValueError, match="between 1 and 72 positions, not 73"):
        other.append_page(part, 73)
    with pytest.raises(ValueError, match="no logits to continue from"):
        other.last_logits  # noqa: B018
    other.append_page(part, 30)
    with pytest.raises(ValueError, match="last page is not full"):
        other.append_page(part, 1)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"the session has 2 pages, and no number {index}"):
            other.read_page(index)


def test_threads_share_a_pool(make_model: MakeModel) -> None:
    """Sessions are forked, filled and destroyed on threads of their own."""
    model = make_model(_core.isa_names()[0])
    prompt = tokens_of(200)
    session = session_of(model)
    session.prefill(prompt)
    expected = session_of(model).logits(np.concatenate([prompt, tokens_of(100, 1)]))[-100:]
    problems: list[BaseException] = []

    def work(own: Any) -> None:
        try:
            for _ in range(5):
                fork = own.fork()
                same(fork.logits(tokens_of(100, 1)), expected)
                fork.rewind(60)
                fork.prefill(tokens_of(90))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(session.fork(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    threads.clear()
    del thread
    gc.collect()
    assert model.cache_pages == 2
