"""Texts that are written in passes they share: each has the tokens it has alone, whatever drafts
guess, hooks say and passes hold."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from backends import _emulated
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import make_model, make_spec
from numpy.typing import NDArray

from pythia_rt import _core

CONTEXT = 300
SPEC = make_spec(max_positions=CONTEXT, vocab_size=83, n_tokens=80)
VOCABULARY, N_TOKENS = 83, 80
WORDS = -(-VOCABULARY // 32)
AT_ONCE = _core.Pace(math.inf)


@pytest.fixture(scope="module")
def model() -> _core.Model:
    return make_model(SPEC)


@pytest.fixture(scope="module")
def other() -> _core.Model:
    """A draft: another model of the same vocabulary with a shorter context."""
    return make_model(make_spec(n_layers=1, max_positions=64, architecture="draft"))


@dataclass
class Hook:
    """Allows what a rule says, and moves logits by another; remembers what it was told."""

    masks: bool = True
    changes: bool = False
    fails_after: int = 10**6
    tokens: list[int] = field(default_factory=list)

    def allowed(self) -> NDArray[np.uint32] | None:
        if len(self.tokens) >= self.fails_after:
            raise ZeroDivisionError("as planned")
        if len(self.tokens) % 5 == 4:
            return None
        rule = np.arange(WORDS * 32) % 3 != sum(self.tokens) % 3
        return np.packbits(rule, bitorder="little").view(np.uint32)

    def change(self, logits: NDArray[np.float32]) -> None:
        logits[: len(self.tokens) + 1] -= 1.5

    def accept(self, token: int) -> None:
        self.tokens.append(token)


@dataclass(frozen=True)
class Text:
    """What is asked of one text."""

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    temperature: float
    penalty: float
    end_ids: tuple[int, ...]
    draft: str
    right: float  # of a predicted text, how much of it is
    hook: tuple[bool, bool] | None
    top: int
    echo: bool

    def sampler(self) -> _core.Sampler:
        sampler = _core.Sampler(
            n_tokens=N_TOKENS,
            temperature=self.temperature,
            repetition_penalty=self.penalty,
            seed=self.seed,
        )
        sampler.accept_prompt(self.ids[self.ids < N_TOKENS])
        return sampler

    def make_hook(self) -> Hook | None:
        return None if self.hook is None else Hook(*self.hook)

    @property
    def ids(self) -> NDArray[np.int32]:
        return np.array(self.prompt, np.int32)


@dataclass
class Expected:
    """What a text has when it is written alone, token by token."""

    tokens: list[int]
    logprobs: list[float]
    rows: NDArray[np.float32]  # raw logits in each one's place
    prompt_rows: NDArray[np.float32]


def alone(model: _core.Model, text: Text) -> Expected:
    session = _core.Session(model, capacity=CONTEXT, kv_format="f16")
    prompt_rows = session.logits(text.ids)
    sampler, hook = text.sampler(), text.make_hook()
    tokens: list[int] = []
    rows = []
    while len(tokens) < text.max_tokens and not (tokens and tokens[-1] in text.end_ids):
        row = session.last_logits
        rows.append(row.copy())
        if hook is not None and hook.changes:
            hook.change(row)
        if hook is not None and hook.masks and (mask := hook.allowed()) is not None:
            sampler.allow(mask)
        tokens.append(sampler.sample(row))
        if hook is not None:
            hook.accept(tokens[-1])
        session.prefill(np.array(tokens[-1:], np.int32))
    pairs = zip(rows, tokens, strict=True)
    logprobs = [float(_core.top(row[None], VOCABULARY)[1][0][_place(row, t)]) for row, t in pairs]
    return Expected(tokens, logprobs, np.array(rows).reshape(-1, VOCABULARY), prompt_rows)


def _place(row: NDArray[np.float32], token: int) -> int:
    return int(np.flatnonzero(_core.top(row[None], VOCABULARY)[0][0] == token)[0])


def draft_of(text: Text, expected: Expected, model: Any, other: Any) -> Any:
    if text.draft == "none":
        return None
    if text.draft == "lookup":
        return _core.lookup_draft(text.ids)
    if text.draft == "predicted":
        wrong = np.random.default_rng(text.seed).random(len(expected.tokens)) > text.right
        guess = np.where(wrong, 7, np.array(expected.tokens, np.int32)).astype(np.int32)
        return _core.lookup_draft(text.ids, guess)
    by = model if text.draft == "itself" else other
    return _core.model_draft(by, text.ids, n_tokens=N_TOKENS)


ids = st.integers(0, VOCABULARY - 1)
texts = st.builds(
    Text,
    prompt=st.lists(ids, min_size=1, max_size=150).map(tuple),
    max_tokens=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    penalty=st.sampled_from([1.0, 1.3]),
    end_ids=st.sampled_from([(), (), (3,), (1, 5, 9, 22, 41)]),
    draft=st.sampled_from(["none", "lookup", "predicted", "itself", "other"]),
    right=st.sampled_from([0.0, 0.6, 1.0]),
    hook=st.sampled_from([None, None, (True, False), (False, True), (True, True)]),
    top=st.sampled_from([0, 0, 3]),
    echo=st.booleans(),
)


@settings(max_examples=examples(40))
@given(
    asked=st.lists(texts, min_size=1, max_size=5),
    max_rows=st.sampled_from([1, 2, 7, 40, 0]),
    pace=st.sampled_from([None, 1e-9, math.inf]),
    seconds=st.sampled_from([0.0, 0.001, 10.0]),
    watch=st.booleans(),
)
def test_each_text_is_what_it_is_alone(
    model: _core.Model,
    other: _core.Model,
    asked: list[Text],
    max_rows: int,
    pace: float | None,
    seconds: float,
    watch: bool,
) -> None:
    expected = [alone(model, text) for text in asked]
    watched = np.full(WORDS, 0x11111111, np.uint32) if watch else None
    hooks = [text.make_hook() for text in asked]
    writers = []
    for text, truth, hook in zip(asked, expected, hooks, strict=True):
        session = _core.Session(model, capacity=CONTEXT, kv_format="f16")
        session.append(text.ids)
        writers.append(
            _core.Writer(
                session,
                text.sampler(),
                max_tokens=text.max_tokens,
                end_ids=np.array(text.end_ids, np.int32),
                watch=watched,
                top=text.top,
                echo=text.echo,
                draft=draft_of(text, truth, model, other),
                hook=hook,
            )
        )
    written: list[list[Any]] = [[] for _ in asked]
    echoed: list[list[Any]] = [[] for _ in asked]
    running = list(range(len(asked)))
    shared = _core.Pace(pace)
    while running:
        chosen = [writers[i] for i in running]
        wanting = _core.write(chosen, pace=shared, seconds=seconds, max_rows=max_rows)
        for i in running:
            written[i].append(writers[i].take())
            echoed[i].append(writers[i].take_echo())
            if watch and len(written[i][-1].tokens) > 1:
                assert not (written[i][-1].tokens[:-1] % 4 == 0).any(), "it goes on unseen"
        assert all(chosen[i].has_ended or watch for i in wanting)
        running = [i for i in running if not writers[i].has_ended]
    for i, (text, truth) in enumerate(zip(asked, expected, strict=True)):
        assert writers[i].error is None
        assert _joined(written[i], "tokens").tolist() == truth.tokens
        assert _joined(written[i], "logprobs").tolist() == truth.logprobs
        assert writers[i].n_tokens == len(truth.tokens)
        proposed = sum(part.proposed for part in written[i])
        accepted = sum(part.accepted for part in written[i])
        assert 0 <= accepted <= proposed and accepted < len(truth.tokens)
        if text.draft == "none":
            assert proposed == 0
        hook = hooks[i]
        assert hook is None or hook.tokens == truth.tokens
        if text.top:
            ids, values = _core.top(truth.rows, text.top)
            np.testing.assert_array_equal(_joined(written[i], "top_ids"), ids)
            np.testing.assert_array_equal(_joined(written[i], "top_logprobs"), values)
        _check_echo(text, truth, echoed[i])


def _check_echo(text: Text, truth: Expected, parts: list[Any]) -> None:
    echoed = _joined(parts, "tokens")
    if not text.echo:
        assert len(echoed) == 0
        return
    assert echoed.tolist() == list(text.prompt[1:])
    rows = truth.prompt_rows[:-1]
    ids, values = (
        part.reshape(-1, VOCABULARY) for part in _core.top(truth.prompt_rows, VOCABULARY)
    )
    places = [int(np.flatnonzero(ids[j] == token)[0]) for j, token in enumerate(text.prompt[1:])]
    expected = [values[j, place] for j, place in enumerate(places)]
    assert _joined(parts, "logprobs").tolist() == expected
    if text.top and len(rows):
        top_ids, top_values = _core.top(rows, text.top)
        np.testing.assert_array_equal(_joined(parts, "top_ids"), top_ids)
        np.testing.assert_array_equal(_joined(parts, "top_logprobs"), top_values)


def _joined(parts: list[Any], name: str) -> Any:
    arrays = [getattr(part, name) for part in parts if len(part.tokens)]
    return np.concatenate(arrays) if arrays else np.zeros(0)


def begin(model: _core.Model, prompt: list[int], **options: Any) -> tuple[Any, Any]:
    session = _core.Session(model, capacity=CONTEXT, kv_format="f16")
    session.append(np.array(prompt, np.int32))
    sampler = _core.Sampler(n_tokens=N_TOKENS, temperature=0.0)
    return session, _core.Writer(session, sampler, **options)


def finish(*writers: Any) -> list[list[int]]:
    running = list(writers)
    while running:
        _core.write(running, pace=AT_ONCE)
        running = [writer for writer in running if not writer.has_ended]
    return [writer.take().tokens.tolist() for writer in writers]


def test_a_prediction_is_followed(model: _core.Model) -> None:
    prompt = [2, 3, 5, 7, 11, 13] * 8
    (expected,) = finish(begin(model, prompt, max_tokens=120)[1])
    guess = np.array(expected, np.int32)
    draft = _core.lookup_draft(np.array(prompt, np.int32), guess)
    session, writer = begin(model, prompt, max_tokens=120, draft=draft)
    while not writer.has_ended:
        _core.write([writer], pace=AT_ONCE)
    written = writer.take()
    assert written.tokens.tolist() == expected
    assert written.accepted == written.proposed > 0  # how many, times decide
    # The last token waits, as it does without a draft.
    assert session.position == len(prompt) + 120 and session.waiting == 1


def test_a_draft_that_is_never_right_is_soon_left_alone(model: _core.Model) -> None:
    prompt = [2, 3, 5]
    (expected,) = finish(begin(model, prompt, max_tokens=200)[1])
    wrong = (np.array(expected, np.int32) + 1) % N_TOKENS
    # Guessed right is its own last token alone, so that the guesses are found.
    guess = np.stack([np.array(expected, np.int32), wrong], 1).reshape(-1)
    draft = _core.lookup_draft(np.array(prompt, np.int32), guess)
    writer = begin(model, prompt, max_tokens=200, draft=draft)[1]
    assert finish(writer) == [expected]


def test_a_prompt_is_read_and_forked() -> None:
    model = make_model(SPEC)  # whose pages nobody else has
    prompt = list(range(60))
    session, reader = begin(model, prompt, max_tokens=0)
    _core.write([reader], pace=AT_ONCE)
    assert reader.has_ended and session.is_ready
    samplers = [_core.Sampler(n_tokens=N_TOKENS, temperature=1.0, seed=seed) for seed in range(3)]
    forks = [session.fork() for _ in samplers]
    pages = model.cache_pages
    writers = [
        _core.Writer(fork, sampler, max_tokens=9)
        for fork, sampler in zip(forks, samplers, strict=True)
    ]
    texts = finish(*writers)
    assert pages == 1, "a prompt's page is there once as long as nobody writes into it"
    for seed, text in enumerate(texts):
        other, writer = begin(model, prompt, max_tokens=0)
        _core.write([writer], pace=AT_ONCE)
        sampler = _core.Sampler(n_tokens=N_TOKENS, temperature=1.0, seed=seed)
        assert finish(_core.Writer(other, sampler, max_tokens=9)) == [text]


def test_a_hook_that_fails_ends_its_text_alone(model: _core.Model) -> None:
    hook = Hook(fails_after=4)
    failing = begin(model, [1, 2, 3], max_tokens=30, hook=hook)[1]
    going_on = begin(model, [1, 2, 3], max_tokens=30)[1]
    (expected,) = finish(begin(model, [1, 2, 3], max_tokens=30)[1])
    assert finish(failing, going_on)[1] == expected
    assert isinstance(failing.error, ZeroDivisionError)
    assert failing.n_tokens == 4 == len(hook.tokens)


def test_a_mask_of_another_shape_ends_its_text(model: _core.Model) -> None:
    hook = Hook()
    hook.allowed = lambda: np.ones(1, np.uint32)  # type: ignore[method-assign]
    writer = begin(model, [1, 2, 3], max_tokens=30, hook=hook)[1]
    assert finish(writer) == [[]]
    assert "of 3 uint32, a bit for each id" in str(writer.error)


def test_a_budget_that_does_not_suffice_loses_nothing() -> None:
    model = make_model(SPEC)  # whose cache nobody else uses
    prompt = list(range(70))
    (expected,) = finish(begin(model, prompt, max_tokens=100)[1])
    session, writer = begin(model, prompt, max_tokens=100)
    model.cache_budget = session.page_bytes
    try:
        with pytest.raises(MemoryError, match="the cache has a budget"):
            while not writer.has_ended:
                _core.write([writer], pace=AT_ONCE)
        first = writer.take().tokens.tolist()
        assert first == expected[: len(first)] and len(first) == 59
    finally:
        model.cache_budget = None
    assert finish(writer) == [expected[59:]]


def test_another_thread_wakes_it(model: _core.Model) -> None:
    wake = _core.Wake()
    writer = begin(model, [1, 2, 3], max_tokens=290)[1]
    timer = threading.Timer(0.01, wake.set)
    timer.start()
    while not writer.has_ended:
        _core.write([writer], pace=AT_ONCE, wake=wake, seconds=60)
        if writer.n_tokens < 290:
            break
    timer.join()
    wake.set()  # before a call: one pass is run all the same
    before = writer.n_tokens
    _core.write([writer], pace=AT_ONCE, wake=wake, seconds=60)
    assert writer.n_tokens == min(before + 1, 290)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": -1}, "room for 297 more tokens, not for -1"),
        ({"max_tokens": 298}, "room for 297 more tokens, not for 298"),
        ({"max_tokens": 1, "top": 84}, "between 0 and 83 likeliest tokens, not 84"),
        ({"max_tokens": 1, "watch": np.zeros(2, np.uint32)}, "64 bits for a vocabulary of 83"),
    ],
)
def test_bad_options_get_one_sentence(
    model: _core.Model, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        begin(model, [1, 2, 3], **options)


def test_a_batch_is_of_one_model_and_names_nobody_twice(
    model: _core.Model, other: _core.Model
) -> None:
    (_, one), (_, foreign) = begin(model, [1], max_tokens=1), begin_of(other)
    with pytest.raises(ValueError, match="must share a model"):
        _core.write([one, foreign], pace=AT_ONCE)
    with pytest.raises(ValueError, match="names the same session twice"):
        _core.write([one, one], pace=AT_ONCE)
    for rows in (-1, 257):
        with pytest.raises(ValueError, match=f"between 1 and 256 rows, not {rows}"):
            _core.write([one], pace=AT_ONCE, max_rows=rows)
    shared = _core.Sampler(n_tokens=N_TOKENS)
    sessions = [_core.Session(model, capacity=9) for _ in "12"]
    for session in sessions:
        session.append(np.array([1], np.int32))
    pair = [_core.Writer(session, shared, max_tokens=1) for session in sessions]
    with pytest.raises(ValueError, match="names the same sampler twice"):
        _core.write(pair, pace=AT_ONCE)
    assert _core.write([], pace=AT_ONCE) == []
    with pytest.raises(ValueError, match="must be more than 0 seconds"):
        _core.Pace(0.0)
    draft = _core.lookup_draft(np.array([1], np.int32))
    begin(model, [1], max_tokens=1, draft=draft)
    with pytest.raises(ValueError, match="another text's"):
        begin(model, [1], max_tokens=1, draft=draft)
    empty = _core.Session(model, capacity=9)
    with pytest.raises(ValueError, match="neither tokens that wait nor logits"):
        _core.Writer(empty, _core.Sampler(n_tokens=N_TOKENS), max_tokens=1)


def begin_of(model: _core.Model) -> tuple[Any, Any]:
    session = _core.Session(model, capacity=9)
    session.append(np.array([1], np.int32))
    return session, _core.Writer(session, _core.Sampler(n_tokens=N_TOKENS), max_tokens=1)


def test_on_an_emulated_device_it_is_the_same(model: _core.Model) -> None:
    prompt = list(range(40))
    (expected,) = finish(begin(model, prompt, max_tokens=30)[1])
    on_device = make_model(SPEC, module=_emulated, device="cuda")
    session = _emulated.Session(on_device, capacity=CONTEXT, kv_format="f16")
    session.append(np.array(prompt, np.int32))
    guess = np.array(expected[:20] + [5] * 10, np.int32)
    draft = _emulated.lookup_draft(np.array(prompt, np.int32), guess)
    sampler = _emulated.Sampler(n_tokens=N_TOKENS, temperature=0.0)
    writer = _emulated.Writer(session, sampler, max_tokens=30, draft=draft)
    while not writer.has_ended:
        _emulated.write([writer], pace=_emulated.Pace(math.inf))
    assert writer.take().tokens.tolist() == expected
